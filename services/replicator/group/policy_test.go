package group

import (
	"slices"
	"sync/atomic"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

// adopt changes the group's definition at every site that is up, and for those booted later.
func (c *cluster) adopt(change func(*domain.Group)) {
	c.t.Helper()
	def := c.def
	def.Targets = slices.Clone(def.Targets)
	change(&def)
	c.def, c.version = def, c.version+1
	for _, n := range c.nodes {
		if n.g == nil {
			continue
		}
		if err := n.g.Adopt(c.t.Context(), api.GroupDesired{Group: def, Version: c.version}); err != nil {
			c.t.Fatalf("site %s: %v", n.id, err)
		}
	}
}

func (c *cluster) setMode(m domain.Mode) {
	c.t.Helper()
	c.adopt(func(g *domain.Group) { g.Targets[0].Mode = m })
}

func (c *cluster) inSync() bool { return slices.Contains(c.quo.set(), "b") }

func TestAnAsyncTargetMadeSyncCountsOnlyOnceTheRegisterHasIt(t *testing.T) {
	c := newCluster(t, domain.ModeAsync)
	c.boot("a", "b")
	c.promote("a", 257)
	const limit = 4000
	w := c.nodes["a"].numbered(8, limit)
	c.quo.block(true)
	c.setMode(domain.ModeSync)
	s := c.nodes["a"].g.current()
	eventually(t, "every write waits for b", func() bool { return s.waitsFor("b") })
	if ts := c.target("a", "b"); ts.InSync || ts.Mode != domain.ModeSync || c.inSync() {
		t.Fatalf("in sync before the register has it: %+v", ts)
	}
	c.quo.block(false)
	eventually(t, "in sync", func() bool { return c.target("a", "b").InSync })
	at := w.acked.Load()
	eventually(t, "writes go on", func() bool { n := w.acked.Load(); return n > at+100 || n == limit })
	c.kill("a")
	w.wg.Wait()
	c.promote("b", 514)
	if got := c.nodes["b"].prefix(limit); got < w.acked.Load() || w.bad.Load() {
		t.Fatalf("%d acknowledged, %d found", w.acked.Load(), got)
	}
}

func TestASyncTargetMadeAsyncIsWaitedForUntilTheRegisterLetsItGo(t *testing.T) {
	for _, mode := range []domain.Mode{domain.ModeAsync, domain.ModeNone} {
		t.Run(string(mode), func(t *testing.T) {
			c := newCluster(t, domain.ModeSync)
			c.def.OnTargetLoss = domain.TargetLossSuspend // so that nothing but the policy lets go of b
			c.boot("a", "b")
			c.promote("a", 257)
			c.follows("a", "b")
			c.quo.block(true)
			c.kill("b")
			done := submit(c.nodes["a"].unit(0), &target.Command{Op: target.OpWrite, Off: 0, Len: 4096, Data: block(1)})
			c.setMode(mode)
			asked := c.quo.requests()
			eventually(t, "the register is asked in vain", func() bool { return c.quo.requests() > asked+1 })
			select {
			case err := <-done:
				t.Fatalf("answered (%v) without b, which the register names", err)
			default:
			}
			c.quo.block(false)
			if err := await(t, done); err != nil {
				t.Fatal(err)
			}
			if c.inSync() {
				t.Fatal("acknowledged without b, which the register names")
			}
		})
	}
}

func TestNothingIsSentToATargetOfModeNoneAndALaterCopyIsWhole(t *testing.T) {
	c := newCluster(t, domain.ModeAsync)
	c.boot("a", "b")
	c.promote("a", 257)
	a, b := c.nodes["a"], c.nodes["b"]
	fill(a)
	c.follows("a", "b")
	c.setMode(domain.ModeNone)
	eventually(t, "b is let go", func() bool { return a.facts.has("target_ended") && len(a.g.Status().Targets) == 0 })
	head := b.g.Status().HeadLSN
	for i := range uint64(50) {
		a.write(0, int64(i)*4096, block(5000+i))
	}
	if st := b.g.Status(); st.HeadLSN != head || !st.Consistent {
		t.Fatalf("b went on from LSN %d: %+v", head, st)
	}
	b.g.mu.Lock()
	following := b.g.receiver != nil
	b.g.mu.Unlock()
	if following {
		eventually(t, "b is told", func() bool { b.g.mu.Lock(); defer b.g.mu.Unlock(); return b.g.receiver == nil })
	}
	c.setMode(domain.ModeSync)
	c.follows("a", "b")
	c.same("a", "b")
	eventually(t, "in sync", c.inSync)
	if ts := c.target("a", "b"); ts.ResyncBytes != 0 {
		t.Fatalf("the ring held all that b lacked, yet %d bytes were sent again", ts.ResyncBytes)
	}
}

func TestATargetIsAddedAndRemovedWhileWritesGoOn(t *testing.T) {
	slow(t)
	c := newCluster(t, domain.ModeSync, domain.ModeAsync)
	whole := c.def
	c.def.Targets = whole.Targets[:1]
	c.boot("a", "b")
	c.promote("a", 257)
	w := c.nodes["a"].numbered(8, 2000)
	c.adopt(func(g *domain.Group) { *g = whole })
	c.boot("c")
	c.follows("a", "c")
	c.adopt(func(g *domain.Group) { g.Targets = whole.Targets[1:] })
	eventually(t, "b is let go", func() bool { return !c.inSync() && len(c.nodes["a"].g.Status().Targets) == 1 })
	w.wg.Wait()
	if w.acked.Load() != 2000 || w.bad.Load() {
		t.Fatalf("%d of 2000 writes", w.acked.Load())
	}
	c.follows("a", "c")
	c.same("a", "c")
	if k := c.nodes["b"].prefix(2000); k > 2000 {
		t.Fatal("unreachable")
	}
}

// A primary killed at any step of a change leaves a register that names nobody who lacks an acknowledged write.
func TestKilledInAnyStepOfAChangeTheRegisterPromisesNoMoreThanIsTrue(t *testing.T) {
	slow(t)
	for name, change := range map[string]struct{ from, to domain.Mode }{
		"to sync": {domain.ModeAsync, domain.ModeSync}, "to async": {domain.ModeSync, domain.ModeAsync}, "to none": {domain.ModeSync, domain.ModeNone},
	} {
		for _, place := range []string{"policy taken", "register asked", "register answered", "target let go"} {
			if place == "target let go" && change.to != domain.ModeNone {
				continue
			}
			t.Run(name+", "+place, func(t *testing.T) { killedInAChange(t, change.from, change.to, place) })
		}
	}
}

func killedInAChange(t *testing.T, from, to domain.Mode, place string) {
	c := newCluster(t, from)
	c.boot("a", "b")
	c.promote("a", 257)
	c.follows("a", "b")
	const limit = 3000
	w := c.nodes["a"].numbered(8, limit)
	eventually(t, "some writes", func() bool { return w.acked.Load() > 50 })
	var once atomic.Bool
	hit := make(chan struct{})
	stop := func() {
		if once.CompareAndSwap(false, true) {
			close(hit)
		}
	}
	switch place {
	case "register asked": // its requests find no majority
		c.quo.block(true)
		c.quo.seen(stop)
	case "register answered": // they are carried out, and the answer is lost
		c.quo.lose(true)
		c.quo.seen(stop)
	default:
		at := func(p string) error {
			if p == place {
				stop()
				return errKilled
			}
			return nil
		}
		c.nodes["a"].fail.Store(&at)
	}
	def := c.def
	def.Targets = []domain.Target{{Site: "b", Mode: to}}
	// What it says when it is killed is nobody's.
	_ = c.nodes["a"].g.Adopt(t.Context(), api.GroupDesired{Group: def, Version: 1})
	<-hit
	c.kill("a")
	w.wg.Wait()
	c.quo.block(false)
	c.quo.lose(false)
	c.nodes["a"].fail.Store(nil)
	c.def = def
	if c.inSync() {
		c.promote("b", 514)
		if got := c.nodes["b"].prefix(limit); got < w.acked.Load() {
			t.Fatalf("the register names b, which has %d of %d acknowledged writes", got, w.acked.Load())
		}
		return
	}
	c.boot("a")
	c.promote("a", 513)
	if got := c.nodes["a"].prefix(limit); got < w.acked.Load() {
		t.Fatalf("%d of %d acknowledged writes", got, w.acked.Load())
	}
}
