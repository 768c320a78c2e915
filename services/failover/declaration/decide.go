package declaration

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/failover/policy"
)

// Decide moves every declaration on as time passes and the world changes.
func Decide(s State, in Input) (State, Actions) {
	d := begin(s, in)
	d.open()
	d.follow()
	return d.end()
}

// decision is one call of Decide or Hear.
type decision struct {
	in      Input
	now     time.Time // Input.Wall in UTC
	s       State
	groups  map[domain.GroupID]api.GroupDesired
	lost    []domain.SiteID              // confirmed, and not taken back
	acted   map[domain.DeclarationID]int // number of the last act before this decision
	changed map[domain.DeclarationID]bool
	launch  []Launch
}

func begin(s State, in Input) *decision {
	if in.ApprovalLasts <= 0 {
		in.ApprovalLasts = time.Hour
	}
	d := &decision{in: in, now: in.Wall.UTC(), s: State{List: clone(s.List), Lost: map[domain.SiteID]time.Duration{}, Silent: map[domain.SiteID]time.Duration{}}, groups: map[domain.GroupID]api.GroupDesired{},
		acted: map[domain.DeclarationID]int{}, changed: map[domain.DeclarationID]bool{}}
	for _, g := range in.Groups {
		d.groups[g.Group.ID] = g
	}
	for _, site := range slices.Sorted(maps.Keys(in.Losses)) {
		loss := in.Losses[site]
		since, known := s.Lost[site]
		silent, wasSilent := s.Silent[site]
		if known && !loss.Confirmed && !loss.Suspected && !loss.Well { // health doubts itself: that is no news of the site
			if !wasSilent {
				silent = in.Now
			}
			d.s.Lost[site], d.s.Silent[site] = since, silent
			d.lost = append(d.lost, site)
			continue
		}
		if !loss.Confirmed || site == in.Self {
			continue
		}
		d.lost = append(d.lost, site)
		switch {
		case !known:
			since = in.Now
		case wasSilent:
			since += in.Now - silent // the hold-down goes on where it stood
		}
		d.s.Lost[site] = since
	}
	for _, x := range s.List {
		d.acted[x.ID] = lastAct(x)
	}
	return d
}

func lastAct(x api.Declaration) int {
	if len(x.Acts) == 0 {
		return 0
	}
	return x.Acts[len(x.Acts)-1].Number
}

// end derives the declarations' own states, and gives what is to be done.
func (d *decision) end() (State, Actions) {
	var out Actions
	for i := range d.s.List {
		x := &d.s.List[i]
		if !d.changed[x.ID] {
			continue
		}
		if state := StateOf(x.Groups); state != x.State {
			x.State, x.Since = state, d.now
		}
		if api.DeclarationEnded(x.State) && x.Ended.IsZero() {
			x.Ended = d.now
		}
		if len(x.Acts) > keptActs {
			x.Acts = x.Acts[len(x.Acts)-keptActs:]
		}
		x.Version++
		out.Keep = append(out.Keep, *x)
	}
	out.Launch = d.launch
	return d.s, out
}

// heir is the site that takes a group of a lost site over by itself.
func (d *decision) heir(g domain.Group, from domain.SiteID) domain.SiteID {
	return policy.Heir(g, from, slices.Concat(d.lost, d.in.Drained, []domain.SiteID{from}))
}

// open opens a declaration for each site that is missed and has groups for this one, unless a person withdrew the last.
func (d *decision) open() {
	for _, site := range slices.Sorted(maps.Keys(d.in.Losses)) {
		loss := d.in.Losses[site]
		if loss.Well {
			d.clear(site, nil)
		}
		if site == d.in.Self || !loss.Suspected && !loss.Confirmed || d.barred(site) {
			continue
		}
		var mine []domain.GroupID
		for _, g := range d.in.Groups {
			if g.Site == site && d.heir(g.Group, site) == d.in.Self && !d.barredGroup(site, g.Group.ID) {
				mine = append(mine, g.Group.ID)
			}
		}
		if len(mine) > 0 {
			x := d.of(site)
			for _, id := range mine {
				d.add(x, id)
			}
		}
	}
}

// clear lets declarations be opened again for a site that is seen, or that a person says is lost: of the groups for these (nil: all).
func (d *decision) clear(site domain.SiteID, groups []domain.GroupID) {
	for i := range d.s.List {
		x := &d.s.List[i]
		if x.Site != site {
			continue
		}
		if x.Barred {
			x.Barred, d.changed[x.ID] = false, true
		}
		for j := range x.Groups {
			if g := &x.Groups[j]; g.Barred && (groups == nil || slices.Contains(groups, g.Group)) {
				g.Barred, d.changed[x.ID] = false, true
			}
		}
	}
}

