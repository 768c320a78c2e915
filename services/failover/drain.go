package failover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/audit"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
	"github.com/holdfast-dr/holdfast/services/failover/policy"
)

// drain is the drain verb. What was begun and what was refused is kept in the audit.
func (s *service) drain(ctx context.Context, req api.DrainRequest) (api.Drain, error) {
	d, begun, err := s.tryDrain(ctx, req)
	if begun || err != nil && !req.DryRun {
		s.auditSite(ctx, audit.Outcome("site_drain", "site_drain_refused", err), req.By, req.Host, req.Reason, d, err)
	}
	return d, err
}

func (s *service) auditSite(ctx context.Context, what, claimed, host, why string, d api.Drain, refusal error) {
	if what == "" {
		return
	}
	e := audit.Entry{Who: audit.Who(ctx), Claimed: claimed, From: host, Why: why, What: what}
	record := struct {
		Drain   api.Drain `json:"drain"`
		Refusal string    `json:"refusal,omitempty"`
	}{Drain: d}
	if refusal != nil {
		record.Refusal = refusal.Error()
	}
	e.Data, _ = json.Marshal(record) // plain fields always encode
	audit.Note(ctx, s.mesh.Local(), s.log, e)
}

// tryDrain plans, and unless only the plan is asked for makes it durable. begun: it did that.
func (s *service) tryDrain(ctx context.Context, req api.DrainRequest) (d api.Drain, begun bool, err error) {
	if req.Reason == "" {
		return d, false, fmt.Errorf("drain site %s: %w: say why: it is kept in the audit", s.cfg.Site, domain.ErrInvalid)
	}
	have, err := s.store.Site(ctx, s.cfg.Site)
	if err != nil {
		return d, false, err
	}
	if have.Drain != nil && have.Drain.State == api.DrainDraining {
		return *have.Drain, false, nil
	}
	list, err := s.store.All(ctx)
	if err != nil {
		return d, false, err
	}
	d = api.Drain{State: api.DrainPlanned, Reason: req.Reason, By: audit.Who(ctx), ClaimedBy: req.By, Host: req.Host, Began: time.Now().UTC()}
	d.Runs, d.Stays = policy.Drain(s.drainInput(ctx, list))
	if req.DryRun {
		return d, false, nil
	}
	d.State = api.DrainDraining
	for i := range d.Runs {
		d.Runs[i].ID = domain.RunID(ulid.Make().String())
	}
	s.starting.Lock() // nothing is begun here between this look and the durable word
	defer s.starting.Unlock()
	if id := s.arriving(); id != "" {
		return d, false, fmt.Errorf("drain site %s: %w: run %s brings groups here: wait for its end", s.cfg.Site, domain.ErrRefused, id)
	}
	now, err := s.store.All(ctx)
	if err != nil {
		return d, false, err
	}
	if got := policy.Arrived(s.cfg.Site, list, now); len(got) > 0 {
		return d, false, fmt.Errorf("drain site %s: %w: groups %v came here while it was planned: drain it again", s.cfg.Site, domain.ErrConflict, got)
	}
	if err := s.setDrain(ctx, have, &d, "drain_started"); err != nil {
		return d, false, err
	}
	s.log.Info("site is drained", "runs", len(d.Runs), "stays", len(d.Stays), "by", d.By, "reason", d.Reason)
	return d, true, nil
}

// arriving is a run led here that brings groups from another site.
func (s *service) arriving() domain.RunID {
	for _, r := range s.mine() {
		if r.State == api.StepRunning && r.Kind != api.RunStart {
			return r.ID
		}
	}
	return ""
}

