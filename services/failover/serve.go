package failover

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/oklog/ulid/v2"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/audit"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/failover/policy"
)

func (s *service) endpoints() map[string]bus.Endpoint {
	return map[string]bus.Endpoint{
		api.VerbEvacuate: bus.Answer(s.evacuate),
		api.VerbRunStart: bus.Answer(s.runStart),
		api.VerbRunList:  bus.Answer(s.runList),
		api.VerbRunShow:  bus.Answer(s.runShow),
		api.VerbGroupList: bus.Answer(func(ctx context.Context, _ api.Empty) (api.GroupList, error) {
			return s.store.All(ctx)
		}),
		api.VerbGroupSet:            bus.Answer(s.groupSet),
		api.VerbDeclarationList:     bus.Answer(s.declarationList),
		api.VerbDeclarationShow:     bus.Answer(s.declarationShow),
		api.VerbDeclarationOpen:     bus.Answer(s.declarationOpen),
		api.VerbDeclarationApprove:  bus.Answer(s.declarationApprove),
		api.VerbDeclarationWithdraw: bus.Answer(s.declarationWithdraw),
		api.VerbDrain:               bus.Answer(s.drain),
		api.VerbUndrain:             bus.Answer(s.undrain),
		api.VerbTake:                bus.Answer(s.take),
		api.VerbStatus:              bus.Answer(s.status),
	}
}

var runToken = regexp.MustCompile(`^[A-Za-z0-9-]{1,64}$`)

// runStart is the run_start verb. A refusal is kept in the audit; a run that starts keeps itself there (see announce).
func (s *service) runStart(ctx context.Context, req api.RunStartRequest) (api.RunStarted, error) {
	r, err := s.tryRunStart(ctx, req)
	if what := audit.Outcome("", "run_start_refused", err); what != "" {
		e := audit.Entry{Who: audit.Who(ctx), Claimed: req.By, From: req.Host, Why: req.Reason, What: what, Run: req.ID}
		if !runToken.MatchString(string(e.Run)) {
			e.Run = ""
		}
		if data, merr := json.Marshal(struct {
			Request api.RunStartRequest `json:"request"`
			Refusal string              `json:"refusal"`
		}{req, err.Error()}); merr == nil {
			e.Data = data
		}
		audit.Note(ctx, s.mesh.Local(), s.log, e)
	}
	return r, err
}

func (s *service) tryRunStart(ctx context.Context, req api.RunStartRequest) (api.RunStarted, error) {
	if req.ID != "" {
		if !runToken.MatchString(string(req.ID)) {
			return api.RunStarted{}, fmt.Errorf("start run %q: %w: want 1 to 64 letters, digits and '-'", req.ID, domain.ErrInvalid)
		}
		if r, err := s.runShow(ctx, api.RunShowRequest{ID: req.ID}); !errors.Is(err, domain.ErrNotFound) {
			return api.RunStarted{Run: r}, err
		}
	}
	list, err := s.store.All(ctx)
	if err != nil {
		return api.RunStarted{}, err
	}
	o, err := s.orderOf(ctx, req, list)
	if err != nil {
		return api.RunStarted{}, fmt.Errorf("start run of plan %s: %w", req.Plan, err)
	}
	if o.kind == api.RunFailover {
		return s.declareByHand(ctx, o, req, list)
	}
	l, err := s.launch(ctx, o, list)
	if err != nil {
		return api.RunStarted{}, err
	}
	return api.RunStarted{Run: l.Snapshot()}, nil
}

