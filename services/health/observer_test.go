package health

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/health/assess"
)

// rig drives an observer in made-up time.
type rig struct {
	t    *testing.T
	obs  *observer
	at   instant
	told []assess.Change

	hosts []domain.SiteID // whose hosts beat, even while their services do not
}

func testConfig(site domain.SiteID) Config {
	return Config{Site: site, Role: domain.SiteData, Timing: DefaultTiming(),
		Sites: []Site{{"a", domain.SiteData}, {"b", domain.SiteData}, {"w", domain.SiteWitness}}}
}

func newRig(t *testing.T) *rig {
	at := instant{at: time.Hour, wall: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)}
	return &rig{t: t, at: at, obs: newObserver(testConfig("b"), at, assess.State{})}
}

// run lets time pass a tick at a time; each beat the living nodes beat and the living peers answer.
func (r *rig) run(d time.Duration, connected bool, living ...domain.SiteID) {
	tick := DefaultTiming().Beat / tickPart
	for n := 1; time.Duration(n)*tick <= d; n++ {
		r.at = instant{r.at.at + tick, r.at.wall.Add(tick)}
		if n%tickPart == 0 {
			for _, s := range r.hosts {
				r.obs.beat(r.at, api.Heartbeat{Site: s, Node: string(s) + "-h1", Kind: "host"})
			}
			for _, s := range living {
				if connected {
					r.obs.beat(r.at, api.Heartbeat{Site: s, Node: "health", Kind: "health"})
					r.obs.beat(r.at, api.Heartbeat{Site: s, Node: "quorum", Kind: "quorum"})
				}
				if s != "b" {
					r.obs.hear(r.at, r.at.at, api.View{Observer: s, Observations: r.seen()})
				}
			}
		}
		r.told = append(r.told, r.obs.tick(r.at, connected)...)
	}
}

// seen is what a peer sees of a: the same as this observer does.
func (r *rig) seen() []api.Observation {
	return slices.DeleteFunc(r.obs.View(r.at, true).Observations, func(o api.Observation) bool { return o.Kind != assess.KindSite || o.Site != "a" })
}

func (r *rig) facts() []string {
	var out []string
	for _, c := range r.told {
		id := c.Object.ID
		if id == "" {
			id = string(c.Assessment.Site)
		}
		out = append(out, c.Entity+"."+c.Fact+"/"+id)
	}
	r.told = nil
	return out
}

func (r *rig) want(facts ...string) {
	r.t.Helper()
	if got := r.facts(); !slices.Equal(got, facts) {
		r.t.Fatalf("told %v, want %v", got, facts)
	}
}

func TestSiteLossIsConfirmedAboutThreeSecondsAfterItsLastBeat(t *testing.T) {
	r := newRig(t)
	r.run(5*time.Second, true, "a", "b", "w")
	r.want()
	last := r.at.wall
	r.run(1400*time.Millisecond, true, "b", "w")
	r.want()
	r.run(1500*time.Millisecond, true, "b", "w")
	r.want("disaster.suspected/a", "site.suspected/a")
	r.run(600*time.Millisecond, true, "b", "w")
	c := r.told[1]
	r.want("site.lost/a", "disaster.confirmed/a")
	if want := last.Add(500 * time.Millisecond); !c.FirstMissed.Equal(want) {
		t.Fatalf("first missed %v, want %v", c.FirstMissed, want)
	}
	r.run(3*time.Second, true, "a", "b", "w")
	r.want()
	r.run(time.Second, true, "a", "b", "w")
	r.want("disaster.over/a", "site.recovered/a")
}

func TestASiteOfWhichOnlyHostsAreLeftIsLost(t *testing.T) {
	r := newRig(t)
	r.hosts = []domain.SiteID{"a"}
	r.run(5*time.Second, true, "a", "b", "w")
	r.want()
	r.run(3500*time.Millisecond, true, "b", "w") // a's services and its server ended, its hosts beat on
	r.want("disaster.suspected/a", "site.suspected/a", "site.lost/a", "disaster.confirmed/a")
	r.run(4*time.Second, true, "a", "b", "w")
	r.want("disaster.over/a", "site.recovered/a")
}

func TestAPausedObserverTellsNothingOfThePause(t *testing.T) {
	r := newRig(t)
	r.run(5*time.Second, true, "a", "b", "w")
	r.at = instant{r.at.at + 20*time.Second, r.at.wall.Add(20 * time.Second)} // suspended
	if v := r.obs.View(r.at, false); !v.Sick {
		t.Fatal("asked first thing after a pause, the observer does not doubt itself")
	}
	r.run(2500*time.Millisecond, true, "b", "w") // and a is lost meanwhile
	r.want()
	r.run(2500*time.Millisecond, true, "b", "w")
	r.want("disaster.suspected/a", "site.lost/a", "disaster.confirmed/a")
}

