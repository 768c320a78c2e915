package failover

import (
	"context"
	"fmt"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/failover/plan"
)

// lostSites is which other sites the own site's health has confirmed as lost, and in what words. Guarded by service.mu.
type lostSites struct {
	why  map[domain.SiteID]string
	news chan struct{} // closed and replaced when health has answered
}

func (s *service) seeLost(h api.HealthStatus) {
	why := map[domain.SiteID]string{}
	for _, a := range h.Assessments {
		if a.Site != s.cfg.Site && a.Class == api.ClassDisaster {
			why[a.Site] = a.Text
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost.why = why
	close(s.lost.news)
	s.lost.news = make(chan struct{})
}

// lostBy says that a site is confirmed as lost, and in what words. news is closed when that may have changed.
func (s *service) lostBy(site domain.SiteID) (why string, lost bool, news <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	why, lost = s.lost.why[site]
	return why, lost, s.lost.news
}

// untilLost is ctx until a site is confirmed as lost.
func (s *service) untilLost(ctx context.Context, site domain.SiteID) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		for {
			_, lost, news := s.lostBy(site)
			if lost {
				cancel()
				return
			}
			select {
			case <-news:
			case <-ctx.Done():
				return
			}
		}
	}()
	return ctx, cancel
}

// atSource carries out a step at the site that a group moves away from, and does not wait for one that is confirmed as lost. Before its
// writes were handed over that ends the move: domain.ErrRefused. After it the target has them all, and the move goes on: a lease that is
// not released ends by itself.
func (a actor) atSource(ctx context.Context, r api.Run, st api.Step) (string, error) {
	ctx, stop := a.untilLost(ctx, r.From)
	defer stop()
	out, err := a.askSource(ctx, r, st)
	if err == nil {
		return out, nil
	}
	why, lost, _ := a.lostBy(r.From)
	switch {
	case !lost:
		return "", err
	case st.Kind == plan.KindRelease:
		a.log.Warn("lease not released by a site that was lost in the middle of a move; the move goes on when it has ended", "run", string(r.ID), "group", string(st.Group), "lost", string(r.From), "reason", why)
		return asked(struct {
			Skipped string `json:"skipped"`
		}{"site " + string(r.From) + " is lost: " + why}, nil)
	}
	return "", fmt.Errorf("%s group %s: %w: site %s was lost in the middle of the move (%s): the move ends here, and the group comes up as its policy says: see holdfast declaration list",
		st.Kind, st.Group, domain.ErrRefused, r.From, why)
}

func (a actor) askSource(ctx context.Context, r api.Run, st api.Step) (string, error) {
	switch st.Kind {
	case plan.KindPrecheck:
		return a.precheck(ctx, r, st.Group)
	case plan.KindEvacuate:
		return asked[api.Empty](callPeer[api.Empty](ctx, a.service, r.From, a.cfg.Timings.StopGrace+2*a.cfg.Timings.Call, api.ServiceFailover, api.VerbEvacuate,
			api.EvacuateRequest{Group: st.Group, Epoch: r.Before[st.Group], RunID: r.ID, To: a.cfg.Site}))
	case plan.KindDemote:
		return asked(callPeer[api.DemoteReply](ctx, a.service, r.From, a.cfg.Timings.Demote+a.cfg.Timings.Call, api.ServiceReplicator, api.VerbDemote,
			api.DemoteRequest{Group: st.Group, Epoch: r.Before[st.Group], Successor: a.cfg.Site, TimeoutNs: int64(a.cfg.Timings.Demote)}))
	}
	return asked(callPeer[api.Empty](ctx, a.service, r.From, 5*a.cfg.Timings.Call, api.ServiceQuorum, api.VerbRelease,
		api.ReleaseRequest{Group: st.Group, Epoch: r.Before[st.Group], Successor: a.cfg.Site}))
}
