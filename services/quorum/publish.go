package quorum

import (
	"context"
	"strconv"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
)

// Everything told here is durable at the voters before it is published.

// cause is the context of the oldest request under way, so that what it causes is part of its trace.
func (g *group) cause() context.Context {
	if len(g.waiters) > 0 {
		return g.waiters[0].ctx
	}
	return g.s.ctx
}

func (g *group) publishLease(fact string, e domain.Epoch, inSync []domain.SiteID, reason string) {
	g.s.meters.lease(g.id, fact)
	_, tally := g.c.Phase()
	var voters []string
	if fact == "epoch_granted" {
		for _, v := range tally.Votes {
			if v.Verdict == core.OK {
				voters = append(voters, string(v.Voter))
			}
		}
	}
	id := string(g.id) + "-" + strconv.FormatInt(int64(e), 10) + "-" + fact
	g.s.events.Publish(g.cause(), id, event.LeaseChanged{Fact: fact, Group: g.id, Site: g.s.cfg.Site, Epoch: e,
		InSync: inSync, Voters: voters, Reason: reason})
}

func (g *group) publishPhase(p core.Phase, t core.Tally) {
	name := phaseName(p)
	if name == g.shown {
		return
	}
	g.shown = name
	g.phases++
	f := event.PhaseChanged{Group: g.id, Site: g.s.cfg.Site, Phase: name, Votes: t.Have, Needed: t.Total/2 + 1}
	for _, v := range t.Votes {
		verdict := string(v.Verdict)
		if verdict == "" {
			verdict = "silent"
		}
		f.Voters = append(f.Voters, string(v.Voter)+": "+verdict)
	}
	if g.refused != "" {
		f.Detail = string(g.refused)
	}
	g.toldPhase(name, t, f.Voters)
	g.s.events.Publish(g.cause(), string(g.id)+"-"+g.s.boot+"-phase-"+strconv.Itoa(g.phases), f)
}

func (g *group) publishInSync(a core.InSyncCommitted, seq uint64) {
	id := string(g.id) + "-" + strconv.FormatInt(int64(a.Epoch), 10) + "-in_sync-" + strconv.FormatUint(a.Counter, 10)
	g.s.events.Publish(g.s.ctx, id, event.InSyncChanged{Group: g.id, Site: g.s.cfg.Site, Epoch: a.Epoch, InSync: a.InSync, Seq: seq})
}

// phaseName is the phase as one token.
func phaseName(p core.Phase) string {
	if p == core.Comparing {
		return "comparing"
	}
	return string(p)
}
