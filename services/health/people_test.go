package health_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/event"
)

// ask is one question to a site's health service, as a person's command asks it.
func ask[Resp, Req any](c *cluster, s *testSite, verb string, req Req) (Resp, error) {
	m := c.dial(s, "test")
	defer m.Close()
	if err := m.Local().AwaitConnected(c.t.Context()); err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(c.t.Context(), 30*time.Second) // as a person's command waits, and longer
	defer cancel()
	return bus.Call[Resp](ctx, m.Local(), api.ServiceHealth, verb, req)
}

func TestMaintenanceIsAnnouncedByACommandAndItsEndTellsTheIncidentWithEvidence(t *testing.T) {
	t.Parallel()
	c := newCluster(t, func(c *cluster) {
		a := c.sites["a"]
		a.host = c.newHost(a, "h1")
		c.desire(a)
	})
	a, b := c.sites["a"], c.sites["b"]
	c.awaitStatus(a, "VM alive", func(s api.HealthStatus) bool { return state(s, "vm", "erp-1") == api.StateAlive })
	about := api.Part{Kind: "host", Site: "a", ID: "h1"}
	if _, err := ask[api.Maintenance](c, a, api.VerbMaintain, api.MaintenanceChange{About: about, For: time.Hour}); err == nil {
		t.Fatal("maintenance without a reason was taken")
	}
	m, err := ask[api.Maintenance](c, a, api.VerbMaintain, api.MaintenanceChange{About: about, For: time.Hour, Why: "memory"})
	if err != nil {
		t.Fatal(err)
	}
	window := func(fact string) func(seen) bool {
		return func(e seen) bool {
			f, ok := e.fact.(*event.MaintenanceChanged)
			return ok && f.Fact == fact && f.Window.ID == m.ID
		}
	}
	c.await(a, "the window announced", window("announced"))
	c.awaitStatus(b, "a's window", func(s api.HealthStatus) bool { return len(s.Maintenance) == 1 && s.Maintenance[0].About == about })
	a.host.stop()
	c.await(a, "the host lost", object("host", "lost", "h1"))
	c.await(a, "the VM lost", object("vm", "lost", "erp-1"))
	c.awaitStatus(a, "no incident", func(s api.HealthStatus) bool {
		return s.Assessments[0].Class == api.ClassNone && slices.Equal(s.Assessments[0].Maintained, []string{"host:a/h1"})
	})
	c.never(a, "incident.")
	if _, err := ask[api.Maintenance](c, a, api.VerbMaintain, api.MaintenanceChange{End: m.ID, Why: "done"}); err != nil {
		t.Fatal(err)
	}
	c.await(a, "the window ended", window("ended"))
	e := c.await(a, "the incident", func(e seen) bool {
		i, ok := e.fact.(*event.IncidentChanged)
		return ok && i.Fact == "opened" && slices.Equal(i.Assessment.Parts, []string{"host/h1"})
	})
	id := e.fact.(*event.IncidentChanged).EvidenceID
	doc, err := ask[api.EvidenceReply](c, a, api.VerbEvidence, api.EvidenceRequest{ID: id})
	if err != nil || len(doc.Evidence) != 1 || len(doc.Evidence[0].Witnesses) != 1 || !doc.Evidence[0].Witnesses[0].Counted {
		t.Fatalf("evidence %q: %+v, %v", id, doc, err)
	}
	c.await(a, "the evidence", func(e seen) bool { f, ok := e.fact.(*event.EvidenceRecorded); return ok && f.Evidence.ID == id })
}
