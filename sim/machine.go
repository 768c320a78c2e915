package sim

import (
	"time"

	"github.com/holdfast-dr/holdfast/services/quorum/core"
)

// machine is one computer with one process of ours.
type machine struct {
	w    *world
	name string
	site int

	up     bool
	boot   int           // counts boots
	proc   int           // counts process starts
	paused time.Duration // nothing runs before this real time

	rate     float64       // of the clock against real time
	base     core.Instant  // reading at realBase
	realBase time.Duration //
	step     time.Duration // of the wall clock, for the mutant that runs on it
	offTill  time.Duration // switched off before this real time, by the word of an operator
	frozen   bool          // suspended with a clock that stops, for the mutant
}

func (w *world) addMachine(name string, site int) *machine {
	m := &machine{w: w, name: name, site: site, up: true, boot: 1, rate: w.randomRate(),
		base: core.Instant(w.between(20*time.Second, time.Hour))}
	w.machines = append(w.machines, m)
	return m
}

func (w *world) randomRate() float64 {
	eps := w.cfg.drift
	switch w.rng.IntN(4) {
	case 0:
		return 1 + eps
	case 1:
		return 1 - eps
	}
	return 1 + eps*(2*w.rng.Float64()-1)
}

// local is what the machine's clock reads now.
func (m *machine) local() core.Instant {
	t := m.base
	if !m.frozen {
		t = t.Add(time.Duration(float64(m.w.now-m.realBase) * m.rate))
	}
	if m.w.mut.WallClock {
		t = t.Add(m.step)
	}
	return t
}

func (m *machine) rebase(rate float64) {
	step := m.step
	m.step = 0
	m.base, m.realBase, m.rate = m.local(), m.w.now, rate
	m.step = step
}

// at runs f when the machine's clock reads t, if the same process is then alive.
func (m *machine) at(t core.Instant, f func()) {
	wait := time.Duration(float64(t.Sub(m.local()))/m.rate) + 1
	m.after(max(wait, 0), f)
}

// after runs f in this process after d of real time, or when a pause ends.
func (m *machine) after(d time.Duration, f func()) {
	proc := m.proc
	m.w.after(d, func() {
		if m.up && m.proc == proc {
			m.run(f, proc)
		}
	})
}

// deliver runs f in whatever process is alive, now or when a pause ends.
func (m *machine) deliver(f func()) {
	if m.up {
		m.run(f, -1)
	}
}

func (m *machine) run(f func(), proc int) {
	if m.w.now >= m.paused {
		f()
		return
	}
	m.w.at(m.paused, func() {
		if m.up && (proc < 0 || m.proc == proc) {
			m.run(f, proc)
		}
	})
}

// pause stops the process for d; a suspended machine's boot clock goes on.
func (m *machine) pause(d time.Duration, suspend bool) {
	if !m.up {
		return
	}
	m.paused = max(m.paused, m.w.now+d)
	if suspend && m.w.mut.ClockStopsInSuspend {
		m.rebase(m.rate)
		m.frozen = true
		m.w.after(d, func() {
			if m.frozen {
				m.frozen = false
				m.realBase = m.w.now
			}
		})
	}
}

// restartProcess kills the process and starts it after d.
func (m *machine) restartProcess(d time.Duration) {
	if !m.up {
		return
	}
	m.w.killed(m)
	m.up = false
	m.proc++
	proc := m.proc
	m.w.after(d, func() {
		if m.proc == proc {
			m.up, m.paused = true, 0
			m.w.started(m, false)
		}
	})
}

// reboot crashes the machine and boots it after d: its clock begins at zero.
func (m *machine) reboot(d time.Duration) {
	if m.up {
		m.w.killed(m)
	}
	m.up, m.frozen = false, false
	m.proc++
	m.boot++
	proc := m.proc
	m.w.after(max(d, m.offTill-m.w.now), func() {
		if m.proc != proc {
			return
		}
		m.up, m.paused = true, 0
		m.base, m.realBase, m.rate = 0, m.w.now, m.w.randomRate()
		m.base = core.Instant(m.w.between(0, 50*time.Millisecond)) // services start a little after the boot
		m.w.started(m, true)
	})
}
