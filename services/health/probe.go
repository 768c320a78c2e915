package health

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/sony/gobreaker/v2"
)

// maxProbes bounds how many probes are under way at once.
const maxProbes = 64

// target is one TCP port or HTTP page of this site that is probed.
type target struct {
	key     key
	address string // host:port
	page    bool   // HTTP GET /healthz instead of a TCP connect
	breaker *gobreaker.CircuitBreaker[struct{}]
	busy    bool
}

// prober probes this site's ports, each once a beat, each behind a breaker of its own.
type prober struct {
	obs    *observer
	timing Timing
	client *http.Client
	slots  chan struct{}

	mu      sync.Mutex
	targets map[key]*target
}

func newProber(obs *observer, timing Timing) *prober {
	dialer := &net.Dialer{Timeout: 2 * timing.Beat}
	return &prober{
		obs: obs, timing: timing, targets: map[key]*target{}, slots: make(chan struct{}, maxProbes),
		client: &http.Client{Timeout: 2 * timing.Beat, Transport: &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true}},
	}
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

// set probes an address from now on; another address for a known target replaces the old one.
func (p *prober) set(k key, address string, page bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if t, ok := p.targets[k]; ok && t.address == address {
		return
	}
	p.targets[k] = &target{key: k, address: address, page: page, breaker: newBreaker[struct{}](k.kind+"/"+k.id, p.timing, nil)}
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

// idle takes every target that no probe is under way for.
func (p *prober) idle() []*target {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []*target
	for _, t := range p.targets {
		if !t.busy {
			t.busy = true
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
	ctx, cancel := context.WithTimeout(ctx, 2*p.timing.Beat)
	defer cancel()
	if !t.page {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", t.address)
		if err != nil {
			return fmt.Errorf("connect %s: %w", t.address, err)
		}
		return conn.Close()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+t.address+"/healthz", nil)
	if err != nil {
		return fmt.Errorf("probe %s: %w", t.address, err)
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return fmt.Errorf("probe %s: %w", t.address, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("probe %s: status %d", t.address, resp.StatusCode)
	}
	return nil
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
