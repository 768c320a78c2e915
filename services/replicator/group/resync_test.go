package group

import (
	"bytes"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

var errKilled = errors.New("killed here")

// diverge makes a and b go on apart after a common fill, and leaves b primary with a dead.
func diverge(c *cluster) {
	c.boot("a", "b")
	c.promote("a", 257)
	fill(c.nodes["a"])
	c.follows("a", "b")
	c.kill("b")
	for i := range uint64(64) {
		c.nodes["a"].write(0, int64(i)*8192, block(1000+i))
	}
	c.nodes["a"].applies()
	c.kill("a")
	c.boot("b")
	c.promote("b", 514)
	for i := range uint64(64) {
		c.nodes["b"].write(1, int64(i)*8192, block(2000+i))
	}
}

func TestTargetKilledWhileBlocksArriveKeepsItsOldImage(t *testing.T) {
	c := newCluster(t, domain.ModeAsync)
	diverge(c)
	before := [][]byte{c.nodes["a"].image(0), c.nodes["a"].image(1)}
	var pieces atomic.Int32
	hit := make(chan struct{})
	stop := func(place string) error {
		if place == "stage data" && pieces.Add(1) >= 10 {
			if pieces.Load() == 10 {
				close(hit)
			}
			return errKilled
		}
		return nil
	}
	c.nodes["a"].fail.Store(&stop)
	c.boot("a")
	<-hit
	c.kill("a")
	for v := range before {
		if !bytes.Equal(before[v], c.nodes["a"].image(v)) {
			t.Fatalf("volume %d changed before the resync was committed", v)
		}
	}
	c.nodes["a"].fail.Store(nil)
	c.boot("a")
	if !c.nodes["a"].g.Status().Consistent {
		t.Fatal("the old image is consistent")
	}
	c.nodes["b"].write(0, 4096*9, block(3000))
	c.follows("b", "a")
	c.same("a", "b")
}

func TestTargetKilledWhileTheStageIsAppliedFinishesAtItsNextStart(t *testing.T) {
	slow(t)
	for _, place := range []string{"stage record", "stage applied", "stage reset", "stage unmarked"} {
		t.Run(place, func(t *testing.T) {
			c := newCluster(t, domain.ModeAsync)
			diverge(c)
			var times atomic.Int32
			hit := make(chan struct{})
			stop := func(at string) error {
				if at == place && (place != "stage record" || times.Add(1) == 20) {
					close(hit)
					return errKilled
				}
				return nil
			}
			c.nodes["a"].fail.Store(&stop)
			c.boot("a")
			<-hit
			eventually(t, "the copy says that it is not consistent", func() bool { return !c.nodes["a"].g.Status().Consistent })
			if _, err := c.nodes["a"].g.Promote(t.Context(), api.PromoteRequest{Group: "erp", Epoch: 9999}); !errors.Is(err, domain.ErrRefused) {
				t.Fatalf("promote of half a copy: %v", err)
			}
			c.kill("a")
			c.nodes["a"].fail.Store(nil)
			c.boot("a")
			c.follows("b", "a")
			c.same("a", "b")
			checkLogged(t, c.nodes["a"])
		})
	}
}

func TestTheEstimateCountsFromTheCommonPointUntilTheResyncIsInstalled(t *testing.T) {
	c := newCluster(t, domain.ModeAsync)
	hold := make(chan struct{})
	stop := func(place string) error {
		if place == "stage data" {
			<-hold
		}
		return nil
	}
	diverge(c) // 64 writes each, so that the LSNs alone say that nothing is missing
	c.nodes["a"].fail.Store(&stop)
	c.boot("a")
	release := sync.OnceFunc(func() { close(hold) })
	t.Cleanup(release)
	eventually(t, "a hears of b's writes", func() bool {
		return c.nodes["a"].g.Estimate().AsOf.After(time.Time{}) && c.target("b", "a").State == api.TargetResync
	})
	if e := c.nodes["a"].g.Estimate(); !e.Known || e.Writes < 64 {
		t.Fatalf("64 acknowledged writes are missing, it says %+v", e)
	}
	release()
	c.follows("b", "a")
	eventually(t, "nothing is missing", func() bool { e := c.nodes["a"].g.Estimate(); return e.Known && e.Writes == 0 })
}

func checkLogged(t *testing.T, n *node) {
	t.Helper()
	items, err := n.g.Quarantined()
	if err != nil || len(items) != 1 || items[0].Writes != 64 {
		t.Fatalf("quarantine %+v, %v", items, err)
	}
}

func TestWritesGoOnDuringAResyncAndTheCopyIsExact(t *testing.T) {
	slow(t)
	c := newCluster(t, domain.ModeSync)
	c.boot("a", "b")
	c.promote("a", 257)
	fill(c.nodes["a"])
	c.follows("a", "b")
	c.kill("a")
	c.promote("b", 514)
	w := c.nodes["b"].numbered(8, 1500)
	c.boot("a")
	w.wg.Wait()
	if w.acked.Load() != 1500 {
		t.Fatalf("%d of 1500 writes", w.acked.Load())
	}
	c.follows("b", "a")
	c.same("a", "b")
	eventually(t, "in sync again", func() bool { return len(c.quo.set()) == 2 })
}

func TestALostTargetCostsTheRingThenABitmapAndNeverTheWriter(t *testing.T) {
	c := newCluster(t, domain.ModeAsync)
	c.boot("a", "b")
	c.promote("a", 257)
	fill(c.nodes["a"])
	c.follows("a", "b")
	c.kill("b")
	data := make([]byte, 1<<20)
	for i := range 48 { // three times the ring, over and over the same 4 MiB of one volume
		for j := range data {
			data[j] = byte(i + 1 + j/4096)
		}
		c.nodes["a"].write(0, int64(i%4)<<20, data)
	}
	if got := c.target("a", "b").State; got != api.TargetOverflow && got != api.TargetLost && got != api.TargetConnecting {
		t.Fatalf("state %s", got)
	}
	if d, err := c.nodes["a"].g.store.loadBitmap("b"); err != nil || d == nil || d.set.Bytes() == 0 {
		t.Fatalf("no durable bitmap: %v", err)
	}
	c.kill("a") // what b lacks is known after a crash, too
	c.boot("a")
	c.promote("a", 513)
	c.boot("b")
	c.follows("a", "b")
	c.same("a", "b")
	ts := c.target("a", "b")
	if ts.ResyncBytes < 4<<20 || ts.ResyncBytes > 6<<20 {
		t.Fatalf("resync sent %d bytes, 4 MiB differ (%d in all)", ts.ResyncBytes, ts.VolumeBytes)
	}
	eventually(t, "the bitmap is paid back", func() bool {
		d, err := c.nodes["a"].g.store.loadBitmap("b")
		return err == nil && d == nil
	})
	if q, _ := c.nodes["b"].g.Quarantined(); len(q) != 0 {
		t.Fatalf("nothing diverged, yet %+v", q)
	}
}

func TestAFarTargetFollowsTheNewPrimaryWithoutACopy(t *testing.T) {
	slow(t)
	c := newCluster(t, domain.ModeSync, domain.ModeAsync)
	c.boot("a", "b", "c")
	c.promote("a", 257)
	fill(c.nodes["a"])
	c.follows("a", "b")
	c.follows("a", "c")
	w := c.nodes["a"].numbered(4, 100)
	w.wg.Wait()
	c.kill("a")
	c.promote("b", 514)
	c.nodes["b"].write(0, 0, block(7))
	c.follows("b", "c")
	c.same("b", "c")
	if ts := c.target("b", "c"); ts.ResyncBytes != 0 {
		t.Fatalf("the far site took %d bytes of resync", ts.ResyncBytes)
	}
	c.boot("a")
	c.follows("b", "a")
	c.same("a", "c")
}

func TestCommandsDoWhatTheySay(t *testing.T) {
	c := newCluster(t, domain.ModeSync)
	c.boot("a", "b")
	c.promote("a", 257)
	n := c.nodes["a"]
	do := func(cmd *target.Command) error { t.Helper(); return await(t, submit(n.unit(0), cmd)) }
	big := make([]byte, 6<<20)
	for i := range big {
		big[i] = byte(i / 511)
	}
	n.write(0, 1<<20, big)
	if !bytes.Equal(n.read(0, 1<<20, len(big)), big) {
		t.Fatal("a large write")
	}
	if err := do(&target.Command{Op: target.OpZero, Off: 1<<20 + 512, Len: 4096}); err != nil {
		t.Fatal(err)
	}
	if err := do(&target.Command{Op: target.OpUnmap, Off: 2 << 20, Len: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	clear(big[512 : 512+4096])
	clear(big[1<<20 : 2<<20])
	if !bytes.Equal(n.read(0, 1<<20, len(big)), big) {
		t.Fatal("zero and unmap")
	}
	swap := func(old, new uint64) error {
		return do(&target.Command{Op: target.OpCompareAndWrite, Off: 0, Len: 4096, Compare: block(old), Data: block(new)})
	}
	var miss *target.MiscompareError
	if err := swap(0, 1); err != nil {
		t.Fatal(err)
	}
	if err := swap(0, 2); !errors.As(err, &miss) || miss.Offset != 0 {
		t.Fatalf("want a miscompare, got %v", err)
	}
	var wins atomic.Int32
	results := make([]<-chan error, 0, 64)
	for i := range uint64(64) { // many racers from 1, with writes in between: one wins
		results = append(results, submit(n.unit(0), &target.Command{Op: target.OpCompareAndWrite, Off: 0, Len: 4096, Compare: block(1), Data: block(100 + i)}))
		results = append(results, submit(n.unit(0), &target.Command{Op: target.OpWrite, Off: 7 << 20, Len: 4096, Data: block(i)}))
	}
	for i, r := range results {
		switch err := await(t, r); {
		case err == nil && i%2 == 0:
			wins.Add(1)
		case err != nil && !errors.As(err, &miss):
			t.Fatal(err)
		}
	}
	if wins.Load() != 1 {
		t.Fatalf("%d winners", wins.Load())
	}
	if err := do(&target.Command{Op: target.OpFlush}); err != nil {
		t.Fatal(err)
	}
	c.follows("a", "b")
	c.same("a", "b")
}
