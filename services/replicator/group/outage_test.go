package group

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

// guestLoad is one write after the other from each of a few threads, at a pace, over two volumes: mostly in a hot eighth of
// each, as file systems and databases do.
type guestLoad struct {
	wg   sync.WaitGroup
	stop chan struct{}
	err  atomic.Pointer[error]
}

// run begins. pause is between two writes of a thread; seed chooses what is written where.
func (n *node) run(threads int, pause time.Duration, seed uint64) *guestLoad {
	l := &guestLoad{stop: make(chan struct{})}
	units := []target.Unit{n.unit(0), n.unit(1)}
	for thread := range threads {
		rng := rand.New(rand.NewPCG(seed, uint64(thread)))
		l.wg.Go(func() {
			for number := uint64(1); ; number++ {
				span := int64(volumeBytes)
				if rng.IntN(10) > 0 {
					span /= 8
				}
				size := int64(4096) << rng.IntN(4)
				data := bytes.Repeat(block(number<<8|uint64(thread)), int(size/4096))
				done := submit(units[rng.IntN(2)], &target.Command{Op: target.OpWrite, Off: rng.Int64N((span-size)/4096) * 4096, Len: size, Data: data})
				select {
				case err := <-done:
					if err != nil {
						l.err.CompareAndSwap(nil, &err)
						return
					}
				case <-l.stop:
					<-done
					return
				}
				select {
				case <-time.After(pause):
				case <-l.stop:
					return
				}
			}
		})
	}
	return l
}

func (l *guestLoad) end(t *testing.T) {
	t.Helper()
	close(l.stop)
	l.wg.Wait()
	if err := l.err.Load(); err != nil {
		t.Fatalf("a write failed: %v", *err)
	}
}

// differing is how many bytes of two copies' volumes are not alike, in blocks.
func (c *cluster) differing(a, b domain.SiteID) (n uint64) {
	for v := range c.def.Volumes {
		x, y := c.nodes[a].image(v), c.nodes[b].image(v)
		for off := 0; off < len(x); off += 4096 {
			if !bytes.Equal(x[off:off+4096], y[off:off+4096]) {
				n += 4096
			}
		}
	}
	return n
}

// An hour's outage in fast time: the ring holds a small part of what is written while the target is gone, and writes go on
// through all of it, the resync included.
func TestAfterALongOutageATargetCatchesUpByWhatDiffersWhileWritesGoOn(t *testing.T) {
	slow(t)
	c := newCluster(t, domain.ModeAsync)
	c.boot("a", "b")
	c.promote("a", 257)
	a := c.nodes["a"]
	fill(a)
	c.follows("a", "b")
	load := a.run(4, time.Millisecond, 1)
	c.kill("b")
	away := a.g.Status().WrittenFrameBytes
	eventually(t, "three times the ring is written", func() bool {
		return a.g.Status().WrittenFrameBytes-away > 48<<20 || load.err.Load() != nil
	})
	if c.target("a", "b").State != api.TargetOverflow && !a.facts.has("target_overflowed") {
		t.Fatal("the outage did not overflow the ring")
	}
	differ, before := c.differing("a", "b"), a.g.Status().WrittenFrameBytes
	sent := c.target("a", "b").SentBytes
	c.boot("b")
	eventually(t, "b catches up under writes", func() bool { return a.facts.has("resync_completed") && c.target("a", "b").State == api.TargetStreaming })
	load.end(t)
	c.follows("a", "b")
	c.same("a", "b")
	ts, fresh := c.target("a", "b"), a.g.Status().WrittenFrameBytes-before
	if got := ts.ResyncBytes + ts.SentBytes - sent; float64(got) > 1.1*float64(differ+fresh) {
		t.Fatalf("%d bytes were sent (%d of them by the resync); %d differed, %d were written meanwhile", got, ts.ResyncBytes, differ, fresh)
	} else {
		t.Logf("%d bytes were sent (%d of them by the resync); %d differed, %d were written meanwhile", got, ts.ResyncBytes, differ, fresh)
	}
}

// The ring lets go of what a target needs in the very moment in which the target was found to need frames only.
func TestTheRingMayLetGoWhileATargetRejoins(t *testing.T) {
	c := newCluster(t, domain.ModeAsync)
	c.boot("a", "b")
	c.promote("a", 257)
	a := c.nodes["a"]
	a.write(0, 0, block(1))
	c.follows("a", "b")
	c.kill("b")
	a.write(0, 4096, block(2)) // it lacks this, which the ring has
	at := a.g.Status().HeadLSN
	rejoined, goOn := make(chan struct{}), make(chan struct{})
	once := sync.OnceFunc(func() { close(rejoined); <-goOn })
	stop := func(place string) error {
		if place == "settle" {
			once()
		}
		return nil
	}
	a.fail.Store(&stop)
	c.boot("b")
	<-rejoined
	fillRing(t, a, at)
	close(goOn)
	fillRing(t, a, a.g.Status().HeadLSN) // and it goes on doing so
	c.follows("a", "b")
	c.same("a", "b")
}
