package hostagent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/failover/workload"
	"github.com/holdfast-dr/holdfast/services/failover/workload/ledger"
)

// States of a VM, as api.HostVM has them.
const (
	StateStarting = "starting"
	StateRunning  = "running"
	StateStopped  = "stopped"
	StateFailed   = "failed"
)

// attempt is one boot of a VM under one epoch, from the request to its end.
type attempt struct {
	req      api.HostStartRequest
	instance string
	prev     *attempt // to be gone first; nil afterwards

	started chan struct{} // closed when it runs or has failed
	ended   chan struct{} // closed when nothing of it runs any more
	stop    chan struct{} // closed when it is to end
	once    sync.Once

	mu    sync.Mutex
	grace time.Duration // of the stop; 0 is a kill
	state api.HostVM
	err   error  // of the start
	guest *guest // while it runs and may be held still
	held  *hold  // the newest hold of its guest

	holds sync.WaitGroup // under guest
}

func newAttempt(req api.HostStartRequest, prev *attempt) *attempt {
	a := &attempt{
		req: req, instance: workload.NewInstance(), prev: prev,
		started: make(chan struct{}), ended: make(chan struct{}), stop: make(chan struct{}),
	}
	a.state = api.HostVM{
		VM: req.VM, Group: req.Group, Epoch: req.Epoch, State: StateStarting, Instance: a.instance, Address: req.Address, Port: req.Port,
	}
	return a
}

// requestStop asks for the end; the first grace counts.
func (a *attempt) requestStop(grace time.Duration) {
	a.once.Do(func() {
		a.mu.Lock()
		a.grace = grace
		a.mu.Unlock()
		close(a.stop)
	})
}

func (a *attempt) snapshot() (api.HostVM, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.state, a.err
}

func (a *attempt) set(f func(s *api.HostVM)) api.HostVM {
	a.mu.Lock()
	defer a.mu.Unlock()
	f(&a.state)
	return a.state
}

// usable reports whether a repeat of the start may join it: it runs or may yet run, and nobody asked for its end.
func (a *attempt) usable() bool {
	select {
	case <-a.ended:
		return false
	case <-a.stop:
		return false
	default:
	}
	_, err := a.snapshot()
	return err == nil
}

// run is the whole life of an attempt.
func (a *attempt) run(ctx context.Context, ag *agent) {
	defer close(a.ended)
	if a.prev != nil {
		a.prev.requestStop(0)
		<-a.prev.ended
		a.prev = nil
	}
	lease := ag.sublease(a.req.Group, a.req.Epoch)
	err := a.up(ctx, ag, lease)
	if err == nil {
		return
	}
	a.mu.Lock()
	a.err = fmt.Errorf("start VM %s under epoch %s: %w", a.req.VM, a.req.Epoch, err)
	a.state.State, a.state.Error = StateFailed, a.err.Error()
	a.mu.Unlock()
	close(a.started)
	ag.log.Warn("vm not started", "site", ag.cfg.Site, "group", a.req.Group, "vm", a.req.VM, "epoch", a.req.Epoch, "error", err)
}

// up starts the VM under its lease and follows it to its end. An error means that it never ran.
func (a *attempt) up(ctx context.Context, ag *agent, lease *sublease) error {
	ctx, power := context.WithCancel(ctx)
	defer power()
	if err := a.acquire(ctx, lease); err != nil {
		return err
	}
	var watch sync.WaitGroup
	defer watch.Wait()
	defer power()
	watch.Go(func() { lease.run(ctx) })
	// A stop, or the end of the lease, also ends a start that is under way.
	watch.Go(func() {
		select {
		case <-a.stop:
		case <-lease.lost:
		case <-a.started:
			return
		case <-ctx.Done():
			return
		}
		select {
		case <-a.started: // up: follow decides how it ends
		default:
			power()
		}
	})
	spec, book, err := a.spec(ag, lease)
	if err != nil {
		return err
	}
	defer func() {
		if err := book.Close(); err != nil {
			ag.log.Warn("ledger not closed", "site", ag.cfg.Site, "group", a.req.Group, "vm", a.req.VM, "epoch", a.req.Epoch, "error", err)
		}
	}()
	inst, err := ag.deps.Driver.Start(ctx, spec)
	if err != nil {
		return errors.Join(err, lease.reason())
	}
	defer a.opens(ctx, ag, inst)()
	state := a.set(func(s *api.HostVM) { s.State, s.Started = StateRunning, time.Now().UTC() })
	close(a.started)
	ag.announce(ctx, "started", state, "")
	a.follow(ctx, ag, inst, lease)
	return nil
}

