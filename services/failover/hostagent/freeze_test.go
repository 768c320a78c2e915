package hostagent

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
)

// icebox is what can be done to a guest.
type icebox struct {
	thawed chan struct{} // takes a token at each thaw

	mu     sync.Mutex
	frozen bool
	refuse error // of the next freezes, which then happen all the same
	deaf   int   // so many thaws are not answered
}

func newIcebox() *icebox { return &icebox{thawed: make(chan struct{}, 100)} }

func (b *icebox) is() bool { b.mu.Lock(); defer b.mu.Unlock(); return b.frozen }

// sleeper is a doll that can be held still.
type sleeper struct {
	*doll
	box *icebox
}

func (s sleeper) note(what string) {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	s.p.history = append(s.p.history, what)
}

func (s sleeper) Freeze(context.Context) error {
	s.box.mu.Lock()
	defer s.box.mu.Unlock()
	s.box.frozen = true
	s.note("freeze")
	return s.box.refuse
}

func (s sleeper) Thaw(context.Context) (bool, error) {
	s.box.mu.Lock()
	defer s.box.mu.Unlock()
	if s.box.deaf > 0 {
		s.box.deaf--
		return false, domain.ErrUnavailable
	}
	stayed := s.box.frozen
	s.box.frozen = false
	s.note("thaw")
	s.box.thawed <- struct{}{}
	return stayed, nil
}

// freezer is a rig with a VM that runs under e and can be held still.
func freezer(t *testing.T) (r *rig, box *icebox, e domain.Epoch) {
	t.Helper()
	r, box, e = newRig(t), newIcebox(), domain.NewEpoch(0, 1, 1)
	r.driver.box = box
	r.grant(e, time.Hour)
	if _, err := r.start(e); err != nil {
		t.Fatal(err)
	}
	r.await(StateRunning)
	return r, box, e
}

func (r *rig) freeze(c *bus.Conn, e domain.Epoch, hold string, limit time.Duration) error {
	_, err := bus.Call[api.Empty](r.t.Context(), c, api.HostService("h1"), api.VerbFreeze,
		api.HostFreezeRequest{VM: "erp-1", Group: "erp", Epoch: e, Hold: hold, LimitNs: int64(limit)})
	return err
}

func (r *rig) thaw(hold string) (api.HostThawed, error) {
	return bus.Call[api.HostThawed](r.t.Context(), r.conn, api.HostService("h1"), api.VerbThaw, api.HostThawRequest{VM: "erp-1", Hold: hold})
}

func within(t *testing.T, c <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(30 * time.Second):
		t.Fatalf("never: %s", what)
	}
}

func TestAGuestIsHeldUntilItsThawIsAskedFor(t *testing.T) {
	r, box, e := freezer(t)
	for range 2 { // a repeat joins
		if err := r.freeze(r.conn, e, "one", api.MaxFreeze); err != nil || !box.is() {
			t.Fatal(err)
		}
	}
	if err := r.freeze(r.conn, e, "two", api.MaxFreeze); !errors.Is(err, domain.ErrConflict) {
		t.Fatal("held for two at once:", err)
	}
	if _, err := r.thaw("two"); !errors.Is(err, domain.ErrNotFound) || !box.is() {
		t.Fatal("thawed by who did not freeze it:", err)
	}
	for range 2 {
		if got, err := r.thaw("one"); err != nil || !got.Held || got.HeldNs <= 0 || box.is() {
			t.Fatalf("%+v, %v", got, err)
		}
	}
	if err := r.freeze(r.conn, e, "two", api.MaxFreeze); err != nil {
		t.Fatal(err)
	}
	if got, err := r.thaw("two"); err != nil || !got.Held {
		t.Fatalf("%+v, %v", got, err)
	}
	want := []string{"start erp-1 0.1.1", "freeze", "thaw", "freeze", "thaw"}
	if got := r.driver.said(); !slices.Equal(got, want) {
		t.Fatalf("%q, want %q", got, want)
	}
}

