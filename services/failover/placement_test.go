package failover

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/failover/run"
)

func TestPlacementIsChangedOnALiveGroupAndHonoured(t *testing.T) {
	w := newWorld(t, testGroup(t, "erp", domain.ModeSync, "db"))
	w.atSiteA()
	if _, err := w.change("a", api.GroupSetRequest{Group: "erp", Forbidden: &[]domain.SiteID{"a"}}); !errors.Is(err, domain.ErrRefused) || !strings.Contains(err.Error(), "site a serves it") {
		t.Fatalf("the site that serves it was forbidden: %v", err)
	}
	if _, err := w.change("a", api.GroupSetRequest{Group: "erp", Pinned: &[]domain.SiteID{"a"}, By: "ann", Reason: "licences"}); err != nil {
		t.Fatal(err)
	}
	w.audited("a", "group_set", "licences")
	w.eventuallyDesired("b", func(d api.GroupDesired) bool { return len(d.Group.Placement.Pinned) == 1 })
	_, err := w.request("b", api.RunStartRequest{Plan: "all", Kind: api.RunSwitchover, By: "ann", Reason: "works"})
	if !errors.Is(err, domain.ErrRefused) || !strings.Contains(err.Error(), "placement.pinned") || !strings.Contains(err.Error(), "holdfast group set erp --pin") {
		t.Fatalf("moved to a site it is not pinned to: %v", err)
	}
	w.confirm("a", "b", true)
	w.decided("b")
	if runs := w.runs("b"); len(runs) != 1 {
		t.Fatalf("%d runs known at b, want the start alone", len(runs))
	}
	w.runsAt("db", "a-h1")
}

// eventuallyDesired waits until a site's copy of desired state is as it should be.
func (w *world) eventuallyDesired(id domain.SiteID, ok func(api.GroupDesired) bool) {
	w.t.Helper()
	w.comes(30*time.Second, func() string {
		if d := w.desiredAt(id); !ok(d) {
			return fmt.Sprintf("site %s still has %+v", id, d)
		}
		return ""
	})
}

// TestTheServingSiteRefusesAMoveThatItsNewestPlacementBars changes the placement after the move was laid out elsewhere: only the
// site that serves the group has the newest, and stops nothing.
func TestTheServingSiteRefusesAMoveThatItsNewestPlacementBars(t *testing.T) {
	w := newWorld(t, testGroup(t, "erp", domain.ModeSync, "db"))
	w.start("a", nil)
	var changed error
	w.start("b", func(_ context.Context, _ func(), moment string, r api.Run, st api.Step) {
		if r.Kind == api.RunSwitchover && st.ID == "evacuate.erp" && moment == run.BeforeEffect && st.Attempts <= 1 {
			_, changed = w.change("a", api.GroupSetRequest{Group: "erp", Forbidden: &[]domain.SiteID{"b"}})
		}
	})
	w.awaitRun("a", api.RunStart, api.StepDone)
	w.awaitRun("b", api.RunStart, api.StepDone)
	if _, err := w.request("b", api.RunStartRequest{Plan: "all", Kind: api.RunSwitchover, By: "ann", Reason: "works"}); err != nil {
		t.Fatal(err)
	}
	r := w.awaitRun("b", api.RunSwitchover, api.StepFailed)
	if changed != nil || r.Code != domain.Code(domain.ErrRefused) || !strings.Contains(r.Error, "placement.forbidden") {
		t.Fatalf("change %v; run %s %s", changed, r.Code, r.Error)
	}
	w.runsAt("db", "a-h1")
	w.once()
}

func TestAGroupMovesToItsPreferredSiteByItselfWhereAsked(t *testing.T) {
	g := testGroup(t, "erp", domain.ModeAsync, "db")
	g.Placement = domain.Placement{Preferred: "b", Return: domain.Return{After: 200 * time.Millisecond}}
	w := newWorld(t, g)
	w.start("a", nil)
	w.start("b", nil)
	r := w.awaitRun("b", api.RunSwitchover, api.StepDone)
	if r.By != byPolicy || !strings.Contains(r.Reason, "placement.preferred") {
		t.Errorf("by %s: %s", r.By, r.Reason)
	}
	w.runsAt("db", "b-h1")
	w.once()
}
