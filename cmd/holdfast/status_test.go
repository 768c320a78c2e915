package main

import (
	"bytes"
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/natsd"
)

func TestStatusTellsClocksAndVersionsThatDoNotFit(t *testing.T) {
	var out bytes.Buffer
	err := printStatus(&out, []siteStatus{{Site: "b", Reachable: true, Health: &api.HealthStatus{Site: "b", Nodes: []api.NodeStatus{
		{Site: "a", Node: "health", Version: "1.0"},
		{Site: "a", Node: "quorum", Version: "1.0", ClockOffsetNs: int64(-7 * time.Second), ClockSkewed: true},
		{Site: "w", Node: "quorum", Version: "2.0", Refused: "the peer speaks protocol 2.0, this service 1.0: upgrade this service"},
	}}}})
	if err != nil {
		t.Fatal(err)
	}
	text := out.String()
	for _, part := range []string{"clock of quorum of site a is -7.0 s off", "NTP", "quorum of site w is refused", "2.0", "upgrade"} {
		if !strings.Contains(text, part) {
			t.Errorf("%q is not in:\n%s", part, text)
		}
	}
	if strings.Contains(text, "health of site a") {
		t.Errorf("a node that is well is told:\n%s", text)
	}
}

func TestStatusWithoutASitesAnswerIsPartial(t *testing.T) {
	all := []siteStatus{{Site: "a", Reachable: true}, {Site: "b", Problems: []string{"its NATS server cannot be reached from here"}}}
	if err := whole(all); exitCode(err) != 4 || !strings.Contains(err.Error(), "site b") {
		t.Errorf("exit %d: %v", exitCode(err), err)
	}
	if err := whole(all[:1]); err != nil {
		t.Errorf("a whole answer is told as %v", err)
	}
}

func TestAQuestionThatIsLostIsAskedOnceMore(t *testing.T) {
	srv, err := natsd.Start(natsd.Config{Site: "a", Listen: "127.0.0.1:0", StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Stop)
	conn := dialAll(t, "a", "test", map[domain.SiteID]string{"a": srv.URL()}).Local()
	var asked atomic.Int32
	err = conn.Serve(t.Context(), api.ServiceHealth, map[string]bus.Endpoint{api.VerbStatus: bus.Answer(func(ctx context.Context, _ api.Empty) (api.HealthStatus, error) {
		if asked.Add(1) == 1 { // as one whose connection ends while it answers
			<-ctx.Done()
		}
		return api.HealthStatus{Site: "a"}, nil
	})})
	if err != nil {
		t.Fatal(err)
	}
	var st siteStatus
	if got := ask[api.HealthStatus](t.Context(), conn, &st, api.ServiceHealth, api.Empty{}); got == nil || got.Site != "a" || len(st.Problems) != 0 {
		t.Errorf("a question whose answer was lost once: %v, %v", got, st.Problems)
	}
	if n := asked.Load(); n != 2 {
		t.Errorf("asked %d times", n)
	}
	if got := ask[api.QuorumStatus](t.Context(), conn, &st, api.ServiceQuorum, api.Empty{}); got != nil || len(st.Problems) != 1 {
		t.Errorf("a service that is not there: %v, %v", got, st.Problems)
	}
}

func TestADrainIsToldWithItsRunsAndWhatStays(t *testing.T) {
	d := api.Drain{State: api.DrainDraining, Reason: "power", By: "operator", ClaimedBy: "ann", Runs: []api.DrainRun{
		{ID: "r1", Plan: "main", To: "b", Groups: []domain.GroupID{"dir", "erp"}, State: api.StepDone}, {ID: "r2", Plan: "log", To: "c", Groups: []domain.GroupID{"log"}, State: api.StepPending}},
		Stays: []api.DrainStay{{Group: "pin", Why: "placement.pinned"}}}
	var out bytes.Buffer
	if err := printStatus(&out, []siteStatus{{Site: "a", Reachable: true, Failover: &api.FailoverStatus{Drain: &d}}}); err != nil {
		t.Fatal(err)
	}
	ended := d
	ended.State, ended.Runs = api.DrainDrained, []api.DrainRun{d.Runs[0], {ID: "r2", Plan: "log", To: "c", Groups: []domain.GroupID{"log"}, State: api.StepFailed, Error: "no lease"}}
	tellChanges(&out, d, ended)
	for _, part := range []string{"site a: draining (power), by ann: 1 of 2 runs done, 1 groups stay", "plan main", "[dir erp]", "pending", "placement.pinned", "run r2: [log] to site c: failed: no lease", "group pin stays"} {
		if !strings.Contains(out.String(), part) {
			t.Errorf("%q is not in:\n%s", part, out.String())
		}
	}
	if strings.Contains(out.String(), "run r1:") {
		t.Errorf("a run that did not change is told:\n%s", out.String())
	}
}
