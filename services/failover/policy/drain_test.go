package policy_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/failover/policy"
)

// draining is site a with groups dir, erp and own, of which the plan has two, and one that is elsewhere.
func draining() policy.DrainInput {
	in := policy.DrainInput{Self: "a", Against: map[domain.SiteID]map[domain.GroupID]string{"b": {}, "c": {}}}
	for _, id := range []domain.GroupID{"dir", "erp", "own"} {
		in.List.Groups = append(in.List.Groups, group(id, "a", domain.FailoverManual, 0))
		in.Copies = append(in.Copies, api.GroupStatus{Group: id, Role: domain.RolePrimary, Serving: true, Targets: []api.TargetStatus{
			{Site: "b", InSync: true}, {Site: "c", State: api.TargetStreaming}}})
	}
	in.List.Groups = append(in.List.Groups, group("far", "c", domain.FailoverManual, 0))
	in.List.Plans = []domain.Plan{{ID: "main", Groups: []domain.PlanGroup{{Group: "erp", Priority: 2}, {Group: "dir", Priority: 1}, {Group: "far", Priority: 3}}}}
	return in
}

func TestADrainMovesWhatCanMoveInPlanOrderAndSaysWhyTheRestStays(t *testing.T) {
	both := []string{"main>b [dir erp]", "own>b [own]"}
	for name, c := range map[string]struct {
		change func(*policy.DrainInput)
		runs   []string
		stays  map[domain.GroupID]string
	}{
		"everything":                  {func(*policy.DrainInput) {}, both, nil},
		"to the preferred site":       {func(in *policy.DrainInput) { in.List.Groups[0].Group.Placement.Preferred = "c" }, []string{"main>c [dir]", "main>b [erp]", "own>b [own]"}, nil},
		"not what is pinned here":     {func(in *policy.DrainInput) { in.List.Groups[1].Group.Placement.Pinned = []domain.SiteID{"a"} }, []string{"main>b [dir]", "own>b [own]"}, map[domain.GroupID]string{"erp": "placement.pinned"}},
		"past a site that is drained": {func(in *policy.DrainInput) { in.List.Sites = []api.SiteDesired{{Site: "b", Drain: &api.Drain{}}} }, []string{"main>c [dir erp]", "own>c [own]"}, nil},
		"past a site that is silent":  {func(in *policy.DrainInput) { delete(in.Against, "b") }, []string{"main>c [dir erp]", "own>c [own]"}, nil},
		"past a site that cannot":     {func(in *policy.DrainInput) { in.Against["b"]["own"] = "vm x finds no host" }, []string{"main>b [dir erp]", "own>c [own]"}, nil},
		"not to a copy that is behind": {func(in *policy.DrainInput) {
			in.Copies[0].Targets = []api.TargetStatus{{Site: "b", State: api.TargetResync, LagBytes: 9}}
		}, []string{"main>b [erp]", "own>b [own]"}, map[domain.GroupID]string{"dir": "resync (9 bytes behind); site a does not send to site c"}},
		"nothing where its own replicator is silent": {func(in *policy.DrainInput) { in.Copies = nil }, nil,
			map[domain.GroupID]string{"dir": "no copy", "erp": "no copy", "own": "no copy"}},
		"nothing where nobody answers": {func(in *policy.DrainInput) { in.Against = nil }, nil,
			map[domain.GroupID]string{"dir": "site b does not answer; site c does not answer", "erp": "answer", "own": "answer"}},
		"not what is replicated nowhere": {func(in *policy.DrainInput) { in.List.Groups[2].Group.Targets = nil }, both[:1], map[domain.GroupID]string{"own": "no other site has its changes"}},
	} {
		t.Run(name, func(t *testing.T) {
			in := draining()
			c.change(&in)
			runs, stays := policy.Drain(in)
			var got []string
			for _, r := range runs {
				got = append(got, fmt.Sprintf("%s>%s %v", r.Plan, r.To, r.Groups))
			}
			if !slices.Equal(got, c.runs) || len(stays) != len(c.stays) {
				t.Fatalf("runs %q, stays %+v; want %q, %v", got, stays, c.runs, c.stays)
			}
			for _, s := range stays {
				if want := c.stays[s.Group]; want == "" || !strings.Contains(s.Why, want) {
					t.Errorf("group %s stays: %q, want %q", s.Group, s.Why, want)
				}
			}
		})
	}
}

func TestWhatFailedToMoveStaysAndWhatMovedAllTheSameDoesNot(t *testing.T) {
	in := draining()
	d := api.Drain{State: api.DrainDraining, Stays: []api.DrainStay{{Group: "own", Why: "pinned"}}, Runs: []api.DrainRun{
		{ID: "r1", To: "b", Groups: []domain.GroupID{"dir"}, State: api.StepDone}, {ID: "r2", To: "b", Groups: []domain.GroupID{"erp", "far"}, State: api.StepFailed, Error: "no lease"}, {ID: "r3", State: api.StepPending}}}
	if i, more := policy.NextRun(d); i != 2 || !more {
		t.Fatalf("next is %d, %v", i, more)
	}
	d.Runs = d.Runs[:2]
	if _, more := policy.NextRun(d); more {
		t.Fatal("a run is left")
	}
	got := policy.Finish(d, "a", in.List)
	if got.State != api.DrainDrained || len(got.Stays) != 2 || got.Stays[1].Group != "erp" || !strings.Contains(got.Stays[1].Why, "run r2 to site b: no lease") {
		t.Fatalf("%+v", got)
	}
	in.List.Groups[3].Site = "a" // while the drain was planned
	if was, now := draining().List, in.List; !slices.Equal(policy.Arrived("a", was, now), []domain.GroupID{"far"}) || len(policy.Arrived("a", now, now)) != 0 {
		t.Errorf("arrived: %v", policy.Arrived("a", was, now))
	}
	d.Runs[1].Groups = []domain.GroupID{"erp"}
	if got = policy.Finish(d, "a", in.List); len(got.Stays) != 3 || got.Stays[2].Group != "far" || !strings.Contains(got.Stays[2].Why, "planned without it") {
		t.Errorf("with what came meanwhile: %+v", got.Stays)
	}
	if len(d.Stays) != 1 {
		t.Error("the drain that was given changed")
	}
}
