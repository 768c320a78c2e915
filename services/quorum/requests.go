package quorum

import (
	"context"
	"fmt"
	"slices"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
)

const defaultCampaign = 30 * time.Second

// campaign is a caller that waits for the lease.
type campaign struct {
	ctx    context.Context //nolint:containedctx // of the request, for the trace of what it causes
	req    api.CampaignRequest
	until  core.Instant
	result chan campaignResult
}

type campaignResult struct {
	lease api.Lease
	err   error
}

// inSyncWait is a caller that waits for a set to be durable at a quorum.
type inSyncWait struct {
	counter uint64
	until   core.Instant
	result  chan inSyncResult
}

type inSyncResult struct {
	reg api.Register
	err error
}

// releaseWait is a caller that waits for a quorum to have taken the release.
type releaseWait struct {
	epoch  domain.Epoch
	until  core.Instant
	result chan struct{}
}

func (s *service) endpoints() map[string]bus.Endpoint {
	return map[string]bus.Endpoint{
		api.VerbLease:    bus.Answer(s.answerLease),
		api.VerbCampaign: bus.Answer(s.recordCampaign),
		api.VerbRelease:  bus.Answer(s.recordRelease),
		api.VerbInSync:   bus.Answer(s.answerInSync),
		api.VerbStatus:   bus.Answer(s.answerStatus),
		api.VerbForce:    bus.Answer(s.answerForce),
		api.VerbApprove:  bus.Answer(s.answerApprove),
		api.VerbPrevent:  bus.Answer(s.answerPrevent),
	}
}

// running is the group's loop, nil where nobody ever competed.
func (s *service) running(id domain.GroupID) *group {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.groups[id]
}

// on runs f in the group's loop and gives back what it made.
func on[T any](g *group, f func() T) (T, error) {
	out := make(chan T, 1)
	var none T
	if !g.post(func() { out <- f() }) {
		return none, fmt.Errorf("quorum of site %s: %w: it is ending", g.s.cfg.Site, domain.ErrUnavailable)
	}
	select {
	case v := <-out:
		return v, nil
	case <-g.ended:
		return none, fmt.Errorf("quorum of site %s: %w: it is ending", g.s.cfg.Site, domain.ErrUnavailable)
	}
}

func (s *service) answerLease(_ context.Context, req api.LeaseRequest) (api.Lease, error) {
	if !domain.ValidToken(string(req.Group)) {
		return api.Lease{}, fmt.Errorf("lease of group %q: not a name: %w", req.Group, domain.ErrInvalid)
	}
	l, err := s.recorded(req.Group), error(nil)
	if g := s.running(req.Group); g != nil {
		l, err = on(g, func() api.Lease { return g.lease(req.Epoch) })
	}
	l.Forced = l.Epoch.Force() > 0 && l.Weights != nil && (l.Joint || !s.configured(l.Weights))
	return l, err
}

// configured reports whether weights are those of the configuration.
func (s *service) configured(votes map[string]int) bool {
	w := make(core.Weights, len(votes))
	for id, n := range votes {
		w[core.VoterID(id)] = n
	}
	return w.Same(s.initial.Weights)
}

// recorded is what the own voter remembers of a group.
func (s *service) recorded(id domain.GroupID) api.Lease {
	l := api.Lease{Group: id, Phase: string(core.Idle)}
	if s.voter == nil {
		return l
	}
	if rec, err := s.voter.Record(s.cfg.Cluster, id); err == nil {
		l.Holder, l.Epoch, l.InSync, l.RegisterSeq = rec.VHolder, rec.VEpoch, rec.Reg.InSync, rec.Reg.Seq
		l.Weights, l.Joint = weights(rec.Reg)
	}
	return l
}

// weights are the votes of a register that was ever written.
func weights(reg core.Register) (map[string]int, bool) {
	if reg.WE == 0 {
		return nil, false
	}
	out := make(map[string]int, len(reg.Config.Weights))
	for id, n := range reg.Config.Weights {
		out[string(id)] = n
	}
	return out, reg.Config.Joint()
}

