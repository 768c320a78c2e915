package quorum

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/telemetry"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
)

// Only what a candidate asks for while somebody waits for the lease is traced: renewals go on for ever.

// tracedVotes bounds the spans of one candidacy, which may try again for half a minute.
const tracedVotes = 90

func aboutVote(g domain.GroupID, s domain.SiteID, e domain.Epoch) []attribute.KeyValue {
	return []attribute.KeyValue{attribute.String("phase", "vote"), attribute.String("group", string(g)), attribute.String("site", string(s)), attribute.Int64("epoch", int64(e))}
}

func isCandidacy(v core.Verb) bool { return v == core.Probe || v == core.Prepare || v == core.Accept }

// votes begins the span of one request to a voter and gives the context of the request, and what ends the span with the
// voter's answer. It is the group's own context, and nothing, where no candidacy is traced.
func (g *group) votes(a core.Send) (context.Context, func(core.Response, error)) {
	if len(g.waiters) == 0 || !isCandidacy(a.Req.Verb) || g.traced >= tracedVotes {
		return g.s.ctx, func(core.Response, error) {}
	}
	g.traced++
	ctx := trace.ContextWithSpanContext(g.s.ctx, trace.SpanContextFromContext(g.waiters[0].ctx))
	ctx, span := g.s.tracer.Start(ctx, string(a.Req.Verb), trace.WithAttributes(append(aboutVote(g.id, g.s.cfg.Site, a.Req.Epoch),
		attribute.String("voter", string(a.To)), attribute.String("run", string(g.waiters[0].req.RunID)))...))
	return ctx, func(r core.Response, err error) {
		span.SetAttributes(attribute.String("verdict", string(r.Verdict)))
		telemetry.End(span, err)
	}
}

// toldPhase adds a phase and its tally to the span of the candidacy.
func (g *group) toldPhase(name string, t core.Tally, voters []string) {
	if len(g.waiters) > 0 {
		trace.SpanFromContext(g.waiters[0].ctx).AddEvent("phase: "+name, trace.WithAttributes(
			attribute.String("tally", fmt.Sprintf("%d of %d votes", t.Have, t.Total)), attribute.StringSlice("voters", voters)))
	}
}

// handle answers a ballot with the own voter, in a span when the candidate's request is traced.
func (s *service) handle(ctx context.Context, b ballot) (core.Response, error) {
	if !isCandidacy(b.Verb) || !trace.SpanContextFromContext(ctx).IsValid() {
		return s.ownVote(b)
	}
	_, span := s.tracer.Start(ctx, "answer "+string(b.Verb), trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(
		append(aboutVote(b.Group, s.cfg.Site, b.Epoch), attribute.String("voter", string(s.voter.ID())))...))
	resp, err := s.ownVote(b)
	span.SetAttributes(attribute.String("verdict", string(resp.Verdict)))
	telemetry.End(span, err)
	return resp, err
}
