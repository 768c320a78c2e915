package failover

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"
	"go.opentelemetry.io/otel/trace"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/audit"
	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
	"github.com/holdfast-dr/holdfast/pkg/telemetry"
	"github.com/holdfast-dr/holdfast/services/failover/declaration"
	"github.com/holdfast-dr/holdfast/services/failover/plan"
	"github.com/holdfast-dr/holdfast/services/failover/run"
)

// order is what a run is begun from.
type order struct {
	id         domain.RunID // empty: one is made
	plan       domain.Plan
	kind       string
	from       domain.SiteID
	groups     []domain.GroupID
	reason, by string
	claimed    string // what the caller says of itself beside by, which it proved
	host       string // where it says it is
	estimate   map[domain.GroupID]api.LossEstimate
	acceptLoss map[domain.GroupID]bool
	// checkpoints are where groups are brought back to; others serve their newest state.
	checkpoints map[domain.GroupID]domain.LSN
	above       map[domain.GroupID]domain.Epoch
	outage      outage // what a failover answers
	declaration domain.DeclarationID
}

const byPolicy = declaration.ByPolicy

// launch makes a run durable and begins to carry it out, as a child of ctx's trace. Errors: domain.ErrRefused when a group is
// in another run, domain.ErrInvalid for a plan that cannot be, domain.ErrUnavailable.
func (s *service) launch(ctx context.Context, o order, list api.GroupList) (*run.Live, error) {
	for _, g := range o.groups {
		if _, down := s.isEvacuated(g); down {
			s.checkEvacuations(ctx, list) // that run may just have ended
			break
		}
	}
	s.starting.Lock()
	defer s.starting.Unlock()
	if s.closed || s.life.Err() != nil {
		return nil, fmt.Errorf("start run: %w: the service is stopping", domain.ErrUnavailable)
	}
	if o.id == "" {
		o.id = domain.RunID(ulid.Make().String())
	}
	if l := s.find(o.id); l != nil {
		return l, nil
	}
	if o.kind != api.RunStart {
		if err := s.drainedHere(); err != nil {
			return nil, fmt.Errorf("start run of plan %s: %w", o.plan.ID, err)
		}
	}
	for _, g := range o.groups {
		if busy := s.active(g); busy != "" {
			return nil, fmt.Errorf("start run of plan %s: %w: group %s is in run %s", o.plan.ID, domain.ErrRefused, g, busy)
		}
		if out, down := s.isEvacuated(g); down {
			return nil, fmt.Errorf("start run of plan %s: %w: group %s is being moved away by run %s", o.plan.ID, domain.ErrRefused, g, out.run)
		}
	}
	if o.kind == api.RunStart && len(o.checkpoints) > 0 {
		if err := s.backInPlace(ctx, &o, list); err != nil {
			return nil, fmt.Errorf("start run of plan %s: %w", o.plan.ID, err)
		}
	}
	r, err := s.build(o, list)
	if err != nil {
		return nil, err
	}
	cause := trace.SpanContextFromContext(ctx)
	if o.outage.cause.IsValid() {
		cause = o.outage.cause
	}
	rctx := trace.ContextWithSpanContext(s.life, run.SpanOf(cause, r.ID))
	r.TraceParent, r.TraceID = telemetry.Parent(rctx), trace.SpanContextFromContext(rctx).TraceID().String()
	r.TraceCause = telemetry.Parent(trace.ContextWithSpanContext(ctx, cause))
	l, err := s.jour.Create(rctx, r)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.runs = append(s.runs, l)
	if len(s.runs) > keptRuns {
		s.runs = prune(s.runs)
	}
	s.mu.Unlock()
	s.log.Info("run started", "run", string(r.ID), "kind", r.Kind, "by", r.By, "reason", r.Reason)
	s.wg.Go(func() { s.lead(rctx, l) })
	return l, nil
}

func (s *service) build(o order, list api.GroupList) (api.Run, error) {
	groups := map[domain.GroupID]domain.Group{}
	before := map[domain.GroupID]domain.Epoch{}
	for _, g := range list.Groups {
		groups[g.Group.ID] = g.Group
		if slices.Contains(o.groups, g.Group.ID) {
			before[g.Group.ID] = g.Epoch
		}
	}
	steps, err := plan.Build(plan.Input{Plan: o.plan, Groups: groups, Only: o.groups, Kind: o.kind, Leader: s.cfg.Site, From: o.from})
	return api.Run{ID: o.id, Plan: o.plan.ID, Kind: o.kind, Leader: s.cfg.Site, From: o.from, State: api.StepRunning, Reason: o.reason, By: o.by, ClaimedBy: o.claimed, Host: o.host,
		Epochs: map[domain.GroupID]domain.Epoch{}, Before: before, Estimate: o.estimate, AcceptLoss: o.acceptLoss, Checkpoints: o.checkpoints, Above: o.above, Declaration: o.declaration,
		FirstMissed: o.outage.firstMissed, Confirmed: o.outage.confirmed, Steps: steps, Started: time.Now().UTC()}, err
}

