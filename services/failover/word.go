package failover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/holdfast-dr/holdfast/pkg/access"
	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/audit"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/failover/declaration"
)

// speaker is who says something: what its request proves, or, where requests are not signed, what it says.
func speaker(ctx context.Context, by, host, why string) (declaration.Word, error) {
	w := declaration.Word{Operator: true, Approval: api.Approval{By: by, Host: host, Why: why}}
	if c, ok := bus.CallerOf(ctx); ok {
		w.By, w.Claimed, w.Operator = c.String(), by, c.Kind() == access.Operator
	}
	if w.Why == "" || w.By == "" {
		return w, fmt.Errorf("%w: say why, and by whom: both are kept in the audit", domain.ErrInvalid)
	}
	return w, nil
}

// hear takes a person's word, makes what follows from it durable, and begins its runs.
func (s *service) hear(ctx context.Context, w declaration.Word, list api.GroupList) (api.Declaration, error) {
	l := s.ledger
	l.deciding.Lock()
	defer l.deciding.Unlock()
	if err := s.recall(ctx); err != nil {
		return api.Declaration{}, err
	}
	concerned := s.concerned(w, list)
	in := s.declarationInput(list, concerned)
	in.Losses = s.fresh()
	for _, g := range w.Groups {
		if why := in.Held[g]; w.What == declaration.Open && why != "" {
			return api.Declaration{}, fmt.Errorf("%w: %s", domain.ErrRefused, why)
		}
	}
	next, acts, d, err := declaration.Hear(l.now(), in, w)
	if err != nil {
		return d, err
	}
	return d, s.carryOut(ctx, next, acts, list, concerned)
}

// concerned are the groups that a word is about: those named; else those of the declaration, or of the lost site.
func (s *service) concerned(w declaration.Word, list api.GroupList) []domain.GroupID {
	if len(w.Groups) > 0 {
		return w.Groups
	}
	out := []domain.GroupID{}
	d, _ := s.ledger.now().Find(w.ID)
	for _, g := range d.Groups {
		if !api.DeclarationEnded(g.State) && g.State != api.DeclarationDeclared {
			out = append(out, g.Group)
		}
	}
	for _, g := range list.Groups {
		if w.What == declaration.Open && g.Site == w.Site {
			out = append(out, g.Group.ID)
		}
	}
	return out
}

// declareByHand is a failover that a person starts: its word that the site is lost, and how it wants it answered.
func (s *service) declareByHand(ctx context.Context, o order, req api.RunStartRequest, list api.GroupList) (api.RunStarted, error) {
	fail := func(err error) (api.RunStarted, error) {
		return api.RunStarted{}, fmt.Errorf("start run of plan %s: %w", o.plan.ID, err)
	}
	w, err := speaker(ctx, req.By, req.Host, req.Reason)
	if err != nil {
		return fail(err)
	}
	if o.id == "" {
		o.id = domain.RunID(ulid.Make().String())
	}
	w.What, w.Site, w.Groups, w.AcceptLoss, w.Orders = declaration.Open, o.from, o.groups, req.AcceptLoss, map[domain.GroupID]api.DeclaredOrder{}
	for _, g := range o.groups {
		w.Orders[g] = api.DeclaredOrder{Run: o.id, Plan: o.plan.ID, Checkpoint: o.checkpoints[g]}
	}
	d, err := s.hear(ctx, w, list)
	if err != nil {
		return fail(err)
	}
	awaiting := awaitingOf(d, o.groups)
	if l := s.find(o.id); l != nil {
		return api.RunStarted{Run: l.Snapshot(), Awaiting: awaiting}, nil
	}
	if awaiting != "" {
		return fail(fmt.Errorf("%w: %s", domain.ErrRefused, awaiting))
	}
	return fail(fmt.Errorf("%w: declaration %s is %s: see holdfast declaration show %s", domain.ErrConflict, d.ID, d.State, d.ID))
}

// awaitingOf says which of a person's groups need another one's approval; empty when none does.
func awaitingOf(d api.Declaration, groups []domain.GroupID) string {
	var out []string
	for _, g := range d.Groups {
		if slices.Contains(groups, g.Group) && g.State == api.DeclarationAwaiting {
			out = append(out, fmt.Sprintf("%d of %d for group %s", len(g.Approvals), g.Needed, g.Group))
		}
	}
	if len(out) == 0 {
		return ""
	}
	return fmt.Sprintf("declaration %s has your approval, %s: another person approves it with holdfast declaration approve %s --why", d.ID, strings.Join(out, ", "), d.ID)
}

