package sim

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// engine is the virtual time: a heap of events in order of time, then of insertion.
type engine struct {
	now   time.Duration
	rng   *rand.Rand
	heap  []event
	order uint64
	steps int
	trace func(string)
}

type event struct {
	at    time.Duration
	order uint64
	run   func()
}

func newEngine(seed uint64) *engine {
	return &engine{rng: rand.New(rand.NewPCG(seed, 0x686f6c6466617374)), heap: make([]event, 0, 256)}
}

func (e event) before(o event) bool { return e.at < o.at || e.at == o.at && e.order < o.order }

func (e *engine) at(t time.Duration, run func()) {
	e.order++
	e.heap = append(e.heap, event{max(t, e.now), e.order, run})
	i := len(e.heap) - 1
	for i > 0 {
		up := (i - 1) / 2
		if !e.heap[i].before(e.heap[up]) {
			break
		}
		e.heap[i], e.heap[up] = e.heap[up], e.heap[i]
		i = up
	}
}

func (e *engine) after(d time.Duration, run func()) { e.at(e.now+d, run) }

func (e *engine) pop() event {
	top := e.heap[0]
	n := len(e.heap) - 1
	e.heap[0] = e.heap[n]
	e.heap[n] = event{}
	e.heap = e.heap[:n]
	i := 0
	for {
		least, l, r := i, 2*i+1, 2*i+2
		if l < n && e.heap[l].before(e.heap[least]) {
			least = l
		}
		if r < n && e.heap[r].before(e.heap[least]) {
			least = r
		}
		if least == i {
			return top
		}
		e.heap[i], e.heap[least] = e.heap[least], e.heap[i]
		i = least
	}
}

// runUntil runs events up to end, or until stop says so.
func (e *engine) runUntil(end time.Duration, stop func() bool) {
	for len(e.heap) > 0 && e.heap[0].at <= end && !stop() {
		ev := e.pop()
		e.now = ev.at
		e.steps++
		ev.run()
	}
	if !stop() {
		e.now = end
	}
}

func (e *engine) logf(format string, args ...any) {
	if e.trace != nil {
		e.trace(fmt.Sprintf("%9.4f  ", e.now.Seconds()) + fmt.Sprintf(format, args...))
	}
}

// between is uniform in [lo, hi].
func (e *engine) between(lo, hi time.Duration) time.Duration {
	if hi <= lo {
		return lo
	}
	return lo + time.Duration(e.rng.Int64N(int64(hi-lo)+1))
}

func (e *engine) chance(p float64) bool { return p > 0 && e.rng.Float64() < p }
