package group

import (
	"bytes"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

// newWide is a cluster whose group has so many volumes.
func newWide(t *testing.T, volumes int, modes ...domain.Mode) *cluster {
	t.Helper()
	c := newCluster(t, modes...)
	c.def.Volumes = nil
	for i := range volumes {
		c.def.Volumes = append(c.def.Volumes, domain.Volume{ID: domain.VolumeID(fmt.Sprintf("v%02d", i)), SizeBytes: 1 << 20})
	}
	return c
}

// spread writes blocks first..last, block i to volume i%n at place i/n, with many under way, until the site stops answering. It gives
// how many of them were acknowledged, which they are in order.
func (n *node) spread(volumes int, first, last uint64) (acked *atomic.Uint64, ended chan struct{}) {
	units := make([]target.Unit, volumes)
	for i := range units {
		units[i] = n.unit(i)
	}
	acked, ended = new(atomic.Uint64), make(chan struct{})
	acked.Store(first - 1)
	slots := make(chan struct{}, 64)
	var stop atomic.Bool
	go func() {
		defer close(ended)
		for i := first; i <= last && !stop.Load(); i++ {
			slots <- struct{}{}
			units[i%uint64(volumes)].Submit(&target.Command{Op: target.OpWrite, Off: int64(i/uint64(volumes)) * 4096, Len: 4096, Data: block(i)}, func(err error) {
				if err != nil {
					stop.Store(true)
				} else {
					acked.Add(1)
				}
				<-slots
			})
		}
		for range cap(slots) {
			slots <- struct{}{}
		}
	}()
	return acked, ended
}

// spreadPrefix checks that a copy holds exactly blocks 1..k of spread, and gives k.
func (n *node) spreadPrefix(volumes int, last uint64) uint64 {
	n.t.Helper()
	images := make([][]byte, volumes)
	for i := range images {
		images[i] = n.content(i)
	}
	k, over := uint64(0), false
	for i := uint64(1); i <= last; i++ {
		switch b := images[i%uint64(volumes)][i/uint64(volumes)*4096:][:4096]; {
		case bytes.Equal(b, block(i)) && !over:
			k = i
		case allZero(b):
			over = true
		default:
			n.t.Fatalf("site %s: block %d after block %d: no prefix", n.id, i, k)
		}
	}
	return k
}

func TestAGroupOfOneAndOf64VolumesKeepsOneOrderThroughALossAndBack(t *testing.T) {
	for _, volumes := range []int{1, 64} {
		t.Run(fmt.Sprint(volumes), func(t *testing.T) {
			if volumes > 1 {
				slow(t)
			}
			c := newWide(t, volumes, domain.ModeAsync)
			c.boot("a", "b")
			reply := c.promote("a", 257)
			if len(reply.Disks) != volumes {
				t.Fatalf("%d volumes are served", len(reply.Disks))
			}
			last := uint64(volumes*200) - 1 // of 256 blocks a volume
			if volumes == 1 {
				last = 250
			}
			acked, ended := c.nodes["a"].spread(volumes, 1, last)
			eventually(t, "b has some of it", func() bool { return c.target("a", "b").DurableLSN > domain.LSN(last/8) })
			c.kill("a")
			<-ended
			if got := c.nodes["a"].spreadPrefix(volumes, last); got > last || acked.Load() > last {
				t.Fatalf("%d of %d", got, last)
			}
			c.promote("b", 514)
			at := c.nodes["b"].spreadPrefix(volumes, last)
			if at == 0 {
				t.Fatal("b has nothing")
			}
			acked, ended = c.nodes["b"].spread(volumes, at+1, last)
			<-ended
			if acked.Load() != last || c.nodes["b"].spreadPrefix(volumes, last) != last {
				t.Fatalf("%d of %d acknowledged", acked.Load(), last)
			}
			c.boot("a") // recovers its journal, and then takes over what differs
			c.follows("b", "a")
			for i := range volumes {
				eventually(t, fmt.Sprintf("volume %d alike", i), func() bool { return bytes.Equal(c.nodes["a"].content(i), c.nodes["b"].content(i)) })
			}
			if ts := c.target("b", "a"); ts.State != api.TargetStreaming {
				t.Fatalf("%+v", ts)
			}
		})
	}
}
