package sim

import (
	"time"

	"github.com/holdfast-dr/holdfast/services/quorum/core"
)

// scheduleFaults draws every fault of the schedule. Each mends itself.
func (w *world) scheduleFaults() {
	g := w.cfg.timing.G
	for t := w.between(g/4, g); t < w.cfg.length; t += w.between(g/8, g) {
		w.at(t, w.fault)
	}
	if w.cfg.moves {
		for t := w.between(g/2, 2*g); t < w.cfg.length; t += w.between(g/2, 3*g) {
			w.at(t, w.move)
		}
	}
	if w.cfg.reweigh {
		for t := w.between(g/2, 2*g); t < w.cfg.length; t += w.between(g/4, 2*g) {
			w.at(t, w.reweigh)
		}
	}
	if w.cfg.forces {
		w.op.schedule()
	}
	if w.cfg.consent {
		w.at(w.between(g, w.cfg.length), func() { w.anySite().q.deliver(func() { w.consent() }) })
	}
}

func (w *world) anyMachine() *machine { return w.machines[w.rng.IntN(len(w.machines))] }
func (w *world) anySite() *siteNode   { return w.sites[w.rng.IntN(len(w.sites))] }

func (w *world) fault() {
	g := w.cfg.timing.G
	switch w.rng.IntN(12) {
	case 0, 1:
		w.partition(w.between(g/10, 3*g))
	case 2:
		w.oneWay(w.between(g/10, 3*g))
	case 3, 4:
		w.chaos(w.between(g/10, 2*g))
	case 5:
		m := w.anyMachine()
		m.rebase(w.randomRate())
		w.logf("%s clock rate %.4f", m.name, m.rate)
		w.stepWall(m)
	case 6, 7:
		m, d := w.anyMachine(), w.between(g/20, 2*g)
		suspend := w.chance(0.5)
		w.logf("%s pauses %v, suspend %v", m.name, d, suspend)
		m.pause(d, suspend)
	case 8, 9:
		w.anyMachine().restartProcess(w.between(time.Millisecond, g/4))
	case 10:
		w.anyMachine().reboot(w.between(g/20, 2*g))
	case 11:
		w.loseSite(w.between(g/10, 3*g))
	}
}

func (w *world) stepWall(m *machine) {
	if w.mut.WallClock {
		m.step += w.between(-2*w.cfg.timing.G, 2*w.cfg.timing.G)
	}
}

// partition cuts one site off, or splits the sites in two.
func (w *world) partition(d time.Duration) {
	n := w.cfg.topo.Sites
	side := 1 << w.rng.IntN(n)
	if w.chance(0.3) {
		side = w.rng.IntN(1 << n)
	}
	w.logf("partition %b for %v", side, d)
	w.sever(d, func(i, j int) bool { return side>>i&1 != side>>j&1 })
}

func (w *world) oneWay(d time.Duration) {
	n := w.cfg.topo.Sites
	from, to, all := w.rng.IntN(n), w.rng.IntN(n), w.chance(0.5)
	w.logf("one-way cut from %d to %d (to all %v) for %v", from, to, all, d)
	w.sever(d, func(i, j int) bool { return i == from && i != j && (all || j == to) })
}

func (w *world) sever(d time.Duration, which func(i, j int) bool) {
	var mine [8][8]bool
	for i := range w.cfg.topo.Sites {
		for j := range w.cfg.topo.Sites {
			if which(i, j) && !w.cut[i][j] {
				w.cut[i][j], mine[i][j] = true, true
			}
		}
	}
	w.after(d, func() {
		for i := range mine {
			for j := range mine[i] {
				if mine[i][j] {
					w.cut[i][j] = false
				}
			}
		}
	})
}

func (w *world) chaos(d time.Duration) {
	w.drop, w.dup, w.late, w.localLate = w.rng.Float64()*0.4, w.rng.Float64()*0.3, w.rng.Float64()*0.3, w.rng.Float64()*0.2
	w.logf("chaos: drop %.2f, duplicate %.2f, late %.2f for %v", w.drop, w.dup, w.late, d)
	w.after(d, func() { w.drop, w.dup, w.late, w.localLate = 0, 0, 0, 0 })
}

func (w *world) loseSite(d time.Duration) {
	site := w.rng.IntN(w.cfg.topo.Sites)
	w.logf("site %d lost for %v", site, d)
	for _, m := range w.machines {
		if m.site == site {
			m.reboot(d + w.between(0, w.cfg.timing.G/10))
		}
	}
}

func (w *world) holder() *siteNode {
	for _, s := range w.sites {
		if s.q.up {
			if _, ok := s.c.Lease(s.q.local()); ok {
				return s
			}
		}
	}
	return nil
}

func (w *world) move() {
	from, to := w.holder(), w.anySite()
	if from == nil {
		return
	}
	if from == to { // restarts within its own site, under a new epoch
		from.q.deliver(func() {
			if l, ok := from.c.Lease(from.q.local()); ok {
				from.do(from.c.Campaign(from.q.local(), core.Campaign{Above: l.Epoch}))
			}
		})
		return
	}
	from.q.deliver(func() {
		if l, ok := from.c.Lease(from.q.local()); ok && l.Reg.Holds(to.id) {
			from.release(to)
		}
	})
}

func (w *world) reweigh() {
	from := w.holder()
	if from == nil {
		return
	}
	weights := core.Weights{}
	for _, v := range w.cfg.topo.Voters {
		if w.chance(0.5) {
			weights[v.ID] = 1 + w.rng.IntN(2)
		}
	}
	from.q.deliver(func() {
		w.logf("%s asks for weights %v", from.id, weights)
		from.do(from.c.ProposeConfig(from.q.local(), weights))
	})
}

func (w *world) consent() {
	s := w.anySite()
	if s.q.up {
		w.logf("%s may accept a loss", s.id)
		s.campaign(true)
	}
}

// heal mends everything that has not mended itself.
func (w *world) heal() {
	w.logf("healed")
	w.healed = true
	w.cut = [8][8]bool{}
	w.drop, w.dup, w.late, w.localLate = 0, 0, 0, 0
	for _, s := range w.sites {
		if s.c.Forcing() && s.q.up {
			s.do(s.c.Withdraw(s.q.local())) // the operator's word is over: the lost machines come back
			s.campaign(false)
		}
	}
	for _, m := range w.machines {
		m.offTill = 0
		if m.frozen {
			m.frozen, m.realBase = false, w.now
		}
		m.paused = min(m.paused, w.now)
		if !m.up {
			m.reboot(0)
		}
	}
}
