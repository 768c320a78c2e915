package failover

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/failover/declaration"
	"github.com/holdfast-dr/holdfast/services/failover/policy"
)

// ledger is the declarations that this site leads.
type ledger struct {
	// deciding is held from a decision until it is durable and what it begins is begun. It guards what stands below it.
	deciding sync.Mutex
	losses   map[domain.SiteID]declaration.Loss // as health last told them
	told     clock.Time                         // when it did
	failed   map[domain.GroupID]string          // runs that could not begin since the last decision, and why
	seqs     map[domain.DeclarationID]uint64    // of the newest records in the journal
	stale    bool                               // what is kept is not known: it is read again before the next decision

	mu       sync.Mutex // guards what stands below it; the state is replaced with deciding held only
	state    declaration.State
	surveys  map[domain.GroupID]api.DeclarationSurvey
	votes    []api.VoterStatus
	surveyed clock.Time
	asking   bool // a survey is under way

	untold chan struct{} // there are acts to be told
}

func newLedger() *ledger {
	return &ledger{losses: map[domain.SiteID]declaration.Loss{}, failed: map[domain.GroupID]string{}, seqs: map[domain.DeclarationID]uint64{}, stale: true,
		surveys: map[domain.GroupID]api.DeclarationSurvey{}, untold: make(chan struct{}, 1)}
}

// keptDeclarations is how many of the own ones are remembered, ended ones included. Those that still count are beside it.
const keptDeclarations = 100

func (l *ledger) now() declaration.State {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state
}

func (l *ledger) set(s declaration.State) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.state = s
}

// tell wakes what tells of acts.
func (l *ledger) tell() {
	select {
	case l.untold <- struct{}{}:
	default:
	}
}

// decide follows the own site's health, and moves the declarations on.
func (s *service) decide(ctx context.Context) {
	for {
		s.decideOnce(ctx)
		if s.await(ctx, s.alarm, s.cfg.Timings.Tick) != nil {
			return
		}
	}
}

func (s *service) decideOnce(ctx context.Context) {
	asked := clock.Now()
	health, err := call[api.HealthStatus](ctx, s, s.cfg.Timings.Call, api.ServiceHealth, api.VerbStatus, api.Empty{})
	if err != nil {
		return // no news; nothing is declared without it
	}
	s.seeLost(health)
	list, err := s.store.All(ctx)
	if err != nil {
		return
	}
	l := s.ledger
	l.deciding.Lock()
	defer l.deciding.Unlock()
	l.losses, l.told = s.lossesOf(ctx, health), asked
	if err := s.recall(ctx); err != nil {
		s.log.Debug("declarations not read", "error", err)
		return
	}
	next, acts := declaration.Decide(l.now(), s.declarationInput(list, nil))
	if err := s.carryOut(ctx, next, acts, list, nil); err != nil {
		s.log.Warn("declaration not carried out", "error", err)
	}
	s.surveyOpen(ctx)
}

// lossesOf is what health says of the other sites. The proof of a loss is looked up once.
func (s *service) lossesOf(ctx context.Context, h api.HealthStatus) map[domain.SiteID]declaration.Loss {
	out := map[domain.SiteID]declaration.Loss{}
	for _, a := range h.Assessments {
		if a.Site == s.cfg.Site {
			continue
		}
		x := declaration.Loss{Confirmed: a.Class == api.ClassDisaster, Suspected: a.Disaster != "", Proof: api.DisasterProof{Text: a.Text, FirstMissed: a.Since}}
		x.Well = !x.Confirmed && !x.Suspected && a.Class != api.ClassNone
		if x.Confirmed {
			if before := s.ledger.losses[a.Site]; before.Confirmed && before.Proof.Event != "" {
				x.Proof = before.Proof
			} else if o := s.outageOf(ctx, a.Site); o.event != "" {
				x.Proof = api.DisasterProof{Event: o.event, Text: a.Text, FirstMissed: o.firstMissed, Confirmed: o.confirmed}
			}
		}
		out[a.Site] = x
	}
	for _, o := range h.View.Observations {
		if x := out[o.Site]; o.Kind == "site" && o.State == api.StateAlive && o.Site != s.cfg.Site && !x.Confirmed && !x.Suspected {
			x.Well = true
			out[o.Site] = x
		}
	}
	return out
}

