package health

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
	"github.com/holdfast-dr/holdfast/services/health/assess"
)

// Names of the spans of a disaster and of an incident. A root begins at the first missed heartbeat, so that the whole of a
// failover is under it.
const (
	spanDisaster = "disaster"
	spanIncident = "incident"
	spanDetect   = "detect"  // from the first missed heartbeat until suspected, of an incident until found
	spanConfirm  = "confirm" // from suspected until confirmed
)

// publisher tells changes as events and as traces. It is used from one goroutine.
type publisher struct {
	site      domain.SiteID
	boot      string
	events    *bus.Events
	tracer    trace.Tracer
	log       *slog.Logger
	seq       uint64
	records   *records
	outages   map[domain.SiteID]*outage
	incidents map[domain.SiteID]trace.SpanContext
}

// outage is the trace of one suspected or confirmed disaster.
type outage struct {
	root, confirm trace.Span
}

func newPublisher(site domain.SiteID, boot string, events *bus.Events, tracer trace.Tracer, log *slog.Logger, kept *records) *publisher {
	return &publisher{site: site, boot: boot, events: events, tracer: tracer, log: log, records: kept,
		outages: map[domain.SiteID]*outage{}, incidents: map[domain.SiteID]trace.SpanContext{}}
}

// tell publishes one change under the trace it belongs to.
func (p *publisher) tell(ctx context.Context, c assess.Change) {
	id := ""
	if documented(c) {
		e := p.records.add(time.Now(), c)
		id = e.ID
		p.publish(ctx, "evidence", e.ID, "recorded", event.EvidenceRecorded{Evidence: e})
	}
	switch c.Entity {
	case assess.EntityDisaster:
		p.disaster(ctx, c, id)
	case assess.EntityIncident:
		p.incident(ctx, c, id)
	default:
		if o, ok := p.outages[c.Object.Site]; ok && c.Entity == assess.KindSite {
			ctx = trace.ContextWithSpan(ctx, o.root)
		}
		p.log.Info("object changed", "kind", c.Entity, "id", c.Object.ID, "fact", c.Fact, "of", c.Object.Site, "detail", c.Object.Detail)
		p.publish(ctx, c.Entity, c.Object.ID, c.Fact, event.ObjectChanged{What: c.Entity, Fact: c.Fact, Observer: p.site,
			Object: c.Object, Evidence: c.Evidence, FirstMissed: c.FirstMissed, EvidenceID: id})
	}
}

// node publishes what a node says of itself that people must know.
func (p *publisher) node(ctx context.Context, f event.Fact) {
	entity, fact := f.Key()
	switch f := f.(type) {
	case event.ClockChanged:
		p.log.Warn("clocks compared", "fact", fact, "of", string(f.Site), "node", f.Node, "offset_seconds", f.OffsetSeconds, "text", f.Text)
	case event.VersionChanged:
		p.log.Warn("versions compared", "fact", fact, "of", string(f.Site), "node", f.Node, "theirs", f.Theirs, "ours", f.Ours, "text", f.Text)
	}
	p.publish(ctx, entity, f.Of(), fact, f)
}

// observer publishes that this observer doubts itself, or no longer.
func (p *publisher) observer(ctx context.Context, doubts []string, confidence float64) {
	fact := "trusted"
	if len(doubts) > 0 {
		fact = "doubted"
	}
	p.log.Warn("observer judged itself", "fact", fact, "doubts", doubts, "confidence", confidence)
	p.publish(ctx, "observer", string(p.site), fact, event.ObserverChanged{Fact: fact, Observer: p.site, Doubts: doubts, Confidence: confidence})
}

func (p *publisher) publish(ctx context.Context, entity, id, fact string, f event.Fact) {
	p.seq++
	p.events.Publish(ctx, fmt.Sprintf("%s-%s-%d-%s-%s-%s", p.site, p.boot, p.seq, entity, id, fact), f)
}

