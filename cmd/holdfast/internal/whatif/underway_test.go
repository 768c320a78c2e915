package whatif_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/whatif"
	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/failover/plan"
)

// moving has a run of a kind bring erp from a to b; its steps up to and with the one of kind done are done, and holder has the lease.
func moving(t *testing.T, kind, done string, holder domain.SiteID, more ...func(*whatif.State)) whatif.State {
	t.Helper()
	return change(func(st *whatif.State) {
		g := st.List.Groups[0].Group
		steps, err := plan.Build(plan.Input{Plan: domain.Plan{ID: "erp", Groups: []domain.PlanGroup{{Group: "erp"}}}, Groups: map[domain.GroupID]domain.Group{"erp": g},
			Kind: kind, Leader: "b", From: "a"})
		if err != nil {
			t.Fatal(err)
		}
		for i := range slices.IndexFunc(steps, func(s api.Step) bool { return s.Kind == done }) + 1 {
			steps[i].State = api.StepDone
		}
		st.Runs["erp"] = api.Run{ID: "01R", Kind: kind, Leader: "b", From: "a", By: "alice", State: api.StepRunning, Steps: steps}
		v := st.Votes["erp"]
		v.Holder = holder
		st.Votes["erp"] = v
		for _, f := range more {
			f(st)
		}
	})
}

func TestARunUnderWayIsNamedAndFollowedPastTheLoss(t *testing.T) {
	behind := func(st *whatif.State) {
		c := st.Copies["erp"]["a"]
		c.Targets = []api.TargetStatus{{Site: "b", State: api.TargetResync, LagBytes: 4096}}
		st.Copies["erp"]["a"] = c
	}
	down := func(st *whatif.State) { st.Down = []domain.SiteID{"a"} }
	arrived := func(st *whatif.State) { st.List.Groups[0].Site = "b" }
	async := func(st *whatif.State) {
		v := st.Votes["erp"]
		v.Reg.InSync = []domain.SiteID{"a"}
		st.Votes["erp"] = v
	}
	for name, c := range map[string]struct {
		st              whatif.State
		lose, want, why string
	}{
		"a move, and neither end is lost":            {moving(t, api.RunSwitchover, "", "a"), "site:w", "erp moves a>b", "the run goes on"},
		"a move of an asynchronous group":            {moving(t, api.RunSwitchover, "", "a", async), "site:w", "erp moves a>b", "the run goes on"},
		"a move whose copy is behind":                {moving(t, api.RunSwitchover, "", "a", behind), "site:w", "erp stays a>a", "is resync (4096 bytes behind)"},
		"a move without its leader":                  {moving(t, api.RunSwitchover, "", "a"), "site:b", "erp stays a>a", "site b, which leads it"},
		"a move without its leader, VMs stopped":     {moving(t, api.RunSwitchover, plan.KindEvacuate, "a"), "site:b", "erp stays a>a", "site a starts them again"},
		"a move across a link that is cut":           {moving(t, api.RunSwitchover, "", "a"), "link:a-b", "erp stays a>a", "site a cannot hand it over any more"},
		"a move whose source is lost":                {moving(t, api.RunSwitchover, "", "a"), "site:a", "erp moves a>b", "site a cannot hand it over any more"},
		"released, and the source is lost":           {moving(t, api.RunSwitchover, plan.KindRelease, ""), "site:a", "erp moves >b", "the run goes on"},
		"released, and the leader is lost":           {moving(t, api.RunSwitchover, plan.KindRelease, ""), "site:b", "erp moves >a", "site a is to serve it"},
		"granted, and the source is lost":            {moving(t, api.RunSwitchover, plan.KindAcquire, "b"), "site:a", "erp stays b>b", "brings it up at site b"},
		"granted, and the leader is lost":            {moving(t, api.RunSwitchover, plan.KindAcquire, "b"), "site:b", "erp moves b>a", "site a is to serve it"},
		"arrived, and the leader is lost":            {moving(t, api.RunSwitchover, plan.KindDesired, "b", arrived), "site:b", "erp moves b>a", "after 30s"},
		"a failover, and nothing more is lost":       {moving(t, api.RunFailover, "", "", down), "", "erp moves >b", "the run goes on"},
		"a failover, and the majority is lost":       {moving(t, api.RunFailover, "", "", down), "site:w", "erp absent >", "does not come to its end: no quorum"},
		"a failover that the served site never lost": {moving(t, api.RunFailover, "", "a"), "site:w", "erp stays a>a", "site a still holds the lease"},
	} {
		p := predict(t, c.st, strings.Fields(c.lose)...)
		f := p.Groups[0]
		if !strings.HasPrefix(fates(p), c.want) || f.Run != "01R" || !strings.Contains(strings.Join(f.Why, "\n"), c.why) {
			t.Errorf("%s: got %s, want %s because %q\n%s", name, fates(p), c.want, c.why, p.Text(true))
		}
		if p.Groups[1].Run != "" || !strings.Contains(p.Text(false), f.What+" (in run 01R)") || !strings.Contains(p.Line(), f.What+" (in run 01R)") {
			t.Errorf("%s: the row does not say which run\n%s%s", name, p.Text(false), p.Line())
		}
	}
	p := predict(t, moving(t, api.RunSwitchover, "", "a"), "site:w")
	if f := p.Groups[0]; f.Loss == nil || f.Loss.Text != "nothing" || len(f.Names) != 1 || f.Order != 1 || f.HoldNs != 0 {
		t.Errorf("%+v", f)
	}
	done := moving(t, api.RunSwitchover, "", "a", func(st *whatif.State) {
		r := st.Runs["erp"]
		r.State = api.StepDone
		st.Runs["erp"] = r
	})
	if p := predict(t, done, "site:w"); p.Groups[0].Run != "" || p.Groups[0].What != whatif.Stays {
		t.Errorf("a run that is done: %s", p.Text(true))
	}
}

// A declaration's run is not begun again while it is under way.
func TestARunOfADeclarationIsNotBegunTwice(t *testing.T) {
	st := moving(t, api.RunFailover, "", "", func(st *whatif.State) {
		st.Down = []domain.SiteID{"a"}
		st.List.Groups = st.List.Groups[:1]
		st.List.Plans = nil
		r := st.Runs["erp"]
		r.Declaration, r.Started = "01D-a", noon
		st.Runs["erp"] = r
		st.Declared = []api.Declaration{{ID: "01D-a", Site: "a", Leader: "b", State: api.DeclarationDeclared, Seen: true,
			Groups: []api.DeclaredGroup{{Group: "erp", State: api.DeclarationDeclared, Automatic: true, Declared: noon}}}}
		st.At = noon
	})
	p := predict(t, st, "voter:w")
	if why := strings.Join(p.Groups[0].Why, "\n"); strings.Contains(why, "its policy lets it take over") {
		t.Error(why)
	}
}
