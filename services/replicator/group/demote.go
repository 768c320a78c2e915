package group

import (
	"context"
	"fmt"
	"slices"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/telemetry"
)

const demoteTimeout = 30 * time.Second

// Demote ends serving for a planned move: see api.DemoteRequest.
func (g *Group) Demote(ctx context.Context, req api.DemoteRequest) (reply api.DemoteReply, err error) {
	ctx, span := g.span(ctx, "demote", "demote", req.Epoch, attribute.String("successor", string(req.Successor)))
	defer func() { telemetry.End(span, err) }()
	end, err := g.begin(ctx)
	if err != nil {
		return reply, err
	}
	defer end()
	s := g.current()
	if s == nil || s.epoch != req.Epoch {
		g.store.mu.Lock()
		m := g.store.meta
		g.store.mu.Unlock()
		if m.Demoted == req.Epoch {
			return api.DemoteReply{LastLSN: m.DemotedEnd}, nil
		}
		return reply, fmt.Errorf("demote group %s: epoch %s is not served here: %w", g.id, req.Epoch, domain.ErrStaleEpoch)
	}
	t := s.senders.get(req.Successor)
	if t == nil || t.mode() == domain.ModeNone {
		return reply, fmt.Errorf("demote group %s: site %s is no target of it: %w", g.id, req.Successor, domain.ErrRefused)
	}
	wait := time.Duration(req.TimeoutNs)
	if wait <= 0 {
		wait = demoteTimeout
	}
	dctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	last, err := g.drain(dctx, s, t)
	if err != nil {
		if back := g.resume(ctx, s, t); back != nil {
			s.fail(back)
		}
		return reply, fmt.Errorf("demote group %s: %w: %w", g.id, domain.ErrRefused, err)
	}
	if err := g.store.remember(func(m *meta) { m.Demoted, m.DemotedEnd = req.Epoch, last }); err != nil {
		s.fail(err)
		return reply, err
	}
	s.stop(errDemoted)
	s.tellHead(ctx, true) // else what its targets tell of a loss would grow from here on
	g.publish(ctx, "demoted", req.Epoch, last, req.Successor, "")
	return api.DemoteReply{LastLSN: last}, nil
}

// drain takes nothing more, lets what was taken end, and waits until the successor's journal holds all of it and the
// in-sync set names it.
func (g *Group) drain(ctx context.Context, s *session, t *sender) (domain.LSN, error) {
	if t.mode() != domain.ModeSync && !t.keepsUp() {
		return 0, fmt.Errorf("successor %s does not stream", t.site)
	}
	s.setDraining(true)
	wait := func(c <-chan struct{}, what string) error {
		select {
		case <-c:
			return nil
		case <-s.ctx.Done():
			return fmt.Errorf("%s: %w", what, context.Cause(s.ctx))
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, ctx.Err())
		}
	}
	if err := wait(s.drained(), "writes in flight"); err != nil {
		return 0, err
	}
	last := s.given()
	for t.durableLSN() < last || !t.isLive() {
		if err := wait(after(2*time.Millisecond), fmt.Sprintf("successor %s has LSN %d of %d", t.site, t.durableLSN(), last)); err != nil {
			return 0, err
		}
	}
	if t.mode() != domain.ModeSync {
		s.register.add(t.site) // for the instant of the move: nothing is acknowledged any more
	}
	for !s.register.settled(t.site) {
		if err := wait(after(5*time.Millisecond), fmt.Sprintf("successor %s is not in sync", t.site)); err != nil {
			return 0, err
		}
	}
	if !s.gate.open() {
		return 0, domain.ErrNoLease
	}
	return last, nil
}

func after(d time.Duration) <-chan struct{} {
	c := make(chan struct{})
	time.AfterFunc(d, func() { close(c) })
	return c
}

// resume goes on serving after a drain that failed. A successor that follows asynchronously must not be in the set then:
// writes will not wait for it.
func (g *Group) resume(ctx context.Context, s *session, t *sender) error {
	if s.ctx.Err() != nil {
		return nil
	}
	if t.mode() != domain.ModeSync && s.register.may(t.site) {
		s.register.remove(t.site, "")
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		for s.register.may(t.site) {
			if !sleep(ctx, 5*time.Millisecond) {
				return fmt.Errorf("take the successor out of the in-sync set again: %w", domain.ErrNoQuorum)
			}
		}
	}
	s.setDraining(false)
	return nil
}

func (s *session) setDraining(d bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draining = d
}

func (t *sender) isLive() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.live
}

// settled reports that the register is known to name a site, and that it is to stay.
func (r *registrar) settled(site domain.SiteID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.unsure && r.want[site] && slices.Contains(r.committed, site)
}

// may reports whether the register may name a site.
func (r *registrar) may(site domain.SiteID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.unsure || r.want[site] || slices.Contains(r.committed, site)
}
