package failover

import (
	"fmt"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

func TestARunBringsAGroupBackToACheckpoint(t *testing.T) {
	w := newWorld(t, testGroup(t, "erp", domain.ModeSync, "db"), testGroup(t, "log", domain.ModeSync, "web"))
	w.atSiteA()
	if _, err := w.request("b", api.RunStartRequest{Plan: "all", Kind: api.RunSwitchover, By: "ann", Reason: "a worm", AcceptLoss: true,
		Checkpoints: map[domain.GroupID]domain.LSN{"erp": 42}}); err != nil {
		t.Fatal(err)
	}
	r := w.awaitRun("b", api.RunSwitchover, api.StepDone)
	w.mu.Lock()
	defer w.mu.Unlock()
	if at := w.sites["b"].at; at["erp"] != 42 || at["log"] != 0 || r.Checkpoints["erp"] != 42 || r.Estimate["erp"].Text == "" {
		t.Fatalf("promoted at %v, the run says %v with the loss %v", at, r.Checkpoints, r.Estimate)
	}
}

func TestAStartBringsAGroupBackToACheckpointWhereItIsServed(t *testing.T) {
	w := newWorld(t, testGroup(t, "erp", domain.ModeSync, "db"), testGroup(t, "log", domain.ModeSync, "web"))
	w.atSiteA()
	epochOf := func(g domain.GroupID) domain.Epoch {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.lease[g].epoch
	}
	erp, log := epochOf("erp"), epochOf("log")
	back := api.RunStartRequest{Plan: "all", Kind: api.RunStart, By: "ann", Reason: "a worm", Groups: []domain.GroupID{"erp"},
		Checkpoints: map[domain.GroupID]domain.LSN{"erp": 42}}
	if _, err := w.request("a", back); err == nil {
		t.Fatal("a loss that nobody accepted")
	}
	back.AcceptLoss = true
	asked, err := w.request("a", back)
	if err != nil {
		t.Fatal(err)
	}
	w.done("a", asked.ID)
	w.runsAt("db", "a-h1")
	if epochOf("erp") <= erp || epochOf("log") != log {
		t.Fatalf("erp went from epoch %s to %s, log from %s to %s", erp, epochOf("erp"), log, epochOf("log"))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.sites["a"]
	if s.at["erp"] != 42 || s.decided["erp"] != string(asked.ID) || s.at["log"] != 0 {
		t.Fatalf("promoted at %v, decided by %v, want run %s", s.at, s.decided, asked.ID)
	}
	if vm := s.hosts["a-h1"].vms["db"]; vm.Epoch != w.lease["erp"].epoch {
		t.Fatalf("the VM runs under epoch %s", vm.Epoch)
	}
}

// done waits until a run of a site is.
func (w *world) done(site domain.SiteID, id domain.RunID) {
	w.t.Helper()
	w.comes(time.Minute, func() string {
		for _, r := range w.runs(site) {
			if r.ID == id && r.State == api.StepDone {
				return ""
			}
		}
		return fmt.Sprintf("run %s is not done", id)
	})
}

func TestAWayBackMayTakeLongerThanAStepIsTried(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: longer than the patience of a run, 20 s; run without -short")
	}
	w := newWorld(t, testGroup(t, "erp", domain.ModeSync, "db"))
	w.atSiteA()
	w.mu.Lock()
	gone := make(chan struct{})
	w.sites["a"].goingBack = gone
	w.mu.Unlock()
	asked, err := w.request("a", api.RunStartRequest{Plan: "all", Kind: api.RunStart, By: "ann", Reason: "a worm", AcceptLoss: true,
		Checkpoints: map[domain.GroupID]domain.LSN{"erp": 42}})
	if err != nil {
		t.Fatal(err)
	}
	w.eventually("the VM is stopped before its disks go back", func() bool { return w.sites["a"].backTo == 42 && w.running["db"] == "" })
	time.Sleep(timings().Patience + 2*timings().Demote) // that is what is tested
	close(gone)
	w.done("a", asked.ID)
	w.runsAt("db", "a-h1")
	w.mu.Lock()
	defer w.mu.Unlock()
	if s := w.sites["a"]; s.at["erp"] != 42 || s.decided["erp"] != string(asked.ID) {
		t.Fatalf("promoted at %v, decided by %v", s.at, s.decided)
	}
}
