package declaration

import (
	"fmt"
	"slices"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// What a person can say.
const (
	Open     = "open"     // a site is lost
	Approve  = "approve"  // take these groups over
	Withdraw = "withdraw" // do not
)

// Word is what a person says.
type Word struct {
	What     string
	ID       domain.DeclarationID                 // of an approval and a withdrawal
	Site     domain.SiteID                        // of an opening: the lost one
	Groups   []domain.GroupID                     // none: all that are concerned
	Epochs   map[domain.GroupID]domain.Epoch      // as the person saw them; empty: as they are
	Operator bool                                 // the person may decide, as far as can be proved
	Orders   map[domain.GroupID]api.DeclaredOrder // wants one attempt made like this; nil: as the policy would
	api.Approval
}

// Hear takes a person's word and decides. It changes nothing when it refuses. A repeat changes nothing. Errors: domain.ErrRefused,
// domain.ErrStaleEpoch, domain.ErrNotFound, domain.ErrInvalid.
func Hear(s State, in Input, w Word) (State, Actions, api.Declaration, error) {
	d := begin(s, in)
	w.At = d.now
	id, err := d.hear(w)
	if err != nil {
		return s, Actions{}, api.Declaration{}, fmt.Errorf("%s declaration%s: %w", w.What, about(w), err)
	}
	d.follow()
	next, acts := d.end()
	x, _ := next.Find(id)
	return next, acts, x, nil
}

func about(w Word) string {
	if w.ID != "" {
		return " " + string(w.ID)
	}
	return " of the loss of site " + string(w.Site)
}

func (d *decision) hear(w Word) (domain.DeclarationID, error) {
	switch {
	case !w.Operator:
		return "", fmt.Errorf("%w: %s is no operator: only operators decide", domain.ErrRefused, w.By)
	case w.Why == "" || w.By == "":
		return "", fmt.Errorf("%w: say why, and who you are", domain.ErrInvalid)
	case w.What == Open:
		return d.hearOpen(w)
	}
	x := d.byID(w.ID)
	if x == nil {
		return "", fmt.Errorf("%w: this site leads none of that id: see holdfast declaration list", domain.ErrNotFound)
	}
	if api.DeclarationEnded(x.State) {
		return "", fmt.Errorf("%w: it is %s", domain.ErrRefused, x.State)
	}
	groups, err := d.chosen(x, w)
	if err != nil {
		return "", err
	}
	if w.What == Withdraw {
		return x.ID, d.withdraw(x, groups, w)
	}
	for _, g := range groups {
		if err := d.approvable(x, g, w); err != nil {
			return "", err
		}
	}
	for _, g := range groups {
		d.approve(x, g, w, api.DeclarationApproved)
	}
	return x.ID, nil
}

func (d *decision) byID(id domain.DeclarationID) *api.Declaration {
	for i := range d.s.List {
		if d.s.List[i].ID == id {
			return &d.s.List[i]
		}
	}
	return nil
}

// chosen are the groups that a word is about: those named, or all that can still be decided.
func (d *decision) chosen(x *api.Declaration, w Word) ([]*api.DeclaredGroup, error) {
	var out []*api.DeclaredGroup
	for _, id := range w.Groups {
		g := d.groupIn(x, id)
		switch {
		case g == nil:
			return nil, fmt.Errorf("%w: group %s is not in it", domain.ErrNotFound, id)
		case api.DeclarationEnded(g.State):
			return nil, fmt.Errorf("%w: group %s is %s in it: %s", domain.ErrRefused, id, g.State, g.Why)
		}
		out = append(out, g)
	}
	if len(w.Groups) > 0 {
		return out, nil
	}
	for i := range x.Groups {
		g := &x.Groups[i]
		if r, begun := d.run(x.ID, *g); !api.DeclarationEnded(g.State) && !(g.State == api.DeclarationDeclared && begun && r.State == api.StepRunning) &&
			(w.What == Withdraw || g.State != api.DeclarationDeclared) {
			out = append(out, g)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: no group of it can be decided now: it is %s", domain.ErrRefused, x.State)
	}
	return out, nil
}

// hearOpen takes a person's word that a site is lost.
func (d *decision) hearOpen(w Word) (domain.DeclarationID, error) {
	ids := w.Groups
	if len(ids) == 0 {
		for _, g := range d.in.Groups {
			if g.Site == w.Site && d.heir(g.Group, w.Site) == d.in.Self {
				ids = append(ids, g.Group.ID)
			}
		}
	}
	if len(ids) == 0 {
		return "", fmt.Errorf("%w: site %s takes over no group of it", domain.ErrRefused, d.in.Self)
	}
	for _, id := range ids {
		want, ok := d.groups[id]
		switch {
		case !ok:
			return "", fmt.Errorf("%w: there is no group %s", domain.ErrNotFound, id)
		case want.Site != w.Site:
			return "", fmt.Errorf("%w: group %s is wanted at site %s, not at site %s", domain.ErrStaleEpoch, id, want.Site, w.Site)
		case want.Group.ModeTo(w.Site, d.in.Self) == domain.ModeNone:
			return "", fmt.Errorf("%w: site %s has no copy of group %s", domain.ErrRefused, d.in.Self, id)
		}
		probe := api.DeclaredGroup{Group: id, Epoch: want.Epoch}
		if err := d.approvable(&api.Declaration{Site: w.Site}, &probe, w); err != nil {
			return "", err
		}
	}
	for _, x := range d.s.List { // a run that has one of them goes on
		for _, g := range x.Groups {
			if r, begun := d.run(x.ID, g); g.State == api.DeclarationDeclared && slices.Contains(ids, g.Group) && begun && r.State == api.StepRunning {
				return "", fmt.Errorf("%w: group %s is in run %s", domain.ErrRefused, g.Group, r.ID)
			}
		}
	}
	d.clear(w.Site, ids)
	x := d.of(w.Site)
	x.ByHand = x.ByHand || len(x.Acts) == 0
	for _, id := range ids {
		g := d.add(x, id)
		g.ByHand = true
		d.approve(x, g, w, api.DeclarationOpened)
	}
	return x.ID, nil
}

// approvable refuses a word for what is not as the person saw it.
func (d *decision) approvable(x *api.Declaration, g *api.DeclaredGroup, w Word) error {
	want, ok := d.groups[g.Group]
	if !ok {
		return fmt.Errorf("%w: there is no group %s", domain.ErrNotFound, g.Group)
	}
	if err := want.Group.Barred(d.in.Self); err != nil {
		return err
	}
	seen := g.Epoch
	if e, ok := w.Epochs[g.Group]; ok {
		seen = e
	}
	switch {
	case want.Site != x.Site || want.Epoch != seen:
		return fmt.Errorf("%w: group %s: this is about epoch %s at site %s, and it has epoch %s at site %s now: look at it again", domain.ErrStaleEpoch, g.Group, seen, x.Site, want.Epoch, want.Site)
	case want.Group.ModeTo(x.Site, d.in.Self) == domain.ModeAsync && !w.AcceptLoss:
		loss := "what it had not received yet"
		if s, ok := d.in.Surveys[g.Group]; ok && s.Loss.Text != "" {
			loss = s.Loss.About()
		}
		return fmt.Errorf("%w: group %s is asynchronous: %s would be lost; accept the loss to go on", domain.ErrRefused, g.Group, loss)
	}
	if r, begun := d.run(x.ID, *g); g.State == api.DeclarationDeclared && begun && r.State == api.StepRunning {
		return fmt.Errorf("%w: group %s is in run %s", domain.ErrRefused, g.Group, r.ID)
	}
	return nil
}

// approve counts a word for a group: one person's once.
func (d *decision) approve(x *api.Declaration, g *api.DeclaredGroup, w Word, what string) {
	if g.State == api.DeclarationDeclared { // decided, and in no run: it is decided anew, as this person says
		d.undeclare(g)
		g.State = api.DeclarationAwaiting
	}
	if o, ok := w.Orders[g.Group]; ok {
		g.Order = &o
	}
	if g.Epoch != d.groups[g.Group].Epoch {
		g.Approvals, g.Epoch = nil, d.groups[g.Group].Epoch
	}
	again := slices.ContainsFunc(g.Approvals, func(a api.Approval) bool { return a.By == w.By && a.Why == w.Why && a.AcceptLoss == w.AcceptLoss })
	if again {
		return
	}
	g.Approvals = slices.DeleteFunc(g.Approvals, func(a api.Approval) bool { return a.By == w.By })
	g.Approvals = append(g.Approvals, w.Approval)
	d.note(x, g.Group, api.DeclarationAct{What: what, By: w.By, Claimed: w.Claimed, Host: w.Host, Why: w.Why})
}

// withdraw ends what is not under way. Nothing is opened by itself for the site, or for the groups that were named, before it was seen
// again.
func (d *decision) withdraw(x *api.Declaration, groups []*api.DeclaredGroup, w Word) error {
	for _, g := range groups {
		if r, begun := d.run(x.ID, *g); g.State == api.DeclarationDeclared && begun && r.State == api.StepRunning {
			return fmt.Errorf("%w: group %s is in run %s, which goes on: a lease decides who serves", domain.ErrRefused, g.Group, r.ID)
		}
	}
	for _, g := range groups {
		d.undeclare(g)
		d.move(x, g, api.DeclarationWithdrawn, w.Why, w.Approval)
		g.Barred = len(w.Groups) > 0
	}
	x.Barred = x.Barred || len(w.Groups) == 0
	return nil
}