// acquire asks for the lease until the quorum service answers, for as long as a start may take.
func (a *attempt) acquire(ctx context.Context, lease *sublease) error {
	ctx, cancel := context.WithTimeout(ctx, acquireTime)
	defer cancel()
	for {
		err := lease.acquire(ctx)
		if err == nil || !errors.Is(err, domain.ErrUnavailable) {
			return err
		}
		t := time.NewTimer(lease.every)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return err
		}
	}
}

const acquireTime = 5 * time.Second

// follow waits for the end of a running VM and sees to it.
func (a *attempt) follow(ctx context.Context, ag *agent, inst Instance, lease *sublease) {
	var fact, reason string
	select {
	case <-ctx.Done(): // loss of power: nothing is said to anybody
		<-inst.Done()
		return
	case <-lease.lost:
		reason = lease.reason().Error()
		inst.Kill("no lease")
		fact = "killed"
	case <-a.stop:
		a.mu.Lock()
		grace := a.grace
		a.mu.Unlock()
		if grace > 0 {
			a.stopGently(ctx, inst, lease, grace)
		} else {
			inst.Kill("replaced or stopped hard")
		}
		fact = "stopped"
	case <-inst.Done():
		fact, reason = "stopped", "ended by itself"
	}
	<-inst.Done()
	err := inst.Err()
	state := a.set(func(s *api.HostVM) {
		s.State, s.Error = StateStopped, reason
		if fact == "stopped" && err != nil {
			s.State, s.Error = StateFailed, err.Error()
		}
	})
	ag.announce(ctx, fact, state, state.Error)
}

// stopGently has a guest go on, if it is held, and shut itself down, within grace in all. It is over at once when the lease is.
func (a *attempt) stopGently(ctx context.Context, inst Instance, lease *sublease, grace time.Duration) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-lease.lost:
			cancel()
		case <-ctx.Done():
		}
	}()
	end := time.Now().Add(grace)
	a.thawFirst(ctx, grace)
	if left := time.Until(end); left > 0 {
		inst.Stop(ctx, left)
	} else {
		inst.Kill("held, and did not go on in time")
	}
}

// spec makes the VM's folder and opens its ledger.
func (a *attempt) spec(ag *agent, lease *sublease) (Spec, *os.File, error) {
	dir := VMDir(ag.cfg.Dir, a.req.VM)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return Spec{}, nil, fmt.Errorf("make the folder of VM %s: %w", a.req.VM, err)
	}
	book, err := os.OpenFile(LedgerPath(ag.cfg.Dir, a.req.VM), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return Spec{}, nil, fmt.Errorf("open the ledger of VM %s: %w", a.req.VM, err)
	}
	keep := func(l ledger.Line) error {
		b, err := l.Encode()
		if err != nil {
			return err
		}
		if _, err := book.Write(b); err != nil {
			return fmt.Errorf("write the ledger of VM %s: %w", l.VM, err)
		}
		return nil
	}
	r := a.req
	return Spec{
		VM: r.VM, Group: r.Group, Site: ag.cfg.Site, Host: ag.cfg.Host, Epoch: r.Epoch, Instance: a.instance, Disks: r.Disks,
		Address: r.Address, Port: r.Port, Dir: dir, Gate: lease.gate, Ledger: keep,
	}, book, nil
}

func (ag *agent) sublease(group domain.GroupID, epoch domain.Epoch) *sublease {
	return &sublease{
		group: group, epoch: epoch, pull: ag.pull, now: clock.Now, every: ag.cfg.Pull, epsilon: ag.cfg.Epsilon, margin: ag.cfg.KillMargin,
		lost: make(chan struct{}),
	}
}
