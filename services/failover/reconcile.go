package failover

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
	"github.com/holdfast-dr/holdfast/pkg/telemetry"
	"github.com/holdfast-dr/holdfast/services/failover/policy"
)

// reconcile brings what runs here towards what is desired, each tick and when woken, until ctx ends.
func (s *service) reconcile(ctx context.Context) {
	for {
		s.reconcileOnce(ctx)
		if s.await(ctx, s.kick, s.cfg.Timings.Tick) != nil {
			return
		}
	}
}

// need is a group that must be brought up by a run.
type need struct {
	group  domain.GroupID
	above  domain.Epoch
	reason string
}

func (s *service) reconcileOnce(ctx context.Context) {
	list, err := s.store.All(ctx)
	if err != nil {
		s.log.Debug("desired state not read", "error", err)
		return
	}
	s.checkEvacuations(ctx, list)
	var needs []need
	for _, g := range list.Groups {
		id := g.Group.ID
		if _, down := s.isEvacuated(id); down || s.active(id) != "" || !s.calmNow(id) || !slices.Contains(g.Group.SitesOf(), s.cfg.Site) {
			continue
		}
		lease, err := s.lease(ctx, id, 0)
		if err != nil {
			continue
		}
		switch {
		case g.Site != s.cfg.Site:
			if unused(g, lease) {
				s.giveBack(ctx, g, lease)
			}
		case !lease.Held:
			if s.mayCompete(id, lease) {
				needs = append(needs, need{group: id, reason: "site " + string(s.cfg.Site) + " is to serve it and holds no lease"})
			}
		case s.isAbandoned(id, lease.Epoch):
			needs = append(needs, need{id, lease.Epoch, "the move to another site ended without it"})
		default:
			if n, wants := s.tend(ctx, g.Group, lease); wants {
				needs = append(needs, n)
			}
		}
	}
	s.startRuns(ctx, list, needs)
}

// mayCompete reports whether nobody else is known to hold the lease, or for so long that what is known may be old. The quorum
// decides in any case; this only spares it vain candidacies.
func (s *service) mayCompete(g domain.GroupID, l api.Lease) bool {
	if l.Holder == "" || l.Holder == s.cfg.Site || l.RemainingNs <= 0 && !s.isPeerUp(l.Holder) {
		delete(s.waiting, g)
		return true
	}
	since, ok := s.waiting[g]
	if !ok {
		s.waiting[g] = clock.Now()
		return false
	}
	return clock.Now().Sub(since) > s.cfg.Timings.Evacuated
}

// startRuns begins one run of kind start for the needs of each plan. A group whose last run failed has a run of its own: one that cannot
// be brought up would keep those after it in its plan waiting with each attempt.
func (s *service) startRuns(ctx context.Context, list api.GroupList, needs []need) {
	type share struct {
		plan  domain.PlanID
		alone domain.GroupID
	}
	orders := map[share]*order{}
	var ids []share
	for _, n := range needs {
		p := policy.PlanOf(list, n.group)
		id := share{plan: p.ID}
		if s.failing(n.group) {
			id.alone = n.group
		}
		o, ok := orders[id]
		if !ok {
			o = &order{plan: p, kind: api.RunStart, by: byPolicy, reason: n.reason, above: map[domain.GroupID]domain.Epoch{}}
			orders[id], ids = o, append(ids, id)
		}
		o.groups = append(o.groups, n.group)
		if n.above != 0 {
			o.above[n.group] = n.above
		}
	}
	for _, id := range ids {
		o := orders[id]
		if _, err := s.launch(s.incidentTrace(ctx), *o, list); err != nil {
			s.log.Warn("run not started", "error", err)
			for _, g := range o.groups {
				s.bump(g)
			}
		}
	}
}

