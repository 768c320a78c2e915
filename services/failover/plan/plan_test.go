package plan_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/failover/plan"
)

func vm(id domain.VMID, prio int, dns []string, deps ...domain.VMID) domain.VM {
	return domain.VM{ID: id, Priority: prio, DependsOn: deps, DNS: dns, Sites: map[domain.SiteID]domain.VMPlacement{
		"a": {Address: "10.0.0.1", Hosts: []domain.HostID{"a-h1"}}, "b": {Address: "10.1.0.1", Hosts: []domain.HostID{"b-h1"}}}}
}

func group(id domain.GroupID, vms ...domain.VM) domain.Group {
	return domain.Group{ID: id, Home: "a", Targets: []domain.Target{{Site: "b", Mode: domain.ModeSync}}, VMs: vms}
}

func input(kind string, pgs []domain.PlanGroup, groups ...domain.Group) plan.Input {
	in := plan.Input{Plan: domain.Plan{ID: "all", Groups: pgs}, Groups: map[domain.GroupID]domain.Group{}, Kind: kind, Leader: "b", From: "a"}
	for _, g := range groups {
		in.Groups[g.ID] = g
	}
	return in
}

func ids(steps []api.Step) []string {
	var out []string
	for _, s := range steps {
		out = append(out, s.ID)
	}
	return out
}

func needs(t *testing.T, steps []api.Step, id string) []string {
	t.Helper()
	i := slices.IndexFunc(steps, func(s api.Step) bool { return s.ID == id })
	if i < 0 {
		t.Fatalf("no step %s in %v", id, ids(steps))
	}
	return steps[i].Needs
}

func TestAGroupIsNotBroughtToASiteThatItsPlacementBars(t *testing.T) {
	for name, p := range map[string]domain.Placement{"forbidden": {Forbidden: []domain.SiteID{"b"}}, "pinned": {Pinned: []domain.SiteID{"a"}}} {
		for _, kind := range []string{api.RunStart, api.RunFailover, api.RunSwitchover, api.RunFailback} {
			g := group("erp", vm("db", 1, nil))
			g.Placement = p
			_, err := plan.Build(input(kind, []domain.PlanGroup{{Group: "erp"}}, g))
			if !errors.Is(err, domain.ErrRefused) || !strings.Contains(err.Error(), "placement."+name) || !strings.Contains(err.Error(), "holdfast group set erp") {
				t.Errorf("%s, %s: %v", kind, name, err)
			}
			g.Placement = domain.Placement{Pinned: []domain.SiteID{"b"}, Forbidden: []domain.SiteID{"a"}}
			if _, err := plan.Build(input(kind, []domain.PlanGroup{{Group: "erp"}}, g)); err != nil {
				t.Errorf("%s to the one site that may serve it: %v", kind, err)
			}
		}
	}
}

func TestFailoverStepsOfOneGroup(t *testing.T) {
	steps, err := plan.Build(input(api.RunFailover, []domain.PlanGroup{{Group: "erp"}}, group("erp", vm("db", 1, []string{"db.example.test."}))))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"acquire.erp", "desired.erp", "promote.erp", "start.db", "verify.db", "dns.db.db.example.test", "client.db", "protect.erp"}
	if got := ids(steps); !slices.Equal(got, want) {
		t.Fatalf("got  %v\nwant %v", got, want)
	}
}

func TestPlannedMoveHandsOverBeforeItAcquires(t *testing.T) {
	steps, err := plan.Build(input(api.RunSwitchover, []domain.PlanGroup{{Group: "dir", Priority: 1}, {Group: "erp", Priority: 2}},
		group("dir", vm("ad", 0, nil)), group("erp", vm("db", 0, nil))))
	if err != nil {
		t.Fatal(err)
	}
	if n := needs(t, steps, "evacuate.dir"); !slices.Equal(n, []string{"evacuate.erp", "precheck.dir", "precheck.erp"}) {
		t.Errorf("evacuate.dir needs %v: what depends on it must stop first, and nothing before every precheck", n)
	}
	if n := needs(t, steps, "acquire.erp"); !slices.Equal(n, []string{"release.erp"}) {
		t.Errorf("acquire.erp needs %v", n)
	}
	if n := needs(t, steps, "release.erp"); !slices.Equal(n, []string{"demote.erp"}) {
		t.Errorf("release.erp needs %v", n)
	}
}

