package assess_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/health/assess"
)

var (
	sites = []domain.SiteID{"a", "b", "w"}
	start = time.Date(2026, 11, 1, 3, 0, 0, 0, time.UTC)
)

// states of a path: a alive, m alive with two beats missed, s suspect, r suspect but answering again, d dead, - unknown.
func observation(kind, id string, site domain.SiteID, path string, state byte) api.Observation {
	o := api.Observation{Kind: kind, ID: id, Site: site, Path: path, Since: start}
	o.State = map[byte]string{'a': api.StateAlive, 'm': api.StateAlive, 's': api.StateSuspect, 'r': api.StateSuspect, 'd': api.StateDead, '-': api.StateUnknown}[state]
	o.Missed = map[byte]int{'m': 2, 's': 3, 'd': 6}[state]
	if o.Missed > 2 {
		o.FirstMissed = start.Add(time.Second)
	}
	return o
}

// view reads "a:dd w:aa !sick host/h1=d": sites with heartbeat and api path, then parts of the observer's own site;
// "x.host/h1=d" is a part of site x.
func view(observer domain.SiteID, text string) api.View {
	v := api.View{Observer: observer, At: start}
	for _, word := range strings.Fields(text) {
		if word == "!sick" {
			v.Sick = true
			continue
		}
		if name, state, ok := strings.Cut(word, "="); ok {
			site := observer
			if s, rest, ok := strings.Cut(name, "."); ok {
				site, name = domain.SiteID(s), rest
			}
			kind, id, _ := strings.Cut(name, "/")
			v.Observations = append(v.Observations, observation(kind, id, site, "tcp", state[0]))
			continue
		}
		site, paths, _ := strings.Cut(word, ":")
		for i, path := range []string{assess.PathHeartbeat, assess.PathAPI} {
			v.Observations = append(v.Observations, observation(assess.KindSite, site, domain.SiteID(site), path, paths[i]))
		}
	}
	return v
}

// step is one instant: what the observer sees, and the views it has of others (absent: none arrived lately).
type step struct {
	own    string
	views  map[domain.SiteID]string
	class  string // "a:none b:link w:none"
	change string // "disaster.suspected/a site.suspected/a"
}

func play(t *testing.T, self domain.SiteID, among []domain.SiteID, steps []step) []assess.Change {
	t.Helper()
	var st assess.State
	var all []assess.Change
	for i, s := range steps {
		in := assess.Input{Self: self, Sites: among, Own: view(self, s.own), Views: map[domain.SiteID]api.View{}}
		for site, text := range s.views {
			in.Views[site] = view(site, text)
		}
		var res assess.Result
		st, res = assess.Decide(st, assess.Rules{}, in)
		var classes, changes []string
		for _, a := range res.Assessments {
			classes = append(classes, fmt.Sprintf("%s:%s", a.Site, a.Class))
		}
		for _, c := range res.Changes {
			id := c.Object.ID
			if id == "" {
				id = string(c.Assessment.Site)
			}
			changes = append(changes, fmt.Sprintf("%s.%s/%s", c.Entity, c.Fact, id))
		}
		if got := strings.Join(classes, " "); got != s.class {
			t.Errorf("step %d: classes\ngot  %s\nwant %s", i+1, got, s.class)
		}
		if got := strings.Join(changes, " "); got != s.change {
			t.Errorf("step %d: changes\ngot  %s\nwant %s", i+1, got, s.change)
		}
		all = append(all, res.Changes...)
	}
	return all
}

type views = map[domain.SiteID]string

const well = "a:none b:none w:none"

