package sim

import (
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
)

// siteNode is a data site: a machine with the quorum service, another with the data plane.
type siteNode struct {
	w        *world
	id       domain.SiteID
	index    int
	q        *machine
	c        *core.Candidate
	passives []*passiveNode
	wake     uint64 // number of the timer that counts
	plane    *plane
	moving   domain.SiteID
	moveAt   domain.Epoch
	// prevented is durable: the site may join a quorum, not form one.
	prevented bool
	warm      int // the boot in which a voter of another site was heard
	noted     domain.Epoch
}

type passiveNode struct {
	site  *siteNode
	share *shareNode
	p     *core.Passive
	wake  uint64
}

func (w *world) addSite(i int) {
	s := &siteNode{w: w, id: w.cfg.topo.siteName(i), index: i}
	s.q = w.addMachine("quorum-"+string(s.id), i)
	s.plane = newPlane(s)
	w.sites = append(w.sites, s)
}

func (s *siteNode) newPassive(sh *shareNode) *passiveNode {
	n := &passiveNode{site: s, share: sh, p: core.NewPassive(sh.id, s.w.cfg.timing)}
	n.p.Mutate(s.w.mut.Mutations)
	return n
}

// start begins a new process of the quorum service: it remembers nothing and competes.
func (s *siteNode) start() {
	s.w.counter++
	s.c = core.NewCandidate(core.Params{Self: s.id, Index: s.index + 1, Rank: s.index, Timing: s.w.cfg.timing,
		Initial: s.w.initial, Sites: s.w.places, ColdStart: s.warm != s.q.boot, Promised: s.noted, JoinOnly: s.prevented && !s.w.mut.PreventIgnored, Incarnation: s.w.counter})
	s.c.Mutate(s.w.mut.Mutations)
	s.moving = ""
	for i, p := range s.passives {
		s.passives[i] = s.newPassive(p.share)
	}
	s.q.after(s.w.between(0, 20*time.Millisecond), func() { s.campaign(false) })
}

func (s *siteNode) campaign(consent bool) {
	if consent {
		s.w.ledger.lossAccepted = true
	}
	s.do(s.c.Campaign(s.q.local(), core.Campaign{AcceptLoss: consent}))
}

func (s *siteNode) receive(resp core.Response) { s.do(s.c.Receive(s.q.local(), resp)) }

// do carries out what the candidate asked for, and sets its timer.
func (s *siteNode) do(actions []core.Action) {
	for _, a := range actions {
		switch a := a.(type) {
		case core.Send:
			s.send(a)
		case core.Granted:
			s.granted(a)
		case core.Extended:
			s.w.logf("%s extended %s until %v", s.id, a.Epoch, time.Duration(a.Deadline))
			s.w.checkLeases(s)
		case core.Lost:
			s.w.logf("%s LOST %s: %s", s.id, a.Epoch, a.Reason)
		case core.Released:
			s.w.logf("%s RELEASED %s to %s", s.id, a.Epoch, a.Successor)
		case core.Vacated:
			to := s.w.sites[s.w.siteIndex(a.Successor)]
			s.w.transit(s.index, to.index, func() { to.q.deliver(func() { to.do(to.c.Hint(to.q.local())) }) })
		case core.InSyncCommitted:
			s.w.logf("%s in sync %v (%d) committed", s.id, a.InSync, a.Counter)
			s.tellInSync(a)
		case core.Refused:
			s.w.logf("%s refused: %s", s.id, a.Reason)
		case core.Warmed:
			s.noted = a.Promised
			if a.Heard {
				s.warm = s.q.boot
			}
		case core.ForceRefused:
			s.w.logf("%s force refused: %s %v", s.id, a.Reason, a.Voters)
			s.q.after(0, func() { s.campaign(false) })
		case core.ConfigCommitted:
			s.w.logf("%s configuration %d %v committed", s.id, a.Config.Version, a.Config.Weights)
		}
	}
	s.arm()
}

func (s *siteNode) arm() {
	s.wake++
	if t, ok := s.c.NextWake(); ok {
		mine := s.wake
		s.q.at(t, func() {
			if s.wake == mine {
				s.do(s.c.Tick(s.q.local()))
			}
		})
	}
}

