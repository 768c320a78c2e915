package whatif_test

import (
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/whatif"
	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
	"github.com/holdfast-dr/holdfast/services/quorum/planner"
)

var update = flag.Bool("update", false, "write the golden files anew")

func desired(id domain.GroupID, mode domain.Mode, policy domain.FailoverPolicy, hold time.Duration) api.GroupDesired {
	vm := domain.VM{ID: domain.VMID(id + "-vm"), Port: 80, DNS: []string{string(id) + ".dr.example.org"}, Sites: map[domain.SiteID]domain.VMPlacement{
		"a": {Address: "10.1.0.1", Hosts: []domain.HostID{"a-h1"}}, "b": {Address: "10.2.0.1", Hosts: []domain.HostID{"b-h1"}}}}
	return api.GroupDesired{Site: "a", Epoch: domain.NewEpoch(0, 1, 1), Version: 1, Group: domain.Group{ID: id, Home: "a", Failover: policy, HoldDown: hold, OnTargetLoss: domain.TargetLossDegrade,
		Targets: []domain.Target{{Site: "b", Mode: mode}}, VMs: []domain.VM{vm}}}
}

// state is two data sites and a witness; everything is at home at a and well. dir comes before erp in their plan.
func state() whatif.State {
	st := whatif.State{Plan: planner.Input{Model: core.NodeAndShareMajority, Timing: core.DefaultTiming(),
		Sites: []planner.Site{{ID: "a", Role: domain.SiteData}, {ID: "b", Role: domain.SiteData}, {ID: "w", Role: domain.SiteWitness}},
		Voters: []planner.Voter{{Member: core.Member{ID: "a", Kind: core.KindNode}, Site: "a"}, {Member: core.Member{ID: "b", Kind: core.KindNode}, Site: "b"},
			{Member: core.Member{ID: "w", Kind: core.KindWitness}, Site: "w"}}},
		List: api.GroupList{Groups: []api.GroupDesired{desired("erp", domain.ModeSync, domain.FailoverAuto, 30*time.Second), desired("dir", domain.ModeSync, domain.FailoverAuto, 30*time.Second),
			desired("log", domain.ModeAsync, domain.FailoverAuto, 5*time.Second), desired("old", domain.ModeAsync, domain.FailoverManual, 0)},
			Plans: []domain.Plan{{ID: "main", Groups: []domain.PlanGroup{{Group: "dir", Priority: 1}, {Group: "erp", Priority: 2}}}}},
		Votes: map[domain.GroupID]whatif.Vote{}, Loss: map[domain.GroupID]map[domain.SiteID]api.LossEstimate{},
		Copies: map[domain.GroupID]map[domain.SiteID]api.GroupStatus{}, Runs: map[domain.GroupID]api.Run{},
		Health: map[domain.SiteID]api.HealthStatus{"a": {}, "b": {}, "w": {}}}
	for _, g := range st.List.Groups {
		id, in := g.Group.ID, []domain.SiteID{"a", "b"}
		loss := api.LossEstimate{Known: true, Text: "nothing"}
		if g.Group.Targets[0].Mode == domain.ModeAsync {
			in, loss = in[:1], api.LossEstimate{Known: true, Writes: 12, Bytes: 49152, Seconds: 0.4, Text: "0.4 s, 48 KiB"}
		}
		st.Votes[id] = whatif.Vote{Holder: "a", Epoch: domain.NewEpoch(0, 1, 1), Reg: core.Register{InSync: in, Config: core.Config{Weights: core.Weights{"a": 1, "b": 1, "w": 1}}}}
		st.Loss[id] = map[domain.SiteID]api.LossEstimate{"b": loss}
		st.Copies[id] = map[domain.SiteID]api.GroupStatus{
			"a": {Group: id, Role: domain.RolePrimary, Serving: true, Consistent: true, Targets: []api.TargetStatus{{Site: "b", State: api.TargetStreaming}}},
			"b": {Group: id, Role: domain.RoleTarget, Consistent: true}}
	}
	return st
}