// lease is the group's lease now. InSync names everyone a synchronous write must wait for: the committed set, and every
// set proposed since. epoch, when not 0, is the only one that counts as held.
func (g *group) lease(epoch domain.Epoch) api.Lease {
	now := g.s.instant()
	g.do(g.c.Tick(now))
	phase, _ := g.c.Phase()
	held, ok := g.c.Lease(now)
	if !ok {
		l := g.s.recorded(g.id)
		l.Phase = phaseName(phase)
		if known := g.c.Known(); known.WE > l.Epoch {
			l.Epoch, l.InSync, l.RegisterSeq = known.WE, known.InSync, known.Seq
			l.Weights, l.Joint = weights(known)
		}
		return l
	}
	votes, joint := weights(held.Reg)
	return api.Lease{Group: g.id, Held: epoch == 0 || epoch == held.Epoch, Holder: g.s.cfg.Site, Epoch: held.Epoch,
		RemainingNs: int64(held.Deadline.Sub(now)), InSync: held.WaitFor, RegisterSeq: held.Reg.Seq, Phase: phaseName(phase), Weights: votes, Joint: joint}
}

func (s *service) answerCampaign(ctx context.Context, req api.CampaignRequest) (_ api.Lease, err error) {
	ctx, span := s.tracer.Start(ctx, "candidacy", trace.WithAttributes(append(aboutVote(req.Group, s.cfg.Site, 0),
		attribute.String("run", string(req.RunID)), attribute.Bool("accept_loss", req.AcceptLoss))...))
	defer func() {
		if err != nil {
			span.SetStatus(codes.Error, err.Error())
		}
		span.End()
	}()
	switch {
	case s.cfg.Role != domain.SiteData:
		return api.Lease{}, fmt.Errorf("campaign for group %s: %w: site %s is a witness", req.Group, domain.ErrRefused, s.cfg.Site)
	case !domain.ValidToken(string(req.Group)) || req.TimeoutNs < 0 || req.Above < 0:
		return api.Lease{}, fmt.Errorf("campaign for group %q: %w", req.Group, domain.ErrInvalid)
	}
	within := time.Duration(req.TimeoutNs)
	if within == 0 {
		within = defaultCampaign
	}
	g := s.group(req.Group)
	w := &campaign{ctx: ctx, req: req, until: s.instant().Add(within), result: make(chan campaignResult, 1)}
	if !g.post(func() { g.campaign(w) }) {
		return api.Lease{}, fmt.Errorf("campaign for group %s: %w: the service is ending", req.Group, domain.ErrUnavailable)
	}
	select {
	case r := <-w.result:
		span.SetAttributes(attribute.Int64("epoch", int64(r.lease.Epoch)))
		return r.lease, r.err
	case <-g.ended:
		return api.Lease{}, fmt.Errorf("campaign for group %s: %w: the service is ending", req.Group, domain.ErrUnavailable)
	}
}

func (g *group) campaign(w *campaign) {
	now := g.s.instant()
	if l, ok := g.c.Lease(now); ok && l.Epoch > w.req.Above {
		w.result <- campaignResult{lease: g.lease(0)}
		return
	}
	if !g.c.Competing() && g.c.Known().WE == 0 && len(w.req.Members) > 0 {
		g.begin(slices.Clone(w.req.Members))
	}
	if len(g.waiters) == 0 {
		g.traced = 0
	}
	g.waiters = append(g.waiters, w)
	g.do(g.c.Campaign(now, core.Campaign{AcceptLoss: w.req.AcceptLoss, Estimate: w.req.Estimate, Above: w.req.Above}))
}

// answerCampaigns ends every wait: with the lease, or with an error.
func (g *group) answerCampaigns(err error) {
	waiters := g.waiters
	g.waiters = nil
	for _, w := range waiters {
		r := campaignResult{err: err}
		if err == nil {
			r.lease = g.lease(0)
		}
		w.result <- r
	}
}

