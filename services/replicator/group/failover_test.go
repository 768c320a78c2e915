package group

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

// numbered writes block i to volume i%2 at place i/2, in order, with several under way, until the unit stops answering.
// It gives the number of the last block acknowledged with all before it.
type numbered struct {
	wg    sync.WaitGroup
	acked atomic.Uint64 // acknowledgements; they come in order
	bad   atomic.Bool   // an answer out of order
}

func (n *node) numbered(depth int, limit uint64) *numbered {
	w := &numbered{}
	units := []target.Unit{n.unit(0), n.unit(1)}
	slots := make(chan struct{}, depth)
	w.wg.Go(func() {
		var stop atomic.Bool
		for i := uint64(1); i <= limit && !stop.Load(); i++ {
			slots <- struct{}{}
			units[i%2].Submit(&target.Command{Op: target.OpWrite, Off: int64(i/2) * 4096, Len: 4096, Data: block(i)}, func(err error) {
				if err != nil {
					stop.Store(true)
				} else if w.acked.Add(1) != i {
					w.bad.Store(true)
				}
				<-slots
			})
		}
		for range depth {
			slots <- struct{}{}
		}
	})
	return w
}

// prefix checks that a copy holds exactly the blocks 1..k for some k, and gives k.
func (n *node) prefix(limit uint64) uint64 {
	n.t.Helper()
	images := [][]byte{n.image(0), n.image(1)}
	k, ended := uint64(0), false
	for i := uint64(1); i <= limit; i++ {
		b := images[i%2][i/2*4096:][:4096]
		switch {
		case bytes.Equal(b, block(i)):
			if ended {
				n.t.Fatalf("site %s: block %d is there, block %d is not: no prefix", n.id, i, k+1)
			}
			k = i
		case allZero(b):
			ended = true
		default:
			n.t.Fatalf("site %s: block %d holds %d", n.id, i, binary.LittleEndian.Uint64(b))
		}
	}
	return k
}

func TestAfterThePrimaryIsKilledTheTargetIsAPrefixWithEveryAcknowledgedSyncWrite(t *testing.T) {
	for _, mode := range []domain.Mode{domain.ModeSync, domain.ModeAsync} {
		t.Run(string(mode), func(t *testing.T) {
			c := newCluster(t, mode)
			c.boot("a", "b")
			c.promote("a", 257)
			c.follows("a", "b")
			const limit = 3000
			w := c.nodes["a"].numbered(16, limit)
			eventually(t, "some writes", func() bool { return w.acked.Load() > 300 })
			c.kill("a")
			w.wg.Wait()
			c.promote("b", 514)
			got := c.nodes["b"].prefix(limit)
			if w.bad.Load() || mode == domain.ModeSync && got < w.acked.Load() {
				t.Fatalf("%d acknowledged, %d found, out of order %v", w.acked.Load(), got, w.bad.Load())
			}
			t.Logf("%d acknowledged, %d found", w.acked.Load(), got)
			c.boot("a")
			c.follows("b", "a")
			c.same("b", "a")
			if c.nodes["a"].prefix(limit) != got {
				t.Fatal("the old primary kept another prefix")
			}
		})
	}
}

func TestStalePrimaryNeverAcknowledgesASyncWriteAfterThePromoteElsewhere(t *testing.T) {
	c := newCluster(t, domain.ModeSync)
	c.boot("a", "b")
	c.promote("a", 257)
	c.follows("a", "b")
	c.nodes["a"].write(0, 0, block(1))
	u := c.nodes["a"].unit(0)
	c.promote("b", 514) // the lease is gone at a, whose pull has not told it yet
	err := await(t, submit(u, &target.Command{Op: target.OpWrite, Off: 4096, Len: 4096, Data: block(2)}))
	if !errors.Is(err, target.ErrFenced) {
		t.Fatalf("want fenced, got %v", err)
	}
	eventually(t, "a stops serving", func() bool { return c.nodes["a"].portal.count() == 0 && c.nodes["a"].g.current() == nil })
	if !c.nodes["a"].facts.has("serving_stopped") {
		t.Fatal("no event")
	}
	c.follows("b", "a")
	c.same("a", "b")
}

