package whatif

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/failover/declaration"
	"github.com/holdfast-dr/holdfast/services/failover/policy"
)

// Explanation is why a group is where it is, and why it can or cannot move now.
type Explanation struct {
	Group domain.GroupID `json:"group"`
	Line  string         `json:"line"` // all of it in one line
	Site  domain.SiteID  `json:"site,omitempty"`
	Why   []string       `json:"why"`   // it is there
	Moves []Move         `json:"moves"` // to each other site of the group
}

// Move is whether a planned move to a site could begin now.
type Move struct {
	Site    domain.SiteID `json:"site"`
	Can     bool          `json:"can"`
	Against []string      `json:"against,omitempty"` // everything that stands against it
	For     []string      `json:"for,omitempty"`     // what was looked at and is well
}

// Explain says why a group is where it is. Errors wrap domain.ErrNotFound, domain.ErrInvalid.
func Explain(st State, id domain.GroupID) (Explanation, error) {
	g, ok := st.group(id)
	if !ok {
		return Explanation{}, fmt.Errorf("explain group %s: %w: see holdfast group list", id, domain.ErrNotFound)
	}
	cfg, err := st.Plan.Config()
	if err != nil {
		return Explanation{}, err
	}
	w := newWorld(st, cfg, nil)
	vote := st.Votes[id]
	e := Explanation{Group: id, Site: vote.Holder}
	e.Why = w.here(g, vote)
	var can, cannot []string
	for _, s := range g.Group.SitesOf() {
		if s == vote.Holder {
			continue
		}
		m := w.move(g, s)
		e.Moves = append(e.Moves, m)
		if m.Can {
			can = append(can, string(s))
		} else {
			cannot = append(cannot, fmt.Sprintf("not to %s: %s", s, m.Against[0]))
		}
	}
	e.Line = line(g, vote, can, cannot)
	return e, nil
}

func line(g api.GroupDesired, vote Vote, can, cannot []string) string {
	text := fmt.Sprintf("group %s is served nowhere", g.Group.ID)
	if vote.Holder != "" {
		text = fmt.Sprintf("group %s is at site %s", g.Group.ID, vote.Holder)
	}
	switch {
	case vote.Holder == g.Group.Home:
		text += ", its home"
	case vote.Holder != "":
		text += fmt.Sprintf(", away from home (%s)", g.Group.Home)
	}
	if len(can) > 0 {
		text += "; it can move to " + strings.Join(can, ", ")
	}
	if len(cannot) > 0 {
		text += "; " + strings.Join(cannot, "; ")
	}
	return text
}

// here is the chain of reasons why the group is where it is.
func (w world) here(g api.GroupDesired, vote Vote) []string {
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	id := g.Group.ID
	if vote.Holder == "" {
		say("nobody holds its lease; the newest epoch that the voters know is %s", vote.Epoch)
		for _, s := range g.Group.SitesOf() {
			if !w.alive(s) {
				say("site %s does not answer", s)
				continue
			}
			if why := w.refused(g.Group, s, false); why != "" {
				say("site %s is not granted it: %s", s, why)
			}
		}
	} else {
		say("site %s holds its lease under epoch %s: %s answer it", vote.Holder, vote.Epoch, w.count(vote.Holder, id))
		if vote.Epoch.Force() > 0 && !w.votes(id).Weights.Same(w.cfg.Weights) {
			say("quorum was forced, and is not healed: only %v vote", w.votes(id).Voters())
		}
		say("in sync, so without loss if they took it over: %v", vote.Reg.InSync)
	}
	if p := g.Group.Placement; p.Preferred != "" && p.Preferred != g.Site {
		say("it prefers site %s (placement.preferred): %s", p.Preferred, returns(p.Return))
	}
	if g.Site == g.Group.Home {
		say("it is wanted at site %s, its home (desired state, version %d, epoch %s)", g.Site, g.Version, g.Epoch)
	} else {
		say("it is wanted at site %s since epoch %s, and its home is %s: going home is a person's decision (holdfast run start --kind failback)", g.Site, g.Epoch, g.Group.Home)
	}
	if vote.Holder != "" && vote.Holder != g.Site {
		say("it is wanted at site %s and held by site %s: a run moves it, or was cut short", g.Site, vote.Holder)
	}
	_, why := declaration.Need(g.Group, w.At, declaration.Today(w.Declared, id, w.At))
	if g.Group.Failover != domain.FailoverManual {
		why += fmt.Sprintf(", after a hold-down of %v", g.Group.HoldDown)
	}
	if len(g.Group.Heirs(g.Site)) == 0 {
		why = "no other site has a copy and may serve it"
	}
	say("were its site lost: %s", why)
	for _, m := range w.openWindows() {
		if m.About.Site == g.Site {
			say("site %s is under maintenance until %s (%s: %s): its loss is no disaster before that", g.Site, end(m), m.ID, m.Why)
		}
	}
	if r, ok := w.Runs[id]; ok {
		say("last run: %s %s to site %s, by %s, %s: %s", r.Kind, r.ID, r.Leader, r.By, r.State, r.Reason)
	}
	return out
}

