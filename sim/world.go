package sim

import (
	"fmt"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
)

// world is one schedule under way.
type world struct {
	*engine
	cfg      scenario
	mut      Mutations
	machines []*machine
	voters   []*voterNode
	shares   []*shareNode
	sites    []*siteNode // data sites
	places   map[core.VoterID]domain.SiteID
	initial  core.Register

	cut       [8][8]bool // from site, to site
	drop, dup float64
	late      float64 // chance of a delay up to 3G
	localLate float64 // the same on links within a site
	healed    bool
	counter   uint64 // incarnations

	op        *operator
	ledger    ledger
	violation string
}

func newWorld(seed uint64, mut Mutations, trace func(string)) *world {
	w := &world{engine: newEngine(seed), mut: mut}
	w.trace = trace
	w.build(w.hireOperator(seed, w.drawScenario()))
	return w
}

// build sets the sites up as the scenario says.
func (w *world) build(cfg scenario) {
	w.cfg = cfg
	w.places, w.initial = w.cfg.topo.places(), w.cfg.topo.initial()
	for i := range w.cfg.topo.Data {
		w.addSite(i)
	}
	for _, v := range w.cfg.topo.Voters {
		w.addVoter(v)
	}
	for _, s := range w.sites {
		s.warm = s.q.boot
		s.start()
		s.plane.start()
	}
}

func (w *world) drawScenario() scenario {
	all := Topologies()
	c := scenario{topo: all[w.rng.IntN(len(all))], timing: core.DefaultTiming()}
	if w.chance(0.5) {
		c.timing = core.FastTiming()
	}
	c.drift = c.timing.Epsilon
	if w.mut.WideDrift {
		c.drift *= 10
	}
	c.length = w.between(6*c.timing.G, 14*c.timing.G)
	c.moves, c.reweigh = w.chance(0.5), w.chance(0.3)
	c.degrade, c.consent = w.chance(0.8), w.chance(0.04)
	c.latency = w.between(time.Millisecond, c.timing.G/50)
	c.writeGap = c.timing.G / 20
	return c
}

// violate ends the schedule.
func (w *world) violate(format string, args ...any) {
	if w.violation == "" {
		w.violation = fmt.Sprintf(format, args...)
		w.logf("VIOLATION %s", w.violation)
	}
}

func (w *world) broken() bool { return w.violation != "" }

// transit carries f over a link between sites: perhaps never, perhaps twice, perhaps late.
func (w *world) transit(from, to int, f func()) {
	if w.cut[from][to] {
		return
	}
	if from == to {
		d := w.between(100*time.Microsecond, 2*time.Millisecond)
		if w.chance(w.localLate) {
			d = w.between(0, 3*w.cfg.timing.G)
		}
		w.after(d, f)
		return
	}
	if w.chance(w.drop) {
		return
	}
	w.after(w.delay(), f)
	if w.chance(w.dup) {
		w.after(w.delay(), f)
	}
}

func (w *world) delay() time.Duration {
	if w.chance(w.late) {
		return w.between(0, 3*w.cfg.timing.G)
	}
	return w.between(w.cfg.latency/4, w.cfg.latency)
}

// killed and started tell everything on a machine that its process is gone or new.
func (w *world) killed(m *machine) {
	w.logf("%s dies", m.name)
	for _, v := range w.voters {
		if v.m == m {
			v.killed()
		}
	}
}

func (w *world) started(m *machine, rebooted bool) {
	w.logf("%s starts, rebooted %v, clock %v", m.name, rebooted, time.Duration(m.local()))
	for _, v := range w.voters {
		if v.m == m {
			v.start(rebooted)
		}
	}
	for _, s := range w.sites {
		if s.q == m {
			s.start()
		}
		if s.plane.m == m {
			s.plane.start()
		}
	}
	for _, v := range w.voters {
		if v.m == m {
			v.heard()
		}
	}
}

func (w *world) siteIndex(id domain.SiteID) int {
	for _, s := range w.sites {
		if s.id == id {
			return s.index
		}
	}
	return -1
}
