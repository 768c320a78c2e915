package whatif

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/failover/declaration"
	"github.com/holdfast-dr/holdfast/services/failover/plan"
	"github.com/holdfast-dr/holdfast/services/failover/policy"
)

// What becomes of a group.
const (
	Stays  = "stays"  // it is served where it was
	Moves  = "moves"  // another site takes it over by itself, or brings up what nobody serves
	Waits  = "waits"  // another site could take it over; a person has to say so, or what holds it has to pass
	Stops  = "stops"  // nobody serves it
	Absent = "absent" // nobody served it before, and nobody does
)

// Fate is what becomes of one group.
type Fate struct {
	Group  domain.GroupID `json:"group"`
	From   domain.SiteID  `json:"from,omitempty"` // it is served at now
	To     domain.SiteID  `json:"to,omitempty"`   // it is served at afterwards; of one that waits, could be
	What   string         `json:"what"`           // stays, moves, waits, stops, absent
	Order  int            `json:"order,omitempty"`
	HoldNs int64          `json:"hold_down_ns,omitempty"`
	// Held is what keeps one that waits from being taken over by itself, where that is not its policy and will pass.
	Held string `json:"held,omitempty"`
	// Run is what the group is in now: what is said of it is not certain.
	Run domain.RunID `json:"run,omitempty"`
	// Loss is what would be lost of acknowledged writes; nil where nothing moves.
	Loss   *api.LossEstimate `json:"loss,omitempty"`
	Names  []NameChange      `json:"names,omitempty"`
	NotFit []string          `json:"not_fit,omitempty"` // VMs that find no host
	Steps  []string          `json:"steps,omitempty"`   // of the run, in order
	Why    []string          `json:"why"`               // the chain of reasons
	rank   int               // how far down its run it comes up
}

// NameChange is a DNS name that would point elsewhere.
type NameChange struct {
	Name   string `json:"name"`
	Before string `json:"before"`
	After  string `json:"after"`
}

// Reach is how many votes a site can count on.
type Reach struct {
	Site   domain.SiteID `json:"site"`
	Votes  int           `json:"votes"`
	Total  int           `json:"total"`
	Quorum bool          `json:"quorum"`
}

// Blind is a site that is left and no vantage point.
type Blind struct {
	Site domain.SiteID `json:"site"`
	Why  string        `json:"why"`
}

// Prediction is what would happen.
type Prediction struct {
	Lost []Loss          `json:"lost"`
	Down []domain.SiteID `json:"down,omitempty"` // sites that do not answer already now
	Cut  []Loss          `json:"cut,omitempty"`  // links that are cut already now
	// Maintenance are the windows of whole sites that are open at one that is left.
	Maintenance []api.Maintenance `json:"maintenance,omitempty"`
	Blind       []Blind           `json:"blind,omitempty"`
	Quorum      []Reach           `json:"quorum"` // of each data site that is left, by the configured votes
	Confirmed   []domain.SiteID   `json:"confirmed,omitempty"`
	Groups      []Fate            `json:"groups"`
}

// Predict says what would happen if all of that were lost at once. Errors wrap domain.ErrInvalid.
func Predict(st State, losses []Loss) (Prediction, error) {
	cfg, err := st.Plan.Config()
	if err != nil {
		return Prediction{}, err
	}
	w := newWorld(st, cfg, losses)
	w.seen, w.unheld = w.look(true), w.look(false)
	out := Prediction{Lost: losses, Down: st.Down, Cut: st.Cut, Maintenance: w.openWindows(), Blind: w.blind()}
	for _, s := range w.Plan.Sites {
		if s.Role != domain.SiteData || w.lost[string(s.ID)] {
			continue
		}
		r := Reach{Site: s.ID, Quorum: w.alive(s.ID) && cfg.Quorum(w.answers(s.ID))}
		r.Votes, r.Total = cfg.Weights.Count(w.answers(s.ID))
		out.Quorum = append(out.Quorum, r)
	}
	for _, s := range w.Plan.Sites {
		if slices.ContainsFunc(w.leaves, func(o domain.SiteID) bool { return w.seen.lost(o, s.ID) }) {
			out.Confirmed = append(out.Confirmed, s.ID)
		}
	}
	takers := w.takers()
	for _, g := range w.List.Groups {
		out.Groups = append(out.Groups, w.fate(g, takers[g.Group.ID]))
	}
	number(out.Groups)
	return out, nil
}

// taker is a site that would begin a failover run for a group.
type taker struct {
	site       domain.SiteID
	order      policy.Order
	acceptLoss bool
}

