package group

import (
	"bytes"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

func TestReadersOfAReplicatedVolumeSeeAnAtomicWriteAsAWhole(t *testing.T) {
	c := newCluster(t, domain.ModeAsync)
	c.boot("a", "b")
	c.promote("a", 257)
	u := c.nodes["a"].unit(0)
	const n = 128 << 10
	var stop atomic.Bool
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			b := make([]byte, n)
			for !stop.Load() {
				if err := <-submit(u, &target.Command{Op: target.OpRead, Len: n, Data: b}); err != nil {
					t.Error(err)
					return
				}
				if !bytes.Equal(b, bytes.Repeat(b[:1], n)) {
					t.Error("a reader saw a part of an atomic write")
					return
				}
			}
		})
	}
	for i := range 40 {
		b := bytes.Repeat([]byte{byte(i)}, n)
		if err := await(t, submit(u, &target.Command{Op: target.OpWrite, Len: n, Data: b, Atomic: true})); err != nil {
			t.Fatal(err)
		}
	}
	stop.Store(true)
	readers.Wait()
	mapper := u.(target.Mapper)
	if mapped, length, err := mapper.Extent(0, 1<<20); err != nil || !mapped || length != n {
		t.Errorf("extent at 0: %v %d %v", mapped, length, err)
	}
	c.follows("a", "b")
}
