package declaration_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/failover/declaration"
	"github.com/holdfast-dr/holdfast/services/failover/plan"
)

// tale is one site's declarations as time passes, told in lines.
type tale struct {
	t     *testing.T
	s     declaration.State
	in    declaration.Input
	begun int
	lines []string
}

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC) // a Monday

func tell(t *testing.T, self domain.SiteID, groups ...api.GroupDesired) *tale {
	return &tale{t: t, in: declaration.Input{Self: self, Wall: noon, Losses: map[domain.SiteID]declaration.Loss{}, Groups: groups, Held: map[domain.GroupID]string{}}}
}

// group is one at home at a, with a synchronous copy at b and an asynchronous one at c.
func group(id domain.GroupID, p domain.FailoverPolicy, hold time.Duration, change ...func(*domain.Group)) api.GroupDesired {
	g := domain.Group{ID: id, Tier: 1, Home: "a", Failover: p, HoldDown: hold,
		Targets: []domain.Target{{Site: "n", Mode: domain.ModeNone}, {Site: "b", Mode: domain.ModeSync}, {Site: "c", Mode: domain.ModeAsync}}}
	for _, f := range change {
		f(&g)
	}
	return api.GroupDesired{Site: "a", Epoch: 257, Group: g}
}

func two(g *domain.Group) { g.Approvers = 2 }

// after lets time pass.
func (w *tale) after(d time.Duration) *tale {
	w.in.Now += d
	w.in.Wall = w.in.Wall.Add(d)
	return w.tick("after " + d.String())
}

func (w *tale) health(site domain.SiteID, what string) *tale {
	w.in.Losses[site] = map[string]declaration.Loss{
		"suspects": {Suspected: true, Proof: api.DisasterProof{Text: "b misses " + string(site)}},
		"confirms": {Suspected: true, Confirmed: true, Proof: api.DisasterProof{Event: "e1", Text: "b and w miss " + string(site)}},
		"sees":     {Well: true}, "says nothing of": {},
	}[what]
	return w.tick("health " + what + " " + string(site))
}

func (w *tale) tick(what string) *tale {
	w.in.NewID = domain.DeclarationID(fmt.Sprint("d", len(w.s.List)+1))
	s, acts := declaration.Decide(w.s, w.in)
	w.took(what, s, acts, nil)
	return w
}

func (w *tale) says(who, what string, f func(*declaration.Word)) *tale {
	w.in.NewID = domain.DeclarationID(fmt.Sprint("d", len(w.s.List)+1))
	x := declaration.Word{What: what, ID: "d1-a", Operator: true, Approval: api.Approval{By: who, Why: who + " says so"}}
	if what == declaration.Open {
		x.ID, x.Site = "", "a"
	}
	if f != nil {
		f(&x)
	}
	s, acts, _, err := declaration.Hear(w.s, w.in, x)
	w.took(who+" says "+what, s, acts, err)
	return w
}

// ends lets the newest run end.
func (w *tale) ends(state string) *tale {
	r := &w.in.Runs[len(w.in.Runs)-1]
	r.State, r.Error = state, map[string]string{api.StepFailed: "no quorum"}[state]
	if state == api.StepDone {
		for i, g := range w.in.Groups {
			if slices.Contains(declaration.GroupsOf(*r), g.Group.ID) {
				w.in.Groups[i].Site, w.in.Groups[i].Epoch = w.in.Self, g.Epoch+256
			}
		}
	}
	return w.tick("run " + string(r.ID) + " ends " + state)
}

// took keeps the new state, begins the runs, and tells what happened.
func (w *tale) took(what string, s declaration.State, acts declaration.Actions, err error) {
	line := what
	if err != nil {
		line += ": " + err.Error()
	}
	before := map[domain.DeclarationID]api.Declaration{}
	for _, x := range w.s.List {
		before[x.ID] = x
	}
	for _, x := range acts.Keep {
		if x.Version != before[x.ID].Version+1 {
			w.t.Errorf("%s: version %d after %d", what, x.Version, before[x.ID].Version)
		}
		line += fmt.Sprintf(" | %s %s", x.ID, x.State)
		for _, g := range x.Groups {
			line += fmt.Sprintf(", %s %s %d/%d", g.Group, g.State, len(g.Approvals), g.Needed)
		}
	}
	w.s = s
	for _, l := range acts.Launch {
		w.begun++
		r := api.Run{ID: domain.RunID(fmt.Sprint("r", w.begun)), Declaration: l.Declaration, State: api.StepRunning, Started: w.in.Wall}
		if l.Order != nil && !slices.ContainsFunc(w.in.Runs, func(r api.Run) bool { return r.ID == l.Order.Run }) {
			r.ID = l.Order.Run
		}
		for _, g := range l.Groups {
			r.Steps = append(r.Steps, api.Step{Kind: plan.KindAcquire, Group: g})
		}
		w.in.Runs = append(w.in.Runs, r)
		line += fmt.Sprintf(" | begin %s for %s by %s, loss accepted %v", r.ID, l.Groups, l.By, slices.Sorted(maps.Values(boolText(l.AcceptLoss))))
	}
	w.lines = append(w.lines, line)
}

func boolText(m map[domain.GroupID]bool) map[domain.GroupID]string {
	out := map[domain.GroupID]string{}
	for g, b := range m {
		out[g] = fmt.Sprintf("%s=%t", g, b)
	}
	return out
}

// restarts forgets what is not durable.
func (w *tale) restarts() *tale {
	w.s.Lost, w.in.Now = nil, time.Second
	return w.tick("the service is started again")
}

func (w *tale) is(want string) {
	w.t.Helper()
	got := strings.Join(w.lines, "\n")
	if want = strings.TrimSpace(want); got != want {
		w.t.Errorf("got\n%s\n\nwant\n%s", got, want)
	}
}