// takers asks each site's policy when the loss is confirmed, and again as each hold-down passes.
func (w world) takers() map[domain.GroupID][]taker {
	out := map[domain.GroupID][]taker{}
	for _, self := range w.leaves {
		if !w.alive(self) {
			continue
		}
		begun := map[domain.GroupID]bool{} // a run is under way: nothing is begun again
		in := declaration.Input{Self: self, Groups: w.List.Groups, Drained: w.List.Drained(), Runs: w.ledRuns(self), Wall: w.At, Losses: map[domain.SiteID]declaration.Loss{}}
		for _, site := range w.seen.disasters(self) {
			in.Losses[site] = declaration.Loss{Suspected: true, Confirmed: true}
		}
		state, _ := declaration.Decide(declaration.State{List: w.ledBy(self)}, in)
		for _, in.Now = range w.holdDowns() {
			var acts declaration.Actions
			state, acts = declaration.Decide(state, in)
			for _, l := range acts.Launch {
				l.Groups = slices.DeleteFunc(slices.Clone(l.Groups), func(g domain.GroupID) bool { return begun[g] })
				for _, o := range policy.Orders(self, policy.Due{Site: l.Site, Groups: l.Groups}, w.List) {
					for _, g := range o.Groups {
						begun[g] = true
						out[g] = append(out[g], taker{self, o, l.AcceptLoss[g]})
					}
				}
			}
		}
	}
	return out
}

// ledBy are the declarations that a site leads.
func (w world) ledBy(self domain.SiteID) []api.Declaration {
	return slices.DeleteFunc(slices.Clone(w.Declared), func(d api.Declaration) bool { return d.Leader != self })
}

// fate follows one group.
func (w world) fate(g api.GroupDesired, takers []taker) Fate {
	id := g.Group.ID
	vote := w.Votes[id]
	f := Fate{Group: id, From: vote.Holder}
	if r, ok := w.underWay(id); ok && w.goesOn(&f, g.Group, r) {
		return f
	}
	if vote.Holder != "" && w.canHold(vote.Holder, id) {
		f.What, f.To = Stays, vote.Holder
		f.why("site %s holds its lease and still has %s", vote.Holder, w.count(vote.Holder, id))
		w.targets(&f, g.Group)
		return f
	}
	f.What = Stops
	switch {
	case vote.Holder == "":
		f.What = Absent
		f.why("nobody holds its lease now")
	case w.lost[string(vote.Holder)]:
		f.why("site %s, which serves it, is lost", vote.Holder)
	case !w.alive(vote.Holder):
		f.why("the quorum service of site %s is lost: it cannot renew the lease, and stops serving when that ends", vote.Holder)
	default:
		f.why("site %s keeps only %s: its lease ends, and it stops serving before that", vote.Holder, w.count(vote.Holder, id))
	}
	for _, t := range takers {
		if w.takeover(&f, g.Group, t) {
			return f
		}
	}
	if !w.bringsUp(&f, g) {
		w.byHand(&f, g, len(takers) > 0)
	}
	return f
}

func (f *Fate) why(format string, args ...any) { f.Why = append(f.Why, fmt.Sprintf(format, args...)) }

// count says how many votes answer a site, and whose do not.
func (w world) count(site domain.SiteID, g domain.GroupID) string {
	cfg := w.votes(g)
	answers := w.answers(site)
	have, total := cfg.Weights.Count(answers)
	var silent []string
	for _, id := range cfg.Voters() {
		if !answers(id) {
			silent = append(silent, string(id))
		}
	}
	text := fmt.Sprintf("%d of %d votes", have, total)
	if len(silent) > 0 {
		text += " (not " + strings.Join(silent, ", ") + ")"
	}
	return text
}

// targets says what the loss of targets does to a group that stays.
func (w world) targets(f *Fate, g domain.Group) {
	for _, s := range g.SitesOf() {
		mode := g.ModeTo(f.To, s)
		if s == f.To || mode == domain.ModeNone || w.reaches(string(f.To), string(s)) {
			continue
		}
		switch {
		case mode == domain.ModeAsync:
			f.why("target %s receives nothing meanwhile, and follows when it is back", s)
		case g.OnTargetLoss == domain.TargetLossSuspend:
			f.why("writes wait for synchronous target %s (on_target_loss: suspend)", s)
		default:
			f.why("it goes on without synchronous target %s once a quorum has noted that (on_target_loss: degrade): until %s is in sync again the loss of site %s loses writes", s, s, f.To)
		}
	}
}

