package quorum

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/audit"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
)

// A force is asked for by one operator and approved by another. What waits is kept in memory: after a restart it is asked for anew.
const (
	approveWithin = 15 * time.Minute
	keptForces    = 32
)

// forces are the forces asked for at this site, the oldest first.
type forces struct {
	mu  sync.Mutex
	all []*force
}

type force struct {
	st    api.ForceStatus
	until core.Instant // of the wait for an approval
}

// forceWait is a group's part of an approved force.
type forceWait struct {
	st     api.ForceStatus
	result chan forceResult
}

type forceResult struct {
	epoch domain.Epoch
	err   error
}

// answerForce takes a request to force quorum. Nothing is done before another operator approves of it.
func (s *service) answerForce(ctx context.Context, req api.ForceRequest) (api.ForceStatus, error) {
	st := api.ForceStatus{ID: strings.ToLower(rand.Text()[:8]), Site: s.cfg.Site, ForceRequest: req, Asked: audit.Who(ctx), State: api.ForceWaiting,
		RemainingNs: int64(approveWithin)}
	err := s.checkForce(req)
	if err == nil {
		err = s.recordForce(ctx, "force_asked", st, req.By, req.Host)
	} else {
		s.record(ctx, audit.Outcome("", "force_refused", err), "", 0, "", req.Why, req, err)
	}
	if err != nil {
		return api.ForceStatus{}, err
	}
	s.forces.mu.Lock()
	defer s.forces.mu.Unlock()
	if len(s.forces.all) >= keptForces {
		s.forces.all = s.forces.all[1:]
	}
	s.forces.all = append(s.forces.all, &force{st: st, until: s.instant().Add(approveWithin)})
	s.log.Warn("force of quorum asked for", "id", st.ID, "groups", req.Groups, "voters", req.Voters, "lost", req.Lost, "by", req.By, "why", req.Why)
	return st, nil
}

// checkForce names what is wrong with a request, or missing.
func (s *service) checkForce(req api.ForceRequest) error {
	refuse := func(format string, a ...any) error {
		return fmt.Errorf("force quorum at site %s: %w: %s", s.cfg.Site, domain.ErrRefused, fmt.Sprintf(format, a...))
	}
	switch {
	case s.cfg.Role != domain.SiteData:
		return refuse("it is a witness and serves nothing: force at a data site")
	case s.prevented.Load():
		return refuse("it may join a quorum only: holdfast quorum prevent %s off allows it to form one", s.cfg.Site)
	case strings.TrimSpace(req.Why) == "":
		return refuse("no reason is given")
	case strings.TrimSpace(req.By) == "":
		return refuse("who asks is not said")
	case len(req.Groups) == 0:
		return refuse("no group is named")
	case !req.Down && len(req.Lost) > 0:
		return refuse("nobody said that the machines of %s are off: look, switch them off, and say so", strings.Join(req.Lost, ", "))
	}
	for _, g := range req.Groups {
		if !domain.ValidToken(string(g)) {
			return fmt.Errorf("force quorum of group %q: not a name: %w", g, domain.ErrInvalid)
		}
	}
	for _, v := range s.cfg.Voters {
		named, lost := slices.Contains(req.Voters, string(v.ID)), slices.Contains(req.Lost, string(v.ID))
		switch {
		case named == lost:
			return refuse("voter %s must be named as one that votes, or as one that is lost", v.ID)
		case lost && v.Site == s.cfg.Site:
			return refuse("voter %s is this site's own, and is said to be lost", v.ID)
		}
	}
	for _, id := range req.Voters {
		if s.peers[core.VoterID(id)] == nil {
			return refuse("%s is no voter of the configuration", id)
		}
	}
	if places := s.placesOf(req.Lost); len(places) > 1 && !req.Prevented {
		return refuse("voters of several places are lost (%s), and a site of them that starts cut off from here could have a majority of the old votes: "+
			"before one starts, run there: holdfast quorum prevent SITE on --offline; and say that you see to it (--prevented)", strings.Join(places, ", "))
	}
	for _, id := range req.Lost { // a voter that was replaced is in no configuration any more, and registers name it still
		if !domain.ValidToken(id) {
			return refuse("%q is no name of a voter", id)
		}
	}
	return nil
}

// placesOf lists the places where voters stand: sites, and passive voters that stand at none, which a site may hear of when no
// other site is there.
func (s *service) placesOf(voters []string) []string {
	var out []string
	for _, v := range s.cfg.Voters {
		place := cmp.Or(string(v.Site), string(v.ID))
		if slices.Contains(voters, string(v.ID)) && !slices.Contains(out, place) {
			out = append(out, place)
		}
	}
	return out
}

