package quorum

import (
	"context"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
)

// group runs one group's candidate. Everything in it belongs to the goroutine of run; others send it functions.
type group struct {
	s     *service
	id    domain.GroupID
	inbox chan func()
	ended <-chan struct{}

	c        *core.Candidate
	passive  map[core.VoterID]*passive
	waiters  []*campaign
	inSync   []*inSyncWait
	released []*releaseWait
	refused  core.Reason
	forcing  *forceWait // an approved force that is under way
	begun    *forceWait // one that was given up after its epoch was asked for: a candidacy may complete it yet
	shown    string     // last phase published
	phases   int        // published, for event ids
	traced   int        // requests of the candidacy under way that have a span
}

const inboxSize = 1024

// group finds or starts a group's loop.
func (s *service) group(id domain.GroupID) *group {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g := s.groups[id]; g != nil {
		return g
	}
	g := &group{s: s, id: id, inbox: make(chan func(), inboxSize), ended: s.ctx.Done(), passive: map[core.VoterID]*passive{}}
	g.begin([]domain.SiteID{s.cfg.Site})
	s.groups[id] = g
	s.wg.Go(func() { g.run(s.ctx) })
	return g
}

// begin makes a candidate that knows nothing. members are in sync when nothing was ever voted.
func (g *group) begin(members []domain.SiteID) {
	sites := make(map[core.VoterID]domain.SiteID, len(g.s.cfg.Voters))
	for _, v := range g.s.cfg.Voters {
		sites[v.ID] = v.Site
		if v.Site == "" {
			sites[v.ID] = domain.SiteID(v.ID) // a place of its own, as a witness site is: heard, it ends a cold start
		}
	}
	note := noted(g.notePath())
	g.c = core.NewCandidate(core.Params{Self: g.s.cfg.Site, Index: g.s.cfg.Index, Rank: g.s.cfg.Rank, Timing: g.s.cfg.Timing,
		Initial: core.Register{InSync: members, Config: g.s.initial}, Sites: sites, ColdStart: note.Boot != g.s.bootID,
		Promised: note.Promised, JoinOnly: g.s.prevented.Load(), Incarnation: incarnation()})
	for _, v := range g.s.cfg.Voters {
		if v.Kind.Passive() && g.passive[v.ID] == nil {
			g.passive[v.ID] = newPassive(g, v)
		}
	}
}

// post hands f to the loop. It reports false when the service ends or the loop is hopelessly behind.
func (g *group) post(f func()) bool {
	select {
	case g.inbox <- f:
		return true
	case <-g.ended:
		return false
	}
}

func (g *group) run(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		g.arm(timer)
		select {
		case f := <-g.inbox:
			f()
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		now := g.s.instant()
		g.do(g.c.Tick(now))
		g.sweep(now)
		for _, sh := range g.passive {
			sh.do(sh.p.Tick(now))
		}
	}
}

// arm sets the timer for whatever is due first.
func (g *group) arm(timer *time.Timer) {
	wait := time.Hour
	now := g.s.instant()
	if t, ok := g.c.NextWake(); ok {
		wait = min(wait, t.Sub(now))
	}
	for _, sh := range g.passive {
		if t, ok := sh.p.NextWake(); ok {
			wait = min(wait, t.Sub(now))
		}
	}
	for _, w := range g.waiters {
		wait = min(wait, w.until.Sub(now))
	}
	for _, w := range g.inSync {
		wait = min(wait, w.until.Sub(now))
	}
	for _, w := range g.released {
		wait = min(wait, w.until.Sub(now))
	}
	timer.Reset(max(wait, 0))
}

// do carries out what the candidate asked for.
func (g *group) do(actions []core.Action) {
	for _, a := range actions {
		switch a := a.(type) {
		case core.Send:
			g.send(a)
		case core.Granted:
			g.granted(a)
		case core.Lost:
			g.lost(a)
		case core.Released:
			g.publishLease("lease_released", a.Epoch, nil, string(a.Successor))
		case core.Vacated:
			g.vacated(a)
		case core.InSyncCommitted:
			g.inSyncCommitted(a)
		case core.ConfigCommitted:
			g.s.log.Info("weights changed", "group", string(g.id), "epoch", a.Epoch.String(), "version", a.Config.Version, "voters", a.Config.Voters())
			g.s.replan()
			g.healed(a)
		case core.ForceRefused:
			g.forceRefused(a)
		case core.Warmed:
			g.note(a)
		case core.Refused:
			g.refuse(a.Reason)
		case core.PhaseChanged:
			g.publishPhase(a.Phase, a.Tally)
		case core.Extended:
			g.s.log.Debug("lease extended", "group", string(g.id), "epoch", a.Epoch.String())
		}
	}
}

func (g *group) send(a core.Send) {
	if sh := g.passive[a.To]; sh != nil {
		sh.do(sh.p.Request(g.s.instant(), a.Req))
		return
	}
	p := g.s.peers[a.To]
	if p == nil {
		return // named by a register, unknown to the configuration of this site
	}
	ctx, ended := g.votes(a)
	g.s.ask(ctx, p, ballot{Cluster: g.s.cfg.Cluster, Group: g.id, Request: a.Req}, func(resp core.Response) {
		g.post(func() { g.do(g.c.Receive(g.s.instant(), resp)) })
	}, ended)
}

func (g *group) granted(a core.Granted) {
	if a.Epoch <= 0 {
		panic("quorum granted an epoch that is not above zero") // never continue
	}
	g.s.log.Info("epoch granted", "group", string(g.id), "epoch", a.Epoch.String(), "in_sync", a.Reg.InSync, "accept_loss", a.AcceptLoss)
	reason := ""
	if a.AcceptLoss {
		reason = "loss accepted: " + a.Estimate
	}
	g.refused = ""
	g.publishLease("epoch_granted", a.Epoch, a.Reg.InSync, reason)
	switch w, begun := g.forcing, g.begun; {
	case a.Forced && w != nil:
		g.forced(w, a, a.Estimate)
		w.result <- forceResult{epoch: a.Epoch}
	case begun.completes(a):
		estimate := ""
		if begun.st.AcceptLoss {
			estimate = begun.st.Estimates[g.id]
		}
		g.forced(begun, a, estimate)
		g.s.wg.Go(func() { g.s.recordForced(begun.st, g.id, a.Epoch, nil) })
	}
	g.s.replan()
	g.do(g.c.Withdraw(g.s.instant())) // the lease stays; once lost, nobody competes unless asked
	g.answerCampaigns(nil)
}

func (g *group) lost(a core.Lost) {
	g.s.log.Warn("lease lost", "group", string(g.id), "epoch", a.Epoch.String(), "reason", string(a.Reason))
	g.publishLease("lease_lost", a.Epoch, nil, string(a.Reason))
	for _, w := range g.inSync {
		w.result <- inSyncResult{err: noLease(g.id, a.Epoch)}
	}
	g.inSync = nil
}
