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

// with adds data sites that store nothing; the groups' votes are without them.
func with(sites ...domain.SiteID) func(*whatif.State) {
	return func(st *whatif.State) {
		for _, s := range sites {
			st.Plan.Sites = append(st.Plan.Sites, planner.Site{ID: s, Role: domain.SiteData})
			st.Plan.Voters = append(st.Plan.Voters, planner.Voter{Member: core.Member{ID: core.VoterID(s), Kind: core.KindNode}, Site: s})
			st.Health[s] = api.HealthStatus{}
		}
	}
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

// Each of b and w sees only the other of three: with c confirmed lost before it is not isolated, and with c under maintenance it is.
func TestWhatWasLostBeforeIsNotTakenForIsolation(t *testing.T) {
	lost := func(st *whatif.State) {
		with("c")(st)
		st.Down = []domain.SiteID{"c"}
	}
	for _, knows := range [][]domain.SiteID{nil, {"b", "w"}, {"b"}, {"w"}} {
		p := predict(t, change(func(st *whatif.State) {
			lost(st)
			told(window("c"), knows...)(st)
		}), "site:a")
		want, held := "erp waits", "maintenance c-1 until 2026-03-02T13:00:00Z"
		if len(knows) == 0 {
			want, held = "erp moves", ""
		}
		if !strings.HasPrefix(fates(p), want) || p.Groups[0].Held != held {
			t.Errorf("known to %v: got %s, held %q\n%s", knows, fates(p), p.Groups[0].Held, p.Text(true))
		}
	}
}

func TestALossIsADisasterOnlyToEnoughVantagePoints(t *testing.T) {
	asks := func(vantages int, sites []domain.SiteID, more ...func(*whatif.State)) whatif.State {
		return change(func(st *whatif.State) {
			with(sites...)(st)
			st.Vantages = vantages
			for _, f := range more {
				f(st)
			}
		})
	}
	silent := func(s domain.SiteID) func(*whatif.State) { return func(st *whatif.State) { delete(st.Health, s) } }
	doubts := func(s domain.SiteID, why string) func(*whatif.State) {
		return func(st *whatif.State) {
			st.Health[s] = api.HealthStatus{View: api.View{Sick: true, Doubts: []string{why}}}
		}
	}
	c, cd := []domain.SiteID{"c"}, []domain.SiteID{"c", "d"}
	for name, x := range map[string]struct {
		st              whatif.State
		lose            string
		want, held, why string
	}{
		"three of three":                       {asks(3, c), "site:a", "erp moves", "", ""},
		"three of four":                        {asks(4, cd), "site:a site:c", "erp waits", "3 of 4 vantage points", "a person can declare it"},
		"one that does not answer":             {asks(3, c, silent("w")), "site:a", "erp waits", "2 of 3 vantage points", "only 2 of the 3 vantage points are left"},
		"one that doubts itself":               {asks(2, nil, doubts("w", "it runs late")), "site:a", "erp waits", "1 of 2 vantage points", ""},
		"one that was isolated and is not":     {asks(2, nil, doubts("w", api.DoubtIsolated)), "site:a", "erp moves", "", ""},
		"two that the loss isolates":           {asks(2, c), "site:a link:c-w", "erp waits", "1 of 2 vantage points", ""},
		"an heir whose health does not answer": {asks(2, c, silent("b")), "site:a", "erp waits", "site b judges nothing", "does not answer"},
		"an heir that doubts itself":           {asks(2, c, doubts("b", "it runs late")), "site:a", "erp waits", "site b judges nothing", "it runs late"},
	} {
		p := predict(t, x.st, strings.Fields(x.lose)...)
		if f := p.Groups[0]; !strings.HasPrefix(fates(p), x.want) || f.Held != x.held || !strings.Contains(strings.Join(f.Why, "\n"), x.why) {
			t.Errorf("%s: got %s, held %q\n%s", name, fates(p), f.Held, p.Text(true))
		}
	}
	p := predict(t, asks(2, c, silent("c"), doubts("w", "it runs late")), "site:a")
	if len(p.Blind) != 2 || !strings.Contains(p.Text(false), "site w is no vantage point: its observer doubts itself: it runs late\nsite c is no vantage point: its health service does not answer\n") {
		t.Errorf("%+v\n%s", p.Blind, p.Text(false))
	}
}