// recall reads the own declarations again when it is not known how they stand. One that cannot be read stops nothing. deciding is held.
func (s *service) recall(ctx context.Context) error {
	l := s.ledger
	if !l.stale {
		return nil
	}
	now := time.Now()
	all, bad, err := s.jour.LoadDeclarations(ctx, s.cfg.Site, s.cfg.Site, keptDeclarations, func(d api.Declaration) bool { return !declaration.Forgettable(d, now) })
	if err != nil {
		return err
	}
	for _, why := range bad {
		s.log.Error("a declaration cannot be read, and counts no more", "error", why)
	}
	state := l.now()
	state.List = nil
	for _, d := range all {
		l.seqs[d.ID] = d.Seq
		state.List = append(state.List, d.Declaration)
	}
	l.set(state)
	l.stale = false
	l.tell()
	return nil
}

// lossesFor is how many ticks what health said counts; without news it says nothing.
const lossesFor = 5

// fresh is what health says between two of its answers: nothing, when it has not answered for a while. deciding is held.
func (s *service) fresh() map[domain.SiteID]declaration.Loss {
	if clock.Now().Sub(s.ledger.told) > lossesFor*s.cfg.Timings.Tick+s.cfg.Timings.Call {
		return nil
	}
	return s.ledger.losses
}

// declarationInput is what is known now. The groups of a person's word do not wait until they have calmed down. deciding is held.
func (s *service) declarationInput(list api.GroupList, spoken []domain.GroupID) declaration.Input {
	l := s.ledger
	in := declaration.Input{Self: s.cfg.Site, NewID: domain.DeclarationID(ulid.Make().String()), Now: time.Duration(clock.Now()), Wall: time.Now(), Losses: l.losses, Drained: list.Drained(), Groups: list.Groups,
		Held: map[domain.GroupID]string{}, Failed: l.failed, ApprovalLasts: s.cfg.ApprovalLasts}
	if open(l.now()) {
		for _, r := range s.mine() {
			if r.Declaration != "" {
				in.Runs = append(in.Runs, r)
			}
		}
	}
	for _, g := range list.Groups {
		if why := s.busy(g.Group.ID); why != "" {
			in.Held[g.Group.ID] = why
		} else if !slices.Contains(spoken, g.Group.ID) && !s.calmNow(g.Group.ID) {
			in.Held[g.Group.ID] = "its last run failed a moment ago"
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	in.Surveys, in.Votes = maps.Clone(l.surveys), l.votes
	return in
}

func open(s declaration.State) bool {
	return slices.ContainsFunc(s.List, func(d api.Declaration) bool { return !api.DeclarationEnded(d.State) })
}

// busy is why no run can take a group now; empty when one can.
func (s *service) busy(g domain.GroupID) string {
	if id := s.active(g); id != "" {
		return fmt.Sprintf("group %s is in run %s", g, id)
	}
	if out, down := s.isEvacuated(g); down {
		return fmt.Sprintf("group %s is being moved away by run %s", g, out.run)
	}
	return ""
}

// carryOut makes a decision durable, and begins what it begins. The state counts only then. Of the runs that cannot begin it gives the
// errors of those with one of these groups (nil: all). deciding is held.
func (s *service) carryOut(ctx context.Context, next declaration.State, acts declaration.Actions, list api.GroupList, of []domain.GroupID) error {
	l := s.ledger
	if err := s.keep(ctx, acts.Keep); err != nil {
		l.stale = true
		return err
	}
	l.failed = map[domain.GroupID]string{}
	next.List = declaration.Trim(next.List, keptDeclarations, time.Now())
	l.set(next)
	for _, d := range acts.Keep {
		s.log.Info("declaration changed", "declaration", string(d.ID), "lost", string(d.Site), "state", d.State)
		l.tell()
		if d.State == api.DeclarationWithdrawn { // what failed then says nothing of the next loss
			for _, g := range d.Groups {
				s.calm(g.Group)
			}
		}
	}
	var all []error
	for _, x := range acts.Launch {
		if err := s.beginRuns(ctx, x, list); of == nil || slices.ContainsFunc(x.Groups, func(g domain.GroupID) bool { return slices.Contains(of, g) }) {
			all = append(all, err)
		}
	}
	return errors.Join(all...)
}

// keep writes declarations into the journal. deciding is held.
func (s *service) keep(ctx context.Context, all []api.Declaration) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timings.Call)
	defer cancel()
	for _, d := range all {
		seq, err := s.jour.PutDeclaration(ctx, d, s.ledger.seqs[d.ID])
		if err != nil {
			return err
		}
		s.ledger.seqs[d.ID] = seq
	}
	return nil
}