func TestPrioritiesAndDependenciesBecomeHealthGates(t *testing.T) {
	pgs := []domain.PlanGroup{{Group: "dir", Priority: 1}, {Group: "web", Priority: 2, DependsOn: []domain.GroupID{"erp"}}, {Group: "erp", Priority: 2}, {Group: "raw", Priority: 1}}
	steps, err := plan.Build(input(api.RunFailover, pgs, group("dir", vm("ad1", 1, nil), vm("ad2", 2, nil)), group("raw"),
		group("erp", vm("db", 1, nil), vm("app", 2, nil)), group("web", vm("www", 1, nil, "ad2"))))
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string][]string{
		"start.ad1":   {"promote.dir"},
		"start.ad2":   {"promote.dir", "verify.ad1"},
		"start.db":    {"promote.erp", "promote.raw", "verify.ad1", "verify.ad2"},
		"start.app":   {"promote.erp", "promote.raw", "verify.ad1", "verify.ad2", "verify.db"},
		"start.www":   {"promote.raw", "promote.web", "verify.ad1", "verify.ad2", "verify.app", "verify.db"},
		"acquire.web": nil,
	} {
		if got := needs(t, steps, id); !slices.Equal(got, want) {
			t.Errorf("%s needs %v, want %v", id, got, want)
		}
	}
	at := map[string]int{}
	for i, s := range steps {
		at[s.ID] = i
		for _, n := range s.Needs {
			if _, ok := at[n]; !ok {
				t.Errorf("%s stands before %s, which it needs", s.ID, n)
			}
		}
	}
}

func TestARestrictedRunDoesNotWaitForGroupsOutsideIt(t *testing.T) {
	in := input(api.RunStart, []domain.PlanGroup{{Group: "dir", Priority: 1}, {Group: "erp", Priority: 2, DependsOn: []domain.GroupID{"dir"}}},
		group("dir", vm("ad", 0, nil)), group("erp", vm("db", 0, nil, "ad")))
	in.Only = []domain.GroupID{"erp"}
	steps, err := plan.Build(in)
	if err != nil {
		t.Fatal(err)
	}
	if got := needs(t, steps, "start.db"); !slices.Equal(got, []string{"promote.erp"}) {
		t.Fatalf("start.db needs %v", got)
	}
}

func TestBadPlansAreRefusedByName(t *testing.T) {
	erp, web := group("erp", vm("db", 1, nil)), group("web", vm("www", 1, nil))
	noHost := group("web", domain.VM{ID: "www", Sites: map[domain.SiteID]domain.VMPlacement{"a": {Hosts: []domain.HostID{"h"}}}})
	cases := []struct {
		name string
		in   plan.Input
		want string
	}{
		{"unknown group", input(api.RunFailover, []domain.PlanGroup{{Group: "nope"}}, erp), "group nope is not defined"},
		{"unknown dependency", input(api.RunFailover, []domain.PlanGroup{{Group: "erp", DependsOn: []domain.GroupID{"x"}}}, erp), "depends on x"},
		{"unknown vm", input(api.RunFailover, []domain.PlanGroup{{Group: "erp"}}, group("erp", vm("db", 1, nil, "ghost"))), "depends on ghost"},
		{"group twice", input(api.RunFailover, []domain.PlanGroup{{Group: "erp"}, {Group: "erp"}}, erp), "named twice"},
		{"group cycle", input(api.RunFailover, []domain.PlanGroup{{Group: "erp", DependsOn: []domain.GroupID{"web"}}, {Group: "web", DependsOn: []domain.GroupID{"erp"}}}, erp, web), "wait for one another"},
		{"self", input(api.RunFailover, []domain.PlanGroup{{Group: "erp", DependsOn: []domain.GroupID{"erp"}}}, erp), "wait for one another"},
		{"priority against dependency", input(api.RunFailover, []domain.PlanGroup{{Group: "erp", Priority: 1, DependsOn: []domain.GroupID{"web"}}, {Group: "web", Priority: 2}}, erp, web), "wait for one another"},
		{"vm cycle", input(api.RunFailover, []domain.PlanGroup{{Group: "erp"}}, group("erp", vm("db", 1, nil, "app"), vm("app", 1, nil, "db"))), "start.app after verify.db"},
		{"vm across groups against the order", input(api.RunFailover, []domain.PlanGroup{{Group: "erp", Priority: 1}, {Group: "web", Priority: 2}}, group("erp", vm("db", 1, nil, "www")), web), "wait for one another"},
		{"no host", input(api.RunFailover, []domain.PlanGroup{{Group: "web"}}, noHost), "no host at site b"},
		{"vm in two groups", input(api.RunFailover, []domain.PlanGroup{{Group: "erp"}}, erp, group("web", vm("db", 1, nil))), "vm db is in group"},
		{"same name twice", input(api.RunFailover, []domain.PlanGroup{{Group: "erp"}}, group("erp", vm("db", 1, []string{"x.test.", "X.test"}))), "same name"},
		{"kind", input("party", []domain.PlanGroup{{Group: "erp"}}, erp), "unknown kind"},
		{"nothing", input(api.RunFailover, nil, erp), "no group"},
	}
	other := input(api.RunFailover, []domain.PlanGroup{{Group: "erp"}}, erp)
	other.Leader = "c"
	cases = append(cases, struct {
		name string
		in   plan.Input
		want string
	}{"no copy", other, "site c has no copy"})
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := plan.Build(c.in)
			if !errors.Is(err, domain.ErrInvalid) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "plan all") {
				t.Fatalf("got %v, want %q", err, c.want)
			}
		})
	}
}
