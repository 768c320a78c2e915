package aware

import (
	"fmt"
	"time"
)

// Low is the confidence of an observer that doubts itself.
const Low = 0.1

const (
	full    = 4 // Pauses of lateness are remembered at most
	starved = 2 // Pauses of lateness make an observer doubt itself
	calm    = 1 // Pauses of lateness end that
	leak    = 4 // this many Pauses on time make up for one of lateness
)

// Params is how an observer judges itself.
type Params struct {
	Tick   time.Duration // between two ticks
	Pause  time.Duration // a tick that is later than this was no delay but a pause
	Listen time.Duration // how long a loss takes to show
}

// Self is an observer's awareness of itself. It is not safe for concurrent use. Times are readings of the observer's clock.
type Self struct {
	p         Params
	last      time.Duration // tick
	debt      time.Duration // of lateness
	hungry    bool
	doubtTill time.Duration // after a pause or deafness
	because   string        // of doubtTill
	deaf      string        // why it cannot hear now; empty when it can
}

// New begins without doubt.
func New(p Params, now time.Duration) *Self { return &Self{p: p, last: now} }

// Woke looks whether this process did not run for a while, and reports whether all that was missed until now is to be forgiven. It is
// asked before anything that was received is taken.
func (s *Self) Woke(now time.Duration) bool {
	late := now - s.last - s.p.Tick
	if late <= s.p.Pause {
		return false
	}
	s.doubt(now, fmt.Sprintf("it was paused for %s", (late+s.p.Tick).Round(100*time.Millisecond)))
	s.last = now
	return true
}

// Tick notes that a tick ran, and returns by how much it was too late to hear in time: nothing, where that is little.
func (s *Self) Tick(now time.Duration) (late time.Duration) {
	passed := now - s.last
	s.last = now
	s.debt = max(0, s.debt-passed/leak)
	if late = passed - s.p.Tick; late < s.p.Pause/4 {
		late = 0
	}
	s.debt = min(full*s.p.Pause, s.debt+late)
	switch {
	case s.debt >= starved*s.p.Pause:
		s.hungry = true
	case s.debt < calm*s.p.Pause:
		s.hungry = false
	}
	return late
}

// Hears notes whether this observer can hear, and why not. It reports whether all that was missed until now is to be forgiven, as it
// hears again.
func (s *Self) Hears(now time.Duration, why string) bool {
	again := s.deaf != "" && why == ""
	if again {
		s.doubt(now, s.deaf+" until just now")
	}
	s.deaf = why
	return again
}

func (s *Self) doubt(now time.Duration, why string) { s.doubtTill, s.because = now+s.p.Listen, why }

// Doubts are the reasons this observer doubts itself; none when it does not.
func (s *Self) Doubts(now time.Duration) []string {
	var out []string
	if now < s.doubtTill {
		out = append(out, s.because)
	}
	if s.deaf != "" {
		out = append(out, s.deaf)
	}
	if s.hungry {
		out = append(out, fmt.Sprintf("it is starved: its timer ran %s late in all, lately", s.debt.Round(100*time.Millisecond)))
	}
	return out
}

// Confidence is how much what this observer sees is worth: 1 when it ran on time, less when it ran late, Low when it doubts itself.
func (s *Self) Confidence(now time.Duration) float64 {
	if now < s.doubtTill || s.deaf != "" || s.hungry {
		return Low
	}
	return 1 - float64(s.debt)/float64(full*s.p.Pause)
}