// tend looks after a group that this site holds the lease of: local high availability.
func (s *service) tend(ctx context.Context, g domain.Group, l api.Lease) (need, bool) {
	copied, known := s.copyHere(ctx, g.ID)
	serving := copied.Serving && copied.Epoch == l.Epoch
	complete, led := s.broughtUp(g.ID, l.Epoch)
	if known && !serving && (complete || livedThrough(copied, l.Epoch)) {
		return need{g.ID, l.Epoch, "its volumes are not served under epoch " + l.Epoch.String() + " any more"}, true
	}
	if !complete {
		return s.again(ctx, g, l.Epoch, led), true
	}
	for _, v := range g.VMs {
		host := s.placed(g.ID, l.Epoch, v.ID)
		st, err := s.hostStatus(ctx, host)
		if err != nil {
			if s.hostDead(ctx, host) {
				return need{g.ID, l.Epoch, fmt.Sprintf("host %s of vm %s is dead", host, v.ID)}, true
			}
			continue // slow or dead, nobody can say yet
		}
		if !known || slices.ContainsFunc(st.VMs, func(vm api.HostVM) bool { return vm.VM == v.ID && vm.Epoch == l.Epoch && up(vm) }) {
			continue // it runs, or has no volumes to run on yet
		}
		if err := s.restart(ctx, g, v, host, l.Epoch, copied.Disks); err != nil {
			s.log.Warn("vm not started again", "group", string(g.ID), "vm", string(v.ID), "error", err)
		}
		s.bump(g.ID)
	}
	return need{}, false
}

// copyHere is what the site's replicator tells of its copy of a group. Not known: it is silent or still opens the group, as one
// does that was just started again; or it has stopped the group for good, which no new epoch would mend. A replicator that was
// started again, or gave up serving, refuses the epoch it served under from then on, so only a new one helps.
func (s *service) copyHere(ctx context.Context, g domain.GroupID) (api.GroupStatus, bool) {
	st, err := call[api.ReplicatorStatus](ctx, s, s.cfg.Timings.Call/2, api.ServiceReplicator, api.VerbStatus, api.GroupRequest{Group: g})
	if err != nil {
		return api.GroupStatus{}, false
	}
	i := slices.IndexFunc(st.Groups, func(have api.GroupStatus) bool { return have.Group == g })
	if i < 0 {
		return api.GroupStatus{}, false
	}
	if why := st.Groups[i].Error; why != "" {
		s.log.Warn("group has stopped at this site's replicator", "group", string(g), "error", why)
		return api.GroupStatus{}, false
	}
	return st.Groups[i], true
}

// livedThrough reports whether a copy has begun an epoch, or a later one: a copy serves none twice, whether or not the run that
// had it begin the epoch came to its end.
func livedThrough(copied api.GroupStatus, e domain.Epoch) bool {
	return slices.ContainsFunc(copied.Lineage, func(l api.LineageEntry) bool { return l.Epoch >= e })
}

// servedNoMore reports whether the site's copy has begun the epoch, does not serve, and so never will under it.
func (s *service) servedNoMore(ctx context.Context, g domain.GroupID, e domain.Epoch) bool {
	copied, known := s.copyHere(ctx, g)
	return known && !copied.Serving && livedThrough(copied, e)
}

// again is the need of a group that no run under the epoch brought up. Where a VM may run on a host that is dead, or nobody
// knows where it may run, only a new epoch lets it start anywhere.
func (s *service) again(ctx context.Context, g domain.Group, e domain.Epoch, known bool) need {
	if !known {
		return need{g.ID, e, "no run under epoch " + e.String() + " is known that says where its vms were started"}
	}
	for _, v := range g.VMs {
		if h := s.placed(g.ID, e, v.ID); h != "" && s.hostDead(ctx, h) {
			return need{g.ID, e, fmt.Sprintf("host %s, on which vm %s may run, is dead", h, v.ID)}
		}
	}
	return need{group: g.ID, reason: "its last run under epoch " + e.String() + " did not complete"}
}

// broughtUp reports whether the last run led here under the epoch did all its steps for the group, and whether there is one.
func (s *service) broughtUp(g domain.GroupID, e domain.Epoch) (complete, known bool) {
	s.mu.Lock()
	runs := slices.Clone(s.runs)
	s.mu.Unlock()
	for _, l := range slices.Backward(runs) {
		r := l.Snapshot()
		if r.Leader == s.cfg.Site && r.Epochs[g] == e {
			return !slices.ContainsFunc(r.Steps, func(st api.Step) bool { return st.Group == g && st.State != api.StepDone }), true
		}
	}
	return false, false
}

