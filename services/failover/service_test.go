package failover

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/audit"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/telemetry"
	"github.com/holdfast-dr/holdfast/services/failover/plan"
	"github.com/holdfast-dr/holdfast/services/failover/run"
)

func TestTheInstallationStartsAtHomeInPlanOrder(t *testing.T) {
	w := newWorld(t, testGroup(t, "dir", domain.ModeSync, "ad"), testGroup(t, "erp", domain.ModeSync, "db", "app"))
	w.start("a", nil)
	w.start("b", nil)
	r := w.awaitRun("a", api.RunStart, api.StepDone)
	w.once()
	at := map[string]time.Time{}
	for _, st := range r.Steps {
		at[st.ID] = st.Ended
		for _, n := range st.Needs {
			if st.Started.Before(at[n]) {
				t.Errorf("%s began before %s, which it needs, had ended", st.ID, n)
			}
		}
	}
	w.runsAt("db", "a-h1")
	if got := w.awaitRun("b", api.RunStart, api.StepDone); got.ID != r.ID || got.Leader != "a" {
		t.Fatalf("site b has %s led by %s, want a copy of %s", got.ID, got.Leader, r.ID)
	}
	if len(w.runs("a")) != 1 {
		t.Fatalf("%d runs, want 1", len(w.runs("a")))
	}
}

// atSiteA brings the world up at home and returns the killers of both services.
func (w *world) atSiteA() (killA, killB func()) {
	w.t.Helper()
	killA, _ = w.start("a", nil)
	killB, _ = w.start("b", nil)
	w.awaitRun("a", api.RunStart, api.StepDone)
	w.awaitRun("b", api.RunStart, api.StepDone)
	return killA, killB
}

func (w *world) confirm(lost, by domain.SiteID, is bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sites[by].disaster[lost] = is
}

// decided waits until a site where no VM runs has acted on what its health service says now: it asks again when it has.
func (w *world) decided(id domain.SiteID) {
	w.t.Helper()
	w.mu.Lock()
	told := w.sites[id].told
	w.mu.Unlock()
	w.eventually("site "+string(id)+" asked for health", func() bool { return w.sites[id].told >= told+2 })
}

func TestDisasterFailsOverAfterTheHoldDown(t *testing.T) {
	w := newWorld(t, testGroup(t, "erp", domain.ModeSync, "db"), testGroup(t, "log", domain.ModeAsync, "web"))
	killA, _ := w.atSiteA()
	w.loseSite("a", killA)
	w.confirm("a", "b", true)
	r := w.awaitRun("b", api.RunFailover, api.StepDone)
	w.once()
	w.runsAt("db", "b-h1")
	w.runsAt("web", "b-h1")
	if r.By != "policy" || r.AcceptLoss["erp"] || !r.AcceptLoss["log"] || r.Estimate["log"].Text != "3.2 s, 41 MB" {
		t.Errorf("run by %s accepts %v with estimate %v", r.By, r.AcceptLoss, r.Estimate)
	}
	if r.Epochs["erp"] <= r.Before["erp"] || r.Before["erp"] == 0 {
		t.Errorf("epochs %v before %v", r.Epochs, r.Before)
	}
	w.oneTrace(r)
	w.checkAudit("b", r)
}

// oneTrace wants every step's span once, under the run's, which is under what caused it; and the critical path marked.
func (w *world) oneTrace(r api.Run) {
	w.t.Helper()
	run, _ := w.spanNamed(r, r.Kind+" run")
	if run.SpanContext.SpanID() != telemetry.SpanOf(r.TraceParent).SpanID() {
		w.t.Errorf("the run's span is %s, its traceparent %s", run.SpanContext.SpanID(), r.TraceParent)
	}
	marked := 0
	for _, st := range r.Steps {
		s, n := w.spanNamed(r, st.Kind, attribute.String("step", st.ID))
		if n != 1 || s.Parent.SpanID() != run.SpanContext.SpanID() || !s.StartTime.Equal(st.Started) || !s.EndTime.Equal(st.Ended) {
			w.t.Errorf("%d spans of step %s, under %s, %s to %s; want one under the run, %s to %s", n, st.ID, s.Parent.SpanID(), s.StartTime, s.EndTime, st.Started, st.Ended)
		}
		if slices.Contains(s.Attributes, attribute.Bool("critical_path", true)) {
			marked++
		}
	}
	if marked < 5 || marked == len(r.Steps) {
		w.t.Errorf("%d of %d steps are marked as the critical path", marked, len(r.Steps))
	}
}

