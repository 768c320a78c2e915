package survey

import (
	"math"
	"slices"
)

// Step is what a group wrote in a stretch of time, in bytes of frames. Steps follow one another in time.
type Step struct {
	At      float64 // seconds, of any epoch
	Seconds float64
	Bytes   float64
	Peak    float64 // of Bytes, in the busiest second
}

// Played is what became of the steps on a link.
type Played struct {
	Worst   float64   // seconds that the last of a burst waited, at most
	P95     float64   // over time
	Backlog float64   // bytes that waited, at most
	Left    float64   // bytes that still waited at the end
	delays  []delayed // by step
}

type delayed struct{ seconds, weight float64 }

// Play sends the steps over a link of a bandwidth, first in first out, and tells how long what was written had to wait: the
// time by which a target lags, and that would be lost with the site.
//
// What is not known is taken for the worst: the busiest second of a step comes first, each second's bytes are all written at
// its beginning, and a stretch between two steps that was not recorded only drains. With a queue of Q bytes before a link of
// bandwidth B the last of them waits Q/B; since every Q stands at a step's beginning or end, the greatest is found there.
func Play(steps []Step, bandwidth float64) Played {
	if bandwidth <= 0 {
		return Played{}
	}
	return play(steps, steady(bandwidth))
}

// play is Play where the bandwidth may be another one at other times. Within a step it is that of its beginning.
func play(steps []Step, r room) Played {
	var p Played
	if len(steps) == 0 {
		return p
	}
	queue, at := 0.0, steps[0].At
	for _, s := range steps {
		for at < s.At { // not recorded
			next := min(s.At, math.Floor(at/minute+1)*minute)
			queue, at = max(0, queue-r.rate(at)*(next-at)), next
		}
		at = s.At
		full, when, rate := queue, at, r.rate(at)
		add := func(bytes, seconds float64) {
			queue += bytes
			if queue > full {
				full, when = queue, at
			}
			p.Backlog = max(p.Backlog, queue)
			queue, at = max(0, queue-rate*seconds), at+seconds
		}
		first := min(1, s.Seconds)
		peak := min(max(s.Peak, 0), s.Bytes)
		if s.Seconds <= 1 {
			peak = s.Bytes
		}
		add(peak, first)
		if rest := s.Seconds - first; rest > 0 {
			drain(add, s.Bytes-peak, rest)
		}
		waited := r.wait(full, when)
		p.Worst = max(p.Worst, waited)
		p.delays = append(p.delays, delayed{waited, s.Seconds})
	}
	p.Left, p.P95 = queue, p.percentile(0.95)
	return p
}

// drain writes bytes evenly over whole seconds, each second's at its beginning.
func drain(add func(bytes, seconds float64), bytes, seconds float64) {
	for left := seconds; left > 0; left-- {
		part := min(1, left)
		add(bytes*part/seconds, part)
	}
}

// percentile is the delay that was not exceeded in a part of the time.
func (p *Played) percentile(part float64) float64 {
	slices.SortFunc(p.delays, func(a, b delayed) int {
		switch {
		case a.seconds < b.seconds:
			return -1
		case a.seconds > b.seconds:
			return 1
		}
		return 0
	})
	whole := 0.0
	for _, d := range p.delays {
		whole += d.weight
	}
	sum := 0.0
	for _, d := range p.delays {
		if sum += d.weight; sum >= part*whole {
			return d.seconds
		}
	}
	return 0
}

// Needs is the bandwidth at which nothing would have waited longer than a time, within one part in a thousand.
func Needs(steps []Step, wait float64) float64 {
	low, high := 0.0, 0.0
	for _, s := range steps {
		high = max(high, s.Bytes/max(s.Seconds, 1), s.Peak)
	}
	if high == 0 || wait <= 0 {
		return high
	}
	for high = high * max(1, 1/wait); high-low > high/1000; {
		if mid := (low + high) / 2; Play(steps, mid).Worst > wait {
			low = mid
		} else {
			high = mid
		}
	}
	return high
}

// Heaviest is the most that was written in any stretch of a length, and its rate where less than that was recorded at all: the
// stretch then is taken to go on at the mean rate.
func Heaviest(steps []Step, length float64) float64 {
	most, sum, covered, from := 0.0, 0.0, 0.0, 0
	for _, s := range steps {
		sum, covered = sum+s.Bytes, covered+s.Seconds
		for s.At+s.Seconds-steps[from].At > length && steps[from].At < s.At {
			sum -= steps[from].Bytes
			from++
		}
		most = max(most, sum)
	}
	if covered > 0 && covered < length {
		return max(most, mean(steps)*length)
	}
	return most
}

func mean(steps []Step) float64 {
	bytes, seconds := 0.0, 0.0
	for _, s := range steps {
		bytes, seconds = bytes+s.Bytes, seconds+s.Seconds
	}
	if seconds == 0 {
		return 0
	}
	return bytes / seconds
}
