package sim

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// Result is what one schedule came to.
type Result struct {
	Seed      uint64
	Violation string // "" when every invariant held
	Topology  string
	Events    int
	Grants    int           // epochs granted
	Begins    int           // times a site began to serve
	Forced    bool          // an epoch was granted by force
	Writes    int           // acknowledged
	Takeover  time.Duration // from the end of the faults until a site serves, real time
}

// Run runs the schedule of one seed. trace, when not nil, is given every line of the transcript.
func Run(seed uint64, mut Mutations, trace func(string)) Result {
	w := newWorld(seed, mut, trace)
	w.logf("seed %d: %s, G %v, latency %v, faults for %v", seed, w.cfg.topo.Name, w.cfg.timing.G, w.cfg.latency, w.cfg.length)
	w.scheduleFaults()
	w.runUntil(w.cfg.length, w.broken)
	r := Result{Seed: seed, Topology: w.cfg.topo.Name}
	if !w.broken() {
		w.heal()
		healed := w.now
		w.runUntil(healed+4*w.cfg.timing.G, func() bool { return w.broken() || w.serving() })
		r.Takeover = w.now - healed
		if !w.broken() && !w.serving() {
			w.violate("L: nobody serves %v after every fault was mended", r.Takeover)
		}
		w.restore()
		w.runUntil(w.now+w.cfg.timing.G/2, w.broken)
	}
	r.Violation, r.Events, r.Writes = w.violation, w.engine.steps, len(w.ledger.acked)
	r.Grants, r.Begins, r.Forced = w.ledger.grants, w.ledger.begins, w.op.forced
	return r
}

func (w *world) serving() bool {
	for _, s := range w.sites {
		if s.plane.open() {
			return true
		}
	}
	return false
}

// Summary is what many schedules came to.
type Summary struct {
	Schedules int
	Events    int64
	Grants    int64
	Begins    int64
	Forced    int64 // schedules in which an epoch was granted by force
	Writes    int64
	Violation *Result // of the lowest seed found, nil when every invariant held
	Elapsed   time.Duration
}

// String is one line for a person.
func (s Summary) String() string {
	verdict := "no violation"
	if s.Violation != nil {
		verdict = fmt.Sprintf("VIOLATION with seed %d: %s", s.Violation.Seed, s.Violation.Violation)
	}
	return fmt.Sprintf("%d schedules, %d events, %d epochs, %d takeovers, %d with a forced quorum, %d acknowledged writes in %v: %s",
		s.Schedules, s.Events, s.Grants, s.Begins, s.Forced, s.Writes, s.Elapsed.Round(10*time.Millisecond), verdict)
}

// Many runs n schedules with seeds from first on, on all processors, and stops at the first violation.
func Many(first uint64, n int, mut Mutations) Summary {
	var (
		next  atomic.Uint64
		found atomic.Bool
		mu    sync.Mutex
		sum   Summary
		wg    sync.WaitGroup
	)
	began := time.Now()
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for !found.Load() {
				i := next.Add(1) - 1
				if i >= uint64(n) {
					return
				}
				r := Run(first+i, mut, nil)
				mu.Lock()
				sum.add(r)
				mu.Unlock()
				if r.Violation != "" {
					found.Store(true)
				}
			}
		})
	}
	wg.Wait()
	sum.Elapsed = time.Since(began)
	return sum
}

func (s *Summary) add(r Result) {
	s.Schedules++
	s.Events += int64(r.Events)
	s.Grants += int64(r.Grants)
	s.Begins += int64(r.Begins)
	if r.Forced {
		s.Forced++
	}
	s.Writes += int64(r.Writes)
	if r.Violation != "" && (s.Violation == nil || r.Seed < s.Violation.Seed) {
		s.Violation = &r
	}
}
