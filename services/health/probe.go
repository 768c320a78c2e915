package health

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/sony/gobreaker/v2"
)

// maxProbes bounds how many probes are under way at once.
const maxProbes = 64

// target is one thing of this site that is probed.
type target struct {
	key     key
	address string // what tells one target of an object from another
	check   func(ctx context.Context) error
	every   time.Duration
	timeout time.Duration
	breaker *gobreaker.CircuitBreaker[struct{}]
	busy    bool
	due     time.Duration // the next probe, on the boot clock
}

// prober probes what is at this site, each as often as it is to be, each behind a breaker of its own.
type prober struct {
	obs    *observer
	timing Timing
	client *http.Client
	slots  chan struct{}

	mu      sync.Mutex
	targets map[key]*target
}

func newProber(obs *observer, timing Timing) *prober {
	return &prober{obs: obs, timing: timing, targets: map[key]*target{}, slots: make(chan struct{}, maxProbes), client: pageClient()}
}

// pageClient gets pages, each over a connection of its own. It has no time-out: each probe has.
func pageClient() *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: (&net.Dialer{}).DialContext, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// newBreaker stops calls to what fails, and lets one through every second beat to see whether it is back. Errors for which
// harmless, if given, is true do not count as failures.
func newBreaker[T any](name string, timing Timing, harmless func(error) bool) *gobreaker.CircuitBreaker[T] {
	return gobreaker.NewCircuitBreaker[T](gobreaker.Settings{
		Name: name, MaxRequests: 1, Timeout: 2 * timing.Beat,
		ReadyToTrip:  func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= uint32(timing.Suspect) },
		IsExcluded:   func(err error) bool { return errors.Is(err, context.Canceled) },
		IsSuccessful: func(err error) bool { return err == nil || harmless != nil && harmless(err) },
	})
}

// broken: the breaker refused the call; that hides the cause, which is told already.
func broken(err error) bool {
	return errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests)
}

// set probes a port, or a page (GET /healthz), once a beat from now on; another address for a known target replaces the old one.
func (p *prober) set(k key, address string, page bool) {
	check := func(ctx context.Context) error { return connect(ctx, address) }
	if page {
		check = func(ctx context.Context) error { return get(ctx, p.client, "http://"+address+"/healthz") }
	}
	p.put(&target{key: k, address: address, check: check, every: p.timing.Beat, timeout: 2 * p.timing.Beat})
}

// add probes as the configuration says.
func (p *prober) add(k key, probe Probe) {
	every, timeout := probe.pace(p.timing)
	p.put(&target{key: k, address: probe.How + " " + probe.Target, check: probe.check(p.client), every: every, timeout: timeout})
}

func (p *prober) put(t *target) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if have, ok := p.targets[t.key]; ok && have.address == t.address {
		return
	}
	timing := p.timing
	timing.Beat = t.every
	t.breaker = newBreaker[struct{}](t.key.kind+"/"+t.key.id, timing, nil)
	p.targets[t.key] = t
}

// remove ends the probing of a target and the watch of its object.
func (p *prober) remove(k key) {
	p.mu.Lock()
	delete(p.targets, k)
	p.mu.Unlock()
	p.obs.drop(k)
}

// run probes until ctx ends, and returns when no probe is under way.
func (p *prober) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	every(ctx, p.timing.Beat, func() {
		for _, t := range p.idle() {
			select {
			case p.slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			wg.Go(func() {
				defer func() { <-p.slots }()
				p.one(ctx, t)
			})
		}
	})
}

// idle takes every target that is due and that no probe is under way for.
func (p *prober) idle() []*target {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []*target
	at := now().at
	for _, t := range p.targets {
		if !t.busy && at >= t.due {
			t.busy, t.due = true, at+t.every*9/10 // a tick that comes early is near enough
			out = append(out, t)
		}
	}
	return out
}

func (p *prober) one(ctx context.Context, t *target) {
	_, err := t.breaker.Execute(func() (struct{}, error) { return struct{}{}, p.probe(ctx, t) })
	p.mu.Lock()
	t.busy = false
	current := p.targets[t.key] == t
	p.mu.Unlock()
	switch {
	case !current || ctx.Err() != nil:
	case err == nil:
		p.obs.good(now(), t.key)
	case !broken(err):
		p.obs.failed(t.key, err)
	}
}

func (p *prober) probe(ctx context.Context, t *target) error {
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	return t.check(ctx)
}

// every calls f at once and then at each interval, until ctx ends.
func every(ctx context.Context, interval time.Duration, f func()) {
	t := time.NewTicker(interval)
	defer t.Stop()
	for {
		if ctx.Err() != nil {
			return
		}
		f()
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}
