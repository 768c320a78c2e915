package health_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
	"github.com/holdfast-dr/holdfast/services/health"
)

func TestSiteLossIsConfirmedByTheTwoOthersAndOverWhenItReturns(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a, b, w := c.sites["a"], c.sites["b"], c.sites["w"]
	a.stop()
	a.srv.Stop()
	for _, s := range []*testSite{b, w} {
		e := c.await(s, "the disaster confirmed", disaster("confirmed", "a"))
		d := e.fact.(*event.DisasterChanged)
		if by := slices.Sorted(slices.Values(d.Assessment.Seen)); d.Assessment.Class != api.ClassDisaster || !slices.Equal(by, []domain.SiteID{"b", "w"}) || d.Observer != s.id {
			t.Fatalf("%+v", d)
		}
		paths := map[string]int{}
		for _, o := range d.Assessment.Evidence {
			paths[string(o.Observer)+" "+o.Path]++
		}
		if len(paths) != 4 {
			t.Fatalf("evidence %v: want two paths of two observers", paths)
		}
		if d.FirstMissed.IsZero() || !d.FirstMissed.Before(e.Time) {
			t.Fatalf("first missed %v, told %v", d.FirstMissed, e.Time)
		}
		c.await(s, "the disaster suspected", disaster("suspected", "a"))
		c.await(s, "the site lost", object("site", "lost", "a"))
		c.never(s, "disaster.b.")
		c.never(s, "disaster.w.")
		c.never(s, "incident.")
		checkTrace(t, s, e, d)
	}
	c.serve(a)
	c.start(a)
	for _, s := range []*testSite{b, w} {
		c.await(s, "the disaster over", disaster("over", "a"))
		c.await(s, "the site recovered", object("site", "recovered", "a"))
	}
	c.awaitAllSeen()
	c.never(a, "disaster.")
}

// checkTrace: the outage's spans have ended, begin at the first missed heartbeat and are the trace the event carries.
func checkTrace(t *testing.T, s *testSite, e seen, d *event.DisasterChanged) {
	t.Helper()
	names := map[string]bool{}
	for _, span := range s.spans.GetSpans() {
		if !strings.Contains(e.TraceParent, span.SpanContext.TraceID().String()) {
			continue
		}
		names[span.Name] = true
		if span.Name != "disaster" {
			continue
		}
		if span.Parent.IsValid() || !span.StartTime.Equal(d.FirstMissed) {
			t.Fatalf("outage begins %v under %v, first missed %v", span.StartTime, span.Parent.SpanID(), d.FirstMissed)
		}
		if !strings.Contains(e.TraceParent, span.SpanContext.SpanID().String()) {
			t.Fatalf("event under %s, outage is span %s", e.TraceParent, span.SpanContext.SpanID())
		}
	}
	for _, want := range []string{"disaster", "detect", "confirm"} {
		if !names[want] {
			t.Fatalf("site %s: no span %q in the event's trace, only %v", s.id, want, names)
		}
	}
	if e.TraceParent == "" {
		t.Fatal("event without a trace")
	}
}