func (s *siteNode) granted(g core.Granted) {
	if g.Forced {
		s.w.op.forced = true
		s.w.logf("%s FORCED", s.id)
	}
	s.w.logf("%s GRANTED %s until %v, in sync %v, loss accepted %v", s.id, g.Epoch, time.Duration(g.Deadline), g.Reg.InSync, g.AcceptLoss)
	s.w.ledger.epochGranted(s.w, s, g.Epoch)
	s.w.checkLeases(s)
	s.w.transit(s.index, s.index, func() { s.plane.m.deliver(s.plane.pull) })
}

func (s *siteNode) send(a core.Send) {
	if s.c.Forcing() && a.Req.Verb == core.Accept {
		s.w.op.accepted = true
	}
	for _, p := range s.passives {
		if p.share.id == a.To {
			p.do(p.p.Request(s.q.local(), a.Req))
			return
		}
	}
	for _, v := range s.w.voters {
		if v.id == a.To {
			s.w.transit(s.index, v.site, func() { v.m.deliver(func() { v.receive(s, a.Req) }) })
			return
		}
	}
}

// release is a planned move: the writer is stopped, or known to be past its deadline, before the vote is given up.
func (s *siteNode) release(to *siteNode) {
	l, ok := s.c.Lease(s.q.local())
	if !ok {
		return
	}
	s.w.logf("%s moves %s to %s", s.id, l.Epoch, to.id)
	s.moving, s.moveAt = to.id, l.Epoch
	if s.w.mut.ReleaseBeforeStop {
		s.stopped(l.Epoch)
		return
	}
	s.w.transit(s.index, s.index, func() { s.plane.m.deliver(func() { s.plane.stop(l.Epoch) }) })
}

// stopped is the data plane's word that it serves the epoch no more, and never will.
func (s *siteNode) stopped(e domain.Epoch) {
	l, ok := s.c.Lease(s.q.local())
	if !ok || l.Epoch != e || s.moving == "" || s.moveAt != e {
		return
	}
	s.do(s.c.Release(s.q.local(), s.moving))
	s.moving = ""
	s.q.after(s.w.cfg.timing.G/2, func() { s.campaign(false) })
}

func (s *siteNode) tellInSync(a core.InSyncCommitted) {
	mask := s.w.mask(a.InSync)
	s.w.transit(s.index, s.index, func() {
		s.plane.m.deliver(func() { s.plane.committed(a.Epoch, mask, a.Counter) })
	})
}

// do carries out a passive voter's client's wishes. The swap is atomic at the share.
func (p *passiveNode) do(actions []core.PassiveAction) {
	s, w := p.site, p.site.w
	for _, a := range actions {
		switch a := a.(type) {
		case core.ReadRecord:
			w.transit(s.index, p.share.site, func() {
				version, rec := p.share.version, p.share.rec
				w.transit(p.share.site, s.index, func() {
					s.q.deliver(func() { p.do(p.p.ReadDone(s.q.local(), a.Op, version, rec, true)) })
				})
			})
		case core.SwapRecord:
			w.transit(s.index, p.share.site, func() { p.swap(a) })
		case core.PassiveReply:
			s.do(s.c.Receive(s.q.local(), a.Resp))
		}
	}
	p.wake++
	if t, ok := p.p.NextWake(); ok {
		mine := p.wake
		s.q.at(t, func() {
			if p.wake == mine {
				p.do(p.p.Tick(s.q.local()))
			}
		})
	}
}

func (p *passiveNode) swap(a core.SwapRecord) {
	s, w := p.site, p.site.w
	how := core.SwapLost
	if p.share.version == a.Expect || w.mut.BlindPassiveWrite {
		p.share.version, p.share.rec, how = p.share.version+1, a.Rec, core.SwapWon
	}
	w.logf("%s: swap by %s expecting v%d: holder %s epoch %s promised %s hb %d: %v", p.share.id, s.id, a.Expect,
		a.Rec.VHolder, a.Rec.VEpoch, a.Rec.Promised, a.Rec.HB, how == core.SwapWon)
	w.transit(p.share.site, s.index, func() {
		s.q.deliver(func() { p.do(p.p.SwapDone(s.q.local(), a.Op, how)) })
	})
}
