package failover

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/audit"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// change asks a site to change a group.
func (w *world) change(id domain.SiteID, req api.GroupSetRequest) (api.GroupDesired, error) {
	m := w.mesh(id)
	defer m.Close()
	return bus.Call[api.GroupDesired](w.t.Context(), m.Local(), api.ServiceFailover, api.VerbGroupSet, req)
}

func (w *world) desiredAt(id domain.SiteID) api.GroupDesired {
	m := w.mesh(id)
	defer m.Close()
	l, err := bus.Call[api.GroupList](w.t.Context(), m.Local(), api.ServiceFailover, api.VerbGroupList, api.Empty{})
	if err != nil || len(l.Groups) != 1 {
		w.t.Fatalf("site %s knows %d groups: %v", id, len(l.Groups), err)
	}
	return l.Groups[0]
}

func TestAGroupIsChangedAtTheSiteThatHoldsItAndCopiedToTheOthers(t *testing.T) {
	w := newWorld(t, testGroup(t, "erp", domain.ModeSync, "db"))
	w.atSiteA()
	was := w.desiredAt("a")
	req := api.GroupSetRequest{Group: "erp", Revision: was.Revision, Targets: []domain.Target{{Site: "b", Mode: domain.ModeAsync}}, By: "ann", Reason: "the link is slow"}
	if _, err := w.change("b", req); !errors.Is(err, domain.ErrNoLease) {
		t.Fatalf("changed at a site that does not hold it: %v", err)
	}
	got, err := w.change("a", req)
	if err != nil || got.Version != was.Version+1 || got.Epoch != was.Epoch || got.Group.Targets[0].Mode != domain.ModeAsync {
		t.Fatalf("%+v, %v", got, err)
	}
	if _, err := w.change("a", req); !errors.Is(err, domain.ErrConflict) {
		t.Fatalf("changed from a revision that is not the newest: %v", err)
	}
	w.eventuallyDesired("b", func(d api.GroupDesired) bool {
		return d.Version == got.Version && d.Group.Targets[0].Mode == domain.ModeAsync
	})
	w.audited("a", "group_set", "the link is slow")
	w.audited("b", "group_set_refused", "the link is slow")
	if _, err := w.request("b", api.RunStartRequest{Plan: "all", Kind: api.RunSwitchover, By: "ann", Reason: "works"}); err != nil {
		t.Fatal(err)
	}
	w.awaitRun("b", api.RunSwitchover, api.StepDone) // the move keeps the change
	if d := w.desiredAt("b"); d.Site != "b" || d.Group.Targets[0].Mode != domain.ModeAsync {
		t.Fatalf("after the move: %+v", d)
	}
}

// audited waits until a site's audit has an entry.
func (w *world) audited(id domain.SiteID, what, why string) {
	w.t.Helper()
	c := w.mesh(id).Local()
	end := time.Now().Add(20 * time.Second)
	for {
		subjects, err := c.Subjects(w.t.Context(), api.StreamAudit, audit.Filter(id))
		if err != nil {
			w.t.Fatal(err)
		}
		for s := range subjects {
			if rec, err := c.Last(w.t.Context(), api.StreamAudit, s); err == nil && strings.HasSuffix(s, "."+what) && strings.Contains(string(rec.Data), why) {
				return
			}
		}
		if time.Now().After(end) {
			w.t.Fatalf("no %s in the audit of site %s", what, id)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
