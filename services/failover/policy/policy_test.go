package policy_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/failover/policy"
)

func group(id domain.GroupID, at domain.SiteID, p domain.FailoverPolicy, hold time.Duration) api.GroupDesired {
	return api.GroupDesired{Site: at, Group: domain.Group{ID: id, Home: "a", Failover: p, HoldDown: hold, Targets: []domain.Target{
		{Site: "n", Mode: domain.ModeNone}, {Site: "b", Mode: domain.ModeSync}, {Site: "c", Mode: domain.ModeAsync}}}}
}

func TestTheHeirIsTheFirstSiteWithACopyThatIsNotLost(t *testing.T) {
	g := group("erp", "a", domain.FailoverAuto, 0).Group
	for _, c := range []struct {
		lost []domain.SiteID
		want domain.SiteID
	}{{[]domain.SiteID{"a"}, "b"}, {[]domain.SiteID{"a", "b"}, "c"}, {[]domain.SiteID{"a", "b", "c"}, ""}} {
		if got := policy.Heir(g, "a", c.lost); got != c.want {
			t.Errorf("without %v: %q, want %q", c.lost, got, c.want)
		}
	}
}

func TestWhatIsDueBecomesOneRunForEachPlan(t *testing.T) {
	groups := []api.GroupDesired{group("erp", "a", domain.FailoverAuto, 0), group("log", "a", domain.FailoverAuto, 0), group("own", "a", domain.FailoverAuto, 0)}
	list := api.GroupList{Groups: groups, Plans: []domain.Plan{{ID: "main", Groups: []domain.PlanGroup{{Group: "log"}, {Group: "erp"}}}}}
	due := policy.Due{Site: "a", Groups: []domain.GroupID{"erp", "log", "own"}}
	got := policy.Orders("b", due, list)
	if len(got) != 2 || got[0].Plan.ID != "main" || !slices.Equal(got[0].Groups, []domain.GroupID{"erp", "log"}) || got[1].Plan.ID != "own" || got[1].From != "a" || got[0].AcceptLoss["erp"] {
		t.Errorf("at b: %+v", got)
	}
	if far := policy.Orders("c", due, list); !far[0].AcceptLoss["erp"] || !far[1].AcceptLoss["own"] {
		t.Errorf("at c, whose copies are asynchronous: %+v", far)
	}
}

func TestAGroupIsHandedOnlyToACopyThatHasEverything(t *testing.T) {
	serving := func(t ...api.TargetStatus) []api.GroupStatus {
		return []api.GroupStatus{{Group: "erp", Role: domain.RolePrimary, Serving: true, Epoch: 7, Targets: t}}
	}
	for name, c := range map[string]struct {
		copies []api.GroupStatus
		want   string
	}{
		"in sync":     {serving(api.TargetStatus{Site: "b", InSync: true}), ""},
		"streaming":   {serving(api.TargetStatus{Site: "c"}, api.TargetStatus{Site: "b", State: api.TargetStreaming}), ""},
		"behind":      {serving(api.TargetStatus{Site: "b", State: api.TargetResync, LagBytes: 9}), "the copy at site b is resync (9 bytes behind)"},
		"not sent to": {serving(api.TargetStatus{Site: "c", InSync: true}), "does not send to site b"},
		"not served":  {[]api.GroupStatus{{Group: "erp", Role: domain.RoleTarget}}, "site a does not serve it"},
		"no copy":     {nil, "site a has no copy"},
	} {
		have, target, err := policy.Ready(c.copies, "erp", "a", "b")
		switch {
		case c.want == "" && (err != nil || have.Epoch != 7 || target.Site != "b"):
			t.Errorf("%s: %+v, %v", name, target, err)
		case c.want != "" && (!errors.Is(err, domain.ErrRefused) || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
}
