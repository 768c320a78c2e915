package group

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/history"
)

// guests are a Quiescer's.
type guests struct {
	mu             sync.Mutex
	held, released int
	err            error  // of the next Quiesce
	early          error  // of the next releases: they were let go on too early
	while          func() // is done while they are held
}

func (q *guests) Quiesce(ctx context.Context, g domain.Group, e domain.Epoch, limit time.Duration) (func() error, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if g.ID != "erp" || e == 0 || limit != api.MaxFreeze {
		return nil, errors.New("asked for something else")
	}
	if _, bounded := ctx.Deadline(); !bounded {
		return nil, errors.New("asked without a bound")
	}
	if q.err != nil {
		return nil, q.err
	}
	q.held++
	if q.while != nil {
		q.while()
	}
	return func() error {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.released++
		return q.early
	}, nil
}

// set changes what the guests do.
func (q *guests) set(f func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	f()
}

func (q *guests) letGo() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.held == q.released
}

// quiet is a pair whose guests can be held still.
func quiet(t *testing.T, modes ...domain.Mode) (c *cluster, q *guests) {
	t.Helper()
	c, q = newPast(t, time.Hour, modes...), &guests{}
	c.boot("a", "b")
	c.nodes["a"].g.cfg.Quiesce = q
	c.promote("a", 257)
	c.nodes["a"].write(0, 0, block(1))
	c.follows("a", "b")
	eventually(t, "history begins", func() bool { return len(c.nodes["b"].checkpoints()) > 0 })
	return c, q
}

// kind waits until a site has a checkpoint, everything up to the primary's last change is applied there, and tells its kind.
func (c *cluster) kind(site domain.SiteID, lsn domain.LSN) string {
	c.t.Helper()
	n := c.nodes[site]
	n.holds(lsn)
	last := c.nodes["a"].g.store.last()
	eventually(c.t, "all is applied", func() bool { return n.g.Status().AppliedLSN >= last })
	list := n.checkpoints()
	return list[slices.IndexFunc(list, func(p api.Checkpoint) bool { return p.LSN == lsn })].Kind
}

var app = api.CheckpointCreateRequest{Group: "erp", App: true, Label: "quiet"}

func TestACheckpointIsApplicationConsistentOnceItIsKnownThatTheGuestsWereHeld(t *testing.T) {
	for _, mode := range []domain.Mode{domain.ModeSync, domain.ModeAsync} {
		c, q := quiet(t, mode)
		a := c.nodes["a"]
		p, err := a.g.Mark(t.Context(), app)
		if err != nil || q.held != 1 || q.released != 1 || p.Kind != api.CheckpointApp || p.Label != "quiet" {
			t.Fatalf("%+v, %v, %+v", p, err, q)
		}
		if got := c.kind("b", p.LSN); got != history.KindApp || a.facts.detail("checkpoint_created") != "app quiet" {
			t.Fatalf("kind %s at the target; told %q", got, a.facts.detail("checkpoint_created"))
		}
		c.kill("b")
		c.boot("b")
		c.follows("a", "b")
		if got := c.kind("b", p.LSN); got != history.KindApp {
			t.Fatalf("kind %s after a restart of the target", got)
		}
	}
}

func TestACheckpointWhoseGuestsWereLetGoTooEarlyIsCrashConsistent(t *testing.T) {
	c, q := quiet(t, domain.ModeAsync)
	a := c.nodes["a"]
	q.early = domain.ErrRefused
	_, err := a.g.Mark(t.Context(), app)
	if !errors.Is(err, domain.ErrRefused) || !strings.Contains(err.Error(), "not held still until its mark was made") || !q.letGo() {
		t.Fatal(err)
	}
	lsn := a.g.store.last()
	if got := c.kind("b", lsn); got != history.KindCrash {
		t.Fatalf("kind %s", got)
	}
	if d := a.facts.detail("checkpoint_failed"); !strings.Contains(d, "is crash-consistent") || a.facts.detail("checkpoint_created") != "" {
		t.Fatalf("told %q", d)
	}
}