// answerApprove carries a force out that another operator asked for, or withdraws it.
func (s *service) answerApprove(ctx context.Context, req api.ForceApproval) (api.ForceStatus, error) {
	s.forces.mu.Lock()
	defer s.forces.mu.Unlock()
	f := s.forces.find(req.ID)
	err := s.checkApproval(ctx, f, req)
	if err != nil {
		s.record(ctx, audit.Outcome("", "force_approval_refused", err), "", 0, "", "", req, err)
		return api.ForceStatus{}, err
	}
	st := f.st
	st.Approver, st.Approved, st.Proven = req.By, audit.Who(ctx), audit.Who(ctx) != audit.Unsigned && audit.Who(ctx) != st.Asked
	what := "force_approved"
	st.State = api.ForceUnderWay
	if req.Withdraw {
		what, st.State = "force_withdrawn", api.ForceWithdrawn
	}
	if err := s.recordForce(ctx, what, st, req.By, req.Host); err != nil {
		return api.ForceStatus{}, err
	}
	f.st = st
	if !req.Withdraw {
		s.log.Warn("force of quorum approved", "id", st.ID, "groups", st.Groups, "asked", st.By, "approver", st.Approver, "proven", st.Proven)
		for _, id := range st.Groups {
			s.wg.Go(func() { s.carryOut(f, st, id) })
		}
	}
	return st, nil
}

func (f *forces) find(id string) *force {
	for _, one := range f.all {
		if one.st.ID == id {
			return one
		}
	}
	return nil
}

// checkApproval names what keeps a force from being approved. Two operators are two credentials; where one is all there is, the
// approver says so, and their names differ.
func (s *service) checkApproval(ctx context.Context, f *force, req api.ForceApproval) error {
	refuse := func(format string, a ...any) error {
		return fmt.Errorf("approve force %s at site %s: %w: %s", req.ID, s.cfg.Site, domain.ErrRefused, fmt.Sprintf(format, a...))
	}
	if f == nil {
		return fmt.Errorf("approve force %q at site %s: %w: it was not asked for here, or the service was started again since: ask anew", req.ID, s.cfg.Site, domain.ErrNotFound)
	}
	who, signed := bus.CallerOf(ctx)
	switch {
	case f.st.State != api.ForceWaiting:
		return refuse("it is %s", f.st.State)
	case s.instant() >= f.until:
		f.st.State = api.ForceExpired
		return refuse("nobody approved of it within %v: ask anew", approveWithin)
	case strings.TrimSpace(req.By) == "":
		return refuse("who approves is not said")
	case req.Withdraw:
		return nil
	case strings.EqualFold(strings.TrimSpace(req.By), strings.TrimSpace(f.st.By)):
		return refuse("%s asked for it: somebody else has to approve", f.st.By)
	case signed && who.String() == f.st.Asked && !req.SameCredential:
		return refuse("it was asked for as %s, too: approve with the operator's credentials of another site, or say that one credential is all there is", who)
	}
	return nil
}

// recordForce has to be in the audit before anything is done.
func (s *service) recordForce(ctx context.Context, what string, st api.ForceStatus, by, host string) error {
	data, _ := json.Marshal(st) // plain fields always encode
	err := audit.Append(ctx, s.mesh.Local(), audit.Entry{Who: audit.Who(ctx), Why: st.Why, What: what + "." + st.ID, Claimed: by, From: host,
		Run: domain.RunID("force-" + st.ID), Data: data})
	if err != nil {
		return fmt.Errorf("force quorum at site %s: it is not done where the audit cannot record it: %w", s.cfg.Site, err)
	}
	return nil
}

// carryOut forces one group's quorum and keeps how it ended.
func (s *service) carryOut(f *force, st api.ForceStatus, id domain.GroupID) {
	g := s.group(id)
	w := &forceWait{st: st, result: make(chan forceResult, 1)}
	r := forceResult{err: fmt.Errorf("force quorum of group %s: %w: the service is ending", id, domain.ErrUnavailable)}
	if g.post(func() { g.force(w) }) {
		select {
		case r = <-w.result:
		case <-g.ended:
		}
	}
	s.forces.mu.Lock()
	defer s.forces.mu.Unlock()
	out := api.ForceOutcome{Group: id, Epoch: r.epoch}
	if r.err != nil {
		out.Error = r.err.Error()
	}
	s.recordForced(st, id, r.epoch, r.err)
	f.st.Outcomes = append(f.st.Outcomes, out)
	if len(f.st.Outcomes) == len(st.Groups) {
		f.st.State = api.ForceDone
	}
}

// recordForced writes into the audit how a force ended for a group.
func (s *service) recordForced(st api.ForceStatus, id domain.GroupID, epoch domain.Epoch, failed error) {
	what := "quorum_forced"
	if failed != nil {
		what = "force_failed"
	}
	s.record(s.ctx, what, id, epoch, domain.RunID("force-"+st.ID), st.Why, st, failed)
}