func (p *publisher) disaster(ctx context.Context, c assess.Change, evidence string) {
	site := c.Assessment.Site
	o := p.outages[site]
	if o == nil && c.Fact != assess.FactOver { // over without a beginning: told before a restart
		o = p.begin(ctx, c)
		p.outages[site] = o
	}
	if o != nil {
		ctx = trace.ContextWithSpan(ctx, o.root)
	}
	p.log.Info("disaster changed", "fact", c.Fact, "of", site, "text", c.Assessment.Text)
	// The spans end before the event is out: whoever follows it finds them in the trace.
	switch {
	case c.Fact == assess.FactConfirmed:
		o.end("confirmed") // a span that is never ended is never exported
	case c.Fact == assess.FactOver && o != nil:
		o.end("over")
		delete(p.outages, site)
	}
	p.publish(ctx, c.Entity, string(site), c.Fact, event.DisasterChanged{Fact: c.Fact, Observer: p.site,
		Assessment: c.Assessment, FirstMissed: c.FirstMissed, EvidenceID: evidence})
}

// begin starts the trace of an outage at its first missed heartbeat.
func (p *publisher) begin(ctx context.Context, c assess.Change) *outage {
	first := c.FirstMissed
	if first.IsZero() {
		first = time.Now()
	}
	attrs := trace.WithAttributes(attribute.String("lost_site", string(c.Assessment.Site)), attribute.String("site", string(p.site)))
	// Everything a failover does waits for both phases.
	phase := trace.WithAttributes(attribute.String("phase", "detect"), attribute.Bool("critical_path", true))
	octx, root := p.tracer.Start(ctx, spanDisaster, trace.WithNewRoot(), trace.WithTimestamp(first), attrs)
	root.AddEvent("first missed heartbeat", trace.WithTimestamp(first))
	_, detect := p.tracer.Start(octx, spanDetect, trace.WithTimestamp(first), attrs, phase)
	root.AddEvent("suspected")
	detect.End()
	_, confirm := p.tracer.Start(octx, spanConfirm, attrs, phase)
	return &outage{root: root, confirm: confirm}
}

// end closes the spans. Ending one again does nothing.
func (o *outage) end(outcome string) {
	if o.root.IsRecording() {
		o.root.AddEvent(outcome)
		o.root.SetAttributes(attribute.String("outcome", outcome))
	}
	o.confirm.End()
	o.root.End()
}

func (p *publisher) incident(ctx context.Context, c assess.Change, evidence string) {
	site := c.Assessment.Site
	sc, open := p.incidents[site]
	if !open && c.Fact == assess.FactOpened {
		sc = p.found(ctx, c)
		p.incidents[site] = sc
	}
	p.log.Info("incident changed", "fact", c.Fact, "of", site, "text", c.Assessment.Text)
	p.publish(trace.ContextWithSpanContext(ctx, sc), c.Entity, string(site), c.Fact, event.IncidentChanged{Fact: c.Fact, Observer: p.site,
		Assessment: c.Assessment, FirstMissed: c.FirstMissed, EvidenceID: evidence})
	if c.Fact == assess.FactClosed {
		delete(p.incidents, site)
	}
}

// found records the trace of an incident from its first missed answer to now.
func (p *publisher) found(ctx context.Context, c assess.Change) trace.SpanContext {
	first := c.FirstMissed
	if first.IsZero() {
		first = time.Now()
	}
	attrs := trace.WithAttributes(attribute.String("hurt_site", string(c.Assessment.Site)),
		attribute.String("site", string(p.site)), attribute.StringSlice("objects", c.Assessment.Objects))
	ictx, root := p.tracer.Start(ctx, spanIncident, trace.WithNewRoot(), trace.WithTimestamp(first), attrs)
	_, find := p.tracer.Start(ictx, spanDetect, trace.WithTimestamp(first), attrs)
	find.End()
	root.End()
	return root.SpanContext()
}
