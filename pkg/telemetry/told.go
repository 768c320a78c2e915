package telemetry

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// Told is a span that is made when what it measures is over, from what was written down of it. Its ids are of the
// teller's choice: others can be its children before it is made, and whoever tells the same again, after a kill, makes
// the same span.
type Told struct {
	Name       string
	Span       trace.SpanContext // its trace and its own id
	Parent     trace.SpanContext // zero for a root
	Start, End time.Time
	Attributes []attribute.KeyValue
	Links      []trace.Link
	Err        string // why it failed; empty when it did not
}

// Tell makes a span of what is over.
func Tell(ctx context.Context, tracer trace.Tracer, t Told) {
	ctx = context.WithValue(trace.ContextWithSpanContext(ctx, t.Parent), chosenKey{}, t.Span)
	_, span := tracer.Start(ctx, t.Name, trace.WithTimestamp(t.Start), trace.WithAttributes(t.Attributes...), trace.WithLinks(t.Links...))
	if t.Err != "" {
		span.SetStatus(codes.Error, t.Err)
	}
	span.End(trace.WithTimestamp(t.End))
}

// Child is the identity of a span below parent that will be told under the names given: the same names are the same span.
// Without a parent it is the root of a new trace.
func Child(parent trace.SpanContext, names ...string) trace.SpanContext {
	sum := sha256.Sum256([]byte(strings.Join(names, "\x00")))
	c := trace.SpanContextConfig{TraceID: parent.TraceID(), SpanID: trace.SpanID(sum[:8]), TraceFlags: trace.FlagsSampled}
	if !parent.IsValid() {
		_, _ = rand.Read(c.TraceID[:]) // never fails
	}
	return trace.NewSpanContext(c)
}

// SpanOf is the span a W3C traceparent names; not valid when the text is empty or damaged.
func SpanOf(traceparent string) trace.SpanContext {
	part := strings.Split(traceparent, "-")
	if len(part) != 4 {
		return trace.SpanContext{}
	}
	t, err1 := trace.TraceIDFromHex(part[1])
	s, err2 := trace.SpanIDFromHex(part[2])
	if err1 != nil || err2 != nil {
		return trace.SpanContext{}
	}
	return trace.NewSpanContext(trace.SpanContextConfig{TraceID: t, SpanID: s, TraceFlags: trace.FlagsSampled, Remote: true})
}

// ParentOf is the W3C traceparent that names a span; empty when it is not valid.
func ParentOf(sc trace.SpanContext) string {
	if !sc.IsValid() {
		return ""
	}
	return "00-" + sc.TraceID().String() + "-" + sc.SpanID().String() + "-" + sc.TraceFlags().String()
}

// LinkTo is a link to the span a traceparent names that says why; ok is false when it names none.
func LinkTo(traceparent, why string) (l trace.Link, ok bool) {
	sc := SpanOf(traceparent)
	return trace.Link{SpanContext: sc, Attributes: []attribute.KeyValue{attribute.String("why", why)}}, sc.IsValid()
}

type chosenKey struct{}

// ids gives spans random ids, but for those that are told.
type ids struct{}

func (ids) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	if sc, ok := ctx.Value(chosenKey{}).(trace.SpanContext); ok {
		return sc.TraceID(), sc.SpanID()
	}
	var t trace.TraceID
	_, _ = rand.Read(t[:])
	return t, randomSpan()
}

func (ids) NewSpanID(ctx context.Context, _ trace.TraceID) trace.SpanID {
	if sc, ok := ctx.Value(chosenKey{}).(trace.SpanContext); ok {
		return sc.SpanID()
	}
	return randomSpan()
}

func randomSpan() (s trace.SpanID) {
	_, _ = rand.Read(s[:])
	return s
}
