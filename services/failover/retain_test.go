package failover

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/failover/run"
)

// ids are the runs and declarations that a site's journal has.
func ids(t *testing.T, conn *bus.Conn) []string {
	t.Helper()
	subjects, err := conn.Subjects(t.Context(), api.StreamRuns, "hf.v1.run.>")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for s := range subjects {
		seen[strings.Split(s, ".")[4]] = true
	}
	return slices.Sorted(maps.Keys(seen))
}

// TestWhatEndedIsKeptByNumberAndAge: here and at the other site, and nothing that goes on, is needed, or was led by another site goes.
func TestWhatEndedIsKeptByNumberAndAge(t *testing.T) {
	w := newWorld(t, testGroup(t, "erp", domain.ModeSync, "db"))
	s, now := w.idle("b", nil), time.Now().UTC()
	runOf := func(id domain.RunID, plan domain.PlanID, leader domain.SiteID, state string, days int, e domain.Epoch) api.Run {
		at := now.Add(-time.Duration(days) * 24 * time.Hour)
		return api.Run{ID: id, Plan: plan, Leader: leader, State: state, Started: at, Ended: at, Epochs: map[domain.GroupID]domain.Epoch{"erp": e}, Steps: []api.Step{{ID: "acquire.erp", Group: "erp", State: state}}}
	}
	runs := []api.Run{
		runOf("r0-goes-on", "all", "b", api.StepRunning, 400, 1), runOf("r1-others", "all", "a", api.StepDone, 300, 2),
		runOf("r2-served-since", "old", "b", api.StepDone, 200, 770), runOf("r3-aged", "all", "b", api.StepFailed, 100, 3),
		runOf("r4-beyond", "all", "b", api.StepDone, 30, 4), runOf("r5-new", "all", "b", api.StepFailed, 2, 5), runOf("r6-new", "all", "b", api.StepFailed, 1, 6),
	}
	declared := []api.Declaration{
		{ID: "d0-barred", Leader: "b", State: api.DeclarationWithdrawn, Ended: now.Add(-100 * 24 * time.Hour), Barred: true},
		{ID: "d1-beyond", Leader: "b", State: api.DeclarationWithdrawn, Ended: now.Add(-48 * time.Hour)},
		{ID: "d2-open", Leader: "b", State: api.DeclarationSuspected},
		{ID: "d3-new", Leader: "b", State: api.DeclarationWithdrawn, Ended: now.Add(-48 * time.Hour)},
	}
	there, err := s.mesh.Conn("a")
	if err != nil {
		t.Fatal(err)
	}
	for _, conn := range []*bus.Conn{s.mesh.Local(), there} {
		j := run.NewJournal(conn, s.copies.add)
		for _, r := range runs {
			if _, err := j.Create(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Append(t.Context(), api.RunSubject(r.Plan, r.ID, "acquire.erp"), []byte(`{}`), "", nil); err != nil {
				t.Fatal(err)
			}
		}
		for _, d := range declared {
			if _, err := j.PutDeclaration(t.Context(), d, 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, conn := range []*bus.Conn{s.mesh.Local(), there} {
		for range 2 { // what is to go is not put off by another round
			if err := s.retainAt(t.Context(), conn, retention{runs: 2, declarations: 2, age: 90 * 24 * time.Hour, last: time.Second}); err != nil {
				t.Fatal(err)
			}
		}
		want := []string{"d0-barred", "d2-open", "d3-new", "r0-goes-on", "r1-others", "r2-served-since", "r5-new", "r6-new"}
		w.comes(time.Minute, func() (missing string) {
			if have := ids(t, conn); !slices.Equal(have, want) {
				missing = "site " + string(conn.Site()) + " has " + strings.Join(have, " ")
			}
			return missing
		})
	}
	for _, c := range s.copies.missing(nil) {
		if strings.Contains(c.Subject, "r3-aged") || strings.Contains(c.Subject, "r4-beyond") {
			t.Errorf("%s would be copied again", c.Subject)
		}
	}
}