// drainInput asks this site's replicator for its copies, and every other site that could take a group what stands against it.
func (s *service) drainInput(ctx context.Context, list api.GroupList) policy.DrainInput {
	in := policy.DrainInput{Self: s.cfg.Site, List: list, Against: map[domain.SiteID]map[domain.GroupID]string{}}
	if st, err := call[api.ReplicatorStatus](ctx, s, s.cfg.Timings.Call, api.ServiceReplicator, api.VerbStatus, api.GroupRequest{}); err == nil {
		in.Copies = st.Groups // without it no group is known to be ready, and all stay
	}
	wanted := map[domain.SiteID][]domain.GroupID{}
	for _, g := range list.Groups {
		if g.Site != s.cfg.Site {
			continue
		}
		for _, to := range g.Group.Heirs(s.cfg.Site) {
			wanted[to] = append(wanted[to], g.Group.ID)
		}
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, to := range slices.Sorted(maps.Keys(wanted)) {
		wg.Go(func() {
			r, err := callPeer[api.TakeReply](ctx, s, to, 2*s.cfg.Timings.Call, api.ServiceFailover, api.VerbTake, api.TakeRequest{From: s.cfg.Site, Groups: wanted[to], Check: true})
			if err != nil {
				s.log.Warn("site not asked what it takes", "peer", string(to), "error", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			in.Against[to] = r.Against
			if r.Against == nil {
				in.Against[to] = map[domain.GroupID]string{}
			}
		})
	}
	wg.Wait()
	return in
}

// setDrain writes a new version of what is wanted of this site, and tells of it.
func (s *service) setDrain(ctx context.Context, have api.SiteDesired, d *api.Drain, fact string) error {
	next, err := s.store.SetSite(ctx, have, d)
	if err != nil {
		return fmt.Errorf("drain site %s: %w", s.cfg.Site, err)
	}
	s.copies.wake()
	s.wake()
	if fact == "" {
		return nil
	}
	told := d
	if d == nil {
		told = have.Drain
	}
	s.publish(ctx, fmt.Sprintf("%s-%d-%s", s.cfg.Site, next.Version, fact), event.SiteDrainChanged{Fact: fact, Site: s.cfg.Site, By: told.By, Reason: told.Reason, Runs: told.Runs, Stays: told.Stays})
	return nil
}

// undrain is the undrain verb.
func (s *service) undrain(ctx context.Context, req api.UndrainRequest) (api.SiteDesired, error) {
	have, err := s.store.Site(ctx, s.cfg.Site)
	if err == nil && have.Drain == nil {
		err = s.exchanged() // a peer may know of a drain that was lost here
	}
	if err != nil || have.Drain == nil {
		return have, err
	}
	if err := s.setDrain(ctx, have, nil, "undrained"); err != nil {
		return have, err
	}
	s.auditSite(ctx, "site_undrain", req.By, req.Host, req.Reason, *have.Drain, nil)
	s.log.Info("site takes groups again", "by", audit.Who(ctx))
	return s.store.Site(ctx, s.cfg.Site)
}

// carryDrain carries out this site's drain, one run after another, until ctx ends. What is to be done and how far it is stands in
// desired state alone: started again, the service goes on there.
func (s *service) carryDrain(ctx context.Context) {
	silent := clock.Time(0) // since when the site that is to take a run's groups does not answer
	for clock.Sleep(ctx, s.cfg.Timings.Tick) == nil {
		have, err := s.store.Site(ctx, s.cfg.Site)
		if err != nil || have.Drain == nil || have.Drain.State != api.DrainDraining {
			silent = 0
			continue
		}
		d := *have.Drain
		d.Runs = slices.Clone(d.Runs)
		fact, changed := "", false
		if i, more := policy.NextRun(d); more {
			changed = s.carryRun(ctx, &d, i, &silent)
		} else if list, err := s.store.All(ctx); err == nil {
			d, fact, changed = policy.Finish(d, s.cfg.Site, list), "drained", true
			d.Ended = time.Now().UTC()
		}
		if !changed {
			continue
		}
		if err := s.setDrain(ctx, have, &d, fact); err != nil {
			s.log.Warn("progress of the drain not written", "error", err) // it is found again
		}
	}
}

// carryRun looks at one run of a drain, has it begun when it is not, and reports whether it stands otherwise than before.
func (s *service) carryRun(ctx context.Context, d *api.Drain, i int, silent *clock.Time) bool {
	r := &d.Runs[i]
	was := r.State
	run, err := callPeer[api.Run](ctx, s, r.To, s.cfg.Timings.Call, api.ServiceFailover, api.VerbRunShow, api.RunShowRequest{ID: r.ID})
	if errors.Is(err, domain.ErrNotFound) {
		var reply api.TakeReply
		reply, err = callPeer[api.TakeReply](ctx, s, r.To, 5*s.cfg.Timings.Call, api.ServiceFailover, api.VerbTake, api.TakeRequest{From: s.cfg.Site, Plan: r.Plan, Groups: r.Groups, ID: r.ID,
			Reason: fmt.Sprintf("site %s is drained: %s", s.cfg.Site, d.Reason), By: d.By, Host: d.Host})
		run = reply.Run
	}
	switch {
	case err == nil:
		*silent = 0
		r.State, r.Error = run.State, run.Error
	case errors.Is(err, domain.ErrUnavailable) || ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded):
		if *silent == 0 {
			*silent = clock.Now()
		}
		if clock.Now().Sub(*silent) <= s.cfg.Timings.Evacuated {
			return false
		}
		*silent, r.State, r.Error = 0, api.StepFailed, fmt.Sprintf("site %s did not answer for %s", r.To, s.cfg.Timings.Evacuated)
	default:
		*silent, r.State, r.Error = 0, api.StepFailed, err.Error()
	}
	return r.State != was
}

// take is the take verb: another site, which is drained, asks this one to take its groups over.
func (s *service) take(ctx context.Context, req api.TakeRequest) (api.TakeReply, error) {
	if c, ok := bus.CallerOf(ctx); ok && c.Site != req.From {
		return api.TakeReply{}, fmt.Errorf("take groups of site %s: %w: site %s asks: a site hands over its own groups only", req.From, domain.ErrRefused, c.Site)
	}
	list, err := s.store.All(ctx)
	if err != nil {
		return api.TakeReply{}, err
	}
	if req.Check {
		return s.checkTake(ctx, req, list), nil
	}
	if l := s.find(req.ID); l != nil {
		return api.TakeReply{Run: l.Snapshot()}, nil
	}
	if !runToken.MatchString(string(req.ID)) || len(req.Groups) == 0 {
		return api.TakeReply{}, fmt.Errorf("take groups %v of site %s in run %q: %w: want groups and a run's id", req.Groups, req.From, req.ID, domain.ErrInvalid)
	}
	o := order{id: req.ID, plan: policy.PlanOf(list, req.Groups[0]), kind: api.RunSwitchover, from: req.From, groups: req.Groups, reason: req.Reason,
		by: audit.Who(ctx), claimed: req.By, host: req.Host}
	for _, id := range req.Groups {
		if !slices.ContainsFunc(list.Groups, func(g api.GroupDesired) bool { return g.Group.ID == id && g.Site == req.From }) {
			return api.TakeReply{}, fmt.Errorf("take group %s: %w: it is not at site %s", id, domain.ErrRefused, req.From)
		}
	}
	l, err := s.launch(ctx, o, list)
	if err != nil {
		return api.TakeReply{}, err
	}
	return api.TakeReply{Run: l.Snapshot()}, nil
}

// checkTake says what stands against taking each group: a drain of this site, the plan, another run, and hosts that are dead. (Hosts have no sizes: a VM
// fits where a host that it may run on lives.) Whether the copy has everything, the site that serves it knows.
func (s *service) checkTake(ctx context.Context, req api.TakeRequest, list api.GroupList) api.TakeReply {
	out := api.TakeReply{Against: map[domain.GroupID]string{}}
	drained := s.drainedHere()
	for _, id := range req.Groups {
		if drained != nil {
			out.Against[id] = drained.Error()
		} else if why := s.against(ctx, id, req.From, list); why != "" {
			out.Against[id] = why
		}
	}
	return out
}

func (s *service) against(ctx context.Context, id domain.GroupID, from domain.SiteID, list api.GroupList) string {
	i := slices.IndexFunc(list.Groups, func(g api.GroupDesired) bool { return g.Group.ID == id })
	if i < 0 {
		return fmt.Sprintf("site %s does not know it yet", s.cfg.Site)
	}
	if busy := s.active(id); busy != "" {
		return fmt.Sprintf("run %s of site %s has it", busy, s.cfg.Site)
	}
	o := order{plan: policy.PlanOf(list, id), kind: api.RunSwitchover, from: from, groups: []domain.GroupID{id}}
	if _, err := s.build(o, list); err != nil {
		return err.Error()
	}
	for _, v := range list.Groups[i].Group.VMs {
		hosts := v.Sites[s.cfg.Site].Hosts
		if !slices.ContainsFunc(hosts, func(h domain.HostID) bool { return !s.hostDead(ctx, h) }) {
			return fmt.Sprintf("vm %s finds no host at site %s: %v are dead", v.ID, s.cfg.Site, hosts)
		}
	}
	return ""
}

// drainedHere refuses what would bring a group to this site while it is drained.
func (s *service) drainedHere() error {
	d := s.store.Drained(s.cfg.Site)
	if d == nil {
		return nil
	}
	return fmt.Errorf("%w: site %s is drained (%s): holdfast site undrain %s lets it take groups again", domain.ErrRefused, s.cfg.Site, d.Reason, s.cfg.Site)
}
