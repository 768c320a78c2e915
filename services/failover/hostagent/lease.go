package hostagent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// puller asks the own site's quorum service for a group's lease. Its error wraps domain.ErrUnavailable when nobody
// answered.
type puller func(ctx context.Context, group domain.GroupID, epoch domain.Epoch) (api.Lease, error)

// sublease is the right to run one VM under one epoch, counted on this host. See the package comment.
type sublease struct {
	group   domain.GroupID
	epoch   domain.Epoch
	pull    puller
	now     func() clock.Time
	every   time.Duration
	epsilon float64
	margin  time.Duration

	lost chan struct{} // closed when the right is over

	mu       sync.Mutex
	deadline clock.Time
	why      error // set once, when the right is over
}

// granted is how long a lease with remaining time left may be counted on, from the moment the request was sent.
func granted(remaining time.Duration, epsilon float64) time.Duration {
	return time.Duration(float64(remaining) * (1 - epsilon) / (1 + epsilon))
}

// acquire pulls until the lease is known. Errors: domain.ErrNoLease, domain.ErrStaleEpoch (a higher epoch is held),
// domain.ErrUnavailable.
func (l *sublease) acquire(ctx context.Context) error {
	sent := l.now()
	lease, err := l.pull(ctx, l.group, l.epoch)
	if err != nil {
		return fmt.Errorf("ask for the lease of group %s: %w", l.group, err)
	}
	if lease.Epoch > l.epoch {
		return fmt.Errorf("group %s is at epoch %s, not %s: %w", l.group, lease.Epoch, l.epoch, domain.ErrStaleEpoch)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.deadline = sent.Add(granted(time.Duration(lease.RemainingNs), l.epsilon))
	if !lease.Held || lease.Epoch != l.epoch || !l.now().Before(l.deadline.Add(-l.margin)) {
		return fmt.Errorf("group %s under epoch %s: %w", l.group, l.epoch, domain.ErrNoLease)
	}
	return nil
}

// take counts a reply to a request sent at sent.
func (l *sublease) take(sent clock.Time, lease api.Lease) {
	if !lease.Held || lease.Epoch != l.epoch {
		l.end(fmt.Errorf("group %s: the quorum holds epoch %s (held here: %v), not %s: %w", l.group, lease.Epoch, lease.Held, l.epoch, domain.ErrNoLease))
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if d := sent.Add(granted(time.Duration(lease.RemainingNs), l.epsilon)); l.why == nil && l.now().Before(l.deadline) && l.deadline.Before(d) {
		l.deadline = d
	}
}

// end is the end of the right, for good.
func (l *sublease) end(why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.why == nil {
		l.why = why
		close(l.lost)
	}
}

// gate says whether the VM may serve now.
func (l *sublease) gate() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.why != nil:
		return l.why
	case !l.now().Before(l.deadline):
		return fmt.Errorf("group %s: the lease of epoch %s has run out: %w", l.group, l.epoch, domain.ErrNoLease)
	}
	return nil
}

// reason is why the right is over, nil while it is not.
func (l *sublease) reason() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.why
}

// left is the time until the VM is to be killed.
func (l *sublease) left() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.deadline.Add(-l.margin).Sub(l.now())
}

const (
	pullsInFlight = 4
	// watchStep bounds how long the watch trusts a timer: timers stand still while the machine is suspended.
	watchStep = 20 * time.Millisecond
)

// run pulls and watches until the right is over or ctx ends, and returns when nothing of it runs any more.
func (l *sublease) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	slots := make(chan struct{}, pullsInFlight)
	tick := time.NewTicker(l.every)
	defer tick.Stop()
	watch := time.NewTicker(min(watchStep, l.every))
	defer watch.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.lost:
			return
		case <-watch.C:
			if l.left() <= 0 {
				l.end(fmt.Errorf("group %s: the lease of epoch %s runs out: %w", l.group, l.epoch, domain.ErrNoLease))
			}
		case <-tick.C:
			select {
			case slots <- struct{}{}:
				wg.Go(func() {
					defer func() { <-slots }()
					l.pullOnce(ctx)
				})
			default: // the oldest of them times out soon
			}
		}
	}
}

func (l *sublease) pullOnce(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, pullsInFlight*l.every)
	defer cancel()
	sent := l.now()
	lease, err := l.pull(ctx, l.group, l.epoch)
	switch {
	case err == nil:
		l.take(sent, lease)
	case errors.Is(err, domain.ErrNoLease) || errors.Is(err, domain.ErrStaleEpoch):
		l.end(err)
	}
}