func predict(t *testing.T, st whatif.State, lose ...string) whatif.Prediction {
	t.Helper()
	var losses []whatif.Loss
	for _, text := range lose {
		l, err := whatif.Parse(st.Plan, text)
		if err != nil {
			t.Fatal(err)
		}
		losses = append(losses, l)
	}
	p, err := whatif.Predict(st, losses)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// fates is "erp moves a>b" for each group.
func fates(p whatif.Prediction) string {
	var out []string
	for _, f := range p.Groups {
		out = append(out, strings.TrimSpace(string(f.Group)+" "+f.What+" "+string(f.From)+">"+string(f.To)))
	}
	return strings.Join(out, ", ")
}

func change(f func(*whatif.State)) whatif.State {
	st := state()
	f(&st)
	return st
}

// bury has a site's health service take a host for dead.
func bury(st *whatif.State, site domain.SiteID, host string) {
	h := st.Health[site]
	h.View.Observations = append(h.View.Observations, api.Observation{Kind: "host", ID: host, Site: site, State: api.StateDead})
	st.Health[site] = h
}

func TestWhatBecomesOfEachGroup(t *testing.T) {
	two := change(func(st *whatif.State) { // no witness
		st.Plan.Model, st.Plan.Sites, st.Plan.Voters = core.NodeMajority, st.Plan.Sites[:2], st.Plan.Voters[:2]
		for id, v := range st.Votes {
			v.Reg.Config.Weights = core.Weights{"a": 1, "b": 1}
			st.Votes[id] = v
		}
	})
	round := change(func(st *whatif.State) { st.Plan.From, st.Plan.Sites[2].Via = "a", "b" }) // a reaches w by b's relay
	for _, c := range []struct {
		name, lose, want string
		st               whatif.State
	}{
		{"the serving site", "site:a", "erp moves a>b, dir moves a>b, log moves a>b, old waits a>b", state()},
		{"the target", "site:b", "erp stays a>a, dir stays a>a, log stays a>a, old stays a>a", state()},
		{"the witness", "site:w", "erp stays a>a, dir stays a>a, log stays a>a, old stays a>a", state()},
		{"the serving site and the witness", "site:a site:w", "erp stops a>, dir stops a>, log stops a>, old stops a>", state()},
		{"the target and the witness", "site:b site:w", "erp stops a>, dir stops a>, log stops a>, old stops a>", state()},
		{"the link between the data sites", "link:a-b", "erp stays a>a, dir stays a>a, log stays a>a, old stays a>a", state()},
		{"every link of the serving site", "link:a-b link:a-w", "erp moves a>b, dir moves a>b, log moves a>b, old waits a>b", state()},
		{"the quorum service of the serving site", "voter:a", "erp waits a>b, dir waits a>b, log waits a>b, old waits a>b", state()},
		{"the serving site without a witness", "site:a", "erp stops a>, dir stops a>, log stops a>, old stops a>", two},
		{"the site that relays to the witness", "site:b", "erp stops a>, dir stops a>, log stops a>, old stops a>", round},
		{"the link from the relay to the witness", "link:b-w", "erp stays a>a, dir stays a>a, log stays a>a, old stays a>a", round},
		{"the link to the relay", "link:a-b", "erp moves a>b, dir moves a>b, log moves a>b, old waits a>b", round},
		{"a link that is not there", "link:a-w", "erp stays a>a, dir stays a>a, log stays a>a, old stays a>a", round},
		{"an even split", "link:a-b", "erp stops a>, dir stops a>, log stops a>, old stops a>", two},
		{"a target that is not in sync", "site:a", "erp waits a>b, dir moves a>b, log moves a>b, old waits a>b", change(func(st *whatif.State) {
			v := st.Votes["erp"]
			v.Reg.InSync = []domain.SiteID{"a"}
			st.Votes["erp"] = v
		})},
		{"a group that suspends without its target", "site:a", "erp stops a>, dir moves a>b, log moves a>b, old waits a>b", change(func(st *whatif.State) {
			st.List.Groups[0].Group.OnTargetLoss = domain.TargetLossSuspend
			st.List.Groups[2].Group.OnTargetLoss = domain.TargetLossSuspend // asynchronous: nobody waits for a
		})},
		{"a group that suspends, whose target was let go before", "site:a", "erp waits a>b, dir moves a>b, log moves a>b, old waits a>b", change(func(st *whatif.State) {
			st.List.Groups[0].Group.OnTargetLoss = domain.TargetLossSuspend
			v := st.Votes["erp"]
			v.Reg.InSync = []domain.SiteID{"a"}
			st.Votes["erp"] = v
		})},
		{"a share that only one site reaches", "site:a", "erp stops a>, dir stops a>, log stops a>, old stops a>", change(func(st *whatif.State) {
			st.Plan.Voters[2] = planner.Voter{Member: core.Member{ID: "w", Kind: core.KindShare}}
			st.Unreached = map[domain.SiteID]map[core.VoterID]bool{"b": {"w": true}}
		})},
		{"a copy that is not complete", "site:a", "erp moves a>b, dir moves a>b, log stops a>, old waits a>b", change(func(st *whatif.State) {
			st.Copies["log"]["b"] = api.GroupStatus{Group: "log", Role: domain.RoleTarget}
		})},
		{"a site that is down already", "site:w", "erp stops >, dir stops >, log stops >, old stops >", change(func(st *whatif.State) {
			st.Down = []domain.SiteID{"a"}
			for id, v := range st.Votes {
				v.Holder = ""
				st.Votes[id] = v
			}
		})},
		{"a pinned and a forbidden group", "site:a", "erp stops a>, dir moves a>b, log stops a>, old stops a>", change(func(st *whatif.State) {
			st.List.Groups[0].Group.Placement.Pinned = []domain.SiteID{"a"}
			st.List.Groups[2].Group.Placement.Forbidden = []domain.SiteID{"b"}
			st.List.Groups[3].Group.Placement.Forbidden = []domain.SiteID{"b"}
		})},
		{"a drained site", "site:a", "erp stops a>, dir stops a>, log stops a>, old stops a>", change(func(st *whatif.State) {
			st.List.Sites = []api.SiteDesired{{Site: "b", Drain: &api.Drain{State: api.DrainDrained, Reason: "works"}}}
		})},
		{"a target that may join a quorum only", "site:a", "erp stops a>, dir stops a>, log stops a>, old stops a>", change(func(st *whatif.State) {
			st.Prevented = map[domain.SiteID]bool{"b": true}
		})},
		{"a serving site that may join a quorum only", "site:b", "erp stays a>a, dir stays a>a, log stays a>a, old stays a>a", change(func(st *whatif.State) {
			st.Prevented = map[domain.SiteID]bool{"a": true}
		})},
		{"the witness, with the link between the data sites cut", "site:w", "erp stops a>, dir stops a>, log stops a>, old stops a>", change(func(st *whatif.State) {
			st.Cut = []whatif.Loss{{Kind: whatif.LoseLink, A: "a", B: "b"}}
		})},
		{"the link to the witness, with the other one cut", "link:a-w", "erp moves a>b, dir moves a>b, log moves a>b, old waits a>b", change(func(st *whatif.State) {
			st.Cut = []whatif.Loss{{Kind: whatif.LoseLink, A: "a", B: "b"}}
		})},
		{"a forced quorum", "site:b", "erp stops a>, dir stays a>a, log stays a>a, old stays a>a", change(func(st *whatif.State) {
			v := st.Votes["erp"]
			v.Reg.Config.Weights = core.Weights{"b": 1}
			st.Votes["erp"] = v
		})},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := predict(t, c.st, strings.Fields(c.lose)...)
			want := strings.ReplaceAll(c.want, "stops >", "absent >")
			if got := fates(p); got != want {
				t.Errorf("got  %s\nwant %s\n%s", got, want, p.Text(true))
			}
			for _, f := range p.Groups {
				if len(f.Why) == 0 {
					t.Errorf("group %s: no reason", f.Group)
				}
			}
		})
	}
}

