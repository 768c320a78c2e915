//go:build e2e

package main

import (
	"context"
	"slices"
	"testing"

	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/demo"
	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/jaegertest"
)

// runOf is the scenario's run of a kind.
func runOf(t *testing.T, r demo.Report, kind string) demo.RunReport {
	t.Helper()
	i := slices.IndexFunc(r.Runs, func(x demo.RunReport) bool { return x.Kind == kind })
	if i < 0 {
		t.Fatalf("the scenario reports no %s: %+v", kind, r.Runs)
	}
	return r.Runs[i]
}

func checkFailover(t *testing.T, jaeger *jaegertest.Jaeger, run demo.RunReport) jaegertest.Trace {
	t.Helper()
	tr := jaeger.AwaitRun(t, string(run.ID))
	if tr.ID != run.TraceID {
		t.Errorf("Jaeger has run %s in trace %s, the run says %s", run.ID, tr.ID, run.TraceID)
	}
	tr.CheckFailover(t, jaegertest.Failover{Leader: "b", Lost: "a", Sites: []string{"b", "w"}, First: run.FirstMissed, Evidence: 1})
	return tr
}

// joined wants spans of site a's fencing that link to the run's trace.
func joined(t *testing.T, jaeger *jaegertest.Jaeger, tr jaegertest.Trace) {
	t.Helper()
	var seen []jaegertest.Trace
	ok := jaeger.Await(t, func(ctx context.Context) bool {
		fencing, err := jaeger.ByTag(ctx, "phase", "fence")
		seen = fencing
		return err == nil && len(tr.LinkedFrom(fencing, "a", "fence")) > 0
	})
	if !ok {
		for _, s := range seen {
			t.Logf("%s", s.Tree())
		}
		t.Errorf("nothing of site a's fencing links to trace %s", tr.ID)
	}
}

func TestAFailoverIsOneTraceInJaeger(t *testing.T) {
	jaeger, otlp := jaegertest.Start(t)
	bin := binary(t)
	play := func(t *testing.T, scenario string) demo.Report {
		return demoProcess(t, bin, "--processes", "--scenario", scenario, "--otlp", otlp)
	}
	t.Run("site-loss", func(t *testing.T) {
		tr := checkFailover(t, jaeger, runOf(t, play(t, "site-loss"), "failover"))
		t.Logf("the trace of a failover:\n%s", tr.Tree())
	})
	t.Run("partition", func(t *testing.T) {
		checkFailover(t, jaeger, runOf(t, play(t, "partition"), "failover"))
		stopped, err := jaeger.ByTag(t.Context(), "phase", "fence")
		if err != nil || !slices.ContainsFunc(stopped, func(tr jaegertest.Trace) bool {
			return slices.ContainsFunc(tr.Spans, func(s jaegertest.Span) bool { return s.Name == "stop serving" && s.Site == "a" })
		}) {
			t.Errorf("site a did not tell that it stopped by itself: %v", err)
		}
	})
	t.Run("switchover", func(t *testing.T) {
		jaeger.AwaitRun(t, string(runOf(t, play(t, "switchover"), "switchover").ID)).CheckMove(t, "switchover", "a", "b")
	})
	t.Run("failback", func(t *testing.T) {
		r := play(t, "failback")
		tr := checkFailover(t, jaeger, runOf(t, r, "failover"))
		joined(t, jaeger, tr)
		back := jaeger.AwaitRun(t, string(runOf(t, r, "failback").ID))
		back.CheckMove(t, "failback", "b", "a")
		if len(tr.LinkedFrom([]jaegertest.Trace{back}, "a", "run")) == 0 {
			t.Errorf("the failback does not link to the failover it takes back:\n%s", back.Tree())
		}
	})
}