func TestWithoutItsOwnServerAnObserverTellsNothing(t *testing.T) {
	r := newRig(t)
	r.run(5*time.Second, true, "a", "b", "w")
	r.run(10*time.Second, false, "w") // heartbeats cannot come in; requests to a go unanswered as well
	r.want()
	if !r.obs.View(r.at, false).Sick {
		t.Fatal("the observer does not doubt itself")
	}
	r.run(10*time.Second, true, "a", "b", "w")
	r.want()
	if r.obs.View(r.at, false).Sick {
		t.Fatal("the observer still doubts itself")
	}
}

func TestACutOffObserverTellsItsLinksAndNoDisaster(t *testing.T) {
	r := newRig(t)
	r.run(5*time.Second, true, "a", "b", "w")
	r.run(10*time.Second, true, "b")
	r.want("link.suspected/a-b", "link.suspected/b-w", "link.lost/a-b", "link.lost/b-w")
	s := r.obs.Status(r.at)
	if !s.View.Sick || s.Assessments[1].Class != api.ClassWAN || s.Assessments[0].Class != api.ClassNone {
		t.Fatalf("%+v", s)
	}
	r.run(10*time.Second, true, "a", "b", "w")
	r.want("link.recovered/a-b", "link.recovered/b-w")
}

func TestTheViewForOthersLeavesOutWhatIsWell(t *testing.T) {
	r := newRig(t)
	r.run(5*time.Second, true, "a", "b", "w")
	if got := r.obs.View(r.at, false).Observations; len(got) != 4 {
		t.Fatalf("%+v", got)
	}
	if got := r.obs.View(r.at, true).Observations; len(got) != 12 {
		t.Fatalf("%+v", got)
	}
}

func TestAVMIsExpectedOnceAHostRunsItAndUntilItIsMovedOrStopped(t *testing.T) {
	r := newRig(t)
	probes := newProber(r.obs, DefaultTiming())
	inv := newInventory("b", r.obs, probes)
	vm := func(state string) api.HostStatus {
		return api.HostStatus{Host: "h1", VMs: []api.HostVM{{VM: "v1", Group: "erp", State: state, Address: "127.0.0.1", Port: 80}}}
	}
	group := func(site domain.SiteID) api.GroupDesired {
		return api.GroupDesired{Site: site, Group: domain.Group{ID: "erp", VMs: []domain.VM{{ID: "v1"}}}}
	}
	expected := func(want bool) {
		t.Helper()
		_, watched := r.obs.objects[vmKey("v1", "b")]
		_, probed := probes.targets[vmKey("v1", "b")]
		if watched != want || probed != want {
			t.Fatalf("watched %v, probed %v, want %v", watched, probed, want)
		}
	}
	inv.report(r.at, vm("running"))
	expected(false) // not desired here
	inv.desire(r.at, group("b"))
	expected(true)
	inv.report(r.at, vm("failed"))
	expected(true)
	inv.report(r.at, api.HostStatus{Host: "h1"}) // the host started anew
	expected(true)
	inv.report(r.at, vm("stopped"))
	expected(false)
	inv.report(r.at, vm("running"))
	expected(true)
	inv.desire(r.at, group("a"))
	expected(false)
	r.obs.good(r.at, vmKey("v1", "b")) // a probe that was under way
	expected(false)
}

func TestHeartbeatsThatLieAreNotTaken(t *testing.T) {
	sites := testConfig("b").Sites
	good := `{"site":"a","node":"quorum","kind":"quorum"}`
	if hb, err := readHeartbeat(sites, "hf.v1.hb.a.quorum", []byte(good)); err != nil || hb.Site != "a" {
		t.Fatalf("%+v, %v", hb, err)
	}
	for _, c := range []struct{ subject, data string }{
		{"hf.v1.hb.w.quorum", good}, {"hf.v1.hb.a.dns", good}, {"hf.v1.hb.a.quorum", "{"},
		{"hf.v1.hb.z.quorum", `{"site":"z","node":"quorum"}`}, {"hf.v1.hb.a.", `{"site":"a","node":""}`},
	} {
		if _, err := readHeartbeat(sites, c.subject, []byte(c.data)); err == nil {
			t.Errorf("%s %s was taken", c.subject, c.data)
		}
	}
}

func TestConfigIsRefusedByField(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"site":       func(c *Config) { c.Site = "z" },
		"sites":      func(c *Config) { c.Sites = append(c.Sites, c.Sites[0]) },
		"host":       func(c *Config) { c.Hosts = []Host{{ID: "h1", Probe: "nowhere"}} },
		"hosts":      func(c *Config) { c.Hosts = []Host{{ID: "h1"}, {ID: "h1"}} },
		"replicator": func(c *Config) { c.Replicator = "x" },
		"vantages":   func(c *Config) { c.Vantages = 1 },
		"beat":       func(c *Config) { c.Timing.Beat = 0 },
		"pause":      func(c *Config) { c.Timing.PauseLimit = 0 },
	} {
		c := testConfig("b")
		change(&c)
		if err := c.Validate(); !errors.Is(err, domain.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := testConfig("b").Validate(); err != nil {
		t.Fatal(err)
	}
}
