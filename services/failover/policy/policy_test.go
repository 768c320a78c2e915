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

func TestHoldDown(t *testing.T) {
	groups := []api.GroupDesired{group("erp", "a", domain.FailoverAuto, 5*time.Second), group("log", "a", domain.FailoverAuto, time.Second),
		group("man", "a", domain.FailoverManual, 0), group("far", "c", domain.FailoverAuto, 0)}
	type moment struct {
		at   time.Duration
		lost []domain.SiteID
		self domain.SiteID
		want []domain.GroupID
	}
	for name, story := range map[string][]moment{
		"due after each group's own hold-down": {{0, []domain.SiteID{"a"}, "b", nil}, {time.Second, []domain.SiteID{"a"}, "b", []domain.GroupID{"log"}},
			{5 * time.Second, []domain.SiteID{"a"}, "b", []domain.GroupID{"erp", "log"}}},
		"withdrawn when the site comes back, and counted anew": {{0, []domain.SiteID{"a"}, "b", nil}, {900 * time.Millisecond, nil, "b", nil},
			{1100 * time.Millisecond, []domain.SiteID{"a"}, "b", nil}, {2000 * time.Millisecond, []domain.SiteID{"a"}, "b", nil}, {2100 * time.Millisecond, []domain.SiteID{"a"}, "b", []domain.GroupID{"log"}}},
		"left to the first eligible site":      {{0, []domain.SiteID{"a"}, "c", nil}, {9 * time.Second, []domain.SiteID{"a"}, "c", nil}},
		"taken when the first is lost as well": {{0, []domain.SiteID{"a", "b"}, "c", nil}, {9 * time.Second, []domain.SiteID{"a", "b"}, "c", []domain.GroupID{"erp", "log"}}},
		"never for itself":                     {{0, []domain.SiteID{"a"}, "a", nil}, {9 * time.Second, []domain.SiteID{"a"}, "a", nil}},
		"not by a site without a copy":         {{0, []domain.SiteID{"a"}, "n", nil}, {9 * time.Second, []domain.SiteID{"a"}, "n", nil}},
	} {
		t.Run(name, func(t *testing.T) {
			var s policy.State
			for _, m := range story {
				var due []policy.Due
				s, due = policy.Decide(s, policy.Input{Self: m.self, Now: m.at, Confirmed: m.lost, Groups: groups})
				var got []domain.GroupID
				for _, d := range due {
					if d.Site == "a" {
						got = append(got, d.Groups...)
					}
				}
				if !slices.Equal(got, m.want) {
					t.Fatalf("at %s: due %v, want %v", m.at, got, m.want)
				}
			}
		})
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
