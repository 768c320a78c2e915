package quorum

import (
	"time"

	"github.com/holdfast-dr/holdfast/services/quorum/core"
	"github.com/holdfast-dr/holdfast/services/quorum/planner"
)

// reweigh puts the configured weights in force for the groups that this site holds, where others are, through a joint
// configuration. It waits for a time when all is well: a change under way needs both majorities for every renewal.
func (s *service) reweigh() {
	s.mu.Lock()
	var all []*group
	for _, g := range s.groups {
		all = append(all, g)
	}
	s.mu.Unlock()
	for _, g := range all {
		g.post(g.reweigh)
	}
}

func (g *group) reweigh() {
	now := g.s.instant()
	l, ok := g.c.Lease(now)
	if !ok || !l.Committed || !g.s.mayReweigh(l.Reg.Config) {
		return
	}
	g.s.log.Info("weights of the configuration proposed", "group", string(g.id), "epoch", l.Epoch.String(), "voters", g.s.initial.Voters())
	g.do(g.c.ProposeConfig(now, g.s.initial.Weights))
}

// answers reports whether the voter has answered within a time, and nothing failed since. That nothing failed yet says nothing: storage
// that hangs never fails.
func (p *peer) answers(now core.Instant, within time.Duration) bool {
	heard := core.Instant(p.heard.Load())
	if heard == 0 || now.Sub(heard) > within || p.trouble.Load() != nil || p.conn != nil && !p.conn.Connected() {
		return false
	}
	c := p.conform.Load()
	return c == nil && !p.voter.Kind.Passive() || c != nil && *c == planner.ConformanceOK
}

// mayReweigh reports whether other weights are in force than configured, and may be changed now: every voter of the
// configuration answers, and a quorum of those in force. So a forced quorum heals, too.
func (s *service) mayReweigh(inForce core.Config) bool {
	if inForce.Joint() || inForce.Weights.Same(s.initial.Weights) {
		return false
	}
	answers := func(id core.VoterID) bool {
		p := s.peers[id]
		return p != nil && p.answers(s.instant(), s.cfg.Timing.G)
	}
	for _, id := range s.initial.Voters() {
		if !answers(id) {
			return false
		}
	}
	return inForce.Quorum(answers)
}
