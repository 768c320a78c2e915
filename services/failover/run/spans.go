package run

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/telemetry"
	"github.com/holdfast-dr/holdfast/services/failover/plan"
)

// SpanOf is the identity of a run's span below the span that caused it, the same for every life of the service that leads
// it.
func SpanOf(cause trace.SpanContext, id domain.RunID) trace.SpanContext {
	return telemetry.Child(cause, "run", string(id))
}

func spanOfStep(r api.Run, s api.Step) trace.SpanContext {
	return telemetry.Child(telemetry.SpanOf(r.TraceParent), "step", string(r.ID), s.ID)
}

// LinkToLast links to what was done last of a run: to the step that ended last, or to the run's cause when none has.
// (A link to a span's own parent would take the parent's place in Jaeger.)
func LinkToLast(r api.Run) trace.Link {
	l, _ := telemetry.LinkTo(r.TraceCause, "the run was begun")
	var last time.Time
	for _, s := range r.Steps {
		if s.State == api.StepDone && s.Ended.After(last) {
			last = s.Ended
			l = trace.Link{SpanContext: spanOfStep(r, s), Attributes: []attribute.KeyValue{attribute.String("why", "the former life of the service ended after step "+s.ID)}}
		}
	}
	return l
}

// About is what every span of a run says. The tag run is how a run's trace is found.
func About(r api.Run) []attribute.KeyValue {
	return []attribute.KeyValue{attribute.String("run", string(r.ID)), attribute.String("plan", string(r.Plan)),
		attribute.String("kind", r.Kind), attribute.String("site", string(r.Leader))}
}

func aboutStep(r api.Run, s api.Step) []attribute.KeyValue {
	out := append(About(r), attribute.String("step", s.ID), attribute.String("phase", plan.Phase(s.Kind)), attribute.String("group", string(s.Group)),
		attribute.Int64("epoch", int64(r.Epochs[s.Group])))
	if s.VM != "" {
		out = append(out, attribute.String("vm", string(s.VM)))
	}
	if s.Name != "" {
		out = append(out, attribute.String("name", s.Name))
	}
	return out
}

// Tell makes the spans of a run that has ended from its journal: the hold-down, the run, and each step, those on the critical
// path marked. Whoever tells the same run again makes the same spans, so that a kill at any moment leaves no trace without
// its middle.
func Tell(ctx context.Context, tracer trace.Tracer, r api.Run, links []trace.Link) {
	self, cause := telemetry.SpanOf(r.TraceParent), telemetry.SpanOf(r.TraceCause)
	if !self.IsValid() || r.Ended.IsZero() {
		return
	}
	path := plan.CriticalPath(r)
	if cause.IsValid() && !r.Confirmed.IsZero() && r.Confirmed.Before(r.Started) {
		telemetry.Tell(ctx, tracer, telemetry.Told{Name: plan.PhaseHoldDown, Span: telemetry.Child(cause, "hold-down", string(r.ID)), Parent: cause,
			Start: r.Confirmed, End: r.Started, Attributes: append(About(r), attribute.String("phase", plan.PhaseHoldDown), attribute.Bool("critical_path", true))})
	}
	telemetry.Tell(ctx, tracer, telemetry.Told{Name: r.Kind + " run", Span: self, Parent: cause, Start: r.Started, End: r.Ended, Links: links, Err: r.Error,
		Attributes: append(About(r), attribute.String("phase", "run"), attribute.String("from", string(r.From)), attribute.String("reason", r.Reason),
			attribute.String("by", r.By), attribute.Float64("critical_path_seconds", path.Total.Seconds()))})
	for _, s := range r.Steps {
		tellStep(ctx, tracer, r, s, self, path)
	}
}

func tellStep(ctx context.Context, tracer trace.Tracer, r api.Run, s api.Step, parent trace.SpanContext, path plan.Path) {
	if s.Started.IsZero() {
		return // never begun
	}
	end := s.Ended
	if end.Before(s.Started) {
		end = laterOf(s.Started, r.Ended)
	}
	attrs := append(aboutStep(r, s), attribute.Int("attempts", s.Attempts))
	if path.Has(s.ID) {
		attrs = append(attrs, attribute.Bool("critical_path", true))
	}
	telemetry.Tell(ctx, tracer, telemetry.Told{Name: s.Kind, Span: spanOfStep(r, s), Parent: parent, Start: s.Started, End: end, Attributes: attrs, Err: s.Error})
}

func laterOf(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