// refuse tells the callers what cannot be; what may change by itself is kept for the answer at the end of their time.
func (g *group) refuse(why core.Reason) {
	g.refused = why
	g.s.log.Info("campaign refused", "group", string(g.id), "reason", string(why))
	if why == core.NotInSync || why == core.FormingNotAllowed {
		g.do(g.c.Withdraw(g.s.instant()))
		text := string(why)
		if why == core.NotInSync {
			text = fmt.Sprintf("site %s is not in sync (only %v is): its copy may lack acknowledged writes, and the loss is not accepted", g.s.cfg.Site, g.c.Known().InSync)
		}
		g.answerCampaigns(fmt.Errorf("campaign for group %s: %w: %s", g.id, domain.ErrRefused, text))
	}
}

// sweep ends the waits whose time is over.
func (g *group) sweep(now core.Instant) {
	consent := false
	before := len(g.waiters)
	g.waiters = slices.DeleteFunc(g.waiters, func(w *campaign) bool {
		if now < w.until {
			return false
		}
		consent = consent || w.req.AcceptLoss
		w.result <- campaignResult{err: g.noQuorum()}
		return true
	})
	if g.forcing == nil && (before > 0 && len(g.waiters) == 0 || consent) {
		g.do(g.c.Withdraw(now))
		for _, w := range g.waiters { // consent goes with the caller that gave it
			g.do(g.c.Campaign(now, core.Campaign{AcceptLoss: w.req.AcceptLoss, Estimate: w.req.Estimate, Above: w.req.Above}))
		}
	}
	g.inSync = slices.DeleteFunc(g.inSync, func(w *inSyncWait) bool {
		if now < w.until {
			return false
		}
		w.result <- inSyncResult{err: fmt.Errorf("in-sync set of group %s: %w: not durable at a majority in time", g.id, domain.ErrNoQuorum)}
		return true
	})
	g.released = slices.DeleteFunc(g.released, func(w *releaseWait) bool {
		if now >= w.until {
			w.result <- struct{}{}
			return true
		}
		return false
	})
}

// noQuorum says who answered what.
func (g *group) noQuorum() error {
	text := g.tallied()
	if g.refused != "" {
		text += "; " + string(g.refused)
	}
	return fmt.Errorf("campaign for group %s: %w: %s", g.id, domain.ErrNoQuorum, text)
}

// tallied is the last tally, by name.
func (g *group) tallied() string {
	_, tally := g.c.Phase()
	text := fmt.Sprintf("%d of %d votes", tally.Have, tally.Total)
	for _, v := range tally.Votes {
		switch v.Verdict {
		case "":
			text += fmt.Sprintf("; %s did not answer", v.Voter)
		case core.Busy:
			text += fmt.Sprintf("; %s is held by %s for %v", v.Voter, v.Holder, v.Remaining.Round(time.Millisecond))
		case core.OK, core.Rejected:
			text += fmt.Sprintf("; %s: %s", v.Voter, v.Verdict)
		}
	}
	return text
}

func (s *service) answerRelease(_ context.Context, req api.ReleaseRequest) (api.Empty, error) {
	g := s.running(req.Group)
	if g == nil {
		return api.Empty{}, nil // nothing is held
	}
	w := &releaseWait{epoch: req.Epoch, until: s.instant().Add(2 * s.cfg.Timing.Round), result: make(chan struct{}, 1)}
	held, err := on(g, func() bool { return g.release(req, w) })
	if err != nil || !held {
		return api.Empty{}, err
	}
	select {
	case <-w.result:
		return api.Empty{}, nil
	case <-g.ended:
		return api.Empty{}, fmt.Errorf("release group %s: %w: the service is ending", req.Group, domain.ErrUnavailable)
	}
}

// release gives the epoch up. It reports whether it was held: then w is told when a quorum has taken it, or has had time.
func (g *group) release(req api.ReleaseRequest, w *releaseWait) bool {
	now := g.s.instant()
	l, ok := g.c.Lease(now)
	if !ok || l.Epoch != req.Epoch {
		return false
	}
	g.s.log.Info("lease released", "group", string(g.id), "epoch", l.Epoch.String(), "successor", string(req.Successor))
	g.released = append(g.released, w)
	for _, i := range g.inSync {
		i.result <- inSyncResult{err: noLease(g.id, l.Epoch)}
	}
	g.inSync = nil
	g.do(g.c.Release(now, req.Successor))
	return true
}