func (s *service) declarationOpen(ctx context.Context, req api.DeclarationOpenRequest) (api.Declaration, error) {
	d, err := s.tryOpen(ctx, req)
	s.noteRefused(ctx, "declaration_open_refused", d.ID, req.By, req.Host, req.Why, req, err)
	return d, err
}

func (s *service) tryOpen(ctx context.Context, req api.DeclarationOpenRequest) (api.Declaration, error) {
	fail := func(err error) (api.Declaration, error) {
		return api.Declaration{}, fmt.Errorf("open declaration of the loss of site %s: %w", req.Site, err)
	}
	w, err := speaker(ctx, req.By, req.Host, req.Why)
	if err != nil {
		return fail(err)
	}
	list, err := s.store.All(ctx)
	if err != nil {
		return fail(err)
	}
	groups := req.Groups
	if len(groups) == 0 {
		for _, g := range list.Groups {
			if g.Site == req.Site {
				groups = append(groups, g.Group.ID)
			}
		}
	}
	if err := s.notServed(ctx, groups, req.Site); err != nil {
		return fail(err)
	}
	s.survey(ctx, groups, list)
	w.What, w.Site, w.Groups, w.AcceptLoss = declaration.Open, req.Site, req.Groups, req.AcceptLoss
	return s.hear(ctx, w, list)
}

func (s *service) declarationApprove(ctx context.Context, req api.DeclarationWordRequest) (api.Declaration, error) {
	d, err := s.tryWord(ctx, declaration.Approve, req)
	s.noteRefused(ctx, "declaration_approve_refused", req.ID, req.By, req.Host, req.Why, req, err)
	return d, err
}

func (s *service) declarationWithdraw(ctx context.Context, req api.DeclarationWordRequest) (api.Declaration, error) {
	d, err := s.tryWord(ctx, declaration.Withdraw, req)
	s.noteRefused(ctx, "declaration_withdraw_refused", req.ID, req.By, req.Host, req.Why, req, err)
	return d, err
}

func (s *service) tryWord(ctx context.Context, what string, req api.DeclarationWordRequest) (api.Declaration, error) {
	fail := func(err error) (api.Declaration, error) {
		return api.Declaration{}, fmt.Errorf("%s declaration %s: %w", what, req.ID, err)
	}
	w, err := speaker(ctx, req.By, req.Host, req.Why)
	if err != nil {
		return fail(err)
	}
	have, err := s.declarationShow(ctx, api.DeclarationShowRequest{ID: req.ID})
	if err != nil {
		return have, err
	}
	if have.Leader != s.cfg.Site {
		return fail(fmt.Errorf("%w: site %s leads it: ask that site", domain.ErrRefused, have.Leader))
	}
	list, err := s.store.All(ctx)
	if err != nil {
		return fail(err)
	}
	if what == declaration.Approve && !api.DeclarationEnded(have.State) {
		groups := req.Groups
		for _, g := range have.Groups {
			if len(req.Groups) == 0 && !api.DeclarationEnded(g.State) && g.State != api.DeclarationDeclared {
				groups = append(groups, g.Group)
			}
		}
		if err := s.notServed(ctx, groups, have.Site); err != nil {
			return fail(err)
		}
	}
	w.What, w.ID, w.Groups, w.AcceptLoss, w.Epochs = what, req.ID, req.Groups, req.AcceptLoss, req.Epochs
	return s.hear(ctx, w, list)
}

// noteRefused keeps a word that was refused in the audit. One that was heard is kept with the declaration's acts.
func (s *service) noteRefused(ctx context.Context, what string, id domain.DeclarationID, by, host, why string, req any, err error) {
	if what = audit.Outcome("", what, err); what == "" {
		return
	}
	e := audit.Entry{Who: audit.Who(ctx), Claimed: by, From: host, Why: why, What: what}
	if runToken.MatchString(string(id)) {
		e.What += "." + ulid.Make().String() // each refusal of one declaration is an entry of its own
		e.Run = domain.RunID(id)
	}
	if data, merr := json.Marshal(struct {
		Request any    `json:"request"`
		Refusal string `json:"refusal"`
	}{req, err.Error()}); merr == nil {
		e.Data = data
	}
	audit.Note(ctx, s.mesh.Local(), s.log, e)
}

// declarationList is the declaration_list verb.
func (s *service) declarationList(ctx context.Context, _ api.Empty) (api.DeclarationList, error) {
	out := api.DeclarationList{Declarations: slices.Clone(s.ledger.now().List)}
	copied, bad, err := s.jour.LoadDeclarations(ctx, "", "*", keptDeclarations, nil)
	if err != nil {
		return out, err
	}
	for _, why := range bad {
		s.log.Warn("a declaration is not listed", "error", why)
	}
	for _, d := range copied {
		if d.Leader != s.cfg.Site {
			out.Declarations = append(out.Declarations, d.Declaration)
		}
	}
	slices.SortFunc(out.Declarations, func(a, b api.Declaration) int { return b.Opened.Compare(a.Opened) })
	return out, nil
}