func TestAMoveHasItsOrderLossNamesAndHosts(t *testing.T) {
	st := change(func(st *whatif.State) { bury(st, "b", "b-h1") })
	p := predict(t, st, "site:a")
	by := map[domain.GroupID]whatif.Fate{}
	for _, f := range p.Groups {
		by[f.Group] = f
	}
	if by["log"].Order != 1 || by["dir"].Order != 2 || by["erp"].Order != 3 || by["old"].Order != 0 {
		t.Errorf("order: log %d, dir %d, erp %d, old %d", by["log"].Order, by["dir"].Order, by["erp"].Order, by["old"].Order)
	}
	erp := by["erp"]
	if erp.HoldDown() != 30*time.Second || erp.Loss == nil || erp.Loss.Text != "nothing" || by["log"].Loss.Text != "0.4 s, 48 KiB" {
		t.Errorf("erp %+v, log %+v", erp, by["log"])
	}
	if len(erp.Names) != 1 || erp.Names[0] != (whatif.NameChange{Name: "erp.dr.example.org", Before: "10.1.0.1", After: "10.2.0.1"}) {
		t.Errorf("names %+v", erp.Names)
	}
	if !slices.Equal(erp.NotFit, []string{"erp-vm"}) {
		t.Errorf("without a host: %v", erp.NotFit)
	}
	if !slices.Contains(erp.Steps, "acquire.erp") || slices.Index(erp.Steps, "promote.erp") > slices.Index(erp.Steps, "start.erp-vm") || slices.Contains(erp.Steps, "promote.dir") {
		t.Errorf("steps %v", erp.Steps)
	}
	if !slices.Equal(p.Confirmed, []domain.SiteID{"a"}) {
		t.Errorf("confirmed %v", p.Confirmed)
	}
}