// resume goes on with the runs that were open when the service last stopped.
func (s *service) resume() {
	s.starting.Lock()
	defer s.starting.Unlock()
	s.mu.Lock()
	runs := slices.Clone(s.runs)
	s.mu.Unlock()
	for _, l := range runs {
		r := l.Snapshot()
		if r.Leader != s.cfg.Site {
			continue
		}
		if r.State != api.StepRunning {
			s.tellAgain(r)
			continue
		}
		ctx := telemetry.WithParent(s.life, r.TraceParent)
		s.noteResumed(ctx, r)
		s.log.Info("run resumed", "run", string(r.ID), "kind", r.Kind)
		s.wg.Go(func() { s.lead(ctx, l) })
	}
}

// lead carries a run to its end, reading it again when its journal was out of reach or somebody else wrote to it.
func (s *service) lead(ctx context.Context, l *run.Live) {
	if !s.retry(ctx, "announce run "+string(l.Snapshot().ID), func() error { return s.announce(ctx, l.Snapshot()) }) {
		return
	}
	t := s.cfg.Timings
	x := &run.Executor{Journal: s.jour, Actor: actor{s}, Tracer: s.tracer, Publish: s.publish, Log: s.log, Retry: t.Retry, MaxRetry: t.MaxRetry, Patience: t.Patience, Hook: s.hook}
	for {
		err := x.Execute(ctx, l)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return
		}
		r := l.Snapshot()
		s.log.Warn("run is read again", "run", string(r.ID), "error", err)
		if clock.Sleep(ctx, t.MaxRetry) != nil {
			return
		}
		again, err := s.jour.Reload(ctx, s.cfg.Site, r.Plan, r.ID)
		if err != nil {
			continue
		}
		s.mu.Lock()
		if i := slices.Index(s.runs, l); i >= 0 {
			s.runs[i] = again
		}
		s.mu.Unlock()
		if l = again; !l.Running() {
			break
		}
	}
	r := l.Snapshot()
	s.settle(r)
	s.wake()
	run.Tell(ctx, s.tracer, r, s.linksOf(ctx, r))
}

// announce writes the audit and tells of the run, also when it is resumed: both know a repeat.
func (s *service) announce(ctx context.Context, r api.Run) error {
	data, err := json.Marshal(struct {
		Plan        domain.PlanID                       `json:"plan"`
		Kind        string                              `json:"kind"`
		From        domain.SiteID                       `json:"from,omitempty"`
		Groups      []domain.GroupID                    `json:"groups"`
		AcceptLoss  map[domain.GroupID]bool             `json:"accept_loss,omitempty"`
		Checkpoints map[domain.GroupID]domain.LSN       `json:"checkpoints,omitempty"`
		Estimate    map[domain.GroupID]api.LossEstimate `json:"estimate,omitempty"`
		Declaration domain.DeclarationID                `json:"declaration,omitempty"`
	}{r.Plan, r.Kind, r.From, groupsOf(r), r.AcceptLoss, r.Checkpoints, r.Estimate, r.Declaration})
	if err != nil {
		return err
	}
	whats := []string{"run_started"}
	if r.Kind == api.RunFailover {
		whats = []string{"disaster_declared", "run_started"}
	}
	for _, what := range whats {
		e := audit.Entry{Who: r.By, Claimed: r.ClaimedBy, From: r.Host, Why: r.Reason, What: what, Run: r.ID, Data: data, When: r.Started}
		if err := audit.Append(ctx, s.mesh.Local(), e); err != nil {
			return err
		}
	}
	if r.Kind == api.RunFailover {
		s.publish(ctx, string(r.ID)+"-declared", event.DisasterDeclared{Site: r.From, By: r.By, Reason: r.Reason, Groups: groupsOf(r), Estimate: r.Estimate, Run: r.ID})
	}
	s.publish(ctx, string(r.ID)+"-started", event.RunChanged{Fact: "started", Run: r})
	return nil
}

func groupsOf(r api.Run) []domain.GroupID { return declaration.GroupsOf(r) }

// settle remembers for which groups a run failed, so that the next attempt waits.
func (s *service) settle(r api.Run) {
	longest := s.cfg.Timings.Backoff
	if r.Kind == api.RunFailover && r.Code == domain.Code(domain.ErrRefused) {
		longest *= 10 // a refusal stands until a person accepts the loss, and each attempt stays in the journal for good
	}
	for _, g := range groupsOf(r) {
		if r.State == api.StepDone {
			s.calm(g)
		} else {
			s.bumpTo(g, longest)
		}
	}
}

// find is a run by its id among those in memory; nil when it is not there.
func (s *service) find(id domain.RunID) *run.Live {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.runs {
		if l.Snapshot().ID == id {
			return l
		}
	}
	return nil
}

// active is the run led here that a group is in; empty when in none.
func (s *service) active(g domain.GroupID) domain.RunID {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.runs {
		if !l.Running() {
			continue
		}
		if r := l.Snapshot(); r.Leader == s.cfg.Site && slices.Contains(groupsOf(r), g) {
			return r.ID
		}
	}
	return ""
}
