package survey

import (
	"math"
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// room is what a group may send over a link, at times in seconds since 1970.
type room interface {
	// rate is bytes a second at a time.
	rate(at float64) float64
	// wait is how long bytes that queue at a time take until the last of them is sent.
	wait(bytes, at float64) float64
	// mean is the rate over the steps' time.
	mean(steps []Step) float64
}

// steady is the same bytes a second at all times.
type steady float64

func (s steady) rate(float64) float64          { return float64(s) }
func (s steady) wait(bytes, _ float64) float64 { return bytes / float64(s) }
func (s steady) mean([]Step) float64           { return float64(s) }

const minute = 60 // seconds: windows of a schedule begin and end on it

// horizon is how long after the last step a schedule is looked at: a week has every window once. What waits longer than that is
// told as waiting for so long.
const horizon = 7 * 24 * 3600.0

// byMinute is a rate by the minute.
type byMinute struct {
	from  float64   // of the first
	rates []float64 // of each
	sums  []float64 // bytes that may be sent before each, and at last before the end
}

func newByMinute(steps []Step, rate func(at time.Time) float64) byMinute {
	last := steps[len(steps)-1]
	m := byMinute{from: math.Floor(steps[0].At/minute) * minute}
	n := int((last.At+last.Seconds+horizon-m.from)/minute) + 1
	m.rates, m.sums = make([]float64, n), make([]float64, n+1)
	for i := range n {
		m.rates[i] = rate(time.Unix(int64(m.from)+int64(i)*minute, 0))
		m.sums[i+1] = m.sums[i] + m.rates[i]*minute
	}
	return m
}

func (m byMinute) index(at float64) int { return min(max(int((at-m.from)/minute), 0), len(m.rates)-1) }

func (m byMinute) rate(at float64) float64 { return m.rates[m.index(at)] }

func (m byMinute) wait(bytes, at float64) float64 {
	if bytes <= 0 {
		return 0
	}
	i := m.index(at)
	want := m.sums[i] + (at-m.from-float64(i)*minute)*m.rates[i] + bytes
	j, _ := slices.BinarySearch(m.sums, want) // the end of the minute in which the last of it is sent
	if j >= len(m.sums) {
		return m.from + float64(len(m.rates))*minute - at
	}
	return m.from + float64(j-1)*minute + (want-m.sums[j-1])/m.rates[j-1] - at
}

func (m byMinute) mean(steps []Step) float64 {
	bytes, seconds := 0.0, 0.0
	for _, s := range steps {
		bytes, seconds = bytes+s.Seconds*m.rate(s.At), seconds+s.Seconds
	}
	return bytes / max(seconds, 1)
}

// roomFor is what of the room that a link has, less what other groups write, a group may use asynchronously: its transport bounds
// it, and the link's own bound all groups.
func roomFor(steps []Step, n Need, left, others float64, bound domain.Transport) room {
	rate := func(own, all domain.Rate) float64 {
		r := left
		if all > 0 {
			r = min(r, max(0, float64(all)-others))
		}
		if own > 0 {
			r = min(r, float64(own))
		}
		return r
	}
	if len(steps) == 0 || len(n.Transport.Schedule)+len(bound.Schedule) == 0 {
		return steady(rate(n.Transport.RateLimit, bound.RateLimit))
	}
	return newByMinute(steps, func(at time.Time) float64 { return rate(n.Transport.Rate(at), bound.Rate(at)) })
}
