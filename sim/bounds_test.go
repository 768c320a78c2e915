package sim

import (
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/services/quorum/core"
)

// settled is a world without faults in which a site serves.
func settledWorld(t *testing.T, seed uint64, topo Topology, timing core.Timing) (*world, *siteNode) {
	t.Helper()
	w := &world{engine: newEngine(seed)}
	w.build(scenario{topo: topo, timing: timing, drift: timing.Epsilon, degrade: true,
		latency: 125 * time.Millisecond / 2, writeGap: timing.G / 20})
	w.runUntil(w.between(2*timing.G, 4*timing.G), w.broken)
	s := w.holder()
	if s == nil || !s.plane.open() {
		t.Fatalf("seed %d: nobody serves after %v", seed, w.now)
	}
	return w, s
}

func (w *world) otherServes(than *siteNode) func() bool {
	return func() bool {
		for _, s := range w.sites {
			if s != than && s.plane.open() {
				return true
			}
		}
		return w.broken()
	}
}

func profiles() map[string]struct {
	timing         core.Timing
	takeover, move time.Duration
} {
	return map[string]struct {
		timing         core.Timing
		takeover, move time.Duration
	}{
		"default": {core.DefaultTiming(), 7200 * time.Millisecond, 580 * time.Millisecond},
		"fast":    {core.FastTiming(), 2400 * time.Millisecond, 580 * time.Millisecond},
	}
}

func TestTakeoverAfterSiteDeathIsBounded(t *testing.T) {
	for name, p := range profiles() {
		for _, topo := range Topologies()[:3] {
			bound := p.takeover
			if topo.Voters[len(topo.Voters)-1].Passive {
				bound += p.timing.Poll // the heartbeat's standstill is seen a poll late
			}
			if topo.Data > 2 {
				bound += time.Second // two challengers may meet and both step back once
			}
			t.Run(name+"/"+topo.Name, func(t *testing.T) {
				var worst time.Duration
				for seed := uint64(1); seed <= 200; seed++ {
					w, s := settledWorld(t, seed, topo, p.timing)
					died := w.now
					for _, m := range w.machines {
						if m.site == s.index {
							m.reboot(time.Hour)
						}
					}
					w.runUntil(died+4*p.timing.G, w.otherServes(s))
					if w.broken() {
						t.Fatalf("seed %d: %s", seed, w.violation)
					}
					worst = max(worst, w.now-died)
				}
				t.Logf("worst of 200: %v, bound %v", worst, bound)
				if worst > bound {
					t.Errorf("takeover took %v, bound %v", worst, bound)
				}
			})
		}
	}
}

func TestPlannedMoveIsBounded(t *testing.T) {
	for name, p := range profiles() {
		for _, topo := range Topologies()[:2] {
			t.Run(name+"/"+topo.Name, func(t *testing.T) {
				var worst time.Duration
				for seed := uint64(1); seed <= 200; seed++ {
					w, s := settledWorld(t, seed, topo, p.timing)
					began := w.now
					s.release(w.sites[1-s.index])
					w.runUntil(began+4*p.timing.G, w.otherServes(s))
					if w.broken() {
						t.Fatalf("seed %d: %s", seed, w.violation)
					}
					worst = max(worst, w.now-began)
				}
				t.Logf("worst of 200: %v, bound %v", worst, p.move)
				if worst > p.move {
					t.Errorf("the move took %v, bound %v", worst, p.move)
				}
			})
		}
	}
}