func TestSiteLoss(t *testing.T) {
	changes := play(t, "b", sites, []step{
		{"a:aa w:aa", views{"a": "b:aa w:aa", "w": "a:aa b:aa"}, well, ""},
		{"a:mm w:aa", views{"w": "a:mm b:aa"}, well, ""},
		{"a:ss w:aa", views{"w": "a:mm b:aa"}, well, "disaster.suspected/a site.suspected/a"},
		{"a:dd w:aa", views{"w": "a:ss b:aa"}, well, "site.lost/a"},
		{"a:dd w:aa", views{"w": "a:ds b:aa"}, well, ""},
		{"a:dd w:aa", views{"w": "a:dd b:aa"}, "a:disaster b:none w:none", "disaster.confirmed/a"},
		{"a:dd w:aa", views{"w": "a:dd b:aa"}, "a:disaster b:none w:none", ""},
		{"a:dd w:aa", views{}, "a:disaster b:none w:none", ""},
		{"a:rd w:aa", views{"w": "a:rr b:aa"}, well, ""}, // not over, but it answers: nothing may be declared of it
		{"a:dd w:aa", views{"w": "a:dd b:aa"}, "a:disaster b:none w:none", ""},
		{"a:rr w:aa", views{"w": "a:ar b:aa"}, well, "disaster.over/a site.recovered/a"},
		{"a:aa w:aa", views{"a": "b:aa w:aa", "w": "a:aa b:aa"}, well, ""},
	})
	c := changes[slices.IndexFunc(changes, func(c assess.Change) bool { return c.Fact == assess.FactConfirmed })]
	if !slices.Equal(c.Assessment.Seen, []domain.SiteID{"b", "w"}) {
		t.Errorf("seen by %v, want both vantage points", c.Assessment.Seen)
	}
	if len(c.Assessment.Evidence) != 4 || c.Assessment.Evidence[0].Observer != "b" || c.Assessment.Evidence[3].Observer != "w" {
		t.Errorf("evidence %+v: want two paths of two observers", c.Assessment.Evidence)
	}
	if !c.FirstMissed.Equal(start.Add(time.Second)) || !c.Assessment.Since.Equal(c.FirstMissed) {
		t.Errorf("first missed %v, since %v", c.FirstMissed, c.Assessment.Since)
	}
}

func TestSiteLossSeenByTheWitness(t *testing.T) {
	play(t, "w", sites, []step{
		{"a:ss b:aa", views{"b": "a:ss w:aa"}, well, "disaster.suspected/a site.suspected/a"},
		{"a:dd b:aa", views{"b": "a:dd w:aa"}, "a:disaster b:none w:none", "site.lost/a disaster.confirmed/a"},
	})
}

func TestSuspicionThatPasses(t *testing.T) {
	play(t, "b", sites, []step{
		{"a:ss w:aa", views{"w": "a:mm b:aa"}, well, "disaster.suspected/a site.suspected/a"},
		{"a:rr w:aa", views{"w": "a:mm b:aa"}, well, ""},
		{"a:aa w:aa", views{"w": "a:aa b:aa"}, well, "disaster.over/a site.recovered/a"},
	})
}

func TestOnePathOrOneVantagePointIsNoDisaster(t *testing.T) {
	for _, c := range []struct{ name, own, w string }{
		{"requests fail, heartbeats come", "a:ad w:aa", "a:ad b:aa"},
		{"heartbeats ended, the server answers", "a:da w:aa", "a:da b:aa"},
		{"the second is only suspicious", "a:dd w:aa", "a:ss b:aa"},
		{"the second doubts itself", "a:dd w:aa", "a:dd b:aa !sick"},
		{"the second sees it answer again", "a:dd w:aa", "a:rr b:aa"},
		{"the second began just now", "a:dd w:aa", "a:-- b:aa"},
		{"one path each", "a:da w:aa", "a:ad b:aa"},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := assess.Input{Self: "b", Sites: sites, Own: view("b", c.own), Views: map[domain.SiteID]api.View{"w": view("w", c.w)}}
			_, res := assess.Decide(assess.State{}, assess.Rules{}, in)
			if res.Assessments[0].Class == api.ClassDisaster {
				t.Fatalf("%+v", res.Assessments[0])
			}
			for _, ch := range res.Changes {
				if ch.Fact == assess.FactConfirmed {
					t.Fatalf("%+v", ch)
				}
			}
		})
	}
}

