package hostagent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/telemetry"
)

// hold is a guest that is held still, from before it is asked to be until it says that it goes on. The host alone sees to its end:
// whoever asked for it may be dead.
type hold struct {
	id string

	frozen chan struct{} // closed when the guest is frozen, or err says why it is not
	err    error
	asked  chan struct{} // closed when it is to go on
	once   sync.Once
	why    string // it is to go on although nobody asked; set before asked is closed
	over   chan struct{}
	result api.HostThawed // once over
}

func newHold(id string) *hold {
	return &hold{id: id, frozen: make(chan struct{}), asked: make(chan struct{}), over: make(chan struct{})}
}

// end has the guest go on; why is empty when that was asked for by who froze it.
func (h *hold) end(why string) {
	h.once.Do(func() {
		h.why = why
		close(h.asked)
	})
}

// Pauses of a thaw that the guest does not answer.
const (
	thawTry   = 2 * time.Second
	thawAgain = 200 * time.Millisecond
)

// run freezes the guest, holds it until it is to go on or the limit is over, and lets it go on, whatever happened: it asks until
// the guest says so or is gone. expired is told when nobody else had asked.
func (h *hold) run(ctx context.Context, f Freezer, gone <-chan struct{}, limit time.Duration, log *slog.Logger, expired func(reason string)) {
	defer close(h.over)
	fctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	h.err = f.Freeze(fctx)
	began := clock.Now()
	close(h.frozen)
	reason := ""
	if h.err != nil {
		reason = h.err.Error()
	} else {
		reason = h.hold(ctx, fctx, gone, limit, expired)
	}
	stayed := h.thaw(ctx, f, gone, log)
	if reason == "" && !stayed {
		reason = "something else had let the guest go on before"
	}
	h.result = api.HostThawed{Held: reason == "", Reason: reason, HeldNs: int64(clock.Now().Sub(began))}
}

// hold waits for the end of a hold and says why it is no good one, if it is not.
func (h *hold) hold(ctx, fctx context.Context, gone <-chan struct{}, limit time.Duration, expired func(reason string)) string {
	select {
	case <-h.asked:
	case <-gone:
	case <-fctx.Done():
	}
	switch {
	case ctx.Err() != nil || isClosed(gone):
		return "the VM ended"
	case fctx.Err() != nil:
		reason := fmt.Sprintf("nobody asked for the thaw within %s", limit)
		expired(reason)
		return reason
	}
	return h.why
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func (h *hold) thaw(ctx context.Context, f Freezer, gone <-chan struct{}, log *slog.Logger) (stayed bool) {
	for {
		tctx, cancel := context.WithTimeout(ctx, thawTry)
		stayed, err := f.Thaw(tctx)
		cancel()
		if err == nil {
			return stayed
		}
		if ctx.Err() != nil || isClosed(gone) {
			return false
		}
		log.Warn("guest does not say that it goes on; it is asked again", "error", err)
		if clock.Sleep(ctx, thawAgain) != nil {
			return false
		}
	}
}

// guest is a running VM that can be held still.
type guest struct {
	ctx  context.Context //nolint:containedctx // the VM's power
	inst Instance
	ag   *agent
}

// opens says that the VM runs, so that its guest may be held; what it gives ends that, and whoever is held then.
func (a *attempt) opens(ctx context.Context, ag *agent, inst Instance) (shut func()) {
	ctx, cancel := context.WithCancel(ctx)
	a.mu.Lock()
	a.guest = &guest{ctx, inst, ag}
	a.mu.Unlock()
	return func() {
		a.letGo("the VM ended")
		cancel()
		a.holds.Wait()
	}
}

// letGo allows no further hold, and has a guest that is held go on.
func (a *attempt) letGo(why string) *hold {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.guest = nil
	if a.held != nil {
		a.held.end(why)
	}
	return a.held
}

// thawFirst is before a graceful stop: a guest that is held cannot write what it has to before it goes.
func (a *attempt) thawFirst(ctx context.Context, grace time.Duration) {
	h := a.letGo("the VM was to stop")
	if h == nil {
		return
	}
	t := time.NewTimer(grace)
	defer t.Stop()
	select {
	case <-h.over:
	case <-t.C:
	case <-ctx.Done():
	}
}

// hold begins a hold of the guest, or finds the one of that name.
func (a *attempt) hold(req api.HostFreezeRequest) (*hold, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.held != nil && a.held.id == req.Hold:
		return a.held, nil
	case a.guest == nil:
		return nil, fmt.Errorf("it does not run: %w", domain.ErrNotFound)
	case req.Epoch != a.req.Epoch || req.Group != a.req.Group:
		return nil, fmt.Errorf("it runs under epoch %s of group %s, not %s of %s: %w", a.req.Epoch, a.req.Group, req.Epoch, req.Group, domain.ErrStaleEpoch)
	case a.held != nil && !isClosed(a.held.over):
		return nil, fmt.Errorf("its guest is held for another checkpoint, or does not yet say that it goes on after one: %w", domain.ErrConflict)
	}
	g := a.guest
	f, ok := g.inst.(Freezer)
	if !ok {
		return nil, fmt.Errorf("the driver %s cannot hold guests still: %w", g.ag.deps.Driver.Name(), domain.ErrRefused)
	}
	h := newHold(req.Hold)
	a.held = h
	log := g.ag.log.With("site", g.ag.cfg.Site, "group", a.req.Group, "vm", a.req.VM)
	expired := func(reason string) {
		state, _ := a.snapshot()
		g.ag.announceHold(g.ctx, h.id, state, reason)
	}
	a.holds.Go(func() { h.run(g.ctx, f, g.inst.Done(), time.Duration(req.LimitNs), log, expired) })
	return h, nil
}