// takeover tries what a site would do, and reports whether it would serve the group afterwards.
func (w world) takeover(f *Fate, g domain.Group, t taker) bool {
	f.why("site %s takes the loss of site %s for a disaster, and its policy lets it take over after %v", t.site, t.order.From, g.HoldDown)
	if why := w.refused(g, t.site, t.acceptLoss); why != "" {
		f.why("site %s: %s", t.site, why)
		return false
	}
	steps, err := w.steps(t.order.Plan, t.order.Groups, api.RunFailover, t.site, t.order.From)
	if err != nil {
		f.why("site %s cannot plan the run: %v", t.site, err)
		return false
	}
	f.What, f.To, f.HoldNs = Moves, t.site, int64(g.HoldDown)
	f.why("site %s has %s and is granted the group", t.site, w.count(t.site, g.ID))
	w.consequences(f, g, t.order.From, steps)
	return true
}

// refused is why the vote would not be granted, "" when it would.
func (w world) refused(g domain.Group, site domain.SiteID, acceptLoss bool) string {
	if !w.canHold(site, g.ID) {
		if !w.alive(site) {
			return "its quorum service is lost"
		}
		if w.prevented(site, g.ID) {
			return preventedText(site)
		}
		return "no quorum, only " + w.count(site, g.ID)
	}
	if why := w.Votes[g.ID].Reg.Bars(site, acceptLoss); why != "" {
		return fmt.Sprintf("%s (in sync: %v)", why, w.Votes[g.ID].Reg.InSync)
	}
	if c, ok := w.Copies[g.ID][site]; ok && !c.Consistent {
		return "its copy is not complete"
	}
	return w.suspended(g, site)
}

// suspended is why a site that is granted a group would not serve it: it waits for synchronous targets; "" when it would.
func (w world) suspended(g domain.Group, site domain.SiteID) string {
	reg := w.Votes[g.ID].Reg
	if g.OnTargetLoss != domain.TargetLossSuspend || !reg.Holds(site) { // a loss that was accepted leaves no other in the set
		return ""
	}
	for _, s := range reg.InSync {
		if s != site && g.ModeTo(site, s) == domain.ModeSync && !w.reaches(string(site), string(s)) {
			return fmt.Sprintf("it would be granted the group, and wait for synchronous target %s before it serves (on_target_loss: suspend)", s)
		}
	}
	return ""
}

func (w world) steps(p domain.Plan, groups []domain.GroupID, kind string, leader, from domain.SiteID) ([]api.Step, error) {
	return plan.Build(plan.Input{Plan: p, Groups: w.definitions(), Only: groups, Kind: kind, Leader: leader, From: from})
}

// consequences is what the move brings with it: steps, loss, names, and what finds no host.
func (w world) consequences(f *Fate, g domain.Group, from domain.SiteID, steps []api.Step) {
	f.rank = rank(g.ID, steps)
	for _, s := range steps {
		if s.Group != g.ID {
			continue
		}
		f.Steps = append(f.Steps, s.ID)
		if s.Kind != plan.KindDNS || from == "" {
			continue
		}
		for _, v := range g.VMs {
			if v.ID == s.VM {
				f.Names = append(f.Names, NameChange{s.Name, v.Sites[from].Address, v.Sites[f.To].Address})
			}
		}
	}
	for _, v := range g.VMs {
		if !w.findsHost(v, f.To) {
			f.NotFit = append(f.NotFit, string(v.ID))
			f.why("vm %s finds no host at site %s: %v are dead", v.ID, f.To, v.Sites[f.To].Hosts)
		}
	}
	loss := w.loss(g.ID, f.To)
	f.Loss = &loss
}

// rank is how many steps of a run stand one behind the other before a group comes up: its first VM, or its volumes where it has none.
func rank(g domain.GroupID, steps []api.Step) int {
	chain := map[string]int{}
	var promoted, started int
	for _, s := range steps { // each stands after all that it needs
		for _, n := range s.Needs {
			chain[s.ID] = max(chain[s.ID], chain[n])
		}
		chain[s.ID]++
		switch {
		case s.Group != g:
		case s.Kind == plan.KindPromote:
			promoted = chain[s.ID]
		case s.Kind == plan.KindStart && (started == 0 || chain[s.ID] < started):
			started = chain[s.ID]
		}
	}
	return cmp.Or(started, promoted)
}

func (w world) loss(g domain.GroupID, at domain.SiteID) api.LossEstimate {
	if e, ok := w.Loss[g][at]; ok {
		return e
	}
	return api.LossEstimate{Text: "not known: no site told"}
}