// spanNamed waits for a span of a run by its name and further attributes, and counts how many there are.
func (w *world) spanNamed(r api.Run, name string, with ...attribute.KeyValue) (found tracetest.SpanStub, n int) {
	w.t.Helper()
	with = append(with, attribute.String("run", string(r.ID)))
	w.eventually("span "+name, func() bool {
		n = 0
		for _, s := range w.spans.GetSpans() {
			has := func(kv attribute.KeyValue) bool { return !slices.Contains(s.Attributes, kv) }
			if s.Name == name && s.SpanContext.TraceID().String() == r.TraceID && !slices.ContainsFunc(with, has) {
				found, n = s, n+1
			}
		}
		return n > 0
	})
	return found, n
}

// checkAudit wants a whole chain with the run's entries.
func (w *world) checkAudit(id domain.SiteID, r api.Run) {
	w.t.Helper()
	c := w.mesh(id).Local()
	subjects, err := c.Subjects(w.t.Context(), api.StreamAudit, audit.Filter(id))
	if err != nil {
		w.t.Fatal(err)
	}
	byPrev := map[string]audit.Entry{}
	found := 0
	for s := range subjects {
		rec, err := c.Last(w.t.Context(), api.StreamAudit, s)
		if err != nil {
			w.t.Fatal(err)
		}
		var e audit.Entry
		if err := json.Unmarshal(rec.Data, &e); err != nil {
			w.t.Fatal(err)
		}
		if sum, err := e.Sum(); err != nil || sum != e.Hash {
			w.t.Errorf("entry %s does not have its hash: %v", s, err)
		}
		if _, fork := byPrev[e.Prev]; fork {
			w.t.Errorf("the chain forks after %q", e.Prev)
		}
		byPrev[e.Prev] = e
		if e.Run == r.ID {
			found++
		}
	}
	n := 0
	for prev := ""; ; n++ {
		e, ok := byPrev[prev]
		if !ok {
			break
		}
		prev = e.Hash
	}
	if n != len(subjects) || found != 2 {
		w.t.Errorf("chain of %d of %d entries, %d of the run, want 2", n, len(subjects), found)
	}
}

func TestHoldDownIsWithdrawnWhenTheSiteComesBack(t *testing.T) {
	g := testGroup(t, "erp", domain.ModeSync, "db")
	g.HoldDown = 800 * time.Millisecond
	w := newWorld(t, g)
	w.atSiteA()
	w.confirm("a", "b", true)
	w.decided("b") // the hold-down runs
	w.confirm("a", "b", false)
	time.Sleep(g.HoldDown) // the time itself is what is tested
	w.decided("b")
	if runs := w.runs("b"); len(runs) != 1 {
		t.Fatalf("%d runs known at b, want the start alone: %s", len(runs), runs[0].Kind)
	}
	w.runsAt("db", "a-h1")
}

func TestSwitchoverAndFailback(t *testing.T) {
	w := newWorld(t, testGroup(t, "erp", domain.ModeSync, "db"), testGroup(t, "log", domain.ModeAsync, "web"))
	w.atSiteA()
	if _, err := w.request("b", api.RunStartRequest{Plan: "all", Kind: api.RunSwitchover, ID: "move-1", By: "ann", Reason: "works"}); err != nil {
		t.Fatal(err)
	}
	w.awaitRun("b", api.RunSwitchover, api.StepDone)
	w.runsAt("db", "b-h1")
	again, err := w.request("b", api.RunStartRequest{Plan: "all", Kind: api.RunSwitchover, ID: "move-1"})
	if err != nil || again.State != api.StepDone || again.By != "ann" {
		t.Fatalf("repeat of a run's id: %+v, %v", again.State, err)
	}
	if _, err := w.request("a", api.RunStartRequest{Plan: "all", Kind: api.RunFailback, By: "ann", Reason: "done"}); err != nil {
		t.Fatal(err)
	}
	w.awaitRun("a", api.RunFailback, api.StepDone)
	w.runsAt("db", "a-h1")
	w.runsAt("web", "a-h1")
	w.once()
}