// orderOf makes an order of a person's request, with every refusal that can be said beforehand.
func (s *service) orderOf(ctx context.Context, req api.RunStartRequest, list api.GroupList) (order, error) {
	i := slices.IndexFunc(list.Plans, func(p domain.Plan) bool { return p.ID == req.Plan })
	if i < 0 {
		return order{}, fmt.Errorf("%w: there is no such plan", domain.ErrNotFound)
	}
	o := order{id: req.ID, plan: list.Plans[i], kind: req.Kind, from: req.From, reason: req.Reason, by: req.By, host: req.Host,
		estimate: map[domain.GroupID]api.LossEstimate{}, acceptLoss: map[domain.GroupID]bool{}}
	if req.Kind == api.RunFailover && (!req.Declared || req.Reason == "" || req.By == "") {
		return o, fmt.Errorf("%w: a failover is a declared disaster: say declared, reason and by", domain.ErrInvalid)
	}
	if caller, ok := bus.CallerOf(ctx); ok {
		o.by, o.claimed = caller.String(), req.By
	}
	if err := s.concern(&o, req, list); err != nil {
		return o, err
	}
	if req.Kind == api.RunFailover {
		for _, id := range o.groups {
			o.estimate[id] = s.estimate(ctx, id, 0)
			o.acceptLoss[id] = req.AcceptLoss
			if policy.ModeFrom(list, id, o.from, s.cfg.Site) == domain.ModeAsync && !req.AcceptLoss {
				return o, fmt.Errorf("%w: group %s is asynchronous: %s would be lost; accept the loss to go on", domain.ErrRefused, id, o.estimate[id].About())
			}
		}
		if err := s.notServed(ctx, o.groups, o.from); err != nil {
			return o, err
		}
	}
	return o, s.atCheckpoints(ctx, &o, req)
}

// atCheckpoints takes over which groups are to be brought back to a checkpoint, and what that loses.
func (s *service) atCheckpoints(ctx context.Context, o *order, req api.RunStartRequest) error {
	for id, lsn := range req.Checkpoints {
		e, err := s.estimateAt(ctx, id, lsn)
		switch {
		case lsn == 0 || !slices.Contains(o.groups, id):
			return fmt.Errorf("%w: checkpoint %d of group %s, which this run does not move", domain.ErrInvalid, lsn, id)
		case err != nil:
			return fmt.Errorf("checkpoint %d of group %s: %w", lsn, id, err)
		case !req.AcceptLoss:
			return fmt.Errorf("%w: group %s would lose %s; accept the loss to go on", domain.ErrRefused, id, e.Text)
		}
		o.estimate[id], o.acceptLoss[id] = e, true
	}
	o.checkpoints = req.Checkpoints
	return nil
}

// notServed refuses a failover of groups whose site answers and holds their lease: the quorum would not grant it to this site
// before that one loses it, and then perhaps long after the person looked.
func (s *service) notServed(ctx context.Context, groups []domain.GroupID, from domain.SiteID) error {
	if !s.isPeerUp(from) {
		return nil
	}
	for _, g := range groups {
		l, err := callPeer[api.Lease](ctx, s, from, s.cfg.Timings.Call/2, api.ServiceQuorum, api.VerbLease, api.LeaseRequest{Group: g})
		if err != nil {
			return nil //nolint:nilerr // it cannot say: the quorum decides
		}
		if l.Held {
			return fmt.Errorf("%w: site %s is not lost: it answers, and holds the lease of group %s under epoch %s: start a switchover, or stop the site first", domain.ErrRefused, from, g, l.Epoch)
		}
	}
	return nil
}

// concern picks the groups of the request, and the site they come from.
func (s *service) concern(o *order, req api.RunStartRequest, list api.GroupList) error {
	at := map[domain.GroupID]api.GroupDesired{}
	for _, g := range list.Groups {
		at[g.Group.ID] = g
	}
	for _, pg := range o.plan.Groups {
		g, ok := at[pg.Group]
		if !ok || len(req.Groups) > 0 && !slices.Contains(req.Groups, pg.Group) {
			continue
		}
		here := g.Site == s.cfg.Site
		switch {
		case req.Kind == api.RunStart && !here, req.Kind != api.RunStart && here,
			req.Kind == api.RunFailback && g.Group.Home != s.cfg.Site,
			req.Kind != api.RunStart && req.From != "" && g.Site != req.From:
			if len(req.Groups) > 0 {
				return fmt.Errorf("%w: group %s is at site %s: a %s to site %s does not concern it", domain.ErrRefused, pg.Group, g.Site, req.Kind, s.cfg.Site)
			}
			continue
		}
		if req.Kind != api.RunStart && o.from == "" {
			o.from = g.Site
		}
		if req.Kind != api.RunStart && g.Site != o.from {
			return fmt.Errorf("%w: its groups are at sites %s and %s: say from", domain.ErrInvalid, o.from, g.Site)
		}
		o.groups = append(o.groups, pg.Group)
	}
	for _, id := range req.Groups {
		if !slices.Contains(o.groups, id) {
			return fmt.Errorf("%w: group %s is not in the plan", domain.ErrNotFound, id)
		}
	}
	if len(o.groups) == 0 {
		return fmt.Errorf("%w: no group of it is concerned by a %s to site %s", domain.ErrRefused, req.Kind, s.cfg.Site)
	}
	return nil
}

