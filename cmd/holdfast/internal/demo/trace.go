package demo

import (
	"context"
	"slices"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/telemetry"
)

// checkTrace wants one whole trace of a failover: a span of every phase, from the first missed heartbeat on, from each site
// that took part, none whose parent is missing, with the critical path marked and a link to what the witness saw.
func (w *world) checkTrace(ctx context.Context, run api.Run) {
	spans := w.traceOf(ctx, run)
	phases, sites := map[string]bool{}, map[string]bool{}
	ids := map[string]bool{}
	marked, links := 0, 0
	runSpan := telemetry.SpanOf(run.TraceParent).SpanID()
	first := time.Now()
	for _, s := range spans {
		ids[s.SpanContext.SpanID().String()] = true
		set := attribute.NewSet(s.Attributes...)
		phases[text(set, "phase")] = true
		sites[text(*s.Resource.Set(), "holdfast.site")] = true
		if v, _ := set.Value("critical_path"); v.AsBool() {
			marked++
		}
		if s.StartTime.Before(first) {
			first = s.StartTime
		}
		if s.SpanContext.SpanID() == runSpan {
			links = len(s.Links)
		}
	}
	var missing []string
	for _, p := range []string{"detect", "hold-down", "vote", "fence", "promote", "start", "verify", "dns", "client", "reprotect"} {
		if !phases[p] {
			missing = append(missing, p)
		}
	}
	w.report.check("one trace holds every phase", len(missing) == 0, "%d spans, missing %v", len(spans), missing)
	w.report.check("the trace begins at the first missed heartbeat", !run.FirstMissed.IsZero() && first.Equal(run.FirstMissed), "%s", first.Format(time.RFC3339Nano))
	w.report.check("the trace has spans of the serving site and of the witness", sites[string(run.Leader)] && sites[string(siteW)], "%v", keys(sites))
	w.report.check("the trace marks its critical path", marked > len(run.Steps)/3, "%d spans", marked)
	w.report.check("the run links to what the witness saw", links > 0, "%d links", links)
	var orphans []string
	for _, s := range spans {
		if s.Parent.IsValid() && !ids[s.Parent.SpanID().String()] {
			orphans = append(orphans, s.Name)
		}
	}
	w.report.check("every span's parent is in the trace", len(orphans) == 0, "without: %v", orphans)
}

const traceWait = 5 * time.Second

// traceOf is the run's trace once its run and its last step are told, which is just after the run's end.
func (w *world) traceOf(ctx context.Context, run api.Run) (spans tracetest.SpanStubs) {
	ctx, cancel := context.WithTimeout(ctx, traceWait)
	defer cancel()
	runSpan := telemetry.SpanOf(run.TraceParent).SpanID()
	for {
		spans = nil
		told := 0
		for _, s := range w.spans.GetSpans() {
			if s.SpanContext.TraceID().String() != run.TraceID {
				continue
			}
			spans = append(spans, s)
			if s.SpanContext.SpanID() == runSpan || text(attribute.NewSet(s.Attributes...), "step") != "" && s.Name != "attempt" {
				told++
			}
		}
		if told > len(run.Steps) || ctx.Err() != nil {
			return spans
		}
		wait(ctx, pollEvery)
	}
}

func text(set attribute.Set, key attribute.Key) string {
	v, _ := set.Value(key)
	return v.AsString()
}

func keys[K ~string](m map[K]bool) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, string(k))
	}
	slices.Sort(out)
	return out
}