// declarationShow is the declaration_show verb: of an open one that this site leads, with what taking its groups over would bring now.
func (s *service) declarationShow(ctx context.Context, req api.DeclarationShowRequest) (api.Declaration, error) {
	if !runToken.MatchString(string(req.ID)) {
		return api.Declaration{}, fmt.Errorf("show declaration %q: %w: want 1 to 64 letters, digits and '-'", req.ID, domain.ErrInvalid)
	}
	d, mine := s.ledger.now().Find(req.ID)
	if !mine {
		return s.findDeclaration(ctx, req.ID)
	}
	if api.DeclarationEnded(d.State) {
		return d, nil
	}
	list, err := s.store.All(ctx)
	if err != nil {
		return d, err
	}
	var groups []domain.GroupID
	for _, g := range d.Groups {
		if !api.DeclarationEnded(g.State) {
			groups = append(groups, g.Group)
		}
	}
	s.survey(ctx, groups, list)
	l := s.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	d.Votes, d.Groups = l.votes, slices.Clone(d.Groups)
	for i := range d.Groups {
		if v, ok := l.surveys[d.Groups[i].Group]; ok && slices.Contains(groups, d.Groups[i].Group) {
			d.Groups[i].Survey = &v
		}
	}
	return d, nil
}

func (s *service) findDeclaration(ctx context.Context, id domain.DeclarationID) (api.Declaration, error) {
	all, err := s.declarationList(ctx, api.Empty{})
	if err != nil {
		return api.Declaration{}, err
	}
	i := slices.IndexFunc(all.Declarations, func(d api.Declaration) bool { return d.ID == id })
	if i < 0 {
		return api.Declaration{}, fmt.Errorf("show declaration %s: %w: see holdfast declaration list", id, domain.ErrNotFound)
	}
	return all.Declarations[i], nil
}

// surveyOpen looks, in the background and every few seconds, at what the open declarations would bring.
func (s *service) surveyOpen(ctx context.Context) {
	l := s.ledger
	var groups []domain.GroupID
	for _, d := range l.now().List {
		for _, g := range d.Groups {
			if !api.DeclarationEnded(d.State) && !api.DeclarationEnded(g.State) {
				groups = append(groups, g.Group)
			}
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(groups) == 0 || l.asking || l.surveyed != 0 && clock.Now().Sub(l.surveyed) < surveyEvery {
		return
	}
	l.asking, l.surveyed = true, clock.Now()
	s.wg.Go(func() {
		defer func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.asking = false
		}()
		if list, err := s.store.All(ctx); err == nil {
			s.survey(ctx, groups, list)
		}
	})
}

const surveyEvery = 5 * time.Second

// survey asks the own replicator, hosts and quorum what taking groups over would bring.
func (s *service) survey(ctx context.Context, groups []domain.GroupID, list api.GroupList) {
	seen := map[domain.GroupID]api.DeclarationSurvey{}
	losses := s.estimates(ctx, groups, nil)
	for _, g := range list.Groups {
		if slices.Contains(groups, g.Group.ID) {
			v := s.fits(g.Group)
			v.Loss, v.At = losses[g.Group.ID], time.Now().UTC()
			seen[g.Group.ID] = v
		}
	}
	st, err := call[api.QuorumStatus](ctx, s, s.cfg.Timings.Call/2, api.ServiceQuorum, api.VerbStatus, api.Empty{})
	l := s.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.Copy(l.surveys, seen)
	switch {
	case err == nil:
		l.votes = st.Voters
	case !errors.Is(err, context.Canceled):
		l.votes = nil
	}
}

// fits says which VMs of a group find a host here that answers.
func (s *service) fits(g domain.Group) api.DeclarationSurvey {
	v := api.DeclarationSurvey{Fit: []domain.VMID{}, NotFit: []string{}}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, vm := range g.VMs {
		hosts := vm.Sites[s.cfg.Site].Hosts
		switch {
		case len(hosts) == 0:
			v.NotFit = append(v.NotFit, fmt.Sprintf("vm %s: it has no host at site %s", vm.ID, s.cfg.Site))
		case !slices.ContainsFunc(hosts, func(h domain.HostID) bool { view, ok := s.hosts[h]; return ok && view.err == nil }):
			v.NotFit = append(v.NotFit, fmt.Sprintf("vm %s: no host of %v answers", vm.ID, hosts))
		default:
			v.Fit = append(v.Fit, vm.ID)
		}
	}
	return v
}