// mine are the runs led here, as they stand.
func (s *service) mine() []api.Run {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []api.Run
	for _, l := range s.runs {
		if r := l.Snapshot(); r.Leader == s.cfg.Site {
			out = append(out, r)
		}
	}
	return out
}

func (s *service) runList(ctx context.Context, _ api.Empty) (api.RunList, error) {
	out := s.mine()
	stored, err := s.jour.Load(ctx, s.cfg.Site, keptRuns, func(id domain.RunID) bool {
		return slices.ContainsFunc(out, func(r api.Run) bool { return r.ID == id })
	})
	if err != nil {
		return api.RunList{}, err
	}
	for _, l := range stored {
		out = append(out, l.Snapshot())
	}
	slices.SortFunc(out, func(a, b api.Run) int { return b.Started.Compare(a.Started) })
	return api.RunList{Runs: out}, nil
}

func (s *service) runShow(ctx context.Context, req api.RunShowRequest) (api.Run, error) {
	if !runToken.MatchString(string(req.ID)) {
		return api.Run{}, fmt.Errorf("show run %q: %w: want 1 to 64 letters, digits and '-'", req.ID, domain.ErrInvalid)
	}
	if l := s.find(req.ID); l != nil {
		if r := l.Snapshot(); r.Leader == s.cfg.Site {
			return r, nil
		}
	}
	l, err := s.jour.Find(ctx, s.cfg.Site, req.ID)
	if err != nil {
		return api.Run{}, err
	}
	return l.Snapshot(), nil
}

func (s *service) status(ctx context.Context, _ api.Empty) (api.FailoverStatus, error) {
	out := api.FailoverStatus{Site: s.cfg.Site}
	list, err := s.store.All(ctx)
	if err != nil {
		return out, err
	}
	out.Groups, out.Drain = list.Groups, s.store.Drained(s.cfg.Site)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.runs {
		if r := l.Snapshot(); r.State == api.StepRunning && r.Leader == s.cfg.Site {
			out.Active = append(out.Active, r)
		}
	}
	for _, h := range s.hosts {
		out.VMs = append(out.VMs, h.status.VMs...)
	}
	slices.SortFunc(out.VMs, func(a, b api.HostVM) int { return strings.Compare(string(a.VM), string(b.VM)) })
	return out, nil
}

// takeCommands carries out hf.v1.cmd.<site>.plan.<id>.run from the site's work queue: a RunStartRequest. A command leaves the
// queue when its run is durable, or when it can never be one.
func (s *service) takeCommands(ctx context.Context) {
	filter := api.CommandSubject(s.cfg.Site, "plan", "x", "run")
	filter = strings.Replace(filter, ".x.", ".*.", 1)
	err := s.mesh.Local().Work(ctx, api.StreamCommands, "failover", filter, func(ctx context.Context, rec bus.Record) error {
		var req api.RunStartRequest
		if err := json.Unmarshal(rec.Data, &req); err != nil {
			s.log.Warn("command not readable", "subject", rec.Subject, "error", err)
			return nil
		}
		if req.ID == "" { // the same for a redelivery
			sum := sha256.Sum256(append([]byte(rec.Subject+rec.Time.String()), rec.Data...))
			id, err := ulid.New(ulid.Timestamp(rec.Time), bytes.NewReader(sum[:]))
			if err != nil {
				return fmt.Errorf("name the run of a command: %w", err)
			}
			req.ID = domain.RunID(id.String())
		}
		if part := strings.Split(rec.Subject, "."); req.Plan == "" && len(part) == 7 {
			req.Plan = domain.PlanID(part[5])
		}
		_, err := s.runStart(ctx, req)
		if errors.Is(err, domain.ErrUnavailable) {
			return err
		}
		if err != nil {
			s.log.Warn("command refused", "subject", rec.Subject, "error", err)
		}
		return nil
	})
	if err != nil {
		s.log.Error("commands not taken", "error", err)
	}
}
