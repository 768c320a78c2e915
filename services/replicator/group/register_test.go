package group

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

// joiner is a session without its parts, and a synchronous target of it that holds everything and is about to join.
func joiner(loss domain.OnTargetLoss) (*session, *sender) {
	s := &session{g: &Group{cfg: Config{Now: clock.Now}}, st: &store{group: domain.Group{ID: "erp", OnTargetLoss: loss}}, required: map[domain.SiteID]bool{},
		completeWake: make(chan struct{}, 1), next: 1}
	s.register = newRegistrar(s, []domain.SiteID{"a"})
	t := &sender{s: s, site: "b", how: domain.ModeSync, track: &track{}, caught: true}
	return s, t
}

func TestATargetThatNoWriteWaitsForIsNeverProposed(t *testing.T) {
	s, b := joiner(domain.TargetLossDegrade)
	s.register.require("b")
	b.joining = true // it has told that it is to join, and
	s.register.remove("b", "")
	s.register.release([]domain.SiteID{"a"}) // was let go before it was proposed
	if s.required["b"] {
		t.Fatal("not let go")
	}
	b.caughtUp(t.Context(), 0)
	if s.register.wants("b") {
		t.Fatal("the register is to name a target that no write waits for")
	}
	b.caughtUp(t.Context(), 0) // from the beginning
	if !s.register.wants("b") || !s.required["b"] {
		t.Fatalf("proposed %v, required %v", s.register.wants("b"), s.required["b"])
	}
}

func TestATargetThatJoinsWhileItIsLetGoStaysRequired(t *testing.T) {
	s, _ := joiner(domain.TargetLossDegrade)
	s.register.require("b")
	s.register.remove("b", "")
	if !s.register.join("b") { // the release has not come yet
		t.Fatal("every write still waits for it")
	}
	s.register.release([]domain.SiteID{"a"})
	if !s.required["b"] || !s.register.wants("b") {
		t.Fatalf("required %v, wanted %v", s.required["b"], s.register.wants("b"))
	}
}

func TestUnderSuspendALateTargetIsLetGoOnlyBeforeItIsProposed(t *testing.T) {
	s, _ := joiner(domain.TargetLossSuspend)
	s.register.require("b")
	s.register.join("b")
	s.register.lose("b", "")
	s.register.release([]domain.SiteID{"a"})
	if !s.required["b"] || !s.register.wants("b") {
		t.Fatal("an in-sync target was let go")
	}
	s.register.require("c")
	s.register.lose("c", "")
	s.register.release([]domain.SiteID{"a"})
	if s.required["c"] || slices.Contains(s.register.committed, "c") {
		t.Fatal("a joining target holds up every write")
	}
}

func TestASuccessorIsSettledOnlyWhenTheRegisterIsKnownToNameIt(t *testing.T) {
	s, _ := joiner(domain.TargetLossDegrade)
	r := s.register
	r.require("b")
	r.join("b")
	if r.settled("b") {
		t.Fatal("not committed")
	}
	r.committed = []domain.SiteID{"a", "b"}
	if !r.settled("b") {
		t.Fatal("committed")
	}
	r.doubt()
	if r.settled("b") {
		t.Fatal("another set was asked for, its outcome is unknown")
	}
	r.unsure = false
	r.remove("b", "")
	if r.settled("b") {
		t.Fatal("on its way out")
	}
}

