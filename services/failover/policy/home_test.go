package policy_test

import (
	"slices"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/failover/policy"
)

func TestTheHeirIsTheFirstThatMayServe(t *testing.T) {
	for name, c := range map[string]struct {
		p    domain.Placement
		from domain.SiteID
		out  []domain.SiteID
		want domain.SiteID
	}{
		"as the group lists them":                {want: "b"},
		"the preferred one first":                {p: domain.Placement{Preferred: "c"}, want: "c"},
		"not a preferred one that is out":        {p: domain.Placement{Preferred: "c"}, out: []domain.SiteID{"c"}, want: "b"},
		"not a preferred one without its data":   {p: domain.Placement{Preferred: "n"}, want: "b"},
		"not a forbidden one":                    {p: domain.Placement{Forbidden: []domain.SiteID{"b"}}, want: "c"},
		"only a pinned one":                      {p: domain.Placement{Pinned: []domain.SiteID{"a", "c"}}, want: "c"},
		"none where only its own site is pinned": {p: domain.Placement{Pinned: []domain.SiteID{"a"}}, want: ""},
		"none where all others are forbidden":    {p: domain.Placement{Forbidden: []domain.SiteID{"b", "c"}}, want: ""},
		"none where the pinned one is out":       {p: domain.Placement{Pinned: []domain.SiteID{"a", "c"}}, out: []domain.SiteID{"c"}, want: ""},
		"home again, though others are listed":   {p: domain.Placement{Preferred: "a"}, from: "c", want: "a"},
	} {
		g := group("erp", "a", domain.FailoverAuto, 0).Group
		g.Placement = c.p
		if c.from == "" {
			c.from = "a"
		}
		if got := policy.Heir(g, c.from, append([]domain.SiteID{c.from}, c.out...)); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestAGroupComesHomeByItselfOnlyWhereItIsAskedTo(t *testing.T) {
	away := group("erp", "b", domain.FailoverAuto, 0)
	away.Group.Placement = domain.Placement{Preferred: "a", Return: domain.Return{After: time.Minute, Within: []domain.Window{{From: "22:00", To: "05:00"}}}}
	off, home, barred := away, away, away
	off.Group.Placement.Return.After, home.Site = 0, "a"
	barred.Group.Placement.Forbidden = []domain.SiteID{"a"}
	night, day := time.Date(2026, 3, 2, 23, 0, 0, 0, time.UTC), time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
	type moment struct {
		at    time.Duration
		wall  time.Time
		ready bool
		due   bool
	}
	in := func(m moment) policy.HomeInput {
		return policy.HomeInput{Self: "a", Now: m.at, Wall: m.wall, Groups: []api.GroupDesired{away}, Ready: map[domain.GroupID]bool{"erp": m.ready}}
	}
	for name, c := range map[string]struct {
		story  []moment
		change func(*policy.HomeInput)
	}{
		"after its time in sync":                        {story: []moment{{0, night, true, false}, {59 * time.Second, night, true, false}, {time.Minute, night, true, true}}},
		"one moment behind, and it waits anew":          {story: []moment{{0, night, true, false}, {30 * time.Second, night, false, false}, {61 * time.Second, night, true, false}, {121 * time.Second, night, true, true}}},
		"not outside its window, at once within it":     {story: []moment{{0, day, true, false}, {2 * time.Minute, day, true, false}, {3 * time.Minute, night, true, true}}},
		"another attempt no sooner than the first":      {story: []moment{{0, night, true, false}, {time.Minute, night, true, true}, {61 * time.Second, night, true, false}, {121 * time.Second, night, true, true}}},
		"not while a disaster is confirmed":             {[]moment{{0, night, true, false}, {time.Hour, night, true, false}}, func(in *policy.HomeInput) { in.Confirmed = []domain.SiteID{"c"} }},
		"not to a drained site":                         {[]moment{{0, night, true, false}, {time.Hour, night, true, false}}, func(in *policy.HomeInput) { in.Drained = []domain.SiteID{"a"} }},
		"not by another site than the preferred":        {[]moment{{0, night, true, false}, {time.Hour, night, true, false}}, func(in *policy.HomeInput) { in.Self = "c" }},
		"never where nobody asked for it (the default)": {[]moment{{0, night, true, false}, {time.Hour, night, true, false}}, func(in *policy.HomeInput) { in.Groups = []api.GroupDesired{off} }},
		"not where it is already":                       {[]moment{{0, night, true, false}, {time.Hour, night, true, false}}, func(in *policy.HomeInput) { in.Groups = []api.GroupDesired{home} }},
		"not where it may not be served":                {[]moment{{0, night, true, false}, {time.Hour, night, true, false}}, func(in *policy.HomeInput) { in.Groups = []api.GroupDesired{barred} }},
	} {
		t.Run(name, func(t *testing.T) {
			var s policy.Homing
			for _, m := range c.story {
				input := in(m)
				if c.change != nil {
					c.change(&input)
				}
				var due []policy.Due
				s, due = policy.Home(s, input)
				if got := len(due) == 1 && due[0].Site == "b" && slices.Equal(due[0].Groups, []domain.GroupID{"erp"}); got != m.due || !m.due && len(due) > 0 {
					t.Fatalf("at %s: %v, want due %v", m.at, due, m.due)
				}
			}
		})
	}
}
