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
	"github.com/holdfast-dr/holdfast/services/health/assess"
)

// What becomes of a group.
const (
	Stays  = "stays"  // it is served where it was
	Moves  = "moves"  // another site takes it over by itself
	Waits  = "waits"  // another site could take it over; a person has to say so
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

// Prediction is what would happen.
type Prediction struct {
	Lost      []Loss          `json:"lost"`
	Down      []domain.SiteID `json:"down,omitempty"` // sites that do not answer already now
	Cut       []Loss          `json:"cut,omitempty"`  // links that are cut already now
	Quorum    []Reach         `json:"quorum"`         // of each data site that is left, by the configured votes
	Confirmed []domain.SiteID `json:"confirmed,omitempty"`
	Groups    []Fate          `json:"groups"`
}

// Predict says what would happen if all of that were lost at once. Errors wrap domain.ErrInvalid.
func Predict(st State, losses []Loss) (Prediction, error) {
	cfg, err := st.Plan.Config()
	if err != nil {
		return Prediction{}, err
	}
	w := newWorld(st, cfg, losses)
	out := Prediction{Lost: losses, Down: st.Down, Cut: st.Cut}
	for _, s := range w.Plan.Sites {
		if s.Role != domain.SiteData || w.lost[string(s.ID)] {
			continue
		}
		r := Reach{Site: s.ID, Quorum: w.alive(s.ID) && cfg.Quorum(w.answers(s.ID))}
		r.Votes, r.Total = cfg.Weights.Count(w.answers(s.ID))
		out.Quorum = append(out.Quorum, r)
	}
	confirmed := w.disasters()
	for _, s := range w.Plan.Sites {
		if slices.ContainsFunc(w.leaves, func(o domain.SiteID) bool { return slices.Contains(confirmed[o], s.ID) }) {
			out.Confirmed = append(out.Confirmed, s.ID)
		}
	}
	takers := w.takers(confirmed)
	for _, g := range w.List.Groups {
		out.Groups = append(out.Groups, w.fate(g, takers[g.Group.ID], confirmed))
	}
	number(out.Groups)
	return out, nil
}

// disasters is which sites each observer that is left would confirm lost.
func (w world) disasters() map[domain.SiteID][]domain.SiteID {
	out := map[domain.SiteID][]domain.SiteID{}
	well := newWorld(State{Plan: w.Plan}, w.cfg, nil)
	for _, s := range w.leaves {
		var st assess.State
		st, _ = assess.Decide(st, assess.Rules{}, well.seenBy(s))
		_, r := assess.Decide(st, assess.Rules{}, w.seenBy(s))
		for _, a := range r.Assessments {
			if a.Class == api.ClassDisaster {
				out[s] = append(out[s], a.Site)
			}
		}
	}
	return out
}

// seenBy is everything an observer would know once its detectors have made up their minds.
func (w world) seenBy(self domain.SiteID) assess.Input {
	in := assess.Input{Self: self, Own: w.view(self), Views: map[domain.SiteID]api.View{}}
	for _, s := range w.Plan.Sites {
		in.Sites = append(in.Sites, s.ID)
		if s.ID != self && w.reaches(string(self), string(s.ID)) {
			in.Views[s.ID] = w.view(s.ID)
		}
	}
	return in
}

// deadAfter is more missed answers than a detector waits for.
const deadAfter = 10

func (w world) view(observer domain.SiteID) api.View {
	v := api.View{Observer: observer}
	for _, s := range w.Plan.Sites {
		if s.ID == observer {
			continue
		}
		for _, path := range []string{assess.PathHeartbeat, assess.PathAPI} {
			o := api.Observation{Kind: assess.KindSite, ID: string(s.ID), Site: s.ID, Path: path, State: api.StateAlive}
			if !w.reaches(string(observer), string(s.ID)) {
				o.State, o.Missed = api.StateDead, deadAfter
			}
			v.Observations = append(v.Observations, o)
		}
	}
	return v
}

// taker is a site that would begin a failover run for a group.
type taker struct {
	site       domain.SiteID
	order      policy.Order
	acceptLoss bool
}

// takers asks each site's policy when the loss is confirmed, and again as each hold-down passes.
func (w world) takers(confirmed map[domain.SiteID][]domain.SiteID) map[domain.GroupID][]taker {
	out := map[domain.GroupID][]taker{}
	for _, self := range w.leaves {
		if !w.alive(self) {
			continue
		}
		begun := map[domain.GroupID]bool{} // a run is under way: nothing is begun again
		in := declaration.Input{Self: self, Groups: w.List.Groups, Drained: w.List.Drained(), Wall: w.At, Losses: map[domain.SiteID]declaration.Loss{}}
		for _, site := range confirmed[self] {
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
func (w world) fate(g api.GroupDesired, takers []taker, confirmed map[domain.SiteID][]domain.SiteID) Fate {
	id := g.Group.ID
	vote := w.Votes[id]
	f := Fate{Group: id, From: vote.Holder}
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
	w.byHand(&f, g, len(takers) > 0, confirmed)
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
		if s.Kind != plan.KindDNS {
			continue
		}
		for _, v := range g.VMs {
			if v.ID == s.VM {
				f.Names = append(f.Names, NameChange{s.Name, v.Sites[from].Address, v.Sites[f.To].Address})
			}
		}
	}
	for _, v := range g.VMs {
		if hosts := v.Sites[f.To].Hosts; !slices.ContainsFunc(hosts, func(h domain.HostID) bool { return !w.Dead[h] }) {
			f.NotFit = append(f.NotFit, string(v.ID))
			f.why("vm %s finds no host at site %s: %v are dead", v.ID, f.To, hosts)
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
func (w world) byHand(f *Fate, g api.GroupDesired, tried bool, confirmed map[domain.SiteID][]domain.SiteID) {
	if !tried {
		f.why("%s", w.noTaker(g, confirmed))
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
			f.What, f.To = Waits, heir
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

// noTaker is why no site would begin a run by itself.
func (w world) noTaker(g api.GroupDesired, confirmed map[domain.SiteID][]domain.SiteID) string {
	seen := slices.ContainsFunc(w.leaves, func(s domain.SiteID) bool { return slices.Contains(confirmed[s], g.Site) })
	switch {
	case !seen && w.lost[string(g.Site)]:
		return fmt.Sprintf("the loss of site %s is not seen from two places, so nobody takes it for a disaster by itself", g.Site)
	case !seen:
		return fmt.Sprintf("site %s is not lost to two places, so it is no disaster: local repair", g.Site)
	}
	if need, why := declaration.Need(g.Group, w.At, declaration.Today(w.Declared, g.Group.ID, w.At)); need > 0 {
		if g.Group.Failover != domain.FailoverManual {
			why += fmt.Sprintf("; it asks after a hold-down of %v", g.Group.HoldDown)
		}
		return why
	}
	var against []string
	for _, s := range w.leaves {
		switch err := g.Group.Barred(s); {
		case g.Group.ModeTo(g.Site, s) == domain.ModeNone:
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