// emptied makes b come back to its primary a without anything, and holds what a resync sends it until the test lets go. It
// gives the register's set at the moment when the first of it came.
func emptied(t *testing.T, c *cluster) (set []domain.SiteID, release func()) {
	t.Helper()
	c.boot("a", "b")
	c.promote("a", 257)
	c.follows("a", "b")
	a, b := c.nodes["a"], c.nodes["b"]
	fill(a)
	fillRing(t, a, 20)
	c.kill("b")
	files, err := filepath.Glob(filepath.Join(b.dir, "*"))
	for _, f := range files {
		if err == nil {
			err = os.RemoveAll(f)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	first, hold := make(chan []domain.SiteID, 1), make(chan struct{})
	stop := func(place string) error {
		if place == "stage data" {
			select {
			case first <- c.quo.set():
			default:
			}
			<-hold
		}
		return nil
	}
	b.fail.Store(&stop)
	release = sync.OnceFunc(func() { close(hold) })
	c.boot("b")
	t.Cleanup(release)
	return <-first, release
}

func TestATargetWhoseCopyIsLostIsOutOfTheSetBeforeItsResyncBegins(t *testing.T) {
	c := newCluster(t, domain.ModeSync)
	set, release := emptied(t, c)
	if !slices.Equal(set, []domain.SiteID{"a"}) {
		t.Fatalf("an empty copy is in the in-sync set %v", set)
	}
	c.nodes["a"].write(0, 0, block(1)) // goes on without it
	release()
	c.follows("a", "b")
	c.same("a", "b")
	eventually(t, "in sync again", func() bool { return len(c.quo.set()) == 2 })
}

func TestUnderSuspendALostCopyIsOutOfTheSetAndEveryWriteWaitsForIt(t *testing.T) {
	slow(t)
	c := newCluster(t, domain.ModeSync)
	c.def.OnTargetLoss = domain.TargetLossSuspend
	set, release := emptied(t, c)
	if !slices.Equal(set, []domain.SiteID{"a"}) {
		t.Fatalf("an empty copy is in the in-sync set %v", set)
	}
	a := c.nodes["a"]
	s := a.g.current()
	done := submit(a.unit(0), &target.Command{Op: target.OpWrite, Off: 0, Len: 4096, Data: block(1)})
	eventually(t, "the write is late", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.pending) > 0 && a.g.cfg.Now().Sub(s.pending[0].since) > 2*c.pace.TargetTimeout
	})
	select {
	case err := <-done:
		t.Fatalf("answered (%v) without b", err)
	default:
	}
	release()
	if err := await(t, done); err != nil {
		t.Fatal(err)
	}
	c.follows("a", "b")
	c.same("a", "b")
	eventually(t, "in sync again", func() bool { return len(c.quo.set()) == 2 && c.target("a", "b").State == api.TargetStreaming })
}

func TestAPrimaryWaitsForEveryoneTheLeaseNamesWhateverThePromoteSays(t *testing.T) {
	c := newCluster(t, domain.ModeSync)
	c.boot("a", "b")
	c.quo.grant("a", 257)
	a := c.nodes["a"]
	if _, err := a.g.Promote(t.Context(), api.PromoteRequest{Group: "erp", Epoch: 257, InSync: []domain.SiteID{"a"}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the set is asked for once", func() bool {
		c.quo.mu.Lock()
		defer c.quo.mu.Unlock()
		return len(c.quo.history) == 1 && len(c.quo.history[0]) == 2
	})
	c.quo.block(true) // the set cannot shrink
	c.kill("b")
	done := submit(a.unit(0), &target.Command{Op: target.OpWrite, Off: 0, Len: 4096, Data: block(1)})
	eventually(t, "b is lost", func() bool { return c.target("a", "b").State == api.TargetLost })
	select {
	case err := <-done:
		t.Fatalf("answered (%v) without b, which the register names", err)
	default:
	}
	c.quo.block(false)
	if err := await(t, done); err != nil {
		t.Fatal(err)
	}
	if set := c.quo.set(); !slices.Equal(set, []domain.SiteID{"a"}) {
		t.Fatalf("acknowledged without b, the register names %v", set)
	}
}

func TestAPromoteRepeatedAfterTheRegistersAnswerWasLostIsNoConflict(t *testing.T) {
	c := newCluster(t, domain.ModeAsync)
	c.quo.inSync = []domain.SiteID{"a", "b"} // as a planned move leaves it
	c.boot("a", "b")
	set := c.quo.grant("a", 257)
	c.quo.lose(true)
	a := c.nodes["a"]
	req := api.PromoteRequest{Group: "erp", Epoch: 257, InSync: set}
	if _, err := a.g.Promote(t.Context(), req); !errors.Is(err, domain.ErrNoQuorum) {
		t.Fatalf("promote without the register's answer: %v", err)
	}
	c.quo.lose(false)
	if _, err := a.g.Promote(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	a.write(0, 0, block(1))
	if set := c.quo.set(); !slices.Equal(set, []domain.SiteID{"a"}) {
		t.Fatalf("the register names %v", set)
	}
}
