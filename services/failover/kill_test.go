package failover

import (
	"context"
	"os"
	"sync"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/failover/run"
)

// killer stops the service at one moment of one step of a kind of run, the first time it comes by.
type killer struct {
	kind, step, moment string

	mu   sync.Mutex
	done bool
}

func (k *killer) hook(ctx context.Context, kill func(), moment string, r api.Run, st api.Step) {
	k.mu.Lock()
	hit := !k.done && r.Kind == k.kind && st.ID == k.step && moment == k.moment
	k.done = k.done || hit
	k.mu.Unlock()
	if hit {
		kill()
		<-ctx.Done()
	}
}

// TestKilledAtEveryStep stops the service that leads a run at every step of it, before the effect and between the effect and its
// record, starts another, and wants the same run done, in the same trace, with every effect once. Every step that exists is
// among the steps below; HOLDFAST_FULL=1 runs each kind of run whole.
func TestKilledAtEveryStep(t *testing.T) {
	up := []string{"acquire.erp", "desired.erp", "promote.erp", "start.db", "verify.db", "dns.db.db.example.test", "client.db", "protect.erp"}
	down := []string{"precheck.erp", "evacuate.erp", "demote.erp", "release.erp"}
	kinds := map[string][]string{api.RunFailover: up, api.RunSwitchover: down}
	if os.Getenv("HOLDFAST_FULL") != "" {
		kinds = map[string][]string{api.RunStart: up, api.RunFailover: up, api.RunSwitchover: append(down, up...)}
	}
	for kind, steps := range kinds {
		for _, step := range steps {
			for _, moment := range []string{run.BeforeEffect, run.AfterEffect} {
				t.Run(kind+"/"+step+"/"+moment, func(t *testing.T) {
					t.Parallel()
					killOnce(t, &killer{kind: kind, step: step, moment: moment})
				})
			}
		}
	}
}

func killOnce(t *testing.T, k *killer) {
	w := newWorld(t, testGroup(t, "erp", domain.ModeSync, "db"))
	leader, other := domain.SiteID("b"), domain.SiteID("a")
	if k.kind == api.RunStart {
		leader, other = other, leader
	}
	_, ended := w.start(leader, k.hook)
	killOther, _ := w.start(other, nil)
	id := domain.RunID("")
	if k.kind != api.RunStart {
		w.awaitRun(leader, api.RunStart, api.StepDone)
		w.awaitRun(other, api.RunStart, api.StepDone)
		req := api.RunStartRequest{Plan: "all", Kind: k.kind, By: "ann", Reason: "test", Declared: true, ID: "the-run"}
		if k.kind == api.RunFailover {
			w.loseSite(other, killOther)
		}
		if _, err := w.request(leader, req); err != nil {
			t.Logf("the service was killed before it answered: %v", err)
		}
		id = req.ID
	}
	<-ended
	w.start(leader, k.hook)
	r := w.awaitRun(leader, k.kind, api.StepDone)
	if id != "" && r.ID != id {
		t.Errorf("run %s was completed, want %s", r.ID, id)
	}
	for _, o := range w.runs(leader) {
		if o.Kind == k.kind && o.ID != r.ID {
			t.Errorf("a second run %s was made", o.ID)
		}
	}
	w.runsAt("db", string(leader)+"-h1")
	w.once()
	w.oneTrace(r)
}