// freeze is the freeze verb.
func (ag *agent) freeze(ctx context.Context, req api.HostFreezeRequest) (out api.Empty, err error) {
	ctx, span := ag.span(ctx, "host freeze vm", req.VM, req.Epoch)
	defer func() { telemetry.End(span, err) }()
	if limit := time.Duration(req.LimitNs); limit <= 0 || limit > api.MaxFreeze || req.Hold == "" {
		return out, fmt.Errorf("freeze VM %q for %s under the name %q: %w: at most %s, and with a name", req.VM, limit, req.Hold, domain.ErrInvalid, api.MaxFreeze)
	}
	a, err := ag.find(req.VM)
	var h *hold
	if err == nil {
		h, err = a.hold(req)
	}
	if err == nil {
		select {
		case <-h.frozen:
			err = h.err
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	if err != nil {
		return out, fmt.Errorf("freeze VM %s: %w", req.VM, err)
	}
	return out, nil
}

// thawWait is how long a thaw waits for the guest's word.
const thawWait = 3 * time.Second

// thaw is the thaw verb.
func (ag *agent) thaw(ctx context.Context, req api.HostThawRequest) (out api.HostThawed, err error) {
	ctx, span := ag.span(ctx, "host thaw vm", req.VM, 0)
	defer func() { telemetry.End(span, err) }()
	a, err := ag.find(req.VM)
	if err != nil {
		return out, fmt.Errorf("thaw VM %s: %w", req.VM, err)
	}
	a.mu.Lock()
	h := a.held
	a.mu.Unlock()
	if h == nil || h.id != req.Hold {
		return out, fmt.Errorf("thaw VM %s: it is not held under the name %q: %w", req.VM, req.Hold, domain.ErrNotFound)
	}
	h.end("")
	ctx, cancel := context.WithTimeout(ctx, thawWait)
	defer cancel()
	select {
	case <-h.over:
		return h.result, nil
	case <-ctx.Done():
		return out, fmt.Errorf("thaw VM %s: its guest has not said yet that it goes on; it is asked until it does: %w", req.VM, errors.Join(domain.ErrUnavailable, ctx.Err()))
	}
}

func (ag *agent) find(vm domain.VMID) (*attempt, error) {
	ag.mu.Lock()
	defer ag.mu.Unlock()
	a := ag.vms[vm]
	if a == nil {
		return nil, fmt.Errorf("it does not run on host %s: %w", ag.cfg.Host, domain.ErrNotFound)
	}
	return a, nil
}