func (d *decision) barred(site domain.SiteID) bool {
	return slices.ContainsFunc(d.s.List, func(x api.Declaration) bool { return x.Site == site && x.Barred })
}

// barredGroup reports whether a person withdrew this group by name.
func (d *decision) barredGroup(site domain.SiteID, id domain.GroupID) bool {
	return slices.ContainsFunc(d.s.List, func(x api.Declaration) bool {
		return x.Site == site && slices.ContainsFunc(x.Groups, func(g api.DeclaredGroup) bool { return g.Group == id && g.Barred })
	})
}

// of is the open declaration of a site's loss; one is made when there is none.
func (d *decision) of(site domain.SiteID) *api.Declaration {
	for i := range d.s.List {
		if x := &d.s.List[i]; x.Site == site && !api.DeclarationEnded(x.State) {
			return x
		}
	}
	id := domain.DeclarationID(string(d.in.NewID) + "-" + string(site))
	d.s.List = append(d.s.List, api.Declaration{ID: id, Site: site, Leader: d.in.Self, State: api.DeclarationSuspected, Since: d.now,
		Opened: d.now, Proof: d.in.Losses[site].Proof})
	d.changed[id] = true
	return &d.s.List[len(d.s.List)-1]
}

// add takes a group into a declaration, or back into it when it was withdrawn.
func (d *decision) add(x *api.Declaration, id domain.GroupID) *api.DeclaredGroup {
	i := slices.IndexFunc(x.Groups, func(g api.DeclaredGroup) bool { return g.Group == id })
	if i >= 0 && !api.DeclarationEnded(x.Groups[i].State) {
		return &x.Groups[i]
	}
	want := d.groups[id]
	g := api.DeclaredGroup{Group: id, Tier: want.Group.Tier, Epoch: want.Epoch, Since: d.now}
	if i >= 0 {
		x.Groups = slices.Delete(x.Groups, i, i+1)
	}
	x.Groups = append(x.Groups, g)
	slices.SortFunc(x.Groups, func(a, b api.DeclaredGroup) int {
		return cmp.Or(a.Tier-b.Tier, strings.Compare(string(a.Group), string(b.Group)))
	})
	d.changed[x.ID] = true
	return d.groupIn(x, id)
}

func (d *decision) groupIn(x *api.Declaration, id domain.GroupID) *api.DeclaredGroup {
	i := slices.IndexFunc(x.Groups, func(g api.DeclaredGroup) bool { return g.Group == id })
	if i < 0 {
		return nil
	}
	return &x.Groups[i]
}

// note adds an act, or a group to the same act of this decision.
func (d *decision) note(x *api.Declaration, g domain.GroupID, a api.DeclarationAct) {
	d.changed[x.ID] = true
	if n := len(x.Acts); n > 0 {
		if last := &x.Acts[n-1]; last.Number > d.acted[x.ID] && last.What == a.What && last.Why == a.Why && last.By == a.By && last.Claimed == a.Claimed {
			last.Groups = append(last.Groups, g)
			return
		}
	}
	a.Number, a.At, a.Groups = lastAct(*x)+1, d.now, []domain.GroupID{g}
	if a.By == "" {
		a.By = ByPolicy
	}
	x.Acts = append(x.Acts, a)
}

// move brings a group into a state; who is empty for the policy.
func (d *decision) move(x *api.Declaration, g *api.DeclaredGroup, state, why string, who api.Approval) {
	if g.State == state {
		return
	}
	g.State, g.Since, g.Why = state, d.now, why
	if s, ok := d.in.Surveys[g.Group]; ok {
		g.Survey = &s
	}
	if d.in.Votes != nil {
		x.Votes = d.in.Votes
	}
	d.note(x, g.Group, api.DeclarationAct{What: state, By: who.By, Claimed: who.Claimed, Host: who.Host, Why: why})
}

// follow moves every group of every open declaration on.
func (d *decision) follow() {
	for i := range d.s.List {
		x := &d.s.List[i]
		if api.DeclarationEnded(x.State) {
			continue
		}
		loss := d.in.Losses[x.Site]
		if loss.Proof.Text != "" && (x.Proof.Event == "" || !x.Seen) {
			x.Proof = loss.Proof
		}
		if loss.Confirmed && !x.Seen {
			x.Seen = true
			for _, g := range x.Groups {
				d.note(x, g.Group, api.DeclarationAct{What: api.DeclarationConfirmed, Why: x.Proof.Text})
			}
		}
		for j := range x.Groups {
			if g := &x.Groups[j]; !api.DeclarationEnded(g.State) {
				d.group(x, g, loss)
			}
		}
		d.launches(x)
	}
}