func TestDivergedAsyncWritesAreKeptAsideWithAMapAndOnlyWhatDiffersIsSent(t *testing.T) {
	c := newCluster(t, domain.ModeAsync)
	c.boot("a", "b")
	c.promote("a", 257)
	fill(c.nodes["a"])
	c.follows("a", "b")
	c.kill("b") // the link is cut, as it were; a goes on alone
	for i := range uint64(8) {
		c.nodes["a"].write(0, int64(i)*4096, block(1000+i))
	}
	c.kill("a")
	c.boot("b")
	c.promote("b", 514)
	for i := range uint64(4) {
		c.nodes["b"].write(1, int64(i)*8192, block(2000+i))
	}
	c.boot("a")
	c.follows("b", "a")
	c.same("a", "b")
	checkQuarantine(t, c.nodes["a"], 8)
	ts := c.target("b", "a")
	if ts.ResyncBytes == 0 || ts.ResyncBytes*10 > ts.VolumeBytes {
		t.Fatalf("resync sent %d of %d bytes", ts.ResyncBytes, ts.VolumeBytes)
	}
	if got := c.nodes["b"].read(0, 0, 4096); bytes.Equal(got, block(1000)) {
		t.Fatal("a diverged write reached the new primary")
	}
	// Home again: the move back needs no resync at all, and nothing is lost.
	set := c.quo.set()
	if _, err := c.nodes["b"].g.Demote(t.Context(), api.DemoteRequest{Group: "erp", Epoch: 514, Successor: "a"}); err != nil {
		t.Fatalf("demote: %v (set %v)", err, set)
	}
	c.promote("a", 769)
	c.follows("a", "b")
	c.same("a", "b")
	if ts := c.target("a", "b"); ts.ResyncBytes != 0 {
		t.Fatalf("failback sent %d bytes of resync", ts.ResyncBytes)
	}
}

// fill gives a quarter of each volume content.
func fill(n *node) {
	n.t.Helper()
	for v := range 2 {
		for off := int64(0); off < volumeBytes/4; off += 256 << 10 {
			n.write(v, off, bytes.Repeat([]byte{byte(v + 1)}, 256<<10))
		}
	}
}

func checkQuarantine(t *testing.T, n *node, writes uint64) {
	t.Helper()
	items, err := n.g.Quarantined()
	if err != nil || len(items) != 1 || items[0].Writes != writes || len(items[0].Extents) != int(writes) || items[0].Epoch != 257 {
		t.Fatalf("quarantine %+v, %v", items, err)
	}
	for i, e := range items[0].Extents {
		if e.Volume != "data" || e.Offset != int64(i)*4096 || e.Length != 4096 || e.LSN == 0 || e.Time.IsZero() {
			t.Fatalf("extent %d: %+v", i, e)
		}
	}
	b, err := os.ReadFile(filepath.Join(items[0].Path, quarantineMap))
	var again api.Quarantined
	if err != nil || json.Unmarshal(b, &again) != nil {
		t.Fatalf("map: %v", err)
	}
	frames, err := os.ReadFile(filepath.Join(items[0].Path, quarantineFrames))
	if err != nil || !bytes.Contains(frames, block(1003)) {
		t.Fatalf("the frames do not hold the write: %v", err)
	}
	if !n.facts.has("writes_quarantined") {
		t.Fatal("no event")
	}
}

func TestWriteJournaledBeforeTheDeadlineAndCompleteAfterItIsNotAcknowledged(t *testing.T) {
	c := newCluster(t, domain.ModeSync)
	c.def.OnTargetLoss = domain.TargetLossSuspend
	c.boot("a", "b")
	c.promote("a", 257)
	c.follows("a", "b")
	c.nodes["a"].write(0, 0, block(1))
	a := c.nodes["a"]
	eventually(t, "b in sync", func() bool { return c.target("a", "b").InSync })
	c.kill("b")
	u := a.unit(0)
	before := a.g.Status().HeadLSN
	done := submit(u, &target.Command{Op: target.OpWrite, Off: 4096, Len: 4096, Data: block(2)})
	eventually(t, "the write is in a's journal", func() bool { return a.g.Status().HeadLSN == before+1 })
	a.skew.Store(int64(time.Hour)) // the process was stopped for an hour and goes on
	c.boot("b")
	if err := await(t, done); !errors.Is(err, target.ErrFenced) {
		t.Fatalf("want fenced, got %v", err)
	}
	if u.(target.Gated).MayAnswer() {
		t.Fatal("the unit may still answer")
	}
	eventually(t, "a is a target", func() bool { return a.g.Status().Role == domain.RoleTarget })
	if _, err := a.g.Promote(t.Context(), api.PromoteRequest{Group: "erp", Epoch: 257, InSync: c.quo.set()}); !errors.Is(err, domain.ErrStaleEpoch) {
		t.Fatalf("the same epoch again: want stale, got %v", err)
	}
}

