package failover

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/failover/run"
)

func askSite[Resp, Req any](w *world, id domain.SiteID, verb string, req Req) (Resp, error) {
	m := w.mesh(id)
	defer m.Close()
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	return bus.Call[Resp](ctx, m.Local(), api.ServiceFailover, verb, req)
}

// drained waits until a site says that its drain has ended.
func (w *world) drained(id domain.SiteID) (out api.Drain) {
	w.t.Helper()
	w.comes(60*time.Second, func() string {
		st, err := askSite[api.FailoverStatus](w, id, api.VerbStatus, api.Empty{})
		if err == nil && st.Drain != nil && st.Drain.State == api.DrainDrained {
			out = *st.Drain
			return ""
		}
		return fmt.Sprintf("site %s is not drained: %+v, %v", id, st.Drain, err)
	})
	return out
}

// TestADrainGoesOnWhoeverDiesMeanwhile kills the service that leads the first move, and in the second the service of the drained site,
// which leads the drain.
func TestADrainGoesOnWhoeverDiesMeanwhile(t *testing.T) {
	pinned := testGroup(t, "pin", domain.ModeSync, "mail")
	pinned.Placement.Pinned = []domain.SiteID{"a"}
	w := newWorld(t, testGroup(t, "erp", domain.ModeSync, "db"), testGroup(t, "log", domain.ModeAsync, "web"), pinned)
	w.plan.Groups = w.plan.Groups[:1] // the others are plans of their own
	killA, _ := w.start("a", nil)
	died := make(chan struct{})
	first := &killer{kind: api.RunSwitchover, step: "acquire.erp", moment: run.AfterEffect}
	_, endedB := w.start("b", first.hook)
	for _, vm := range []domain.VMID{"db", "web", "mail"} {
		w.runsAt(vm, "a-h1")
	}
	w.started("a", 3)

	plan, err := askSite[api.Drain](w, "a", api.VerbDrain, api.DrainRequest{DryRun: true, Reason: "power", By: "ann"})
	if err != nil || plan.State != api.DrainPlanned || len(plan.Runs) != 2 || len(plan.Stays) != 1 || plan.Stays[0].Group != "pin" || !strings.Contains(plan.Stays[0].Why, "placement.pinned") {
		t.Fatalf("plan %+v, %v", plan, err)
	}
	if st, err := askSite[api.FailoverStatus](w, "a", api.VerbStatus, api.Empty{}); err != nil || st.Drain != nil {
		t.Fatalf("a plan alone drained the site: %+v, %v", st.Drain, err)
	}
	begun, err := askSite[api.Drain](w, "a", api.VerbDrain, api.DrainRequest{Reason: "power", By: "ann"})
	if err != nil || begun.State != api.DrainDraining {
		t.Fatalf("%+v, %v", begun, err)
	}
	again, err := askSite[api.Drain](w, "a", api.VerbDrain, api.DrainRequest{Reason: "power", By: "ann"})
	if err != nil || len(again.Runs) != 2 || again.Runs[0].ID != begun.Runs[0].ID {
		t.Fatalf("a repeat: %+v, %v", again, err)
	}
	<-endedB // in the middle of the first move
	w.start("b", func(_ context.Context, _ func(), moment string, _ api.Run, st api.Step) {
		if st.ID == "precheck.log" && moment == run.BeforeEffect && st.Attempts <= 1 {
			killA()
			close(died)
		}
	})
	<-died // in the second
	w.start("a", nil)
	d := w.drained("a")
	if len(d.Stays) != 1 || d.Stays[0].Group != "pin" || d.Runs[0].State != api.StepDone || d.Runs[1].State != api.StepDone || d.Ended.IsZero() {
		t.Fatalf("%+v", d)
	}
	w.runsAt("db", "b-h1")
	w.runsAt("web", "b-h1")
	w.runsAt("mail", "a-h1")
	w.once()
	moves := 0
	for _, r := range w.runs("b") {
		if r.Kind == api.RunSwitchover {
			moves++
		}
	}
	if moves != 2 {
		t.Errorf("%d moves, want 2", moves)
	}
	w.audited("a", "site_drain", "power")
	w.takesNoneUntilUndrained("a")
}

// takesNoneUntilUndrained wants a drained site to refuse groups, and to take them once it is undrained.
func (w *world) takesNoneUntilUndrained(id domain.SiteID) {
	w.t.Helper()
	back := api.RunStartRequest{Plan: "all", Kind: api.RunFailback, By: "ann", Reason: "done"}
	if _, err := w.request(id, back); !errors.Is(err, domain.ErrRefused) || !strings.Contains(err.Error(), "holdfast site undrain "+string(id)) {
		w.t.Fatalf("a drained site took a group: %v", err)
	}
	for range 2 {
		if d, err := askSite[api.SiteDesired](w, id, api.VerbUndrain, api.UndrainRequest{By: "ann"}); err != nil || d.Drain != nil {
			w.t.Fatalf("undrain: %+v, %v", d, err)
		}
	}
	if _, err := w.request(id, back); err != nil {
		w.t.Fatal(err)
	}
}