func (d *decision) group(x *api.Declaration, g *api.DeclaredGroup, loss Loss) {
	want, ok := d.groups[g.Group]
	if !ok {
		d.move(x, g, api.DeclarationWithdrawn, "the group is not defined any more", api.Approval{})
		return
	}
	g.Tier, g.Policy, g.HoldDownNs, g.Mode = want.Group.Tier, want.Group.Failover, int64(want.Group.HoldDown), want.Group.ModeTo(x.Site, d.in.Self)
	if g.State == api.DeclarationDeclared && d.declared(x, g, want, loss) {
		return
	}
	heir := d.heir(want.Group, x.Site)
	switch {
	case want.Site != x.Site:
		d.move(x, g, api.DeclarationWithdrawn, fmt.Sprintf("it is wanted at site %s since epoch %s", want.Site, want.Epoch), api.Approval{})
	case loss.Well && (x.Seen || !g.ByHand):
		d.move(x, g, api.DeclarationWithdrawn, fmt.Sprintf("site %s is seen again", x.Site), api.Approval{})
	case !g.ByHand && heir != d.in.Self:
		d.move(x, g, api.DeclarationWithdrawn, fmt.Sprintf("it is for site %s to take it over", heir), api.Approval{})
	default:
		d.pending(x, g, want, loss)
	}
}

// pending moves a group that is not declared.
func (d *decision) pending(x *api.Declaration, g *api.DeclaredGroup, want api.GroupDesired, loss Loss) {
	d.expire(x, g, want.Epoch)
	need, why := Need(want.Group, d.in.Wall, Today(d.s.List, g.Group, d.now))
	if g.Needed != need {
		g.Needed, d.changed[x.ID] = need, true
	}
	missing := max(1, need) - len(g.Approvals)
	lasted := d.in.Now - d.s.Lost[x.Site] // of a loss that is confirmed
	switch {
	case missing <= 0:
		last := g.Approvals[len(g.Approvals)-1]
		d.declare(x, g, last.Why, last)
	case len(g.Approvals) > 0:
		d.move(x, g, api.DeclarationAwaiting, fmt.Sprintf("%s; %d of %d approved", why, len(g.Approvals), need), api.Approval{})
	case !loss.Confirmed && !loss.Suspected && !x.Seen && g.ByHand:
		d.move(x, g, api.DeclarationWithdrawn, "its approvals count no more, and nobody else misses site "+string(x.Site), api.Approval{})
	case !loss.Confirmed && d.silent(x.Site):
	case !loss.Confirmed:
		d.move(x, g, api.DeclarationSuspected, fmt.Sprintf("the loss of site %s is not confirmed", x.Site), api.Approval{})
	case want.Group.Failover == domain.FailoverManual:
		d.move(x, g, api.DeclarationConfirmed, why, api.Approval{})
	case lasted < want.Group.HoldDown:
		d.move(x, g, api.DeclarationHeldDown, fmt.Sprintf("site %s is lost: the hold-down of %s runs", x.Site, want.Group.HoldDown), api.Approval{})
	case need == 0:
		g.Automatic = true
		d.declare(x, g, x.Proof.Text, api.Approval{By: ByPolicy})
	default:
		d.move(x, g, api.DeclarationAwaiting, why, api.Approval{})
	}
}

// silent reports whether health says nothing of a site that was confirmed lost before.
func (d *decision) silent(site domain.SiteID) bool {
	_, ok := d.s.Silent[site]
	return ok
}

// expire drops words that were given too long ago, or for another epoch.
func (d *decision) expire(x *api.Declaration, g *api.DeclaredGroup, now domain.Epoch) {
	if g.Epoch != now {
		if len(g.Approvals) > 0 {
			d.note(x, g.Group, api.DeclarationAct{What: api.DeclarationExpired, Why: fmt.Sprintf("approvals were given for epoch %s, and it has epoch %s now", g.Epoch, now)})
		}
		g.Approvals, g.Epoch, d.changed[x.ID] = nil, now, true
	}
	g.Approvals = slices.DeleteFunc(g.Approvals, func(a api.Approval) bool {
		age := d.now.Sub(a.At)
		old := age > d.in.ApprovalLasts || age < -d.in.ApprovalLasts
		if old {
			d.note(x, g.Group, api.DeclarationAct{What: api.DeclarationExpired, Why: fmt.Sprintf("the word of %s counts for %s", a.By, d.in.ApprovalLasts)})
		}
		return old
	})
}