func TestHostLossIsAnIncidentOfItsSiteOnly(t *testing.T) {
	t.Parallel()
	c := newCluster(t, func(c *cluster) {
		a := c.sites["a"]
		a.host = c.newHost(a, "h1")
		c.desire(a)
	})
	a := c.sites["a"]
	c.awaitStatus(a, "VM alive", func(s api.HealthStatus) bool { return state(s, "vm", "erp-1") == api.StateAlive })
	a.host.stop()
	e := c.await(a, "the incident", func(e seen) bool {
		i, ok := e.fact.(*event.IncidentChanged)
		return ok && i.Fact == "opened" && slices.Contains(i.Assessment.Objects, "host/h1") && slices.Contains(i.Assessment.Objects, "vm/erp-1")
	})
	i := e.fact.(*event.IncidentChanged)
	if i.Assessment.Class != api.ClassIncident || i.Assessment.Site != "a" || i.FirstMissed.IsZero() || e.TraceParent == "" {
		t.Fatalf("%+v, trace %q", i, e.TraceParent)
	}
	c.await(a, "the host lost", object("host", "lost", "h1"))
	c.await(a, "the VM lost", object("vm", "lost", "erp-1"))
	for _, s := range []*testSite{c.sites["b"], c.sites["w"]} { // the others know it from a's own view, and tell nothing
		c.awaitStatus(s, "a's incident", func(st api.HealthStatus) bool {
			return slices.ContainsFunc(st.Assessments, func(x api.Assessment) bool { return x.Site == "a" && x.Class == api.ClassIncident })
		})
	}
	for _, s := range c.sites {
		c.never(s, "disaster.")
		c.never(s, "site.a.lost")
	}
	c.never(c.sites["b"], "incident.a.")
	c.never(c.sites["w"], "incident.a.")
	a.host = c.newHost(a, "h1") // another port: the configured probe stays dead, the agent vouches for the host
	c.await(a, "the host recovered", object("host", "recovered", "h1"))
	c.await(a, "the VM recovered", object("vm", "recovered", "erp-1"))
	c.await(a, "the incident closed", func(e seen) bool {
		i, ok := e.fact.(*event.IncidentChanged)
		return ok && i.Fact == "closed"
	})
}

func state(s api.HealthStatus, kind, id string) string {
	for _, o := range s.View.Observations {
		if o.Kind == kind && o.ID == id {
			return o.State
		}
	}
	return ""
}

func TestACutOffSiteDeclaresNothing(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a, b := c.sites["a"], c.sites["b"]
	c.cut("a", "b", true)
	c.cut("a", "w", true)
	c.await(a, "its link to b lost", object("link", "lost", "a-b"))
	c.await(a, "its link to w lost", object("link", "lost", "a-w"))
	c.await(b, "the disaster confirmed", disaster("confirmed", "a")) // from outside, a is gone
	st := c.status(a)
	if !st.View.Sick || st.Assessments[0].Class != api.ClassWAN || st.Assessments[1].Class != api.ClassNone {
		t.Fatalf("%+v", st)
	}
	c.never(a, "disaster.")
	c.never(a, "site.")
	c.cut("a", "b", false)
	c.cut("a", "w", false)
	c.await(a, "its link to b recovered", object("link", "recovered", "a-b"))
	c.await(b, "the disaster over", disaster("over", "a"))
	c.never(a, "disaster.")
}

func TestACutLinkIsNoDisaster(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a, b, w := c.sites["a"], c.sites["b"], c.sites["w"]
	c.cut("a", "b", true)
	c.await(a, "the link lost", object("link", "lost", "a-b"))
	c.await(b, "the link lost", object("link", "lost", "a-b"))
	c.awaitStatus(w, "the link between the others", func(s api.HealthStatus) bool {
		return slices.ContainsFunc(s.Assessments, func(x api.Assessment) bool {
			return x.Site == "a" && x.Class == api.ClassWAN && slices.Contains(x.Objects, "link/a-b")
		})
	})
	c.cut("a", "b", false)
	c.await(a, "the link recovered", object("link", "recovered", "a-b"))
	c.await(b, "the link recovered", object("link", "recovered", "a-b"))
	for _, s := range []*testSite{a, b, w} {
		c.never(s, "disaster.")
		c.never(s, "site.")
	}
}

func TestADeadHealthServiceIsAServiceIncident(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.sites["a"].stop() // its server lives on
	c.await(c.sites["b"], "the incident", func(e seen) bool {
		i, ok := e.fact.(*event.IncidentChanged)
		return ok && i.Fact == "opened" && i.Assessment.Site == "a" && slices.Contains(i.Assessment.Objects, "service/health")
	})
	c.never(c.sites["b"], "disaster.")
	c.start(c.sites["a"])
	c.await(c.sites["b"], "the incident closed", func(e seen) bool {
		i, ok := e.fact.(*event.IncidentChanged)
		return ok && i.Fact == "closed" && i.Assessment.Site == "a"
	})
}

func TestRunRefusesABadConfig(t *testing.T) {
	if err := health.Run(t.Context(), health.Config{Site: "a"}, health.Deps{}); !errors.Is(err, domain.ErrInvalid) {
		t.Fatal(err)
	}
}