func TestASickObserverTellsNothingAndLaterGoesOn(t *testing.T) {
	play(t, "b", sites, []step{
		{"a:dd w:aa vm/v1=d !sick", views{"w": "a:dd b:aa"}, well, ""},
		{"a:ss w:aa vm/v1=a", views{"w": "a:dd b:aa"}, well, "disaster.suspected/a site.suspected/a"},
		{"a:dd w:aa !sick", views{"w": "a:dd b:aa"}, well, ""},
		{"a:dd w:aa", views{"w": "a:dd b:aa"}, "a:disaster b:none w:none", "site.lost/a disaster.confirmed/a"},
	})
}

func TestIsolatedSiteDeclaresNothingOfTheOthers(t *testing.T) {
	play(t, "a", sites, []step{
		{"b:aa w:aa", views{"b": "a:aa w:aa", "w": "a:aa b:aa"}, well, ""},
		{"b:ss w:mm", views{}, well, ""}, // the views are old by now
		{"b:ss w:ss", views{}, well, "link.suspected/a-b link.suspected/a-w"},
		{"b:dd w:dd", views{}, "a:link b:none w:none", "link.lost/a-b link.lost/a-w"},
		{"b:dd w:dd", views{}, "a:link b:none w:none", ""},
		{"b:dd w:dd vm/v1=d", views{}, "a:service b:none w:none", "vm.lost/v1 incident.opened/a"},
		{"b:dd w:dd vm/v1=a", views{}, "a:link b:none w:none", "vm.recovered/v1 incident.closed/a"},
		{"b:aa w:aa", views{"b": "a:rr w:aa", "w": "a:rr b:aa"}, well, "link.recovered/a-b link.recovered/a-w"},
	})
}

func TestTwoSitesAloneCannotTell(t *testing.T) {
	play(t, "a", []domain.SiteID{"a", "b"}, []step{
		{"b:aa", views{"b": "a:aa"}, "a:none b:none", ""},
		{"b:dd", views{}, "a:link b:none", "link.lost/a-b"},
	})
}

func TestLinkCutBetweenTwoSitesThatAThirdSees(t *testing.T) {
	afterwards := "a:link b:link w:none"
	play(t, "b", sites, []step{
		{"a:ss w:aa", views{"w": "a:aa b:aa"}, well, "link.suspected/a-b"},
		{"a:dd w:aa", views{"w": "a:aa b:aa"}, afterwards, "link.lost/a-b"},
		{"a:rr w:aa", views{"w": "a:aa b:aa"}, well, ""},
		{"a:aa w:aa", views{"w": "a:aa b:aa", "a": "b:aa w:aa"}, well, "link.recovered/a-b"},
	})
	play(t, "w", sites, []step{
		{"a:aa b:aa", views{"a": "b:dd w:aa", "b": "a:dd w:aa"}, afterwards, ""},
	})
	play(t, "b", sites, []step{ // one direction
		{"a:da w:aa", views{"w": "a:aa b:aa", "a": "b:aa w:aa"}, afterwards, "link.lost/a-b"},
	})
}

func TestPartsOfTheOwnSite(t *testing.T) {
	others := views{"b": "a:aa w:aa", "w": "a:aa b:aa"}
	play(t, "a", sites, []step{
		{"b:aa w:aa host/h1=a vm/v1=a", others, well, ""},
		{"b:aa w:aa host/h1=s vm/v1=s", others, well, "host.suspected/h1 vm.suspected/v1"},
		{"b:aa w:aa host/h1=a vm/v1=d", others, "a:service b:none w:none", "host.recovered/h1 vm.lost/v1 incident.opened/a"},
		{"b:aa w:aa host/h1=d vm/v1=d", others, "a:incident b:none w:none", "host.lost/h1 incident.opened/a"},
		{"b:aa w:aa host/h1=d vm/v1=r", others, "a:incident b:none w:none", ""},
		{"b:aa w:aa host/h1=d vm/v1=d", others, "a:incident b:none w:none", "incident.opened/a"},
		{"b:aa w:aa host/h1=a vm/v1=a", others, well, "host.recovered/h1 vm.recovered/v1 incident.closed/a"},
		{"b:aa w:aa host/h1=a replicator/r=d", others, "a:incident b:none w:none", "replicator.lost/r incident.opened/a"},
		{"b:aa w:aa host/h1=a", others, well, "incident.closed/a"},
	})
}

