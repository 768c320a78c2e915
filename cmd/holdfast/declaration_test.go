package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/whatif"
	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

func TestAGroupsPolicyInWords(t *testing.T) {
	for want, g := range map[string]domain.Group{
		"auto":         {Failover: domain.FailoverAuto},
		"confirm by 1": {Failover: domain.FailoverConfirm},
		"confirm by 2": {Failover: domain.FailoverConfirm, Approvers: 2},
		"manual":       {Failover: domain.FailoverManual},
		"auto in mon,tue 08:00-18:00; 20:00-22:00, 2 a day": {Failover: domain.FailoverAuto, Automatic: domain.Automatic{PerDay: 2,
			Windows: []domain.Window{{Days: []domain.Day{"mon", "tue"}, From: "08:00", To: "18:00"}, {From: "20:00", To: "22:00"}}}},
	} {
		if got := policyText(g); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestADeclarationIsShownWithWhatItWouldBring(t *testing.T) {
	d := api.Declaration{ID: "d1", Site: "a", Leader: "b", State: api.DeclarationAwaiting, Proof: api.DisasterProof{Event: "e1", Text: "site a is lost"},
		Votes: []api.VoterStatus{{ID: "a", Weight: 1}, {ID: "b", Weight: 1, Reachable: true}, {ID: "w", Weight: 1, Reachable: true}},
		Groups: []api.DeclaredGroup{{Group: "erp", Tier: 1, Policy: domain.FailoverConfirm, Needed: 2, State: api.DeclarationAwaiting,
			Approvals: []api.Approval{{By: "w.operator", Claimed: "ann"}},
			Survey:    &api.DeclarationSurvey{Loss: api.LossEstimate{Known: true, Writes: 12, Text: "0.4 s, 48 KiB"}, Fit: []domain.VMID{"db"}, NotFit: []string{"vm app: no host of [b-h1] answers"}}}},
		Acts: []api.DeclarationAct{{What: api.DeclarationApproved, Groups: []domain.GroupID{"erp"}, By: "w.operator", Claimed: "ann", Why: "fire"}}}
	var b strings.Builder
	if err := printDeclaration(&b, &remote{output: "text"}, d); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"2 of 3: b, w; not a\n", "1 of 2: w.operator (ann)", "0.4 s, 48 KiB (12 writes)", "1 of 2 VMs", "group erp (tier 1) would not be whole: vm app: no host of [b-h1] answers", "fire"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
	if got := votesText(d.Votes[:2]); got != "1 of 2: b; not a: no majority, nothing can be taken over" {
		t.Errorf("got %q", got)
	}
}

// What is a bound already has its counts and its time in the text.
func TestALossThatMayBeMoreIsToldAsItsTextHasIt(t *testing.T) {
	e := api.LossEstimate{Known: true, Writes: 12, Text: "0.4 s, 48 KiB"}
	bound := api.LossEstimate{Known: true, AtLeast: true, Writes: 12, Text: "at least 12 writes, 48 KiB, as of then"}
	of := func(e api.LossEstimate) api.DeclaredGroup {
		return api.DeclaredGroup{Survey: &api.DeclarationSurvey{Loss: e}}
	}
	for _, c := range []struct{ got, want string }{
		{lossText(of(e)), "0.4 s, 48 KiB (12 writes)"}, {lossText(of(bound)), bound.Text},
		{e.About(), "about 0.4 s, 48 KiB"}, {bound.About(), bound.Text},
		{estimateText(e, nil), "0.4 s, 48 KiB as of 0001-01-01T00:00:00Z"}, {estimateText(bound, nil), bound.Text},
	} {
		if c.got != c.want {
			t.Errorf("%q, want %q", c.got, c.want)
		}
	}
}

// TestTwoPeopleDeclareTheLossOfASite: three real sites; the group asks two people, and only the second one's approval moves it.
func TestTwoPeopleDeclareTheLossOfASite(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: three sites and a takeover take half a minute")
	}
	s := startThreeSites(t, "failover: auto", "failover: confirm\n    approvers: 2")
	fromB := []string{"--config", s.files["b"], "-o", "json"}
	s.until("site a serves, site b in sync", func(o outcome) bool {
		var e whatif.Explanation
		return o.code == 0 && json.Unmarshal([]byte(o.stdout), &e) == nil && e.Site == "a" && len(e.Moves) == 1 && e.Moves[0].Can &&
			strings.Contains(strings.Join(e.Why, " "), "[a b]")
	}, append([]string{"explain", "group", "erp"}, fromB...)...)
	s.heardOf("b", "erp")
	if o := holdfast(t.Context(), "whatif", "--lose", "site:a", "--config", s.files["b"]); o.code != 0 || !strings.Contains(o.stdout, "asks two people") {
		t.Errorf("what would happen: exit %d, %v: %s", o.code, o.err, o.stdout)
	}
	if o := holdfast(t.Context(), "declaration", "open", "a", "--why", "test", "--config", s.files["b"]); o.code != 3 || !strings.Contains(fmt.Sprint(o.err), "is not lost") {
		t.Errorf("a site that serves was declared lost: exit %d, %v", o.code, o.err)
	}

	s.stop["a"]()
	var list api.DeclarationList
	s.until("a declaration that awaits approval", func(o outcome) bool {
		return json.Unmarshal([]byte(o.stdout), &list) == nil && len(list.Declarations) > 0 && list.Declarations[0].State == api.DeclarationAwaiting
	}, append([]string{"declaration", "list"}, fromB...)...)
	id := string(list.Declarations[0].ID)
	approve := func(by string) api.Declaration {
		t.Helper()
		o := holdfast(t.Context(), append([]string{"declaration", "approve", id, "--why", "fire", "--by", by}, fromB...)...)
		var d api.Declaration
		if err := json.Unmarshal([]byte(o.stdout), &d); err != nil || o.code != 0 {
			t.Fatalf("%s approves: exit %d, %v: %s", by, o.code, o.err, o.stdout)
		}
		return d
	}
	for range 2 { // the same person twice is one approval
		if g := approve("ann").Groups[0]; g.State != api.DeclarationAwaiting || len(g.Approvals) != 1 {
			t.Fatalf("after one person's approval: %+v", g)
		}
	}
	var d api.Declaration
	s.until("the votes and the loss", func(o outcome) bool {
		return o.code == 0 && json.Unmarshal([]byte(o.stdout), &d) == nil && d.Groups[0].Survey != nil && len(d.Votes) == 3
	}, append([]string{"declaration", "show", id}, fromB...)...)
	if g := d.Groups[0]; g.Needed != 2 || !g.Survey.Loss.Known || len(g.Survey.NotFit) != 0 || d.Proof.Event == "" {
		t.Errorf("shown %+v with survey %+v, evidence %+v", g, *g.Survey, d.Proof)
	}
	if o := holdfast(t.Context(), append([]string{"run", "list"}, fromB...)...); strings.Contains(o.stdout, `"kind": "failover"`) {
		t.Fatalf("a run began with one approval of two: %s", o.stdout)
	}
	if g := approve("ben").Groups[0]; g.State != api.DeclarationDeclared {
		t.Fatalf("after the second person's approval: %+v", g)
	}
	s.until("the declaration is over", func(o outcome) bool {
		return json.Unmarshal([]byte(o.stdout), &d) == nil && d.State == api.DeclarationOver
	}, append([]string{"declaration", "show", id}, fromB...)...)
	var r api.Run
	o := holdfast(t.Context(), append([]string{"run", "show", string(d.Groups[0].Run)}, fromB...)...)
	if err := json.Unmarshal([]byte(o.stdout), &r); err != nil || r.State != api.StepDone || r.Leader != "b" || string(r.Declaration) != id {
		t.Errorf("run: %+v, %v", r, err)
	}
}