// TestAHostLetsAGuestGoOnWhoseAskerDied closes the connection of whoever froze it, as a kill or a cut does.
func TestAHostLetsAGuestGoOnWhoseAskerDied(t *testing.T) {
	r, box, e := freezer(t)
	if err := r.conn.EnsureAssets(t.Context()); err != nil {
		t.Fatal(err)
	}
	told := make(chan *event.VMChanged, 1)
	go func() {
		_ = r.conn.FollowEvents(t.Context(), []string{"hf.v1.evt.a.vm.*.freeze_expired"}, bus.FromStart, func(_ context.Context, _ event.Event, f event.Fact) {
			told <- f.(*event.VMChanged)
		})
	}()
	asker, err := bus.Dial(bus.Config{Site: "a", Service: "replicator", URLs: map[domain.SiteID]string{"a": r.url}})
	if err != nil {
		t.Fatal(err)
	}
	if err := asker.Local().AwaitConnected(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.freeze(asker.Local(), e, "one", 100*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	asker.Close()
	within(t, box.thawed, "the guest goes on")
	if box.is() {
		t.Fatal("frozen")
	}
	select {
	case f := <-told:
		if f.VM.VM != "erp-1" || !strings.Contains(f.Reason, "nobody asked") {
			t.Fatalf("%+v", f)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("nobody is told")
	}
	// One that was not dead, only late, is told that it was.
	if got, err := r.thaw("one"); err != nil || got.Held || !strings.Contains(got.Reason, "within 100ms") {
		t.Fatalf("%+v, %v", got, err)
	}
}

func TestAFreezeThatFailsIsThawed(t *testing.T) {
	r, box, e := freezer(t)
	box.refuse = domain.ErrRefused
	if err := r.freeze(r.conn, e, "one", api.MaxFreeze); !errors.Is(err, domain.ErrRefused) {
		t.Fatal(err)
	}
	within(t, box.thawed, "what may be frozen is thawed")
	if got, err := r.thaw("one"); err != nil || got.Held || got.Reason == "" {
		t.Fatalf("%+v, %v", got, err)
	}
	box.mu.Lock()
	box.refuse = nil
	box.mu.Unlock()
	if err := r.freeze(r.conn, e, "two", api.MaxFreeze); err != nil {
		t.Fatal(err)
	}
	if got, err := r.thaw("two"); err != nil || !got.Held {
		t.Fatalf("%+v, %v", got, err)
	}
}

func TestAGuestThatDoesNotAnswerTheThawIsAskedUntilItDoes(t *testing.T) {
	r, box, e := freezer(t)
	box.deaf = 3
	if err := r.freeze(r.conn, e, "one", api.MaxFreeze); err != nil {
		t.Fatal(err)
	}
	if got, err := r.thaw("one"); err != nil || !got.Held || box.is() {
		t.Fatalf("%+v, %v", got, err)
	}
}

func TestSomebodyElsesThawIsNoticed(t *testing.T) {
	r, box, e := freezer(t)
	if err := r.freeze(r.conn, e, "one", api.MaxFreeze); err != nil {
		t.Fatal(err)
	}
	box.mu.Lock()
	box.frozen = false
	box.mu.Unlock()
	if got, err := r.thaw("one"); err != nil || got.Held || got.Reason == "" {
		t.Fatalf("%+v, %v", got, err)
	}
}

func TestAStopLetsTheGuestGoOnFirst(t *testing.T) {
	r, _, e := freezer(t)
	if err := r.freeze(r.conn, e, "one", api.MaxFreeze); err != nil {
		t.Fatal(err)
	}
	if err := r.stop(e, time.Minute); err != nil {
		t.Fatal(err)
	}
	want := []string{"start erp-1 0.1.1", "freeze", "thaw", "stop erp-1 1m0s"}
	if got := r.driver.said(); !slices.Equal(got, want) {
		t.Fatalf("%q, want %q", got, want)
	}
	if got, err := r.thaw("one"); err != nil || got.Held || got.Reason == "" {
		t.Fatalf("%+v, %v", got, err)
	}
	if err := r.freeze(r.conn, e, "two", api.MaxFreeze); !errors.Is(err, domain.ErrNotFound) {
		t.Fatal("a VM that does not run:", err)
	}
}

// TestAHostThatDiesWhileAGuestIsFrozen: the guest is gone with it, whoever asks for its thaw is told, and the next boot is not frozen.
func TestAHostThatDiesWhileAGuestIsFrozen(t *testing.T) {
	r, box, e := freezer(t)
	if err := r.freeze(r.conn, e, "one", api.MaxFreeze); err != nil {
		t.Fatal(err)
	}
	box.mu.Lock()
	box.deaf = 1000 // nothing in it answers any more
	box.mu.Unlock()
	r.cancel()
	select {
	case err := <-r.done:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the agent waits for the guest")
	}
	r.done <- nil // for the clean-up
	box.mu.Lock()
	box.deaf, box.frozen = 0, false
	box.mu.Unlock()
	r.power(r.mesh)
	if _, err := r.thaw("one"); !errors.Is(err, domain.ErrNotFound) {
		t.Fatal(err)
	}
	if _, err := r.start(e); err != nil {
		t.Fatal(err)
	}
	if err := r.freeze(r.conn, e, "two", api.MaxFreeze); err != nil {
		t.Fatal(err)
	}
	if got, err := r.thaw("two"); err != nil || !got.Held {
		t.Fatalf("%+v, %v", got, err)
	}
}

func TestFreezesThatAreRefused(t *testing.T) {
	r, box, e := freezer(t)
	for name, x := range map[string]struct {
		err  error
		want error
	}{
		"longer than anybody may":  {r.freeze(r.conn, e, "x", api.MaxFreeze+1), domain.ErrInvalid},
		"for no time":              {r.freeze(r.conn, e, "x", 0), domain.ErrInvalid},
		"without a name":           {r.freeze(r.conn, e, "", time.Second), domain.ErrInvalid},
		"under another epoch":      {r.freeze(r.conn, e.Next(1), "x", time.Second), domain.ErrStaleEpoch},
		"by a thaw without freeze": {func() error { _, err := r.thaw("x"); return err }(), domain.ErrNotFound},
	} {
		if !errors.Is(x.err, x.want) || box.is() {
			t.Errorf("%s: %v", name, x.err)
		}
	}
	_, err := bus.Call[api.Empty](t.Context(), r.conn, api.HostService("h1"), api.VerbFreeze, api.HostFreezeRequest{VM: "nobody", Group: "erp", Epoch: e, Hold: "x", LimitNs: 1})
	if !errors.Is(err, domain.ErrNotFound) {
		t.Error(err)
	}
	plain := newRig(t)
	plain.grant(e, time.Hour)
	if _, err := plain.start(e); err != nil {
		t.Fatal(err)
	}
	if err := plain.freeze(plain.conn, e, "x", time.Second); !errors.Is(err, domain.ErrRefused) || !strings.Contains(err.Error(), "puppet") {
		t.Error("a driver that cannot:", err)
	}
}