func (g *group) vacated(a core.Vacated) {
	g.released = slices.DeleteFunc(g.released, func(w *releaseWait) bool {
		if w.epoch == a.Epoch {
			w.result <- struct{}{}
			return true
		}
		return false
	})
}

func noLease(id domain.GroupID, e domain.Epoch) error {
	return fmt.Errorf("group %s epoch %s: %w", id, e, domain.ErrNoLease)
}

func (s *service) answerInSync(_ context.Context, req api.InSyncRequest) (api.Register, error) {
	g := s.running(req.Group)
	if g == nil {
		return api.Register{}, noLease(req.Group, req.Epoch)
	}
	w := &inSyncWait{counter: req.Counter, until: s.instant().Add(s.cfg.Timing.G), result: make(chan inSyncResult, 1)}
	if !g.post(func() { g.proposeInSync(req, w) }) {
		return api.Register{}, fmt.Errorf("in-sync set of group %s: %w: the service is ending", req.Group, domain.ErrUnavailable)
	}
	select {
	case r := <-w.result:
		return r.reg, r.err
	case <-g.ended:
		return api.Register{}, fmt.Errorf("in-sync set of group %s: %w: the service is ending", req.Group, domain.ErrUnavailable)
	}
}

func (g *group) proposeInSync(req api.InSyncRequest, w *inSyncWait) {
	actions := g.c.ProposeInSync(g.s.instant(), req.Epoch, req.InSync, req.Counter)
	for i, a := range actions {
		if r, ok := a.(core.Refused); ok {
			w.result <- inSyncResult{err: inSyncError(req, r.Reason)}
			g.do(slices.Delete(actions, i, i+1))
			return
		}
	}
	g.inSync = append(g.inSync, w)
	g.do(actions)
}

func inSyncError(req api.InSyncRequest, why core.Reason) error {
	kind := domain.ErrRefused
	switch why {
	case core.NotHolder, core.OtherEpoch:
		kind = domain.ErrNoLease
	case core.StaleCounter:
		kind = domain.ErrConflict
	}
	return fmt.Errorf("in-sync set of group %s epoch %s: %w: %s", req.Group, req.Epoch, kind, why)
}

func (g *group) inSyncCommitted(a core.InSyncCommitted) {
	l, _ := g.c.Lease(g.s.instant())
	g.publishInSync(a, l.Reg.Seq)
	g.inSync = slices.DeleteFunc(g.inSync, func(w *inSyncWait) bool {
		switch {
		case w.counter > a.Counter:
			return false
		case w.counter < a.Counter:
			w.result <- inSyncResult{err: fmt.Errorf("in-sync set of group %s: %w: a later request was committed", g.id, domain.ErrConflict)}
		default:
			w.result <- inSyncResult{reg: api.Register{WriteEpoch: a.Epoch, Seq: l.Reg.Seq, InSync: a.InSync}}
		}
		return true
	})
}

func (s *service) voterStatus() []api.VoterStatus {
	var out []api.VoterStatus
	for _, v := range s.cfg.Voters {
		st := s.peers[v.ID].status(s.initial.Weights[v.ID])
		if d := s.disks[v.ID]; d != nil {
			st.LUN = d.Identity()
		}
		out = append(out, st)
	}
	return out
}

func (s *service) answerStatus(context.Context, api.Empty) (api.QuorumStatus, error) {
	st := api.QuorumStatus{Site: s.cfg.Site, Model: string(s.cfg.Model), Voters: s.voterStatus(), Prevented: s.prevented.Load(), Forces: s.forces.list(s.instant())}
	ids := map[domain.GroupID]bool{}
	if s.voter != nil {
		for _, id := range s.voter.Groups(s.cfg.Cluster) {
			ids[id] = true
		}
	}
	s.mu.Lock()
	for id := range s.groups {
		ids[id] = true
	}
	s.mu.Unlock()
	var sorted []domain.GroupID
	for id := range ids {
		sorted = append(sorted, id)
	}
	slices.Sort(sorted)
	for _, id := range sorted {
		l, err := s.answerLease(s.ctx, api.LeaseRequest{Group: id})
		if err != nil {
			return st, err
		}
		st.Groups = append(st.Groups, l)
	}
	return st, nil
}