func TestDegradeAcknowledgesOnlyOnceTheRegisterHasTheSmallerSet(t *testing.T) {
	c := newCluster(t, domain.ModeSync)
	c.boot("a", "b")
	c.promote("a", 257)
	c.follows("a", "b")
	c.nodes["a"].write(0, 0, block(1))
	c.quo.block(true)
	c.kill("b")
	done := submit(c.nodes["a"].unit(0), &target.Command{Op: target.OpWrite, Off: 4096, Len: 4096, Data: block(2)})
	eventually(t, "the register is asked", func() bool {
		c.quo.mu.Lock()
		defer c.quo.mu.Unlock()
		return c.quo.asked > 2
	})
	select {
	case err := <-done:
		t.Fatalf("acknowledged (%v) while the register still names b", err)
	default:
	}
	c.quo.block(false)
	if err := await(t, done); err != nil {
		t.Fatal(err)
	}
	if set := c.quo.set(); len(set) != 1 || set[0] != "a" {
		t.Fatalf("register %v", set)
	}
	if !c.nodes["a"].facts.has("target_lost") {
		eventually(t, "event", func() bool { return c.nodes["a"].facts.has("target_lost") })
	}
	c.boot("b")
	c.follows("a", "b")
	eventually(t, "b is in the set again", func() bool { return len(c.quo.set()) == 2 })
	c.nodes["a"].write(0, 8192, block(3))
	if c.nodes["b"].g.Status().HeadLSN != c.nodes["a"].g.Status().AppliedLSN {
		t.Fatal("b is in the set and was not waited for")
	}
	c.same("a", "b")
}

func TestPromoteNeedsTheLeaseAndAnEpochOfItsOwn(t *testing.T) {
	c := newCluster(t, domain.ModeSync)
	c.boot("a", "b")
	a := c.nodes["a"].g
	try := func(epoch domain.Epoch) error {
		_, err := a.Promote(t.Context(), api.PromoteRequest{Group: "erp", Epoch: epoch, InSync: []domain.SiteID{"a", "b"}})
		return err
	}
	if err := try(257); !errors.Is(err, domain.ErrNoLease) {
		t.Fatalf("without a lease: %v", err)
	}
	first := c.promote("a", 257)
	again, err := a.Promote(t.Context(), api.PromoteRequest{Group: "erp", Epoch: 257})
	if err != nil || again.FirstLSN != first.FirstLSN || len(again.Disks) != 2 {
		t.Fatalf("a repeat: %+v, %v", again, err)
	}
	c.nodes["a"].write(0, 0, block(1))
	c.promote("a", 1025) // a new epoch of its own, the old one ends
	c.nodes["a"].write(0, 4096, block(2))
	if err := try(257); !errors.Is(err, domain.ErrStaleEpoch) {
		t.Fatalf("a lower epoch: %v", err)
	}
	if err := c.nodes["b"].g.Fence(t.Context(), 2000); err != nil {
		t.Fatal(err)
	}
	if _, err := c.nodes["b"].g.Promote(t.Context(), api.PromoteRequest{Group: "erp", Epoch: 1999}); !errors.Is(err, domain.ErrStaleEpoch) {
		t.Fatalf("below the fence: %v", err)
	}
	c.kill("a")
	c.boot("a")
	if err := func() error {
		_, err := c.nodes["a"].g.Promote(t.Context(), api.PromoteRequest{Group: "erp", Epoch: 1025})
		return err
	}(); !errors.Is(err, domain.ErrStaleEpoch) {
		t.Fatalf("an epoch served by an earlier life: %v", err)
	}
}