func TestRefusals(t *testing.T) {
	w := newWorld(t, testGroup(t, "erp", domain.ModeSync, "db"), testGroup(t, "log", domain.ModeAsync, "web"))
	w.atSiteA()
	for name, c := range map[string]struct {
		req  api.RunStartRequest
		want error
		text string
	}{
		"async without accepting the loss":        {api.RunStartRequest{Plan: "all", Kind: api.RunFailover, Declared: true, By: "ann", Reason: "fire"}, domain.ErrRefused, "3.2 s, 41 MB"},
		"of a site that is well":                  {api.RunStartRequest{Plan: "all", Kind: api.RunFailover, Declared: true, By: "ann", Reason: "fire", AcceptLoss: true}, domain.ErrRefused, "is not lost"},
		"not declared":                            {api.RunStartRequest{Plan: "all", Kind: api.RunFailover, By: "ann", Reason: "fire"}, domain.ErrInvalid, "declared"},
		"no such plan":                            {api.RunStartRequest{Plan: "nope", Kind: api.RunSwitchover}, domain.ErrNotFound, "nope"},
		"nothing to bring home":                   {api.RunStartRequest{Plan: "all", Kind: api.RunFailback}, domain.ErrRefused, "no group"},
		"unknown group":                           {api.RunStartRequest{Plan: "all", Kind: api.RunSwitchover, Groups: []domain.GroupID{"x"}}, domain.ErrNotFound, "group x"},
		"a checkpoint without accepting the loss": {api.RunStartRequest{Plan: "all", Kind: api.RunSwitchover, Checkpoints: map[domain.GroupID]domain.LSN{"erp": 42}}, domain.ErrRefused, "accept the loss"},
		"no such checkpoint":                      {api.RunStartRequest{Plan: "all", Kind: api.RunSwitchover, AcceptLoss: true, Checkpoints: map[domain.GroupID]domain.LSN{"erp": 101}}, domain.ErrNotFound, "checkpoint 101 of group erp"},
		"a checkpoint of another group":           {api.RunStartRequest{Plan: "all", Kind: api.RunSwitchover, Groups: []domain.GroupID{"erp"}, AcceptLoss: true, Checkpoints: map[domain.GroupID]domain.LSN{"log": 42}}, domain.ErrInvalid, "group log"},
		"id":                                      {api.RunStartRequest{Plan: "all", Kind: api.RunSwitchover, ID: "a.b"}, domain.ErrInvalid, "a.b"},
	} {
		if _, err := w.request("b", c.req); !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	w.runsAt("db", "a-h1")
}

func TestACommandStartsARunOnce(t *testing.T) {
	w := newWorld(t, testGroup(t, "erp", domain.ModeSync, "db"))
	w.atSiteA()
	raw, err := json.Marshal(api.RunStartRequest{Plan: "all", Kind: api.RunSwitchover, By: "ann", Reason: "works"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.mesh("b").Local().Append(t.Context(), api.CommandSubject("b", "plan", "all", "run"), raw, "", nil); err != nil {
		t.Fatal(err)
	}
	w.awaitRun("b", api.RunSwitchover, api.StepDone)
	w.runsAt("db", "b-h1")
	w.once()
}

func TestALeaseLostMidRunEndsTheRunAndStopsItsVMs(t *testing.T) {
	w := newWorld(t, testGroup(t, "erp", domain.ModeSync, "db"))
	lost := false
	w.start("b", nil)
	w.start("a", func(_ context.Context, _ func(), moment string, _ api.Run, st api.Step) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if st.Kind == "verify" && !lost {
			lost = true
			w.lease["erp"].holder, w.lease["erp"].reserved = "", "nobody"
		}
	})
	r := w.awaitRun("a", api.RunStart, api.StepFailed)
	if !strings.Contains(r.Error, "no lease") {
		t.Errorf("error %q", r.Error)
	}
	w.eventually("the vm is stopped", func() bool { return lost && len(w.running) == 0 })
	w.mu.Lock()
	w.lease["erp"].reserved = "" // contact again
	w.mu.Unlock()
	w.awaitRun("a", api.RunStart, api.StepDone)
	w.runsAt("db", "a-h1")
}

func TestAVMThatDiedIsStartedAgainWhereItWas(t *testing.T) {
	w := newWorld(t, testGroup(t, "erp", domain.ModeSync, "db"))
	w.atSiteA()
	w.mu.Lock()
	h := w.sites["a"].hosts["a-h1"]
	epoch := h.vms["db"].Epoch
	w.sites["a"].halt(h, h.vms["db"])
	w.mu.Unlock()
	w.runsAt("db", "a-h1")
	w.mu.Lock()
	defer w.mu.Unlock()
	if h.vms["db"].Epoch != epoch || w.lease["erp"].epoch != epoch {
		t.Fatalf("epoch %s, was %s", h.vms["db"].Epoch, epoch)
	}
}

func TestAReplicatorThatWasStartedAgainServesUnderANewEpoch(t *testing.T) {
	w := newWorld(t, testGroup(t, "erp", domain.ModeSync, "db"))
	w.start("a", nil)
	w.runsAt("db", "a-")
	first := w.awaitRun("a", api.RunStart, api.StepDone)
	w.mu.Lock()
	a := w.sites["a"]
	a.epoch["erp"] = 0 // what it served under an epoch it does not serve again
	for _, h := range a.hosts {
		for _, vm := range h.vms {
			a.halt(h, vm) // its disk is gone
		}
	}
	w.mu.Unlock()
	w.eventually("erp is served under a new epoch and its VM runs", func() bool {
		return a.epoch["erp"] > first.Epochs["erp"] && strings.HasPrefix(w.running["db"], "a-")
	})
	w.once()
}

func TestAReplicatorThatStopsServingBeforeTheRunEndsServesUnderANewEpoch(t *testing.T) {
	w := newWorld(t, testGroup(t, "erp", domain.ModeSync, "db"))
	a := w.sites["a"]
	a.stopping = true
	w.start("a", nil)
	first := w.awaitRun("a", api.RunStart, api.StepFailed)
	w.eventually("erp is served under a new epoch", func() bool { return a.epoch["erp"] > first.Epochs["erp"] })
	w.awaitRun("a", api.RunStart, api.StepDone)
	w.once()
}

func TestARunDoesNotWaitForVolumesThatWillNotComeBack(t *testing.T) {
	w := newWorld(t, testGroup(t, "erp", domain.ModeSync, "db"))
	w.sites["a"].vanishing = true
	began := time.Now()
	w.start("a", nil)
	first := w.awaitRun("a", api.RunStart, api.StepFailed)
	if took := time.Since(began); first.Code != domain.Code(domain.ErrStaleEpoch) || took >= timings().Patience {
		t.Errorf("after %s: %s %s", took, first.Code, first.Error)
	}
	w.awaitRun("a", api.RunStart, api.StepDone)
	w.runsAt("db", "a-")
	w.once()
}

func TestARunDoesNotWaitForAQuorumServiceThatDied(t *testing.T) {
	w := newWorld(t, testGroup(t, "erp", domain.ModeSync, "db"))
	w.sites["a"].dying = true
	began := time.Now()
	w.start("a", nil)
	w.runsAt("db", "a-")
	if took, patience := time.Since(began), timings().Campaign+timings().Call; took >= patience {
		t.Errorf("it took %s: the run waited for an answer that could not come", took)
	}
}

func TestADeadHostIsAnIncidentUnderANewEpoch(t *testing.T) {
	w := newWorld(t, testGroup(t, "erp", domain.ModeSync, "db"))
	w.atSiteA()
	w.mu.Lock()
	s := w.sites["a"]
	h, epoch := s.hosts["a-h1"], w.lease["erp"].epoch
	h.stop()
	s.halt(h, h.vms["db"])
	w.mu.Unlock()
	time.Sleep(300 * time.Millisecond) // slow is not dead: nothing may start elsewhere yet
	w.mu.Lock()
	if at := w.running["db"]; at != "" || w.lease["erp"].epoch != epoch {
		t.Errorf("before the host is known dead: runs at %q under %s", at, w.lease["erp"].epoch)
	}
	s.deadHost["a-h1"] = true
	w.mu.Unlock()
	w.runsAt("db", "a-h2")
	w.eventually("the runs are done", func() bool { return w.lease["erp"].epoch > epoch })
	w.once()
	if slices.ContainsFunc(w.runs("a"), func(r api.Run) bool { return r.Kind != api.RunStart }) {
		t.Error("an incident became a disaster")
	}
}

func TestAFailoverThatWasOvertakenIsNotResumed(t *testing.T) {
	w := newWorld(t, testGroup(t, "erp", domain.ModeAsync, "db"))
	w.atSiteA()
	w.mu.Lock()
	w.sites["b"].disaster["a"] = true
	w.mu.Unlock()
	k := &killer{kind: api.RunFailover, step: "acquire.erp", moment: run.BeforeEffect}
	_, ended := w.start("b", k.hook)
	<-ended
	w.mu.Lock()
	w.sites["b"].disaster["a"] = false // a is back, and brings the group up under a new epoch
	s := w.sites["a"]
	s.hosts["a-h1"].stop()
	s.halt(s.hosts["a-h1"], s.hosts["a-h1"].vms["db"])
	s.deadHost["a-h1"] = true
	w.mu.Unlock()
	w.runsAt("db", "a-h2")
	w.start("b", nil)
	if r := w.awaitRun("b", api.RunFailover, api.StepFailed); !strings.Contains(r.Error, "site a brought it up") {
		t.Errorf("error %q", r.Error)
	}
	w.runsAt("db", "a-h2")
	w.once()
}

func TestARefusedFailoverIsTriedLessAndLess(t *testing.T) {
	s := &service{cfg: Config{}.withDefaults(), backoff: map[domain.GroupID]backoff{}}
	r := api.Run{Kind: api.RunFailover, State: api.StepFailed, Code: "refused", Steps: []api.Step{{Kind: plan.KindAcquire, Group: "erp"}}}
	for range 12 {
		s.settle(r)
	}
	if got := s.backoff["erp"].wait; got != 5*time.Minute {
		t.Errorf("refused twelve times, then waits %v", got)
	}
	r.Code = "no_quorum"
	s.settle(r)
	if got := s.backoff["erp"].wait; got != 30*time.Second {
		t.Errorf("without quorum it waits %v", got)
	}
	r.State = api.StepDone
	s.settle(r)
	if !s.calmNow("erp") {
		t.Error("after a run that was done it still waits")
	}
}

func TestAHostThatDiesWhileItsVMStartsIsLeftForAnother(t *testing.T) {
	w := newWorld(t, testGroup(t, "erp", domain.ModeSync, "db"))
	_, ended := w.start("a", func(_ context.Context, kill func(), moment string, _ api.Run, st api.Step) {
		if moment != run.AfterEffect || st.Kind != plan.KindStart {
			return
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		s := w.sites["a"]
		s.hosts["a-h1"].stop()
		s.halt(s.hosts["a-h1"], s.hosts["a-h1"].vms["db"])
		s.deadHost["a-h1"] = true
		kill()
	})
	<-ended
	w.start("a", nil)
	w.runsAt("db", "a-h2")
	w.once()
}

func TestAHostIsDeadOnlyWhenNoPathHasItAlive(t *testing.T) {
	w := newWorld(t, testGroup(t, "erp", domain.ModeSync, "db"))
	w.atSiteA()
	w.mu.Lock()
	s := w.sites["a"]
	epoch := w.lease["erp"].epoch
	s.deadHost["a-h1"], s.aliveHost["a-h1"] = true, true // its probe's port is wrong, its agent beats
	s.hosts["a-h1"].stop()                               // and answers nothing for a while
	w.mu.Unlock()
	time.Sleep(500 * time.Millisecond)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.running["db"] != "a-h1" || w.lease["erp"].epoch != epoch {
		t.Fatalf("runs at %q under %s, was at a-h1 under %s", w.running["db"], w.lease["erp"].epoch, epoch)
	}
}

func TestAMoveThatIsRefusedTouchesNothing(t *testing.T) {
	w := newWorld(t, testGroup(t, "erp", domain.ModeSync, "db"))
	w.atSiteA()
	w.mu.Lock()
	w.sites["a"].epoch["erp"] = 0 // its replicator says that it does not serve: the precheck refuses
	w.mu.Unlock()
	if _, err := w.request("b", api.RunStartRequest{Plan: "all", Kind: api.RunSwitchover, By: "ann", Reason: "works"}); err != nil {
		t.Fatal(err)
	}
	r := w.awaitRun("b", api.RunSwitchover, api.StepFailed)
	if !strings.Contains(r.Error, "does not serve it") || r.Code != domain.Code(domain.ErrRefused) {
		t.Errorf("error %q, code %q", r.Error, r.Code)
	}
	w.runsAt("db", "a-h1")
	w.once()
}

func TestAMoveThatFailsHalfwayBringsTheGroupUpWhereItWas(t *testing.T) {
	w := newWorld(t, testGroup(t, "erp", domain.ModeSync, "db"))
	w.atSiteA()
	w.mu.Lock()
	w.refuseDemote = true
	epoch := w.lease["erp"].epoch
	w.mu.Unlock()
	if _, err := w.request("b", api.RunStartRequest{Plan: "all", Kind: api.RunSwitchover, By: "ann", Reason: "works"}); err != nil {
		t.Fatal(err)
	}
	w.awaitRun("b", api.RunSwitchover, api.StepFailed)
	w.eventually("it runs at home under a new epoch", func() bool { return w.running["db"] == "a-h1" && w.lease["erp"].epoch > epoch })
	w.once()
}

// say is a person's word about a declaration of a site.
func say[Req any](w *world, id domain.SiteID, verb string, req Req) (api.Declaration, error) {
	m := w.mesh(id)
	defer m.Close()
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	return bus.Call[api.Declaration](ctx, m.Local(), api.ServiceFailover, verb, req)
}

// declared waits until a site has a declaration in a state.
func (w *world) declared(id domain.SiteID, state string) api.Declaration {
	w.t.Helper()
	m := w.mesh(id)
	defer m.Close()
	end := time.Now().Add(60 * time.Second)
	for {
		list, err := bus.Call[api.DeclarationList](w.t.Context(), m.Local(), api.ServiceFailover, api.VerbDeclarationList, api.Empty{})
		for _, d := range list.Declarations {
			if d.State == state {
				return d
			}
		}
		if time.Now().After(end) {
			w.t.Fatalf("site %s never had a declaration that is %s: %+v, %v", id, state, list, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// TestApprovalsOutliveTheService: the first of two approves, the service is killed, the second approves.
func TestApprovalsOutliveTheService(t *testing.T) {
	g := testGroup(t, "erp", domain.ModeSync, "db")
	g.Failover, g.Approvers = domain.FailoverConfirm, 2
	w := newWorld(t, g)
	killA, killB := w.atSiteA()
	w.loseSite("a", killA)
	w.confirm("a", "b", true)
	d := w.declared("b", api.DeclarationAwaiting)
	word := api.DeclarationWordRequest{ID: d.ID, By: "ann", Why: "fire"}
	for range 2 { // one person is one approval
		if got, err := say(w, "b", api.VerbDeclarationApprove, word); err != nil || len(got.Groups[0].Approvals) != 1 || got.Groups[0].State != api.DeclarationAwaiting {
			t.Fatalf("after ann's approval: %+v, %v", got, err)
		}
	}
	_, err := w.request("b", api.RunStartRequest{Plan: "all", Kind: api.RunFailover, Declared: true, By: "ann", Reason: "fire"})
	if !errors.Is(err, domain.ErrRefused) || !strings.Contains(err.Error(), "1 of 2") {
		t.Fatalf("run start is a second way: %v", err)
	}
	killB()
	w.start("b", nil)
	d = w.declared("b", api.DeclarationAwaiting)
	if shown, err := say(w, "b", api.VerbDeclarationShow, api.DeclarationShowRequest{ID: d.ID}); err != nil || len(shown.Groups[0].Approvals) != 1 ||
		shown.Groups[0].Survey == nil || len(shown.Groups[0].Survey.Fit)+len(shown.Groups[0].Survey.NotFit) != 1 || len(shown.Votes) != 2 {
		t.Fatalf("after the restart: %+v, %v", shown, err)
	}
	word.By = "ben"
	if got, err := say(w, "b", api.VerbDeclarationApprove, word); err != nil || got.Groups[0].State != api.DeclarationDeclared {
		t.Fatalf("after ben's approval: %+v, %v", got, err)
	}
	r := w.awaitRun("b", api.RunFailover, api.StepDone)
	over := w.declared("b", api.DeclarationOver)
	if r.Declaration != d.ID || over.ID != d.ID || over.Groups[0].Run != r.ID || r.By != "ben" {
		t.Errorf("run %+v of declaration %+v", r, over)
	}
	w.once()
	w.actsInAudit("b", over)
}

// TestWhatASecondPersonApprovesOfAnOrderIsTakenOver: one group of the plan waits for another person, and moves when that one approves.
func TestWhatASecondPersonApprovesOfAnOrderIsTakenOver(t *testing.T) {
	web, db := testGroup(t, "web", domain.ModeSync, "www"), testGroup(t, "db", domain.ModeSync, "sql")
	web.Failover, db.Failover, db.Approvers = domain.FailoverManual, domain.FailoverConfirm, 2
	w := newWorld(t, web, db)
	killA, _ := w.atSiteA()
	w.loseSite("a", killA)
	begun, err := askSite[api.RunStarted](w, "b", api.VerbRunStart, api.RunStartRequest{Plan: "all", Kind: api.RunFailover, From: "a", Declared: true, By: "ann", Reason: "fire", ID: "R1"})
	if err != nil || begun.ID != "R1" || !strings.Contains(begun.Awaiting, "1 of 2 for group db") {
		t.Fatalf("%s, %q, %v", begun.ID, begun.Awaiting, err)
	}
	if _, err := say(w, "b", api.VerbDeclarationApprove, api.DeclarationWordRequest{ID: begun.Declaration, By: "ben", Why: "fire"}); err != nil {
		t.Fatal(err)
	}
	w.runsAt("www", "b-h1")
	w.runsAt("sql", "b-h1")
	w.declared("b", api.DeclarationOver)
	w.once()
}

// actsInAudit wants each act of a declaration in the audit, and told.
func (w *world) actsInAudit(id domain.SiteID, d api.Declaration) {
	w.t.Helper()
	conn := w.mesh(id).Local()
	for _, a := range d.Acts {
		subject := "hf.v1.audit." + string(id) + ".run." + string(d.ID) + "." + api.Token("declaration_"+a.What+"."+strconv.Itoa(a.Number))
		w.eventually("audit has "+subject, func() bool {
			rec, err := conn.Last(w.t.Context(), api.StreamAudit, subject)
			return err == nil && strings.Contains(string(rec.Data), a.Why)
		})
		w.eventually("told of "+a.What, func() bool {
			_, err := conn.Last(w.t.Context(), api.StreamEvents, api.EventSubject(id, "declaration", string(d.ID), a.What))
			return err == nil
		})
	}
}

func TestADeclarationIsWithdrawnWhenTheSiteIsSeen(t *testing.T) {
	g := testGroup(t, "erp", domain.ModeSync, "db")
	g.Failover = domain.FailoverConfirm
	w := newWorld(t, g)
	w.atSiteA()
	w.confirm("a", "b", true)
	d := w.declared("b", api.DeclarationAwaiting)
	copied := w.declared("a", api.DeclarationAwaiting) // the other site shows it, and decides nothing
	if copied.ID != d.ID || copied.Leader != "b" {
		t.Errorf("site a shows %+v", copied)
	}
	if _, err := say(w, "a", api.VerbDeclarationApprove, api.DeclarationWordRequest{ID: d.ID, By: "ann", Why: "fire"}); !errors.Is(err, domain.ErrRefused) {
		t.Errorf("site a took an approval: %v", err)
	}
	if _, err := say(w, "b", api.VerbDeclarationApprove, api.DeclarationWordRequest{ID: d.ID, By: "ann", Why: "fire"}); !errors.Is(err, domain.ErrRefused) || !strings.Contains(err.Error(), "is not lost") {
		t.Errorf("approved although site a answers and holds the lease: %v", err)
	}
	w.confirm("a", "b", false)
	if over := w.declared("b", api.DeclarationWithdrawn); over.ID != d.ID || over.Groups[0].Why != "site a is seen again" {
		t.Errorf("%+v", over)
	}
	w.runsAt("db", "a-h1")
}
