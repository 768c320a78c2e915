package failover

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/failover/policy"
)

func scale(ns int64, f float64) time.Duration { return time.Duration(float64(ns) * f) }

// decide follows the own site's health and declares, for groups whose policy is auto, after their hold-down.
func (s *service) decide(ctx context.Context) {
	var state policy.State
	for {
		state = s.decideOnce(ctx, state)
		if s.await(ctx, s.alarm, s.cfg.Timings.Tick) != nil {
			return
		}
	}
}

func (s *service) decideOnce(ctx context.Context, state policy.State) policy.State {
	health, err := call[api.HealthStatus](ctx, s, s.cfg.Timings.Call, api.ServiceHealth, api.VerbStatus, api.Empty{})
	if err != nil {
		return state // no news; nothing is declared without it
	}
	list, err := s.store.All(ctx)
	if err != nil {
		return state
	}
	texts := map[domain.SiteID]string{}
	in := policy.Input{Self: s.cfg.Site, Now: time.Duration(clock.Now()), Drained: list.Drained(), Groups: list.Groups}
	for _, a := range health.Assessments {
		if a.Class == api.ClassDisaster {
			in.Confirmed, texts[a.Site] = append(in.Confirmed, a.Site), a.Text
		}
	}
	state, due := policy.Decide(state, in)
	for _, d := range due {
		s.declare(ctx, d, texts[d.Site], list)
	}
	return state
}

// declare begins one failover run for each plan that has groups of a lost site.
func (s *service) declare(ctx context.Context, d policy.Due, text string, list api.GroupList) {
	d.Groups = slices.DeleteFunc(slices.Clone(d.Groups), func(id domain.GroupID) bool {
		_, down := s.isEvacuated(id)
		return down || s.active(id) != "" || !s.calmNow(id)
	})
	out := s.outageOf(ctx, d.Site)
	for _, p := range policy.Orders(s.cfg.Site, d, list) {
		o := order{plan: p.Plan, kind: api.RunFailover, from: p.From, groups: p.Groups, by: byPolicy, reason: text, outage: out,
			estimate: map[domain.GroupID]api.LossEstimate{}, acceptLoss: p.AcceptLoss}
		for _, id := range o.groups {
			o.estimate[id] = s.estimate(ctx, id)
		}
		if _, err := s.launch(ctx, o, list); err != nil {
			s.log.Warn("failover not started", "plan", string(o.plan.ID), "error", err)
			for _, id := range o.groups {
				s.bump(id)
			}
		}
	}
}

// estimate asks the own replicator what a takeover would lose; an estimate that is not known when it does not answer.
func (s *service) estimateAt(ctx context.Context, g domain.GroupID, checkpoint domain.LSN) (api.LossEstimate, error) {
	return call[api.LossEstimate](ctx, s, s.cfg.Timings.Call, api.ServiceReplicator, api.VerbEstimate, api.EstimateRequest{Group: g, Checkpoint: checkpoint})
}

func (s *service) estimate(ctx context.Context, g domain.GroupID) api.LossEstimate {
	e, err := s.estimateAt(ctx, g, 0)
	if err != nil {
		return api.LossEstimate{Text: fmt.Sprintf("not known (%v)", err)}
	}
	return e
}
