package failover

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/services/failover/plan"
	"github.com/holdfast-dr/holdfast/services/failover/run"
)

// losesSource plays a planned move from a to b in which a is lost before its first step of a kind.
func losesSource(t *testing.T, kind string) *world {
	t.Helper()
	w := newWorld(t, testGroup(t, "erp", "sync", "db"))
	killA, _ := w.start("a", nil)
	var once sync.Once
	w.start("b", func(_ context.Context, _ func(), moment string, _ api.Run, st api.Step) {
		if moment == run.BeforeEffect && st.Kind == kind {
			once.Do(func() {
				w.loseSite("a", killA)
				w.confirm("a", "b", true)
			})
		}
	})
	w.awaitRun("a", api.RunStart, api.StepDone)
	w.awaitRun("b", api.RunStart, api.StepDone)
	if _, err := w.request("b", api.RunStartRequest{Plan: "all", Kind: api.RunSwitchover, By: "ann", Reason: "works"}); err != nil {
		t.Fatal(err)
	}
	return w
}

func TestAMoveWhoseSourceIsLostEndsThenAndTheGroupFailsOver(t *testing.T) {
	w := losesSource(t, plan.KindEvacuate)
	r := w.awaitRun("b", api.RunSwitchover, api.StepFailed)
	if !strings.Contains(r.Error, "site a was lost in the middle of the move (site a is lost)") || strings.Contains(r.Error, "given up") {
		t.Errorf("the run says %q", r.Error)
	}
	w.awaitRun("b", api.RunFailover, api.StepDone)
	w.runsAt("db", "b")
	w.once()
}

func TestAMoveGoesOnWhenItsSourceIsLostAfterItHandedOver(t *testing.T) {
	w := losesSource(t, plan.KindRelease)
	r := w.awaitRun("b", api.RunSwitchover, api.StepDone)
	for _, st := range r.Steps {
		if st.Kind == plan.KindRelease && !strings.Contains(st.Result, "site a is lost") {
			t.Errorf("step %s says %q", st.ID, st.Result)
		}
	}
	w.runsAt("db", "b")
	w.once()
}
