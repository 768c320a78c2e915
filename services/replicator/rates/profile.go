package rates

import (
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
)

// Hour gives the seconds of the last hour that were recorded, oldest first; the one under way is not among them.
func (r *Recorder) Hour(now time.Time) []Slot {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seconds.since(now.Unix()-SecondsKept, now.Unix()-1)
}

// Week gives the minutes of the last week that were recorded, oldest first; the one under way is among them.
func (r *Recorder) Week(now time.Time) []Slot {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.minutes.since(now.Unix()-MinutesKept*60, now.Unix())
}

// Profile sums slots of one length up.
func Profile(slots []Slot, step time.Duration) api.WriteProfile {
	p := api.WriteProfile{Step: step.Seconds()}
	if len(slots) == 0 {
		return p
	}
	p.From, p.To = time.Unix(slots[0].At, 0).UTC(), time.Unix(slots[len(slots)-1].At, 0).Add(step).UTC()
	var writes, bytes, frames []float64
	var blocks, unique uint64
	for _, s := range slots {
		n := float64(max(s.Seconds, 1))
		p.Covered += float64(s.Seconds)
		writes = append(writes, float64(s.Writes)/n)
		bytes = append(bytes, float64(s.Bytes)/n)
		frames = append(frames, float64(s.Frames)/n)
		blocks, unique = blocks+s.Blocks, unique+s.Unique
		p.PeakSecond = max(p.PeakSecond, float64(s.Peak))
	}
	p.Writes, p.Bytes, p.Frames = spread(writes), spread(bytes), spread(frames)
	if blocks > 0 {
		p.Rewritten = 1 - float64(unique)/float64(blocks)
	}
	return p
}

// spread sorts v.
func spread(v []float64) api.Spread {
	slices.Sort(v)
	s := api.Spread{P50: v[(len(v)-1)*50/100], P95: v[(len(v)-1)*95/100], P99: v[(len(v)-1)*99/100], Max: v[len(v)-1]}
	for _, x := range v {
		s.Mean += x / float64(len(v))
	}
	return s
}
