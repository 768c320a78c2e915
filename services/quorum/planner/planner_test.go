package planner_test

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
	"github.com/holdfast-dr/holdfast/services/quorum/planner"
)

var update = flag.Bool("update", false, "write the golden files anew")

// well is an installation of two data sites and a witness that the planner has nothing to say against.
func well() planner.Input {
	return planner.Input{
		Model: core.NodeAndShareMajority, Timing: core.DefaultTiming(),
		Sites: []planner.Site{{ID: "a", Role: domain.SiteData}, {ID: "b", Role: domain.SiteData}, {ID: "w", Role: domain.SiteWitness}},
		Voters: []planner.Voter{
			{Member: core.Member{ID: "a", Kind: core.KindNode}, Site: "a", On: []string{"a-power"}},
			{Member: core.Member{ID: "b", Kind: core.KindNode}, Site: "b", On: []string{"b-power"}},
			{Member: core.Member{ID: "w", Kind: core.KindWitness}, Site: "w", On: []string{"w-power"}, Clusters: []string{"main-2"}},
		},
		Groups: []domain.Group{
			{ID: "dir", Home: "a", Targets: []domain.Target{{Site: "b", Mode: domain.ModeSync}}, VMs: []domain.VM{{ID: "dc-1", Priority: 1, DNS: []string{"dc.dr.example.org"}}}},
			{ID: "erp", Home: "a", Targets: []domain.Target{{Site: "b", Mode: domain.ModeAsync}}, VMs: []domain.VM{{ID: "erp-db", Priority: 1}}},
		},
		Plans:   []domain.Plan{{ID: "main", Groups: []domain.PlanGroup{{Group: "dir", Priority: 1}, {Group: "erp", Priority: 2}}}},
		RTO:     map[domain.GroupID]time.Duration{"dir": time.Minute},
		TTL:     5 * time.Second,
		Hosts:   []planner.Host{{ID: "a-h1", Gate: true}},
		Support: []domain.VMID{"dc-1"},
		Live: &planner.Live{
			Voters: map[core.VoterID]planner.Seen{"a": {RTT: time.Millisecond, Samples: 100}, "b": {RTT: 2 * time.Millisecond, Samples: 100},
				"w": {RTT: 20 * time.Millisecond, Samples: 100}},
			Groups: []planner.Vote{{Group: "erp", Epoch: domain.NewEpoch(0, 1, 1), Config: core.Config{Version: 1, Weights: core.Weights{"a": 1, "b": 1, "w": 1}}}},
		},
	}
}

func weight(n int) *int { return &n }

// settled puts the configured weights in force.
func settled(in planner.Input) planner.Input {
	if cfg, err := in.Config(); err == nil {
		in.Live.Groups[0].Config = cfg
	}
	return in
}

// nodes is an installation of node majority with that many votes at each of the sites a, b, c …; the groups are at home at a.
func nodes(votes ...int) planner.Input {
	in := well()
	in.Model, in.Sites, in.Voters = core.NodeMajority, nil, nil
	for i, n := range votes {
		id := string(rune('a' + i))
		in.Sites = append(in.Sites, planner.Site{ID: domain.SiteID(id), Role: domain.SiteData})
		in.Voters = append(in.Voters, planner.Voter{Member: core.Member{ID: core.VoterID(id), Kind: core.KindNode, Weight: weight(n)}, Site: domain.SiteID(id), On: []string{id + "-power"}})
		in.Live.Voters[core.VoterID(id)] = planner.Seen{RTT: time.Millisecond, Samples: 100}
	}
	return settled(in)
}

// passive is two sites and a disk or share in place of the witness.
func passive(m core.Model, v planner.Voter) planner.Input {
	in := well()
	in.Model, in.Sites = m, in.Sites[:2]
	v.ID, v.On, v.Clusters = core.VoterID(v.Kind), []string{"third-power"}, []string{"main-2"}
	in.Voters = append(in.Voters[:2], v)
	in.Live.Voters[v.ID] = planner.Seen{RTT: time.Millisecond, Samples: 100, Conformance: planner.ConformanceOK}
	return settled(in)
}

func share(v planner.Voter) planner.Input {
	v.Kind = core.KindShare
	return passive(core.NodeAndShareMajority, v)
}