// byHand says what a person could do about a group that nobody takes over by itself.
func (w world) byHand(f *Fate, g api.GroupDesired, tried bool) {
	var why, held string
	if !tried {
		why, held = w.noTaker(g)
		f.why("%s", why)
	}
	lost := w.List.Drained()
	for _, s := range g.Group.SitesOf() {
		if s == g.Site || !w.alive(s) {
			lost = append(lost, s)
		}
	}
	for heir := policy.Heir(g.Group, g.Site, lost); heir != ""; heir = policy.Heir(g.Group, g.Site, lost) {
		why := w.refused(g.Group, heir, true)
		steps, err := w.steps(policy.PlanOf(w.List, f.Group), []domain.GroupID{f.Group}, api.RunFailover, heir, g.Site)
		if why == "" && err == nil {
			f.What, f.To, f.Held = Waits, heir, held
			people := "a person can declare it"
			if g.Group.Failover == domain.FailoverConfirm && g.Group.Approvers > 1 {
				people = "two people can declare it, the first of them with"
			}
			f.why("%s: holdfast run start --plan %s --kind failover --from %s --to %s; site %s has %s", people,
				policy.PlanOf(w.List, f.Group).ID, g.Site, heir, heir, w.count(heir, f.Group))
			w.consequences(f, g.Group, g.Site, steps)
			return
		}
		f.why("site %s could not take it over on a person's word either: %s", heir, whyNot(why, err))
		lost = append(lost, heir)
	}
}

func whyNot(why string, err error) string {
	if why == "" && err != nil {
		return err.Error()
	}
	return why
}

// noTaker is why no site would begin a run by itself, and what has to pass before one would.
func (w world) noTaker(g api.GroupDesired) (why, held string) {
	out := append(w.List.Drained(), g.Site)
	for _, s := range w.Plan.Sites {
		if !slices.Contains(w.leaves, s.ID) {
			out = append(out, s.ID)
		}
	}
	heir := policy.Heir(g.Group, g.Site, out)
	if heir == "" {
		return w.noHeir(g.Group, g.Site), ""
	}
	need, policyText := declaration.Need(g.Group, w.At, declaration.Today(w.Declared, g.Group.ID, w.At))
	if !w.seen.lost(heir, g.Site) {
		why, held = w.unconfirmed(heir, g.Site)
		if g.Group.Failover == domain.FailoverManual {
			return why + "; " + policyText, ""
		}
		return why, held
	}
	if first := policy.Heir(g.Group, g.Site, slices.Concat(w.seen.disasters(heir), w.List.Drained(), []domain.SiteID{g.Site})); first != heir {
		why, held = w.unconfirmed(heir, first)
		return fmt.Sprintf("site %s is to take it over before site %s: %s", first, heir, why), held
	}
	if need > 0 {
		if g.Group.Failover != domain.FailoverManual {
			policyText += fmt.Sprintf("; it asks after a hold-down of %v", g.Group.HoldDown)
		}
		return policyText, ""
	}
	return fmt.Sprintf("the quorum service of site %s, which is to take it over, is lost", heir), ""
}

// noHeir is why no site that is left could take a group over.
func (w world) noHeir(g domain.Group, from domain.SiteID) string {
	var against []string
	for _, s := range w.leaves {
		switch err := g.Barred(s); {
		case s == from || g.ModeTo(from, s) == domain.ModeNone:
		case err != nil:
			against = append(against, textOf(err))
		case slices.Contains(w.List.Drained(), s):
			against = append(against, drainedText(s))
		}
	}
	if len(against) > 0 {
		return "no site that is left may serve it: " + strings.Join(against, "; ")
	}
	return "no site that is left has a copy of it"
}

func drainedText(s domain.SiteID) string {
	return fmt.Sprintf("site %s is drained (holdfast site undrain %s)", s, s)
}

// number gives the groups that move their order: shorter hold-downs first, then as their plans' runs reach them.
func number(fates []Fate) {
	var moving []*Fate
	for i := range fates {
		if fates[i].What == Moves {
			moving = append(moving, &fates[i])
		}
	}
	slices.SortStableFunc(moving, func(a, b *Fate) int { return cmp.Or(cmp.Compare(a.HoldNs, b.HoldNs), cmp.Compare(a.rank, b.rank)) })
	for i, f := range moving {
		f.Order = i + 1
	}
}

// HoldDown is how long the policy waits before the group moves.
func (f Fate) HoldDown() time.Duration { return time.Duration(f.HoldNs) }
