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

// bringHome moves groups that prefer this site to it, where their placement lets them return by themselves.
func (s *service) bringHome(ctx context.Context) {
	var state policy.Homing
	for clock.Sleep(ctx, s.cfg.Timings.Tick) == nil {
		state = s.bringHomeOnce(ctx, state)
	}
}

func (s *service) bringHomeOnce(ctx context.Context, state policy.Homing) policy.Homing {
	list, err := s.store.All(ctx)
	if err != nil || !slices.ContainsFunc(list.Groups, func(g api.GroupDesired) bool { return policy.MayReturn(g, s.cfg.Site) }) {
		return policy.Homing{}
	}
	health, err := call[api.HealthStatus](ctx, s, s.cfg.Timings.Call, api.ServiceHealth, api.VerbStatus, api.Empty{})
	if err != nil {
		return policy.Homing{} // nobody knows whether all is well
	}
	in := policy.HomeInput{Self: s.cfg.Site, Now: time.Duration(clock.Now()), Wall: time.Now(), Drained: list.Drained(), Groups: list.Groups, Ready: map[domain.GroupID]bool{}}
	for _, a := range health.Assessments {
		if a.Class == api.ClassDisaster {
			in.Confirmed = append(in.Confirmed, a.Site)
		}
	}
	for _, g := range list.Groups {
		if policy.MayReturn(g, s.cfg.Site) {
			in.Ready[g.Group.ID] = s.readyHere(ctx, g)
		}
	}
	state, due := policy.Home(state, in)
	for _, d := range due {
		s.comeHome(ctx, d, list)
	}
	return state
}

// readyHere reports whether the site that serves a group says that the copy here has everything.
func (s *service) readyHere(ctx context.Context, g api.GroupDesired) bool {
	id := g.Group.ID
	if _, down := s.isEvacuated(id); down || s.active(id) != "" || !s.calmNow(id) {
		return false
	}
	st, err := callPeer[api.ReplicatorStatus](ctx, s, g.Site, s.cfg.Timings.Call, api.ServiceReplicator, api.VerbStatus, api.GroupRequest{Group: id})
	if err != nil {
		return false
	}
	_, t, err := policy.Ready(st.Groups, id, g.Site, s.cfg.Site)
	return err == nil && (t.InSync || g.Group.ModeTo(g.Site, s.cfg.Site) != domain.ModeSync)
}

// comeHome begins one planned move for each plan that has groups to come home from a site.
func (s *service) comeHome(ctx context.Context, d policy.Due, list api.GroupList) {
	for _, p := range policy.Orders(s.cfg.Site, d, list) {
		o := order{plan: p.Plan, kind: api.RunSwitchover, from: p.From, groups: p.Groups, by: byPolicy,
			reason: fmt.Sprintf("site %s is preferred (placement.preferred), and its copies have been in sync for as long as placement.return asks", s.cfg.Site)}
		if _, err := s.launch(ctx, o, list); err != nil {
			s.log.Warn("return to the preferred site not started", "plan", string(o.plan.ID), "error", err)
		}
	}
}
