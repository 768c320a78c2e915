package failover

import (
	"context"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
	"github.com/holdfast-dr/holdfast/pkg/telemetry"
	"github.com/holdfast-dr/holdfast/services/failover/run"
)

// outage is a disaster as the own site's health service told it: the span of it, under which a failover stands, and its times.
type outage struct {
	cause                  trace.SpanContext
	firstMissed, confirmed time.Time
	event                  string // id of the event that told it was confirmed
}

// outageOf is the disaster of a site that is confirmed and not over; zero when there is none, or nobody can say.
func (s *service) outageOf(ctx context.Context, site domain.SiteID) outage {
	at := func(fact string) (bus.Record, error) {
		return s.mesh.Local().Last(ctx, api.StreamEvents, api.EventSubject(s.cfg.Site, "disaster", string(site), fact))
	}
	rec, err := at("confirmed")
	if err != nil {
		return outage{}
	}
	if over, err := at("over"); err == nil && over.Seq > rec.Seq {
		return outage{}
	}
	e, fact, err := event.Decode(rec.Data)
	d, ok := fact.(*event.DisasterChanged)
	if err != nil || !ok {
		return outage{}
	}
	return outage{cause: telemetry.SpanOf(e.TraceParent), firstMissed: d.FirstMissed, confirmed: e.Time, event: e.ID}
}

const (
	linkTimeout = time.Second
	// toldAgain is how long before a start of the service a run may have ended whose spans a kill may have kept from the collector.
	toldAgain = time.Minute
)

// noteResumed marks in the run's trace that another life of the service goes on with it, after what.
func (s *service) noteResumed(ctx context.Context, r api.Run) {
	_, span := s.tracer.Start(ctx, "run resumed", trace.WithAttributes(run.About(r)...), trace.WithLinks(run.LinkToLast(r)))
	span.End()
}

// tellAgain makes the spans of a run once more that ended just before the service did: the same spans, which a collector that
// has them already recognises.
func (s *service) tellAgain(r api.Run) {
	if time.Since(r.Ended) < toldAgain {
		s.wg.Go(func() { run.Tell(s.life, s.tracer, r, s.linksOf(s.life, r)) })
	}
}

// linksOf are the links of a run: to the evidence of the other observers, and to the run before it of the same groups, which
// it repeats, or takes back.
func (s *service) linksOf(ctx context.Context, r api.Run) []trace.Link {
	links := s.evidence(ctx, r)
	if before, ok := s.runBefore(ctx, r); ok {
		if l, ok := telemetry.LinkTo(before.TraceParent, "follows run "+string(before.ID)+" of the same groups"); ok {
			links = append(links, l)
		}
	}
	return links
}

// evidence links to what the other sites' observers saw of the disaster.
func (s *service) evidence(ctx context.Context, r api.Run) []trace.Link {
	if r.FirstMissed.IsZero() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, linkTimeout)
	defer cancel()
	sites := s.mesh.Sites()
	found := make([]trace.Link, len(sites))
	var wg sync.WaitGroup
	for i, site := range sites {
		if site != s.cfg.Site && site != r.From {
			wg.Go(func() { found[i] = s.evidenceOf(ctx, site, r) })
		}
	}
	wg.Wait()
	return slices.DeleteFunc(found, func(l trace.Link) bool { return !l.SpanContext.IsValid() })
}

func (s *service) evidenceOf(ctx context.Context, observer domain.SiteID, r api.Run) trace.Link {
	conn, err := s.mesh.Conn(observer)
	if err != nil {
		return trace.Link{}
	}
	for _, fact := range []string{"confirmed", "suspected"} {
		rec, err := conn.Last(ctx, api.StreamEvents, api.EventSubject(observer, "disaster", string(r.From), fact))
		if err != nil || rec.Time.Before(r.FirstMissed.Add(-time.Minute)) {
			continue // of another disaster
		}
		if e, _, err := event.Decode(rec.Data); err == nil {
			l, _ := telemetry.LinkTo(e.TraceParent, "site "+string(observer)+" saw it too: "+fact)
			return l
		}
	}
	return trace.Link{}
}

// runBefore is the newest run before r, of any site, that a group of r was in.
func (s *service) runBefore(ctx context.Context, r api.Run) (before api.Run, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, linkTimeout)
	defer cancel()
	list, err := s.runList(ctx, api.Empty{})
	if err != nil {
		return before, false
	}
	groups := groupsOf(r)
	for _, x := range list.Runs { // newest first
		if x.ID != r.ID && x.Started.Before(r.Started) && slices.ContainsFunc(groupsOf(x), func(g domain.GroupID) bool { return slices.Contains(groups, g) }) {
			return x, true
		}
	}
	return before, false
}
