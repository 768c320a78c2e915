package group

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/telemetry"
)

// Changes of part are traced, writes never are.

// span begins one, with what every span of a group says. phase is the part of a recovery it belongs to.
func (g *Group) span(ctx context.Context, name, phase string, epoch domain.Epoch, more ...attribute.KeyValue) (context.Context, trace.Span) {
	return g.cfg.Tracer.Start(ctx, name, trace.WithAttributes(append(more, attribute.String("phase", phase), attribute.String("group", string(g.id)),
		attribute.Int64("epoch", int64(epoch)), attribute.String("site", string(g.cfg.Site)))...))
}

// fence is takeOver in a span of its own: from its end on nobody else can write to this copy.
func (g *Group) fence(ctx context.Context, req api.PromoteRequest) (err error) {
	ctx, span := g.span(ctx, "fence", "fence", req.Epoch, attribute.String("run", string(req.RunID)))
	defer func() { telemetry.End(span, err) }()
	return g.takeOver(ctx, req)
}

// linked begins a span of a session's own work, a trace of its own: it may come hours after the promote it links to.
func (s *session) linked(ctx context.Context, name string, target domain.SiteID) (context.Context, trace.Span) {
	ctx, span := s.g.span(ctx, name, "reprotect", s.epoch, attribute.String("target", string(target)))
	link(span, s.cause, "serves since the promote of this run")
	return ctx, span
}

// cameFrom is the traceparent of what made the session.
func (s *session) cameFrom() string {
	return telemetry.ParentOf(s.cause)
}

// stoppedByItself tells, as a trace of its own, that the copy fenced itself: nobody told it to. When it follows the next
// primary, that span links here and to the run of the other site.
func (g *Group) stoppedByItself(s *session, began time.Time, cause error) {
	_, span := g.cfg.Tracer.Start(context.WithoutCancel(g.ctx), "stop serving", trace.WithNewRoot(), trace.WithTimestamp(began), trace.WithAttributes(
		attribute.String("phase", "fence"), attribute.String("group", string(g.id)), attribute.Int64("epoch", int64(s.epoch)),
		attribute.String("site", string(g.cfg.Site)), attribute.String("reason", fmt.Sprint(cause))))
	link(span, s.cause, "served since the promote of this run")
	span.End()
	g.mu.Lock()
	g.fencing = span.SpanContext()
	g.mu.Unlock()
}

// joins links the fencing of a copy that follows a primary to the run that made it one, and to when the copy stopped by itself.
func (g *Group) joins(span trace.Span, cause string) {
	link(span, telemetry.SpanOf(cause), "follows the primary that this run promoted")
	g.mu.Lock()
	before := g.fencing
	g.mu.Unlock()
	link(span, before, "stopped serving by itself before")
}

func link(span trace.Span, to trace.SpanContext, why string) {
	if to.IsValid() {
		span.AddLink(trace.Link{SpanContext: to, Attributes: []attribute.KeyValue{attribute.String("why", why)}})
	}
}