// returns says who moves a group to the site it prefers.
func returns(r domain.Return) string {
	if r.After == 0 {
		return "moving it there is a person's decision (holdfast run start --kind switchover)"
	}
	return fmt.Sprintf("it moves there by itself once its copy there has been in sync for %s (placement.return)", r.After)
}

// move looks at everything that a planned move to a site needs.
func preventedText(s domain.SiteID) string {
	return fmt.Sprintf("an operator keeps site %s from forming a quorum: holdfast quorum prevent %s off allows it", s, s)
}

func (w world) move(g api.GroupDesired, to domain.SiteID) Move {
	m := Move{Site: to}
	check := func(bad, good string) {
		if bad != "" {
			m.Against = append(m.Against, bad)
		} else if good != "" {
			m.For = append(m.For, good)
		}
	}
	id, from := g.Group.ID, w.Votes[g.Group.ID].Holder
	barred := g.Group.Barred(to)
	check(textOf(barred), "")
	check(unless(!slices.Contains(w.List.Drained(), to), drainedText(to)), "")
	if !w.alive(to) {
		check(fmt.Sprintf("site %s does not answer", to), "")
	} else if w.prevented(to, id) {
		check(preventedText(to), "")
	} else {
		check(unless(w.canHold(to, id), "no quorum there, only "+w.count(to, id)), w.count(to, id)+" answer site "+string(to))
	}
	if r, ok := w.Runs[id]; ok && r.State == api.StepRunning {
		check(fmt.Sprintf("run %s (%s to site %s) is under way", r.ID, r.Kind, r.Leader), "")
	}
	if from == "" {
		check("nobody serves it: there is nothing to hand over", "")
	} else {
		_, t, err := policy.Ready(w.copiesAt(id, from), id, from, to)
		check(textOf(err), fmt.Sprintf("the copy at site %s is %s and has everything at the hand-over", to, t.State))
		if _, err = w.steps(policy.PlanOf(w.List, id), []domain.GroupID{id}, api.RunSwitchover, to, from); barred == nil { // else it says the same
			check(textOf(err), "plan "+string(policy.PlanOf(w.List, id).ID)+" can be laid out")
		}
	}
	for _, v := range g.Group.VMs {
		check(unless(w.findsHost(v, to), fmt.Sprintf("vm %s finds no host at site %s: %v are dead", v.ID, to, v.Sites[to].Hosts)), fmt.Sprintf("vm %s finds a host at site %s", v.ID, to))
	}
	m.Can = len(m.Against) == 0
	return m
}

func (w world) copiesAt(g domain.GroupID, site domain.SiteID) []api.GroupStatus {
	if c, ok := w.Copies[g][site]; ok {
		return []api.GroupStatus{c}
	}
	return nil
}

func unless(ok bool, text string) string {
	if ok {
		return ""
	}
	return text
}

func textOf(err error) string {
	if err == nil {
		return ""
	}
	return strings.TrimPrefix(err.Error(), domain.ErrRefused.Error()+": ")
}

// Text is the explanation for people.
func (e Explanation) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\nwhy it is there\n", e.Line)
	for _, w := range e.Why {
		fmt.Fprintf(&b, "    %s\n", w)
	}
	w := tabwriter.NewWriter(&b, 0, 4, 2, ' ', 0)
	for _, m := range e.Moves {
		verdict := "cannot move there now"
		if m.Can {
			verdict = "can move there now"
		}
		fmt.Fprintf(w, "\nsite %s: %s\n", m.Site, verdict)
		for _, a := range m.Against {
			fmt.Fprintf(w, "    against\t%s\n", a)
		}
		for _, f := range m.For {
			fmt.Fprintf(w, "    for\t%s\n", f)
		}
	}
	_ = w.Flush() // a strings.Builder takes everything
	return b.String()
}
