//go:build e2e

package demo

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/fleet"
	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/jaegertest"
	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
)

// TestARunThatIsKilledInTheMiddleIsStillOneWholeTrace kills the failover service with SIGKILL while its run promotes; the next life
// of it ends the run, and Jaeger has all of it: nothing that another service did for the first life has lost its parent.
func TestARunThatIsKilledInTheMiddleIsStillOneWholeTrace(t *testing.T) {
	jaeger, otlp := jaegertest.Start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	w, f := newTracedFleet(ctx, t, 7, otlp)
	fault := time.Now()
	f.killSite(siteA)
	begun, err := w.con.await(ctx, "the promote at site b", func(s seen) bool {
		st, ok := s.fact.(*event.StepChanged)
		return ok && s.site == siteB && st.Fact == "step_started" && st.Step.ID == "promote."+string(groupSync) && s.ev.Time.After(fault)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Strike(ctx, fleet.Part(siteB, api.ServiceFailover)); err != nil {
		t.Fatal(err)
	}
	id := begun.fact.(*event.StepChanged).Run
	run, err := w.endOf(ctx, siteB, id)
	if err != nil || run.State != api.StepDone {
		t.Fatalf("run %s: %s %s, %v", id, run.State, run.Error, err)
	}
	tr := jaeger.AwaitRun(t, string(id))
	tr.CheckFailover(t, jaegertest.Failover{Leader: "b", Lost: "a", Sites: []string{"b", "w"}, First: run.FirstMissed, Evidence: 1})
	if !slices.ContainsFunc(tr.Spans, func(s jaegertest.Span) bool { return s.Name == "run resumed" && len(s.Links) > 0 }) {
		t.Errorf("the trace does not tell that the run was resumed:\n%s", tr.Tree())
	}
	if t.Failed() {
		return
	}
	t.Logf("the trace of a resumed run:\n%s", tr.Tree())
}

// endOf waits for the end of a run, whatever it is.
func (w *world) endOf(ctx context.Context, site domain.SiteID, id domain.RunID) (api.Run, error) {
	s, err := w.con.await(ctx, "the end of run "+string(id), func(s seen) bool {
		r, ok := s.fact.(*event.RunChanged)
		return ok && s.site == site && r.Run.ID == id && r.Fact != "started"
	})
	if err != nil {
		return api.Run{}, err
	}
	return s.fact.(*event.RunChanged).Run, nil
}