func (d *decision) declare(x *api.Declaration, g *api.DeclaredGroup, why string, who api.Approval) {
	if why == "" {
		why = fmt.Sprintf("site %s is lost", x.Site)
	}
	g.By, g.Claimed, g.Host, g.Declared = who.By, who.Claimed, who.Host, d.now
	d.move(x, g, api.DeclarationDeclared, why, who)
}

// declared follows a group that is declared, and reports whether it still is, or has ended.
func (d *decision) declared(x *api.Declaration, g *api.DeclaredGroup, want api.GroupDesired, loss Loss) bool {
	r, begun := d.run(x.ID, *g)
	if begun && g.Run != r.ID {
		g.Run, d.changed[x.ID] = r.ID, true
	}
	failed := d.in.Failed[g.Group]
	if begun && r.State == api.StepFailed {
		failed = fmt.Sprintf("run %s failed: %s", r.ID, r.Error)
	}
	switch {
	case begun && r.State == api.StepRunning:
	case begun && r.State == api.StepDone:
		d.move(x, g, api.DeclarationOver, fmt.Sprintf("run %s is done", r.ID), api.Approval{})
	case want.Site != x.Site:
		d.move(x, g, api.DeclarationOver, fmt.Sprintf("it is wanted at site %s since epoch %s", want.Site, want.Epoch), api.Approval{})
	case failed != "" && (g.Order != nil || !x.Seen):
		d.note(x, g.Group, api.DeclarationAct{What: api.DeclarationExpired, Why: failed + ": the word of " + g.By + " was for that attempt"})
		d.undeclare(g)
		return false
	case loss.Well && x.Seen:
		return false
	case g.Automatic && (loss.Well || loss.Suspected): // who says nothing does not take back what was confirmed
		d.undeclare(g)
		return false
	}
	return true
}

// undeclare makes a group one that is not decided.
func (d *decision) undeclare(g *api.DeclaredGroup) {
	g.Approvals, g.Order, g.By, g.Claimed, g.Host = nil, nil, "", "", ""
	g.Automatic, g.Declared = false, time.Time{}
}

// run is the newest run of a group that was begun from a declaration, for the word that last declared it: what was begun before that
// word was another attempt.
func (d *decision) run(id domain.DeclarationID, g api.DeclaredGroup) (api.Run, bool) {
	for _, r := range slices.Backward(d.in.Runs) {
		if r.Declaration == id && !r.Started.Before(g.Declared) && slices.Contains(GroupsOf(r), g.Group) {
			return r, true
		}
	}
	return api.Run{}, false
}

// launches begins runs for the groups that are declared and in none, those of one order together.
func (d *decision) launches(x *api.Declaration) {
	for _, g := range x.Groups {
		if g.State != api.DeclarationDeclared || d.in.Held[g.Group] != "" || g.Automatic && !d.in.Losses[x.Site].Confirmed {
			continue
		}
		if r, begun := d.run(x.ID, g); begun && r.State == api.StepRunning {
			continue
		}
		i := slices.IndexFunc(d.launch, func(l Launch) bool {
			return l.Declaration == x.ID && l.By == g.By && l.Why == g.Why && sameOrder(l.Order, g.Order)
		})
		if i < 0 {
			i = len(d.launch)
			d.launch = append(d.launch, Launch{Declaration: x.ID, Site: x.Site, Order: g.Order, By: g.By, Claimed: g.Claimed, Host: g.Host, Why: g.Why,
				AcceptLoss: map[domain.GroupID]bool{}})
		}
		l := &d.launch[i]
		l.Groups = append(l.Groups, g.Group)
		l.AcceptLoss[g.Group] = accepts(g)
		if g.Order != nil && g.Order.Checkpoint != 0 {
			if l.Checkpoints == nil {
				l.Checkpoints = map[domain.GroupID]domain.LSN{}
			}
			l.Checkpoints[g.Group] = g.Order.Checkpoint
		}
	}
}

// accepts reports whether the loss of what an asynchronous copy had not received is accepted: by the policy, or by all who approved.
func accepts(g api.DeclaredGroup) bool {
	if g.Automatic {
		return g.Mode == domain.ModeAsync
	}
	return len(g.Approvals) > 0 && !slices.ContainsFunc(g.Approvals, func(a api.Approval) bool { return !a.AcceptLoss })
}

func sameOrder(a, b *api.DeclaredOrder) bool {
	return a == nil && b == nil || a != nil && b != nil && a.Run == b.Run
}
