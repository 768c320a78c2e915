package failover

import (
	"context"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
)

func scale(ns int64, f float64) time.Duration { return time.Duration(float64(ns) * f) }

// guard stops the VMs of groups whose lease this site does not hold (any more). The hosts' agents do so by themselves, by
// their sub-leases; this only makes it sooner, and finds what an agent should not be running.
func (s *service) guard(ctx context.Context) {
	deadlines := map[domain.GroupID]clock.Time{}
	for {
		if list, err := s.store.All(ctx); err == nil {
			for _, g := range list.Groups {
				s.guardGroup(ctx, g.Group, deadlines)
			}
		}
		if clock.Sleep(ctx, s.cfg.Timings.Pull) != nil {
			return
		}
	}
}

func (s *service) guardGroup(ctx context.Context, g domain.Group, deadlines map[domain.GroupID]clock.Time) {
	sent := clock.Now()
	l, err := s.lease(ctx, g.ID, 0)
	now := clock.Now()
	eps := s.cfg.Timings.Epsilon
	if err == nil && l.Held {
		deadlines[g.ID] = sent.Add(scale(l.RemainingNs, (1-eps)/(1+eps)))
	}
	if err == nil && l.Held && now.Before(deadlines[g.ID]) || err != nil && now.Before(deadlines[g.ID]) {
		return // held, or nothing heard and it still lasts
	}
	if err != nil && deadlines[g.ID] == 0 {
		return // this life of the service has not heard of it yet: the agents count for themselves
	}
	if !s.runsHere(g) {
		return
	}
	s.log.Warn("lease lost: vms are stopped", "group", string(g.ID), "epoch", l.Epoch.String())
	if err := s.stopGroup(ctx, g, l.Epoch, 0); err != nil {
		s.log.Warn("vms not all stopped", "group", string(g.ID), "error", err)
	}
}

// runsHere reports whether the last look at the hosts saw a VM of the group.
func (s *service) runsHere(g domain.Group) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.hosts {
		for _, vm := range h.status.VMs {
			if vm.Group == g.ID && up(vm) {
				return true
			}
		}
	}
	return false
}

// followHealth wakes the policy when the health service tells of a disaster, and the reconciler when it tells of an incident or
// the quorum of a lease. Events are hints: whoever is woken asks.
func (s *service) followHealth(ctx context.Context) {
	prefix := "hf.v1.evt." + string(s.cfg.Site) + "."
	filters := []string{prefix + "disaster.>", prefix + "incident.>", prefix + "group.*.lease_lost", prefix + "group.*.epoch_granted"}
	s.retry(ctx, "follow events", func() error {
		return s.mesh.Local().FollowEvents(ctx, filters, bus.FromNew, func(_ context.Context, _ event.Event, f event.Fact) {
			if _, disaster := f.(*event.DisasterChanged); disaster {
				select {
				case s.alarm <- struct{}{}:
				default:
				}
				return
			}
			select {
			case s.kick <- struct{}{}:
			default:
			}
		})
	})
}