// beginRuns begins the runs of a launch. deciding is held.
func (s *service) beginRuns(ctx context.Context, x declaration.Launch, list api.GroupList) error {
	var all []error
	outage := s.outageOf(ctx, x.Site)
	estimates := s.estimates(ctx, x.Groups, x.Checkpoints)
	for _, o := range s.ordersOf(x, list) {
		o.outage = outage
		for _, g := range o.groups {
			o.estimate[g] = estimates[g]
		}
		_, err := s.launch(ctx, o, list)
		if err == nil {
			continue
		}
		s.log.Warn("failover not started", "declaration", string(x.Declaration), "plan", string(o.plan.ID), "error", err)
		for _, g := range o.groups {
			s.bump(g)
			s.ledger.failed[g] = err.Error()
		}
		all = append(all, err)
	}
	return errors.Join(all...)
}

// ordersOf lays a launch out as runs: one as a person ordered it, or one for each plan.
func (s *service) ordersOf(x declaration.Launch, list api.GroupList) []order {
	parts := policy.Orders(s.cfg.Site, policy.Due{Site: x.Site, Groups: x.Groups}, list)
	if x.Order != nil {
		p := parts[0].Plan
		if i := slices.IndexFunc(list.Plans, func(p domain.Plan) bool { return p.ID == x.Order.Plan }); i >= 0 {
			p = list.Plans[i]
		}
		parts = []policy.Order{{Plan: p, From: x.Site, Groups: x.Groups}}
	}
	out := make([]order, 0, len(parts))
	for _, p := range parts {
		o := order{plan: p.Plan, kind: api.RunFailover, from: p.From, groups: p.Groups, by: x.By, claimed: x.Claimed, host: x.Host, reason: x.Why, declaration: x.Declaration,
			estimate: map[domain.GroupID]api.LossEstimate{}, acceptLoss: map[domain.GroupID]bool{}, checkpoints: x.Checkpoints}
		for _, g := range p.Groups {
			o.acceptLoss[g] = x.AcceptLoss[g]
		}
		if x.Order != nil && s.find(x.Order.Run) == nil {
			o.id = x.Order.Run // else it was begun with the groups that were approved sooner
		}
		out = append(out, o)
	}
	return out
}

// estimateAt asks the own replicator what a takeover would lose.
func (s *service) estimateAt(ctx context.Context, g domain.GroupID, checkpoint domain.LSN) (api.LossEstimate, error) {
	return call[api.LossEstimate](ctx, s, s.cfg.Timings.Call, api.ServiceReplicator, api.VerbEstimate, api.EstimateRequest{Group: g, Checkpoint: checkpoint})
}

// estimate is the same; one that is not known when the replicator does not answer.
func (s *service) estimate(ctx context.Context, g domain.GroupID, checkpoint domain.LSN) api.LossEstimate {
	e, err := s.estimateAt(ctx, g, checkpoint)
	if err != nil {
		return api.LossEstimate{Text: fmt.Sprintf("not known (%v)", err)}
	}
	return e
}

// estimates asks for all groups at once: a replicator that hangs costs the time of one call.
func (s *service) estimates(ctx context.Context, groups []domain.GroupID, checkpoints map[domain.GroupID]domain.LSN) map[domain.GroupID]api.LossEstimate {
	all := make([]api.LossEstimate, len(groups))
	var wg sync.WaitGroup
	for i, g := range groups {
		wg.Go(func() { all[i] = s.estimate(ctx, g, checkpoints[g]) })
	}
	wg.Wait()
	out := make(map[domain.GroupID]api.LossEstimate, len(groups))
	for i, g := range groups {
		out[g] = all[i]
	}
	return out
}