func object(v planner.Voter) planner.Input {
	v.Kind = core.KindObject
	return passive(core.NodeAndShareMajority, v)
}

func disk(m core.Model, v planner.Voter) planner.Input {
	v.Kind = core.KindDisk
	return passive(m, v)
}

func change(in planner.Input, f func(*planner.Input)) planner.Input {
	f(&in)
	return in
}

type golden struct {
	name string
	in   planner.Input
	want []string // "code severity about", of what is raised
}

func warnings() []golden {
	none := planner.Voter{Replicated: domain.ModeNone}
	return []golden{
		{"well", well(), []string{"Q09 note w"}},
		{"q01-two-nodes", nodes(1, 1), []string{"Q01 warning", "Q02 warning", "Q03 warning a", "Q20 warning a"}},
		{"q02-even-votes", nodes(2, 2, 2), []string{"Q02 warning", "Q04 note"}},
		{"q03-primary-smaller", nodes(2, 3), []string{"Q03 warning a", "Q21 warning b"}},
		{"q04-three-sites", nodes(1, 1, 1), []string{"Q04 note"}},
		{"object-well", object(none), []string{"Q09 note object"}},
		{"q05-object-at-primary", object(planner.Voter{Site: "a", Replicated: domain.ModeNone}), []string{"Q05 warning object", "Q20 warning a", "Q21 warning a", "Q09 note object"}},
		{"q05-share-at-primary", share(planner.Voter{Site: "a", Replicated: domain.ModeNone}), []string{"Q05 warning share", "Q20 warning a", "Q21 warning a", "Q09 note share"}},
		{"q05-share-at-secondary", share(planner.Voter{Site: "b", Replicated: domain.ModeNone}), []string{"Q05 error share", "Q21 warning b", "Q09 note share"}},
		{"q05-share-somewhere", share(planner.Voter{Unsaid: true, Replicated: domain.ModeNone}), []string{"Q09 note share", "Q05 not known share"}},
		{"q06-disk-over-sites", disk(core.NodeAndDiskMajority, planner.Voter{Site: "a", Replicated: domain.ModeNone}), []string{"Q06 warning", "Q20 warning a", "Q21 warning a", "Q09 note disk"}},
		{"q07-disk-only", disk(core.DiskOnly, none), []string{"Q07 error", "Q22 error disk", "Q09 note disk"}},
		{"q08-disk-on-asynchronous-storage", disk(core.NodeAndDiskMajority, planner.Voter{Replicated: domain.ModeAsync}), []string{"Q08 error disk", "Q30 error disk", "Q06 warning", "Q09 note disk"}},
		{"q08-disk-on-synchronous-storage", disk(core.NodeAndDiskMajority, planner.Voter{Replicated: domain.ModeSync}), []string{"Q30 error disk", "Q06 warning", "Q08 warning disk", "Q09 note disk"}},
		{"q08-q30-not-said", disk(core.NodeAndDiskMajority, planner.Voter{}), []string{"Q06 warning", "Q09 note disk", "Q08 not known disk", "Q30 not known disk"}},
		{"q09-not-said", change(well(), func(in *planner.Input) { in.Voters[2].Clusters, in.Voters[2].Unsaid = nil, true }), []string{"Q09 not known w"}},
		{"q10-unprotected", change(well(), func(in *planner.Input) { in.Support = append(in.Support, "dns-1") }), []string{"Q10 warning dns-1", "Q09 note w"}},
		{"q10-late", change(well(), func(in *planner.Input) { in.Plans[0].Groups[0].Priority = 2 }), []string{"Q10 warning dc-1", "Q09 note w"}},
		{"q10-not-said", change(well(), func(in *planner.Input) { in.Support = nil }), []string{"Q09 note w", "Q10 not known"}},
		{"q11-ttl", change(well(), func(in *planner.Input) { in.TTL = time.Hour }), []string{"Q11 warning dir", "Q09 note w"}},
		{"q11-not-said", change(well(), func(in *planner.Input) { in.RTO = nil }), []string{"Q09 note w", "Q11 not known dir"}},
		{"q20-primary-of-three-and-two", nodes(3, 2), []string{"Q20 warning a", "Q21 warning a"}},
		{"q21-majority-at-one-site", settled(change(well(), func(in *planner.Input) { in.Voters[1].Weight = weight(3) })), []string{"Q21 warning b", "Q09 note w"}},
		{"q22-single-voter", nodes(1, 0), []string{"Q22 error a", "Q01 warning", "Q20 warning a"}},
		{"q23-shared-power", change(well(), func(in *planner.Input) { in.Voters[2].On = []string{"b-power"} }), []string{"Q23 error b-power", "Q09 note w"}},
		{"q23-not-said", change(well(), func(in *planner.Input) {
			for i := range in.Voters {
				in.Voters[i].On = nil
			}
		}), []string{"Q09 note w", "Q23 not known"}},
		{"q24-voter-in-protected-vm", change(well(), func(in *planner.Input) { in.Voters[2].VM = "erp-db" }), []string{"Q24 error w", "Q09 note w"}},
		{"q24-voter-in-some-vm", change(well(), func(in *planner.Input) { in.Voters[2].VM = "w-vm" }), []string{"Q24 warning w", "Q09 note w"}},
		{"q25-share-does-not-conform", change(share(none), func(in *planner.Input) {
			in.Live.Voters["share"] = planner.Seen{RTT: time.Millisecond, Samples: 9, Conformance: "a second link to the same name succeeded"}
		}), []string{"Q25 error share", "Q09 note share"}},
		{"q26-slow-voter", change(well(), func(in *planner.Input) { in.Live.Voters["w"] = planner.Seen{RTT: 300 * time.Millisecond, Samples: 9} }), []string{"Q26 warning w", "Q09 note w"}},
		{"q26-lease-too-short", change(well(), func(in *planner.Input) {
			in.Timing, in.Live.Voters["w"] = core.FastTiming(), planner.Seen{RTT: 400 * time.Millisecond, Samples: 9}
		}), []string{"Q26 error w", "Q09 note w"}},
		{"q27-no-gate", change(well(), func(in *planner.Input) { in.Hosts = append(in.Hosts, planner.Host{ID: "a-h2"}) }), []string{"Q27 warning a-h2", "Q09 note w"}},
		{"q28-far-sync-target", change(well(), func(in *planner.Input) { in.Live.Voters["b"] = planner.Seen{RTT: 12 * time.Millisecond, Samples: 9} }), []string{"Q28 warning dir", "Q09 note w"}},
		{"q29-forced", change(well(), func(in *planner.Input) {
			in.Live.Groups[0].Epoch, in.Live.Groups[0].Config = domain.NewEpoch(1, 4, 2), core.Config{Version: 2, Weights: core.Weights{"b": 1}}
		}), []string{"Q29 error erp", "Q09 note w"}},
		{"q30-own-volume", disk(core.NodeAndDiskMajority, planner.Voter{Replicated: domain.ModeNone, Own: "10.0.0.1:3260"}), []string{"Q30 error disk", "Q06 warning", "Q09 note disk"}},
		{"q31-other-weights", change(well(), func(in *planner.Input) { in.Live.Groups[0].Config.Weights = core.Weights{"a": 2, "b": 1, "w": 0} }), []string{"Q31 warning erp", "Q09 note w"}},
		{"q32-witness-via-the-other-site", change(well(), func(in *planner.Input) { in.From, in.Sites[2].Via = "a", "b" }), []string{"Q32 warning b", "Q09 note w"}},
		{"q32-one-of-five-via-another", change(nodes(1, 1, 1, 1, 1), func(in *planner.Input) { in.From, in.Sites[3].Via = "a", "b" }), []string{"Q04 note", "Q32 note b"}},
		{"q33-pinned-to-its-home", change(well(), func(in *planner.Input) { in.Groups[0].Placement.Pinned = []domain.SiteID{"a"} }), []string{"Q33 warning dir", "Q09 note w"}},
		{"q33-forbidden-elsewhere", change(well(), func(in *planner.Input) { in.Groups[1].Placement.Forbidden = []domain.SiteID{"b"} }), []string{"Q33 warning erp", "Q09 note w"}},
		{"q34-another-file", change(well(), func(in *planner.Input) {
			in.Live.Files = map[domain.SiteID]core.Weights{"a": {"a": 1, "b": 1, "w": 1}, "b": {"a": 1, "b": 2, "w": 1}}
		}), []string{"Q34 error b", "Q09 note w"}},
		{"not-live", change(well(), func(in *planner.Input) { in.Live = nil }), []string{"Q09 note w", "Q26 not known a", "Q26 not known b", "Q26 not known w", "Q28 not known dir", "Q29 not known", "Q31 not known", "Q34 not known"}},
		{"no-groups", change(well(), func(in *planner.Input) { in.Groups, in.Plans, in.Support, in.Hosts = nil, nil, nil, nil }), []string{"Q09 note w", "Q10 not known", "Q20 not known", "Q27 not known", "Q33 not known"}},
	}
}

