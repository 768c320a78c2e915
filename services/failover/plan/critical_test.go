package plan_test

import (
	"slices"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/services/failover/plan"
)

func TestCriticalPathIsTheChainThatEndedLast(t *testing.T) {
	t0 := time.Date(2026, 11, 23, 1, 0, 0, 0, time.UTC)
	at := func(s int) time.Time { return t0.Add(time.Duration(s) * time.Second) }
	step := func(kind, id string, from, to int, needs ...string) api.Step {
		return api.Step{ID: id, Kind: kind, Started: at(from), Ended: at(to), Needs: needs, State: api.StepDone}
	}
	r := api.Run{Kind: api.RunFailover, FirstMissed: at(0), Confirmed: at(6), Started: at(8), Ended: at(60), Steps: []api.Step{
		step(plan.KindAcquire, "acquire.erp", 8, 12),
		step(plan.KindAcquire, "acquire.web", 8, 9),
		step(plan.KindPromote, "promote.erp", 12, 14, "acquire.erp"),
		step(plan.KindPromote, "promote.web", 9, 10, "acquire.web"),
		step(plan.KindStart, "start.www", 15, 20, "promote.erp", "promote.web"),
		step(plan.KindClient, "client.www", 20, 22, "start.www"),
		step(plan.KindClient, "client.db", 16, 17, "promote.erp"),
		step(plan.KindProtect, "protect.erp", 22, 60, "start.www"), // the clients do not wait for it
		{ID: "start.never", Kind: plan.KindStart, State: api.StepPending, Needs: []string{"start.www"}},
	}}
	p := plan.CriticalPath(r)
	var legs []string
	sum := time.Duration(0)
	for _, l := range p.Legs {
		legs = append(legs, l.Phase+" "+l.Step+" "+l.Took().String())
		sum += l.Took()
	}
	want := []string{"detect  6s", "hold-down  2s", "vote acquire.erp 4s", "promote promote.erp 2s", "start start.www 6s", "client client.www 2s"}
	if !slices.Equal(legs, want) {
		t.Errorf("legs %q\nwant %q", legs, want)
	}
	if p.Total != 22*time.Second || sum != p.Total {
		t.Errorf("total %s, the legs make %s, want 22s", p.Total, sum)
	}
	if !p.Has("promote.erp") || p.Has("promote.web") {
		t.Errorf("marks %v", p.Legs)
	}
}

func TestCriticalPathOfARunThatNeverGotFar(t *testing.T) {
	t0 := time.Date(2026, 11, 23, 1, 0, 0, 0, time.UTC)
	p := plan.CriticalPath(api.Run{Kind: api.RunSwitchover, Started: t0, Steps: []api.Step{
		{ID: "precheck.erp", Kind: plan.KindPrecheck, Started: t0, Ended: t0.Add(time.Second), State: api.StepFailed},
		{ID: "evacuate.erp", Kind: plan.KindEvacuate, Needs: []string{"precheck.erp"}}}})
	if len(p.Legs) != 1 || p.Legs[0].Step != "precheck.erp" || p.Total != time.Second {
		t.Errorf("%+v", p)
	}
	if p := plan.CriticalPath(api.Run{Started: t0}); len(p.Legs) != 0 || p.Total != 0 {
		t.Errorf("of nothing: %+v", p)
	}
}
