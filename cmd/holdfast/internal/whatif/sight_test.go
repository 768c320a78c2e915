package whatif_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/whatif"
	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
	"github.com/holdfast-dr/holdfast/services/quorum/planner"
)

var noon = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)

// window is one for a whole site, for an hour from noon.
func window(site domain.SiteID) api.Maintenance {
	return api.Maintenance{ID: string(site) + "-1", About: api.Part{Kind: "site", Site: site, ID: string(site)}, From: noon, Until: noon.Add(time.Hour), Why: "new switch"}
}

// told has sites' health services tell of a window, a minute after noon.
func told(m api.Maintenance, at ...domain.SiteID) func(*whatif.State) {
	return func(st *whatif.State) {
		st.At = noon.Add(time.Minute)
		for _, s := range at {
			h := st.Health[s]
			h.Maintenance = append(h.Maintenance, m)
			st.Health[s] = h
		}
	}
}

// fourth adds a data site c that votes and stores nothing.
func fourth(st *whatif.State) {
	st.Plan.Sites = append(st.Plan.Sites, planner.Site{ID: "c", Role: domain.SiteData})
	st.Plan.Voters = append(st.Plan.Voters, planner.Voter{Member: core.Member{ID: "c", Kind: core.KindNode}, Site: "c"})
	st.Health["c"] = api.HealthStatus{}
}

func TestAMaintenanceWindowHoldsGroupsBackUntilItsEnd(t *testing.T) {
	const moves, waits = "erp moves a>b, dir moves a>b, log moves a>b, old waits a>b", "erp waits a>b, dir waits a>b, log waits a>b, old waits a>b"
	ended, link := window("a"), window("a")
	ended.Ended = noon
	link.About = api.Part{Kind: "link", ID: "a-b"}
	for name, c := range map[string]struct {
		st   whatif.State
		want string
	}{
		"of the lost site":                   {change(told(window("a"), "b", "w")), waits},
		"that only the heir knows":           {change(told(window("a"), "b")), waits},
		"that the heir has not heard of yet": {change(told(window("a"), "w")), moves},
		"of another site":                    {change(told(window("b"), "b", "w")), moves},
		"of a link":                          {change(told(link, "b", "w")), moves},
		"that was ended":                     {change(told(ended, "b", "w")), moves},
		"that is over by the time of the loss": {change(func(st *whatif.State) {
			told(window("a"), "b", "w")(st)
			st.At = noon.Add(time.Hour)
		}), moves},
	} {
		p := predict(t, c.st, "site:a")
		if got := fates(p); got != c.want {
			t.Errorf("%s: got  %s\nwant %s\n%s", name, got, c.want, p.Text(true))
		}
	}
	p := predict(t, change(told(window("a"), "b", "w")), "site:a")
	if p.Groups[0].Held != "maintenance a-1 until 2026-03-02T13:00:00Z" || len(p.Maintenance) != 1 {
		t.Errorf("held %q, windows %v", p.Groups[0].Held, p.Maintenance)
	}
	e, err := whatif.Explain(change(told(window("a"), "b")), "erp")
	if want := "site a is under maintenance until 2026-03-02T13:00:00Z (a-1: new switch): its loss is no disaster before that"; err != nil || !slices.Contains(e.Why, want) {
		t.Errorf("explained by %q, %v", e.Why, err)
	}
	compare(t, "maintenance.txt", p.Text(true)+whatif.Table([]whatif.Prediction{p}))
}

func TestAWindowDoesNotUndoADisasterThatWasThereBefore(t *testing.T) {
	down := func(st *whatif.State) {
		told(window("a"), "b", "w")(st)
		st.Down = []domain.SiteID{"a"}
	}
	known := change(func(st *whatif.State) {
		down(st)
		for _, s := range []domain.SiteID{"b", "w"} {
			h := st.Health[s]
			h.Assessments = []api.Assessment{{Site: "a", Class: api.ClassDisaster, Disaster: api.DisasterConfirmed}}
			st.Health[s] = h
		}
	})
	for want, st := range map[string]whatif.State{"erp waits": change(down), "erp moves": known} {
		if p := predict(t, st); !strings.HasPrefix(fates(p), want) {
			t.Errorf("got %s, want %s\n%s", fates(p), want, p.Text(true))
		}
	}
}

// b sees only w of three others: with c confirmed lost before it is not isolated, and with c under maintenance it is.
func TestWhatWasLostBeforeIsNotTakenForIsolation(t *testing.T) {
	lost := func(st *whatif.State) {
		fourth(st)
		st.Down = []domain.SiteID{"c"}
	}
	for want, st := range map[string]whatif.State{"erp moves": change(lost), "erp waits": change(func(st *whatif.State) {
		lost(st)
		told(window("c"), "b", "w")(st)
	})} {
		p := predict(t, st, "site:a")
		if !strings.HasPrefix(fates(p), want) {
			t.Errorf("got %s, want %s\n%s", fates(p), want, p.Text(true))
		}
		if f := p.Groups[0]; (f.Held == "maintenance c-1 until 2026-03-02T13:00:00Z") != (want == "erp waits") {
			t.Errorf("%s: held %q", want, f.Held)
		}
	}
}