func TestDemoteDrainsToTheSuccessorAndAFailedOneGoesOnServing(t *testing.T) {
	slow(t)
	for _, mode := range []domain.Mode{domain.ModeSync, domain.ModeAsync} {
		t.Run(string(mode), func(t *testing.T) {
			c := newCluster(t, mode)
			c.boot("a", "b")
			c.promote("a", 257)
			c.follows("a", "b")
			w := c.nodes["a"].numbered(8, 200)
			w.wg.Wait()
			c.kill("b")
			short := api.DemoteRequest{Group: "erp", Epoch: 257, Successor: "b", TimeoutNs: int64(300 * time.Millisecond)}
			eventually(t, "b is missed", func() bool { return !c.nodes["a"].g.current().senders.get("b").isLive() })
			if _, err := c.nodes["a"].g.Demote(t.Context(), short); !errors.Is(err, domain.ErrRefused) {
				t.Fatalf("demote to the dead: want refused, got %v", err)
			}
			c.nodes["a"].write(1, 0, block(500)) // still serves
			c.boot("b")
			c.follows("a", "b")
			if mode == domain.ModeSync {
				eventually(t, "b in sync", func() bool { return len(c.quo.set()) == 2 })
			}
			reply, err := c.nodes["a"].g.Demote(t.Context(), api.DemoteRequest{Group: "erp", Epoch: 257, Successor: "b"})
			if err != nil {
				t.Fatal(err)
			}
			if got := c.nodes["b"].g.Status().HeadLSN; got != reply.LastLSN || len(c.quo.set()) != 2 {
				t.Fatalf("b has LSN %d of %d, set %v", got, reply.LastLSN, c.quo.set())
			}
			again, err := c.nodes["a"].g.Demote(t.Context(), api.DemoteRequest{Group: "erp", Epoch: 257, Successor: "b"})
			if err != nil || again != reply {
				t.Fatalf("a repeat: %+v, %v", again, err)
			}
			c.promote("b", 514)
			c.nodes["b"].write(1, 0, block(501))
			c.follows("b", "a")
			c.same("a", "b")
			if q, _ := c.nodes["a"].g.Quarantined(); len(q) != 0 {
				t.Fatalf("a planned move left %+v", q)
			}
		})
	}
}

func TestAPromoteWhoseSessionEndsWhileItBeginsToServeLeavesNothingServed(t *testing.T) {
	c := newCluster(t, domain.ModeAsync)
	c.boot("a")
	a := c.nodes["a"]
	n := 0
	a.portal.adds = func() {
		if n++; n == 2 {
			s := a.g.current()
			s.stop(fmt.Errorf("the lease is over: %w", domain.ErrNoLease)) // between the first volume and the second
		}
	}
	set := c.quo.grant("a", 257)
	if _, err := a.g.Promote(t.Context(), api.PromoteRequest{Group: "erp", Epoch: 257, InSync: set}); !errors.Is(err, domain.ErrNoLease) {
		t.Fatalf("want the session's end, got %v", err)
	}
	if n := a.portal.count(); n != 0 {
		t.Fatalf("%d volumes are served by nobody", n)
	}
}

func TestAPromoteThatTookLongerThanTheLeaseServesUnderTheLeaseOfNow(t *testing.T) {
	c := newCluster(t, domain.ModeAsync)
	a := c.nodes["a"]
	var asked atomic.Int32
	var lost atomic.Bool
	c.quo.onLease = func() {
		switch n := asked.Add(1); {
		case n == 1:
			a.skew.Store(int64(time.Hour)) // what comes next takes an hour
		case n == 2 && lost.Load():
			c.quo.grant("b", 514)
		}
	}
	c.boot("a")
	c.promote("a", 257)
	a.write(0, 0, block(1))
	c.kill("a")
	c.boot("a")
	a.skew.Store(0)
	asked.Store(0)
	lost.Store(true)
	set := c.quo.grant("a", 513)
	if _, err := a.g.Promote(t.Context(), api.PromoteRequest{Group: "erp", Epoch: 513, InSync: set}); !errors.Is(err, domain.ErrNoLease) {
		t.Fatalf("the lease went elsewhere meanwhile: %v", err)
	}
	if a.g.current() != nil || a.portal.count() != 0 {
		t.Fatal("it serves")
	}
}

func TestAPromoteThatIsRefusedLeavesTheServingEpochAlone(t *testing.T) {
	c := newCluster(t, domain.ModeAsync)
	c.boot("a", "b")
	c.promote("a", 257)
	a := c.nodes["a"]
	_, err := a.g.Promote(t.Context(), api.PromoteRequest{Group: "erp", Epoch: 514, InSync: []domain.SiteID{"a"}})
	if !errors.Is(err, domain.ErrNoLease) {
		t.Fatalf("promote without a lease: %v", err)
	}
	a.write(0, 0, block(1)) // the lease of 257 is held
	c.promote("a", 769)
	if got := a.read(0, 0, 4096); !bytes.Equal(got, block(1)) {
		t.Fatal("the write is lost")
	}
}