func TestAGroupWithoutVMsComesUpWithItsVolumes(t *testing.T) {
	p := predict(t, change(func(st *whatif.State) {
		st.List.Groups[0].Group.VMs = nil                   // erp, second in its plan
		st.List.Groups[2].Group.HoldDown = 30 * time.Second // log, in a plan of its own
		st.List.Groups[1].Group.VMs[0].DependsOn = []domain.VMID{"log-vm"}
	}), "site:a")
	order := map[domain.GroupID]int{}
	for _, f := range p.Groups {
		order[f.Group] = f.Order
	}
	if order["erp"] != 1 || order["dir"] == 0 || order["log"] == 0 {
		t.Errorf("order %v: volumes are there before a VM has started", order)
	}
}

// Whatever two things are lost, no group is served where no quorum is, and what moves, moves to a site that is left.
func TestNothingIsServedWithoutQuorum(t *testing.T) {
	st := state()
	all := whatif.All(st.Plan)
	cases := whatif.Pairs(all)
	for _, l := range all {
		cases = append(cases, []whatif.Loss{l})
	}
	if len(all) != 9 || len(cases) != 9+36 {
		t.Fatalf("%d things to lose: %v", len(all), all)
	}
	for _, losses := range cases {
		p, err := whatif.Predict(st, losses)
		if err != nil {
			t.Fatal(err)
		}
		quorum := map[domain.SiteID]bool{}
		for _, r := range p.Quorum {
			quorum[r.Site] = r.Quorum
		}
		for _, f := range p.Groups {
			if (f.What == whatif.Stays || f.What == whatif.Moves || f.What == whatif.Waits) && !quorum[f.To] {
				t.Errorf("%s: group %s %s at %q without quorum", p.Title(), f.Group, f.What, f.To)
			}
			if f.What == whatif.Moves && f.Loss == nil {
				t.Errorf("%s: group %s moves with no word of its loss", p.Title(), f.Group)
			}
		}
	}
}