func raised(r planner.Report) []string {
	var out []string
	for _, f := range r.Findings {
		out = append(out, strings.TrimSpace(f.Code+" "+string(f.Severity)+" "+f.About))
	}
	return out
}

func TestEachWarningIsRaisedWithItsConsequenceAndMend(t *testing.T) {
	seen := map[string]bool{}
	for _, g := range warnings() {
		t.Run(g.name, func(t *testing.T) {
			r, err := planner.Check(g.in)
			if err != nil {
				t.Fatal(err)
			}
			if got := raised(r); !slices.Equal(got, g.want) {
				t.Errorf("raised\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(g.want, "\n"))
			}
			for _, f := range r.Findings {
				if f.Severity != planner.NotKnown {
					seen[f.Code] = true
				}
				if f.Text == "" || f.Consequence == "" || f.Mend == "" {
					t.Errorf("%s says too little: %+v", f.Code, f)
				}
			}
			compare(t, g.name, r.Text())
		})
	}
	for _, r := range planner.Rules() {
		if !seen[r.Code] {
			t.Errorf("no case raises %s (%s)", r.Code, r.Title)
		}
	}
}

func compare(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
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

// Each rule has its say in every report: raised, not known or clear.
func TestNoWarningIsSilent(t *testing.T) {
	for _, g := range warnings() {
		r, err := planner.Check(g.in)
		if err != nil {
			t.Fatal(err)
		}
		for _, rule := range planner.Rules() {
			told := slices.ContainsFunc(r.Findings, func(f planner.Finding) bool { return f.Code == rule.Code })
			if told == slices.Contains(r.Clear, rule.Code) {
				t.Errorf("%s: %s is raised and clear, or neither", g.name, rule.Code)
			}
		}
	}
}

// However votes are spread, at most one side of a partition has quorum, and every partition is there once.
func TestAtMostOneSideOfAPartitionKeepsQuorum(t *testing.T) {
	bell := map[int]int{2: 2, 3: 5, 4: 15, 5: 52, 6: 1 << 5} // 6: in two only
	for n := 2; n <= 6; n++ {
		for seed := range 200 {
			votes := make([]int, n)
			for i, x := 0, seed; i < n; i, x = i+1, x/3 {
				votes[i] = x % 3
			}
			votes[0]++
			r, err := planner.Check(nodes(votes...))
			if err != nil {
				t.Fatal(err)
			}
			if len(r.Partitions) != bell[n]-1 || len(r.Losses) != n {
				t.Fatalf("%d places: %d partitions, %d losses", n, len(r.Partitions), len(r.Losses))
			}
			for _, k := range r.Partitions {
				winners, votes := 0, 0
				for _, s := range k.Sides {
					votes += s.Votes
					if s.Quorum {
						winners++
					}
				}
				if winners > 1 || votes != r.Total {
					t.Fatalf("%v: %+v", votes, k)
				}
			}
		}
	}
}

func TestAModelThatDoesNotFitItsVotersIsRefused(t *testing.T) {
	for name, in := range map[string]planner.Input{
		"disk in node majority": disk(core.NodeMajority, planner.Voter{}),
		"no disk":               change(well(), func(in *planner.Input) { in.Model = core.DiskOnly }),
		"unknown model":         change(nodes(1, 1, 1), func(in *planner.Input) { in.Model = "best" }),
		"no votes":              nodes(0, 0),
		"negative":              nodes(1, -1),
	} {
		if _, err := planner.Check(in); !errors.Is(err, domain.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOnlyWhatChangedIsNews(t *testing.T) {
	report := func(in planner.Input) planner.Report {
		r, err := planner.Check(in)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	before := report(change(well(), func(in *planner.Input) { in.Live, in.TTL = nil, time.Hour }))
	slow := report(change(well(), func(in *planner.Input) { in.Live.Voters["w"] = planner.Seen{RTT: 300 * time.Millisecond, Samples: 9} }))
	slower := report(change(well(), func(in *planner.Input) { in.Live.Voters["w"] = planner.Seen{RTT: 310 * time.Millisecond, Samples: 9} }))
	raised, cleared := planner.Changes(planner.Report{}, before)
	if len(raised) != 2 || len(cleared) != 0 {
		t.Errorf("at the start: raised %v, cleared %v", raised, cleared)
	}
	if raised, cleared = planner.Changes(before, slow); len(raised) != 1 || raised[0].Code != "Q26" || len(cleared) != 1 || cleared[0].Code != "Q11" {
		t.Errorf("later: raised %v, cleared %v", raised, cleared)
	}
	if raised, cleared = planner.Changes(slow, slower); len(raised) != 0 || len(cleared) != 0 {
		t.Errorf("other figures: raised %v, cleared %v", raised, cleared)
	}
}

func TestOfSeveralSitesTheWorstViewAndTheNewestEpochCount(t *testing.T) {
	const ms = int64(time.Millisecond)
	live := planner.LiveOf([]api.QuorumStatus{
		{Site: "a", Voters: []api.VoterStatus{{ID: "a", Site: "a", Kind: "node"}, {ID: "w", Site: "w", Kind: "witness", RTTP99Ns: 3 * ms, RTTSamples: 5},
			{ID: "share", Kind: "share", Conformance: "ok"}},
			Groups: []api.Lease{{Group: "erp", Epoch: domain.NewEpoch(0, 1, 1), Weights: map[string]int{"a": 1}}}},
		{Site: "b", Voters: []api.VoterStatus{{ID: "a", Site: "a", Kind: "node", RTTP99Ns: ms, RTTSamples: 7}, {ID: "w", Site: "w", Kind: "witness", RTTP99Ns: 9 * ms, RTTSamples: 7},
			{ID: "share", Kind: "share", Conformance: "bad"}},
			Groups: []api.Lease{{Group: "erp", Epoch: domain.NewEpoch(0, 2, 2), Weights: map[string]int{"b": 1}, Joint: true}}},
	})
	if got := live.Voters["w"]; got.RTT != 9*time.Millisecond || got.Samples != 7 {
		t.Errorf("w is seen as %+v", got)
	}
	if got := live.Voters["a"]; got.RTT != time.Millisecond || got.Samples != 7 {
		t.Errorf("a is seen as %+v", got)
	}
	if got := live.Voters["share"].Conformance; got != "bad" {
		t.Errorf("the share is %q", got)
	}
	if len(live.Groups) != 1 || live.Groups[0].Config.Weights["b"] != 1 || !live.Groups[0].Config.Joint() {
		t.Errorf("the votes are %+v", live.Groups)
	}
	if planner.LiveOf(nil) != nil {
		t.Error("nobody answered, and something is known")
	}
}

func TestTheManualHasEveryWarning(t *testing.T) {
	manual, err := os.ReadFile("../../../docs/operations/quorum.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range planner.Rules() {
		if !strings.Contains(string(manual), "| "+r.Code+" | "+r.Title+" |") {
			t.Errorf("docs/operations/quorum.md has no row for %s, %s", r.Code, r.Title)
		}
	}
}

func TestSitesThatVoteOnTwoDisksUnderOneNameAreToldSo(t *testing.T) {
	say := func(site domain.SiteID, lun string) api.QuorumStatus {
		return api.QuorumStatus{Site: site, Voters: []api.VoterStatus{{ID: "disk", Kind: string(core.KindDisk), Reachable: true, Conformance: planner.ConformanceOK, LUN: lun}}}
	}
	if got := planner.LiveOf([]api.QuorumStatus{say("a", "1"), say("b", "1"), say("c", "")}).Voters["disk"].Conformance; got != planner.ConformanceOK {
		t.Errorf("one disk: %s", got)
	}
	if got := planner.LiveOf([]api.QuorumStatus{say("a", "1"), say("b", "2"), say("c", "")}).Voters["disk"].Conformance; !strings.Contains(got, "two disks, 1 and 2") {
		t.Errorf("two disks: %s", got)
	}
}
