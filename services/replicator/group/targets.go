package group

import (
	"context"
	"maps"
	"sync/atomic"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// senders is the set of a session's targets. It is read for every frame and changes with the policy alone: each change,
// under session.changing once the session runs, makes a new map.
type senders struct {
	m atomic.Pointer[map[domain.SiteID]*sender]
}

// all is the set as it stands; nobody changes it.
func (s *senders) all() map[domain.SiteID]*sender {
	if m := s.m.Load(); m != nil {
		return *m
	}
	return nil
}

func (s *senders) get(site domain.SiteID) *sender { return s.all()[site] }

// durable is the last change that a target's journal holds, as far as it told: none of a site that is no target.
func (s *senders) durable(site domain.SiteID) domain.LSN {
	if t := s.get(site); t != nil {
		return t.durableLSN()
	}
	return 0
}

func (s *senders) put(t *sender) {
	next := maps.Clone(s.all())
	if next == nil {
		next = map[domain.SiteID]*sender{}
	}
	next[t.site] = t
	s.m.Store(&next)
}

func (s *senders) remove(site domain.SiteID) {
	next := maps.Clone(s.all())
	delete(next, site)
	s.m.Store(&next)
}

// launch runs a sender until the session ends or the sender is cancelled.
func (s *session) launch(t *sender) {
	ctx, cancel := context.WithCancel(s.ctx)
	t.cancel, t.ended = cancel, make(chan struct{})
	s.wg.Go(func() {
		defer close(t.ended)
		defer cancel()
		t.run(ctx)
	})
}

// mode is how the policy wants the target's changes sent.
func (t *sender) mode() domain.Mode {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.how
}
