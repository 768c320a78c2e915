package group

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// pullLease asks this site's quorum for the group's lease under an epoch, and says until when it holds by our clock.
func (g *Group) pullLease(ctx context.Context, epoch domain.Epoch) (api.Lease, clock.Time, error) {
	sent := g.cfg.Now()
	l, err := bus.Call[api.Lease](ctx, g.cfg.Mesh.Local(), api.ServiceQuorum, api.VerbLease, api.LeaseRequest{Group: g.id, Epoch: epoch})
	if err != nil {
		return l, 0, err
	}
	if !l.Held || l.Epoch != epoch {
		return l, 0, fmt.Errorf("lease of group %s epoch %s: held %v, by %q, epoch %s: %w", g.id, epoch, l.Held, l.Holder, l.Epoch, domain.ErrNoLease)
	}
	return l, leaseDeadline(sent, l.RemainingNs, g.cfg.Timing.Eps), nil
}

// guardLoop pulls the lease and ends the session when it is gone, or when its deadline passed unextended.
func (s *session) guardLoop() {
	pull := s.g.cfg.Timing.Pull
	deadline := time.NewTicker(min(pull, 50*time.Millisecond))
	defer deadline.Stop()
	answers := make(chan error, 1)
	ask := func() {
		ctx, cancel := context.WithTimeout(s.ctx, max(2*pull, 500*time.Millisecond))
		defer cancel()
		_, until, err := s.g.pullLease(ctx, s.epoch)
		if err == nil && !s.gate.extend(until) {
			err = domain.ErrNoLease
		}
		answers <- err
	}
	next := time.NewTimer(pull)
	defer next.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-next.C:
			go ask()
		case err := <-answers:
			if errors.Is(err, domain.ErrNoLease) || errors.Is(err, domain.ErrStaleEpoch) {
				s.fail(err)
				return
			}
			next.Reset(pull)
		case <-deadline.C:
			if !s.gate.open() {
				s.fail(fmt.Errorf("the lease's deadline passed: %w", domain.ErrNoLease))
				return
			}
		}
	}
}

// watchLoop looks for writes that wait too long for a synchronous target.
func (s *session) watchLoop() {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.watch()
		case <-s.ctx.Done():
			return
		}
	}
}

func (s *session) watch() {
	s.mu.Lock()
	var late []domain.SiteID
	var age time.Duration
	if len(s.pending) > 0 {
		b := s.pending[0]
		age = s.g.cfg.Now().Sub(b.since)
		for site := range s.required {
			if s.senders.durable(site) < b.frame.LastLSN {
				late = append(late, site)
			}
		}
	}
	s.mu.Unlock()
	t := s.g.cfg.Timing
	s.tellLate(late, age)
	for _, site := range late {
		to := s.senders.get(site)
		if to == nil || age <= t.TargetTimeout && (age <= t.LinkTimeout || to.conn.Connected()) {
			continue
		}
		to.setLost(true)
		s.register.lose(site, fmt.Sprintf("a write waited %s for it", age.Round(time.Millisecond)))
	}
}

// tellLate says that writes wait for synchronous targets, when it is longer than one that goes is lost after: the policy is to
// wait, or the register cannot be asked to let go.
func (s *session) tellLate(late []domain.SiteID, age time.Duration) {
	if len(late) == 0 || age <= s.g.cfg.Timing.TargetTimeout {
		s.g.letOn(api.HeldByTarget)
		return
	}
	slices.Sort(late)
	s.g.heldBy(api.HeldByTarget, fmt.Sprintf("a write waits for synchronous target %v (on target loss: %s)", late, s.st.policy().OnTargetLoss))
}

// headLoop tells every target how far the primary is, for their estimates and so that they apply what is acknowledged.
func (s *session) headLoop() {
	tick := time.NewTicker(s.g.cfg.Timing.Head)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-s.ctx.Done():
			return
		}
		s.tellHead(s.ctx, false)
	}
}

// tellHead tells every target that is reached how far this primary is; ended says that it goes no further.
func (s *session) tellHead(ctx context.Context, ended bool) {
	lsn, bytes := s.head()
	for site, t := range s.senders.all() {
		if !t.conn.Connected() {
			continue
		}
		p := api.Position{Group: s.st.group.ID, Site: s.g.cfg.Site, Primary: true, Epoch: s.epoch, LSN: lsn, Bytes: bytes, Time: time.Now(), Ended: ended}
		if err := t.conn.PublishJSON(ctx, api.PositionSubject(s.st.group.ID, site), p); err != nil {
			s.log.Debug("head not told", "target", string(site), "error", err)
		}
	}
}