// force begins in the group's loop. The candidate ends it in time, by itself.
func (g *group) force(w *forceWait) {
	if g.forcing != nil {
		w.result <- forceResult{err: g.forceError(core.ForceRefused{Reason: core.ForceUnderWay})}
		return
	}
	g.forcing = w
	now := g.s.instant()
	g.do(g.c.Force(now, core.Force{Named: voterIDs(w.st.Voters), Lost: voterIDs(w.st.Lost), AcceptLoss: w.st.AcceptLoss,
		Estimate: w.st.Estimates[g.id], Within: max(30*time.Second, 4*g.s.cfg.Timing.G)}))
}

func voterIDs(names []string) []core.VoterID {
	out := make([]core.VoterID, len(names))
	for i, n := range names {
		out[i] = core.VoterID(n)
	}
	return out
}

// forceRefused tells who waits why it was not done.
func (g *group) forceRefused(a core.ForceRefused) {
	if g.forcing == nil {
		return
	}
	err := g.forceError(a)
	g.s.log.Warn("force of quorum refused", "group", string(g.id), "reason", string(a.Reason), "voters", a.Voters)
	g.forcing.result <- forceResult{err: err}
	if a.Begun {
		g.begun = g.forcing
	}
	g.forcing = nil
	g.answerCampaigns(err) // a campaign became part of it
}

// forceError says what stands in the way of a force, and what to do.
func (g *group) forceError(a core.ForceRefused) error {
	text := string(a.Reason)
	var names []string
	for _, v := range a.Voters {
		names = append(names, string(v))
	}
	if len(names) > 0 {
		text += ": " + strings.Join(names, ", ")
	}
	switch a.Reason {
	case core.StillAnswers:
		text += "; switch it off, or name it as one that votes"
	case core.NotInSync, core.LossUnknown:
		text += "; accept the loss (--accept-loss), once you know what it may be"
	case core.ForceTooLate:
		text = string(a.Reason) + ": " + g.tallied()
	}
	if a.Begun {
		text += "; it was begun: the old votes may be void, and it may be completed later: look at the status of the group before anything else"
	}
	return fmt.Errorf("force quorum of group %s at site %s: %w: %s", g.id, g.s.cfg.Site, domain.ErrRefused, text)
}

// forced tells that an epoch was taken with the voters that were named.
func (g *group) forced(w *forceWait, a core.Granted, estimate string) {
	g.forcing, g.begun = nil, nil
	g.s.log.Warn("quorum forced", "group", string(g.id), "epoch", a.Epoch.String(), "voters", w.st.Voters, "lost", w.st.Lost, "why", w.st.Why)
	f := event.QuorumForced{Fact: "quorum_forced", Group: g.id, Site: g.s.cfg.Site, Epoch: a.Epoch, Voters: w.st.Voters, Lost: w.st.Lost, Why: w.st.Why,
		By: w.st.By, Approver: w.st.Approver, AcceptedLoss: estimate}
	g.s.events.Publish(g.s.ctx, string(g.id)+"-"+a.Epoch.String()+"-quorum_forced", f)
}

// completes reports whether an epoch is what a force that was given up had begun: its voters alone count.
func (w *forceWait) completes(a core.Granted) bool {
	if w == nil || a.Epoch.Force() == 0 || a.Reg.Config.Joint() {
		return false
	}
	named, all := a.Reg.Config.Weights.Count(func(id core.VoterID) bool { return slices.Contains(w.st.Voters, string(id)) })
	return named == all
}

// healed tells that the configured votes count again after a force.
func (g *group) healed(a core.ConfigCommitted) {
	if a.Epoch.Force() == 0 || a.Config.Joint() || !a.Config.Weights.Same(g.s.initial.Weights) {
		return
	}
	f := event.QuorumForced{Fact: "quorum_healed", Group: g.id, Site: g.s.cfg.Site, Epoch: a.Epoch}
	for _, v := range a.Config.Voters() {
		f.Voters = append(f.Voters, string(v))
	}
	g.s.events.Publish(g.s.ctx, string(g.id)+"-"+a.Epoch.String()+"-quorum_healed", f)
}

// list is every force that this site was asked for.
func (f *forces) list(now core.Instant) []api.ForceStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []api.ForceStatus
	for _, one := range f.all {
		if one.st.State == api.ForceWaiting && now >= one.until {
			one.st.State = api.ForceExpired
		}
		st := one.st
		st.Outcomes = slices.Clone(st.Outcomes)
		if st.RemainingNs = 0; st.State == api.ForceWaiting {
			st.RemainingNs = int64(one.until.Sub(now))
		}
		out = append(out, st)
	}
	return out
}