func TestALossIsNamedOrRefused(t *testing.T) {
	in := state().Plan
	in.Sites = append(in.Sites, planner.Site{ID: "a-b", Role: domain.SiteData})
	for text, want := range map[string]whatif.Loss{"site:a": {Kind: "site", A: "a"}, "voter:w": {Kind: "voter", A: "w"}, "link:a-w": {Kind: "link", A: "a", B: "w"},
		"link:a-b-w": {Kind: "link", A: "a-b", B: "w"}} {
		if got, err := whatif.Parse(in, text); err != nil || got != want || got.String() != text {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "a", "site:", "site:x", "voter:x", "link:a", "link:a-x", "link:a-a", "host:a-h1"} {
		if _, err := whatif.Parse(in, text); !errors.Is(err, domain.ErrInvalid) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestAPredictionIsToldInWordsAndAsAPicture(t *testing.T) {
	st := state()
	one := predict(t, st, "site:a")
	two := predict(t, st, "voter:w", "link:a-b")
	compare(t, "site-a.txt", one.Text(true))
	compare(t, "table.txt", whatif.Table([]whatif.Prediction{one, two}))
	picture := whatif.SVG(st, []whatif.Prediction{one, two})
	compare(t, "picture.svg", picture)
	for d := xml.NewDecoder(strings.NewReader(picture)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("the picture is no XML: %v", err)
		}
	}
}

func TestAGroupIsExplained(t *testing.T) {
	away := change(func(st *whatif.State) {
		st.List.Groups[0].Site = "b"
		st.Votes["erp"] = whatif.Vote{Holder: "b", Epoch: domain.NewEpoch(0, 2, 2), Reg: core.Register{InSync: []domain.SiteID{"b"}}}
		st.Copies["erp"]["b"] = api.GroupStatus{Group: "erp", Role: domain.RolePrimary, Serving: true, Targets: []api.TargetStatus{{Site: "a", State: api.TargetResync, LagBytes: 4096}}}
		bury(st, "a", "a-h1")
		st.Runs["erp"] = api.Run{ID: "01R", Kind: api.RunFailover, Leader: "b", By: "policy", State: api.StepDone, Reason: "site a is lost"}
	})
	nobody := change(func(st *whatif.State) {
		v := st.Votes["erp"]
		v.Holder = ""
		st.Votes["erp"] = v
		st.Down = []domain.SiteID{"a", "w"}
	})
	pinned := change(func(st *whatif.State) { st.List.Groups[0].Group.Placement.Pinned = []domain.SiteID{"a"} })
	drained := change(func(st *whatif.State) {
		st.List.Sites = []api.SiteDesired{{Site: "b", Drain: &api.Drain{State: api.DrainDrained, Reason: "works"}}}
	})
	for name, st := range map[string]whatif.State{"home": state(), "away": away, "nobody": nobody, "pinned": pinned, "drained": drained} {
		e, err := whatif.Explain(st, "erp")
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(e.Line, "\n") || len(e.Why) == 0 {
			t.Errorf("%s: %+v", name, e)
		}
		compare(t, "explain-"+name+".txt", e.Text())
		for _, m := range e.Moves {
			if m.Can != (name == "home") {
				t.Errorf("%s: can move to %s: %v", name, m.Site, m.Can)
			}
		}
	}
	if _, err := whatif.Explain(state(), "crm"); !errors.Is(err, domain.ErrNotFound) {
		t.Errorf("a group that is none: %v", err)
	}
}

func compare(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("differs from %s (-update writes it)\n--- got\n%s", path, got)
	}
}
