package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/site"
	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/whatif"
	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/config"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/quorum/planner"
)

// threeSites are the samples, running in this process at ports of their own.
type threeSites struct {
	t     *testing.T
	files map[string]string
	stop  map[string]func()
	ended chan error // of a site that ended by itself
}

// startThreeSites starts them, with pairs of texts in their files replaced.
func startThreeSites(t *testing.T, change ...string) *threeSites {
	t.Helper()
	s := &threeSites{t: t, files: map[string]string{}, stop: map[string]func(){}, ended: make(chan error, 3)}
	base := fmt.Sprintf("127.%d.%d", 20+rand.IntN(200), rand.IntN(256)) // a loopback network of its own: no port is anybody else's
	swap := append(change, "hold_down: 30s", "hold_down: 1s", "127.0.0.1:", base+".1:", "127.0.11.10", base+".11", "127.0.12.10", base+".12")
	for _, id := range []string{"a", "b", "w"} {
		sample, err := os.ReadFile("../../deploy/examples/site-" + id + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		s.files[id] = filepath.Join(t.TempDir(), "site.yaml")
		if err := os.WriteFile(s.files[id], []byte(strings.NewReplacer(swap...).Replace(string(sample))), 0o600); err != nil {
			t.Fatal(err)
		}
		s.start(id)
	}
	return s
}

func (s *threeSites) start(id string) {
	s.t.Helper()
	cfg, err := config.Load(s.files[id])
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(s.t.Context())
	ended := make(chan error, 1)
	go func() {
		err := site.Run(ctx, cfg, site.Options{Logger: slog.New(slog.DiscardHandler)})
		if ctx.Err() == nil {
			s.ended <- fmt.Errorf("site %s ended by itself: %w", id, err)
		}
		ended <- err
	}()
	s.stop[id] = func() {
		cancel()
		if err := <-ended; err != nil {
			s.t.Errorf("site %s: %v", id, err)
		}
		s.stop[id] = func() {}
	}
	s.t.Cleanup(func() { s.stop[id]() })
}

// run runs a command against a site until it has an answer that will do.
func (s *threeSites) until(what string, enough func(outcome) bool, args ...string) outcome {
	s.t.Helper()
	var o outcome
	s.await(what, func() (bool, string) {
		o = holdfast(s.t.Context(), args...)
		return enough(o), fmt.Sprintf("exit %d, %v\n%s", o.code, o.err, o.stdout)
	})
	return o
}

// await asks until what it waits for is there; ask also says what there is instead.
func (s *threeSites) await(what string, ask func() (bool, string)) {
	s.t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for {
		there, instead := ask()
		if there {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%s did not come: %s", what, instead)
		}
		select {
		case err := <-s.ended:
			s.t.Fatal(err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// heardOf waits until a site's copy of a group has heard of its primary: before that it knows of no loss, also not of none.
func (s *threeSites) heardOf(site string, group domain.GroupID) {
	s.t.Helper()
	cfg, err := config.Load(s.files[site])
	if err != nil {
		s.t.Fatal(err)
	}
	mesh, err := dial(cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	defer mesh.Close()
	s.await("site "+site+" has heard of the primary", func() (bool, string) {
		e, err := bus.Call[api.LossEstimate](s.t.Context(), mesh.Local(), api.ServiceReplicator, api.VerbEstimate, api.EstimateRequest{Group: group})
		return err == nil && e.Known, fmt.Sprint(e.Text, err)
	})
}

// What is predicted is held against what then happens: who serves, where, by which steps, and which name changes.
func TestWhatIsPredictedIsWhatHappens(t *testing.T) {
	if testing.Short() {
		t.Skip("three sites and a takeover take half a minute")
	}
	s := startThreeSites(t)
	fromB := []string{"--config", s.files["b"], "-o", "json"}
	s.until("site a serves, site b in sync", func(o outcome) bool {
		var e whatif.Explanation
		return o.code == 0 && json.Unmarshal([]byte(o.stdout), &e) == nil && e.Site == "a" && len(e.Moves) == 1 && e.Moves[0].Can &&
			strings.Contains(strings.Join(e.Why, " "), "[a b]")
	}, append([]string{"explain", "group", "erp"}, fromB...)...)
	s.until("a name that points at a", func(o outcome) bool {
		var r api.RunList
		return json.Unmarshal([]byte(o.stdout), &r) == nil && len(r.Runs) > 0 && r.Runs[0].State == api.StepDone
	}, "run", "list", "--config", s.files["a"], "-o", "json")

	s.heardOf("b", "erp")
	checkQuorumLive(t, s)
	svg := filepath.Join(t.TempDir(), "after.svg")
	var told struct {
		Predictions []whatif.Prediction `json:"predictions"`
	}
	s.until("a prediction while every observer trusts itself", func(o outcome) bool {
		told.Predictions = nil
		return o.code == 0 && json.Unmarshal([]byte(o.stdout), &told) == nil && len(told.Predictions) == 1 && len(told.Predictions[0].Blind) == 0
	}, append([]string{"whatif", "--lose", "site:a", "--svg", svg}, fromB...)...)
	f := told.Predictions[0].Groups[0]
	if f.Group != "erp" || f.What != whatif.Moves || f.From != "a" || f.To != "b" || len(f.Names) != 1 || f.Loss == nil || !f.Loss.Known || f.Loss.Writes != 0 {
		t.Fatalf("predicted %+v", f)
	}
	if picture, err := os.ReadFile(svg); err != nil || !strings.Contains(string(picture), "1. erp from a after 1s") {
		t.Errorf("picture: %v", err)
	}
	for _, all := range []string{"--all-single", "--all-pairs"} {
		if o := holdfast(t.Context(), "whatif", all, "--config", s.files["b"]); o.code != 0 || !strings.Contains(o.stdout, "erp stays at a") {
			t.Errorf("%s: exit %d, %v: %s", all, o.code, o.err, o.stdout)
		}
	}

	s.stop["a"]()
	var r api.RunList
	s.until("the takeover", func(o outcome) bool {
		return json.Unmarshal([]byte(o.stdout), &r) == nil && len(r.Runs) > 0 && r.Runs[0].Kind == api.RunFailover && r.Runs[0].State != api.StepRunning
	}, append([]string{"run", "list"}, fromB...)...)
	run := r.Runs[0]
	var steps, names []string
	for _, st := range run.Steps {
		steps = append(steps, st.ID)
		if st.Name != "" {
			names = append(names, st.Name)
		}
	}
	if run.State != api.StepDone || run.Leader != f.To || run.From != f.From || !slices.Equal(steps, f.Steps) || !slices.Equal(names, []string{f.Names[0].Name}) {
		t.Errorf("predicted %+v\nrun %+v", f, run)
	}
	if e := run.Estimate["erp"]; e.Writes != f.Loss.Writes {
		t.Errorf("predicted loss %+v, the run's %+v", f.Loss, e)
	}
	e := s.until("an explanation of where it is now", func(o outcome) bool {
		return strings.Contains(o.stdout, "group erp is at site b, away from home (a); not to a: site a does not answer")
	}, "explain", "group", "erp", "--config", s.files["b"])
	if e.code != 4 || !strings.Contains(e.stdout, "last run: failover "+string(run.ID)) {
		t.Errorf("exit %d: %s", e.code, e.stdout)
	}
	if o := holdfast(t.Context(), "explain", "group", "crm", "--config", s.files["b"]); o.code != 1 || !strings.Contains(fmt.Sprint(o.err), "crm") {
		t.Errorf("a group that is none: exit %d, %v", o.code, o.err)
	}
}

// checkQuorumLive holds the planner to what only running sites know.
func checkQuorumLive(t *testing.T, s *threeSites) {
	t.Helper()
	var r planner.Report
	s.until("every round trip known", func(o outcome) bool {
		r = planner.Report{} // round trips are bad where this machine is busy: that is told, too, and exits with 3
		return json.Unmarshal([]byte(o.stdout), &r) == nil && r.Live &&
			!slices.ContainsFunc(r.Findings, func(f planner.Finding) bool { return f.Code == "Q26" && f.Severity == planner.NotKnown })
	}, "quorum", "check", "--config", s.files["a"], "-o", "json")
	for _, code := range []string{"Q05", "Q20", "Q25", "Q29", "Q31"} {
		if !slices.Contains(r.Clear, code) {
			t.Errorf("%s is not well: %+v", code, r.Findings)
		}
	}
	if domain.SiteID(r.Votes[0].Place) != "a" {
		t.Errorf("votes %+v", r.Votes)
	}
}

func TestALinkIsCutAlreadyWhereAnEndTakesTheOtherForDeadOnEveryPath(t *testing.T) {
	sees := func(self, other domain.SiteID, states ...string) siteStatus {
		v := api.View{Observer: self}
		for _, state := range states {
			v.Observations = append(v.Observations, api.Observation{Kind: "site", ID: string(other), Site: other, State: state}, api.Observation{Kind: "host", Site: self, State: api.StateDead})
		}
		return siteStatus{Site: self, Health: &api.HealthStatus{View: v}}
	}
	st := whatif.State{Plan: planner.Input{Sites: []planner.Site{{ID: "a"}, {ID: "b"}, {ID: "w"}}}}
	for _, s := range []siteStatus{
		sees("b", "a", api.StateDead, api.StateDead), sees("a", "b", api.StateDead, api.StateDead), // one link, told twice
		sees("a", "w", api.StateDead, api.StateAlive), sees("w", "a", api.StateAlive, api.StateDead), sees("b", "w", api.StateSuspect, api.StateUnknown),
		{Site: "c"}, // its health service does not answer
	} {
		noteLinks(&st, s)
	}
	if want := []whatif.Loss{{Kind: whatif.LoseLink, A: "a", B: "b"}}; !slices.Equal(st.Cut, want) {
		t.Errorf("cut %v, want %v", st.Cut, want)
	}
}

func TestOfARunWhatItsLeaderSaysCounts(t *testing.T) {
	run := func(id domain.RunID, minute int, state string) api.Run {
		return api.Run{ID: id, Leader: "b", State: state, Started: time.Date(2026, 3, 2, 12, minute, 0, 0, time.UTC), Steps: []api.Step{{Group: "erp"}}}
	}
	copied, own, older := run("01R", 1, api.StepRunning), run("01R", 1, api.StepDone), run("01Q", 0, api.StepFailed)
	for _, order := range [][]siteRun{{{"a", copied}, {"b", own}, {"w", older}}, {{"b", own}, {"w", older}, {"a", copied}}} {
		st := whatif.State{Runs: map[domain.GroupID]api.Run{}}
		for _, r := range order {
			noteRuns(&st, r.site, []api.Run{r.run})
		}
		if got := st.Runs["erp"]; got.ID != "01R" || got.State != api.StepDone {
			t.Errorf("%v: run %s, %s", order, got.ID, got.State)
		}
	}
}

// siteRun is a run as a site tells it.
type siteRun struct {
	site domain.SiteID
	run  api.Run
}

func TestWhatIfRefusesWhatItCannotAnswer(t *testing.T) {
	for name, args := range map[string][]string{
		"nothing lost":  {},
		"two questions": {"--lose", "site:a", "--all-single"},
		"no such site":  {"--lose", "site:x"},
		"no kind":       {"--lose", "a"},
		"no time":       {"--lose", "site:a", "--at", "noon"},
		"a time gone":   {"--lose", "site:a", "--at", "2026-01-01T00:00:00Z"},
	} {
		o := holdfast(t.Context(), append([]string{"whatif", "--config", "../../deploy/examples/site-a.yaml"}, args...)...)
		if o.code != 2 || o.err == nil {
			t.Errorf("%s: exit %d, %v", name, o.code, o.err)
		}
	}
}