func TestPartsOfAnotherSiteAreKnownFromItsOwnView(t *testing.T) {
	play(t, "b", sites, []step{
		{"a:aa w:aa a.service/health=a", views{"a": "b:aa w:aa host/h1=d", "w": "a:aa b:aa"}, "a:incident b:none w:none", ""},
	})
	play(t, "b", sites, []step{ // its observer is gone: told from here
		{"a:aa w:aa a.service/health=d", views{"w": "a:aa b:aa"}, "a:service b:none w:none", "incident.opened/a"},
		{"a:aa w:aa a.service/health=a", views{"a": "b:aa w:aa", "w": "a:aa b:aa"}, well, "incident.closed/a"},
	})
	play(t, "b", sites, []step{ // its server is gone, its services push on
		{"a:ad w:aa a.service/health=d", views{"w": "a:ad b:aa"}, "a:service b:none w:none", "incident.opened/a"},
	})
	play(t, "b", sites, []step{ // its server alone is back after a disaster
		{"a:dd w:aa a.replicator/r=d", views{"w": "a:dd b:aa"}, "a:disaster b:none w:none", "disaster.suspected/a site.lost/a disaster.confirmed/a"},
		{"a:da w:aa a.replicator/r=d a.service/health=d", views{"w": "a:da b:aa"}, "a:service b:none w:none", "disaster.over/a site.recovered/a incident.opened/a"},
	})
}

func TestAnObserverThatStartsAgainEndsTheDisasterItTold(t *testing.T) {
	st := assess.Resume("a")
	in := assess.Input{Self: "b", Sites: sites, Own: view("b", "a:aa w:aa"), Views: map[domain.SiteID]api.View{"w": view("w", "a:aa b:aa")}}
	_, res := assess.Decide(st, assess.Rules{}, in)
	if len(res.Changes) != 2 || res.Changes[0].Fact != assess.FactOver || res.Changes[1].Fact != assess.FactRecovered {
		t.Fatalf("%+v", res.Changes)
	}
	in.Own, in.Views["w"] = view("b", "a:-- w:aa"), view("w", "a:dd b:aa")
	st, res = assess.Decide(assess.Resume("a"), assess.Rules{}, in)
	if res.Assessments[0].Class != api.ClassNone || len(res.Changes) != 0 {
		t.Fatalf("before its own evidence: %+v", res)
	}
	in.Own = view("b", "a:dd w:aa")
	if _, res = assess.Decide(st, assess.Rules{}, in); len(res.Changes) != 1 || res.Changes[0].Fact != assess.FactConfirmed {
		t.Fatalf("with its own evidence: %+v", res.Changes)
	}
}

func TestFourSitesNeedTwoOnEachPath(t *testing.T) {
	four := []domain.SiteID{"a", "b", "c", "w"}
	play(t, "b", four, []step{
		{"a:dd c:aa w:aa", views{"c": "a:aa b:aa w:aa", "w": "a:dd b:aa c:aa"}, "a:link b:link c:none w:link", "link.lost/a-b"},
		{"a:-- c:aa w:aa", views{"c": "a:dd b:aa w:aa", "w": "a:dd b:aa c:aa"}, "a:disaster b:none c:none w:none", "disaster.suspected/a site.suspected/a disaster.confirmed/a"},
	})
}