// started waits until so many runs of kind start are done at a site.
func (w *world) started(id domain.SiteID, n int) {
	w.t.Helper()
	w.comes(60*time.Second, func() string {
		done := 0
		for _, r := range w.runs(id) {
			if r.Kind == api.RunStart && r.State == api.StepDone {
				done++
			}
		}
		if done >= n {
			return ""
		}
		return fmt.Sprintf("%d starts are done at site %s, want %d", done, id, n)
	})
}

func TestADrainIsRefusedWithoutAReasonAndAsksOnlyForItsOwn(t *testing.T) {
	w := newWorld(t, testGroup(t, "erp", domain.ModeSync, "db"))
	w.atSiteA()
	if _, err := askSite[api.Drain](w, "a", api.VerbDrain, api.DrainRequest{By: "ann"}); !errors.Is(err, domain.ErrInvalid) || !strings.Contains(err.Error(), "say why") {
		t.Errorf("without a reason: %v", err)
	}
	if _, err := askSite[api.TakeReply](w, "b", api.VerbTake, api.TakeRequest{From: "c", Groups: []domain.GroupID{"erp"}, ID: "x1"}); !errors.Is(err, domain.ErrRefused) {
		t.Errorf("a group that is not at the asking site: %v", err)
	}
	w.mu.Lock()
	w.sites["b"].deadHost["b-h1"], w.sites["b"].deadHost["b-h2"] = true, true
	w.mu.Unlock()
	d, err := askSite[api.Drain](w, "a", api.VerbDrain, api.DrainRequest{DryRun: true, Reason: "power"})
	if err != nil || len(d.Runs) != 0 || len(d.Stays) != 1 || !strings.Contains(d.Stays[0].Why, "vm db finds no host at site b") {
		t.Errorf("without a host: %+v, %v", d, err)
	}
}

// TestEverySiteKnowsWhichSitesAreDrained drains the site that all would leave a disaster to: the next heir takes over in its place.
func TestEverySiteKnowsWhichSitesAreDrained(t *testing.T) {
	g := testGroup(t, "erp", domain.ModeAsync, "db")
	g.Targets = append(g.Targets, domain.Target{Site: "c", Mode: domain.ModeAsync})
	g.VMs[0].Sites["c"] = domain.VMPlacement{Address: "127.0.3.1", Hosts: []domain.HostID{"c-h1", "c-h2"}}
	g.Placement.Preferred = "c"
	w := newWorldOf(t, []domain.SiteID{"a", "b", "c"}, g)
	killA, _ := w.atSiteA()
	killC, _ := w.start("c", nil)
	w.awaitRun("c", api.RunStart, api.StepDone)
	if _, err := askSite[api.Drain](w, "c", api.VerbDrain, api.DrainRequest{Reason: "power", By: "ann"}); err != nil {
		t.Fatal(err)
	}
	w.drained("c")
	w.knowsDrained("a", "c")
	w.knowsDrained("b", "c")
	killC()
	w.start("c", nil) // and knows it from the beginning
	d, err := askSite[api.Drain](w, "a", api.VerbDrain, api.DrainRequest{DryRun: true, Reason: "power"})
	if err != nil || len(d.Runs) != 1 || d.Runs[0].To != "b" {
		t.Fatalf("a drain of the next site goes to %+v, %v; want b", d, err)
	}
	w.knowsDrained("c", "c")
	r, err := askSite[api.TakeReply](w, "c", api.VerbTake, api.TakeRequest{From: "a", Groups: []domain.GroupID{"erp"}, Check: true})
	if why := r.Against["erp"]; err != nil || !strings.Contains(why, "site c is drained (power)") {
		t.Errorf("the drained site itself says %q, %v", why, err)
	}
	w.loseSite("a", killA)
	w.confirm("a", "b", true)
	w.confirm("a", "c", true)
	w.awaitRun("b", api.RunFailover, api.StepDone)
	w.runsAt("db", "b-h1")
	w.once()
}

// knowsDrained waits until a site counts another one as drained.
func (w *world) knowsDrained(at, id domain.SiteID) {
	w.t.Helper()
	w.comes(30*time.Second, func() string {
		l, err := askSite[api.GroupList](w, at, api.VerbGroupList, api.Empty{})
		if slices.Contains(l.Drained(), id) {
			return ""
		}
		return fmt.Sprintf("site %s knows %v as drained (%v), want %s", at, l.Drained(), err, id)
	})
}