// restart starts a VM that died again, on the host it was on, under the same epoch.
func (s *service) restart(ctx context.Context, g domain.Group, v domain.VM, h domain.HostID, e domain.Epoch, disks []api.Disk) (err error) {
	s.starting.Lock()
	defer s.starting.Unlock()
	if _, down := s.isEvacuated(g.ID); down || s.active(g.ID) != "" {
		return nil
	}
	ctx, span := s.tracer.Start(s.incidentTrace(ctx), "restart vm")
	defer func() { telemetry.End(span, err) }()
	s.log.Info("vm is started again", "group", string(g.ID), "vm", string(v.ID), "host", string(h))
	_, err = s.startOn(ctx, h, "", g.ID, e, v, disks)
	return err
}

// unused reports whether a lease that is held here is one a run won and could not use. A forced one is not: people took it for what
// they are about to do here, and the site that is to serve is the lost one until they have.
func unused(g api.GroupDesired, l api.Lease) bool { return l.Held && l.Epoch > g.Epoch && !l.Forced }

// giveBack releases a lease that a run won and could not use, for the site that is to serve. Only when nothing can be written
// here: no VM up and no volume served.
func (s *service) giveBack(ctx context.Context, g api.GroupDesired, l api.Lease) {
	if err := s.stopGroup(ctx, g.Group, l.Epoch, 0); err != nil {
		return
	}
	st, err := call[api.ReplicatorStatus](ctx, s, s.cfg.Timings.Call, api.ServiceReplicator, api.VerbStatus, api.GroupRequest{Group: g.Group.ID})
	if err != nil || slices.ContainsFunc(st.Groups, func(have api.GroupStatus) bool { return have.Group == g.Group.ID && have.Serving }) {
		return
	}
	s.log.Info("unused lease is released", "group", string(g.Group.ID), "epoch", l.Epoch.String())
	_, err = call[api.Empty](ctx, s, 5*s.cfg.Timings.Call, api.ServiceQuorum, api.VerbRelease, api.ReleaseRequest{Group: g.Group.ID, Epoch: l.Epoch, Successor: g.Site})
	if err != nil {
		s.log.Debug("unused lease not released", "error", err)
	}
}

const traceFresh = 2 * time.Minute

// incidentTrace is ctx within the trace of this site's last incident, when that was opened lately.
func (s *service) incidentTrace(ctx context.Context) context.Context {
	return s.eventTrace(ctx, api.EventSubject(s.cfg.Site, "incident", string(s.cfg.Site), "opened"))
}

func (s *service) eventTrace(ctx context.Context, subject string) context.Context {
	return eventTrace(ctx, s.mesh.Local(), subject)
}

func eventTrace(ctx context.Context, conn *bus.Conn, subject string) context.Context {
	rec, err := conn.Last(ctx, api.StreamEvents, subject)
	if err != nil || time.Since(rec.Time) > traceFresh {
		return ctx
	}
	e, _, err := event.Decode(rec.Data)
	if err != nil {
		return ctx
	}
	return telemetry.WithParent(ctx, e.TraceParent)
}

// bump makes the next attempt for a group wait, longer each time.
func (s *service) bump(g domain.GroupID) { s.bumpTo(g, s.cfg.Timings.Backoff) }

func (s *service) bumpTo(g domain.GroupID, longest time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, now := s.backoff[g], clock.Now()
	b.wait = min(max(2*b.wait, time.Second), longest)
	if b.next != 0 && now.Sub(b.next) > s.cfg.Timings.Backoff {
		b.wait = time.Second
	}
	b.next = now.Add(b.wait)
	s.backoff[g] = b
}

// failing reports whether the last run of a group failed.
func (s *service) failing(g domain.GroupID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.backoff[g].wait > 0
}

func (s *service) calm(g domain.GroupID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.backoff, g)
}

func (s *service) calmNow(g domain.GroupID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !clock.Now().Before(s.backoff[g].next)
}