func TestGuestsHeldStillForACheckpointAreAlwaysLetGo(t *testing.T) {
	c, q := quiet(t, domain.ModeAsync)
	a := c.nodes["a"]
	ctx, cancel := context.WithCancel(t.Context())
	q.while = cancel // who asked goes away
	if p, err := a.g.Mark(ctx, app); err == nil || !q.letGo() || q.held != 1 {
		t.Fatalf("%+v, %v, %+v", p, err, q)
	}
	q.set(func() { q.while, q.err = nil, domain.ErrRefused })
	if _, err := a.g.Mark(t.Context(), app); !errors.Is(err, domain.ErrRefused) || !strings.Contains(err.Error(), "no checkpoint was made") || !q.letGo() {
		t.Fatal(err)
	}
	if d := a.facts.detail("checkpoint_failed"); !strings.Contains(d, "no checkpoint was made") {
		t.Fatalf("told %q", d)
	}
	a.g.cfg.Quiesce = nil
	if _, err := a.g.Mark(t.Context(), app); !errors.Is(err, domain.ErrRefused) {
		t.Fatalf("nobody can hold them: %v", err)
	}
}

// TestAPrimaryThatDiesWhileGuestsAreHeldLeavesNoFalseCheckpoint kills it at each point from the freeze to the confirmation.
func TestAPrimaryThatDiesWhileGuestsAreHeldLeavesNoFalseCheckpoint(t *testing.T) {
	for _, place := range []string{"before the mark", "before the confirmation"} {
		c, q := quiet(t, domain.ModeAsync)
		a, b := c.nodes["a"], c.nodes["b"]
		begun := a.g.store.last()
		died := errors.New("the primary died")
		session := a.g.current()
		die := func() { session.fail(died) }
		if place == "before the mark" {
			q.while = die
		}
		q.early = nil
		release := a.g.cfg.Quiesce
		a.g.cfg.Quiesce = quiescing(func(ctx context.Context, g domain.Group, e domain.Epoch, limit time.Duration) (func() error, error) {
			r, err := release.Quiesce(ctx, g, e, limit)
			return func() error {
				out := r()
				if place == "before the confirmation" {
					b.holds(begun + 1) // it has come through
					die()
				}
				return out
			}, err
		})
		if _, err := a.g.Mark(t.Context(), app); err == nil || !q.letGo() {
			t.Fatalf("%s: %v", place, err)
		}
		for _, p := range b.checkpoints() {
			if p.Kind != api.CheckpointCrash {
				t.Fatalf("%s: %+v", place, p)
			}
		}
	}
}

type quiescing func(context.Context, domain.Group, domain.Epoch, time.Duration) (func() error, error)

func (f quiescing) Quiesce(ctx context.Context, g domain.Group, e domain.Epoch, limit time.Duration) (func() error, error) {
	return f(ctx, g, e, limit)
}

func TestOneCheckpointAtATimeHoldsTheGuests(t *testing.T) {
	c, q := quiet(t, domain.ModeAsync)
	a := c.nodes["a"]
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			if _, err := a.g.Mark(t.Context(), app); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if q.held != 5 || !q.letGo() {
		t.Fatalf("%+v", q)
	}
	a.g.holding <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := a.g.Mark(ctx, app); !errors.Is(err, domain.ErrUnavailable) {
		t.Fatal(err)
	}
}

func TestApplicationConsistentCheckpointsComeByThemselvesAndAFailureIsTold(t *testing.T) {
	c, q := newPast(t, time.Hour, domain.ModeAsync), &guests{}
	c.boot("a", "b")
	a, b := c.nodes["a"], c.nodes["b"]
	a.g.cfg.Quiesce = q
	c.promote("a", 257)
	a.write(0, 0, block(1))
	c.follows("a", "b")
	eventually(t, "history begins", func() bool { return len(b.checkpoints()) > 0 })
	if q.held != 0 {
		t.Fatal("nobody asked for any")
	}
	c.adopt(func(g *domain.Group) { g.Checkpoints.AppEvery = 30 * time.Millisecond })
	has := func(kind string, least int) func() bool {
		return func() bool {
			n := 0
			for _, p := range b.checkpoints() {
				if p.Kind == kind {
					n++
				}
			}
			return n >= least
		}
	}
	eventually(t, "two come by themselves", has(api.CheckpointApp, 2))
	q.set(func() { q.err = domain.ErrRefused })
	eventually(t, "a failure is told", func() bool { return strings.Contains(a.facts.detail("checkpoint_failed"), "stands in for it") })
	eventually(t, "a crash-consistent one stands in", has(api.CheckpointCrash, 2))
	q.set(func() { q.err = nil })
	last := a.g.store.last()
	eventually(t, "and they come again", func() bool {
		list := b.checkpoints()
		return len(list) > 0 && list[len(list)-1].LSN > last && list[len(list)-1].Kind == api.CheckpointApp
	})
	if !strings.HasPrefix(a.facts.detail("checkpoint_created"), "app") {
		t.Fatal(a.facts.detail("checkpoint_created"))
	}
}
