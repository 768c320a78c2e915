// Package opstats counts what a volume does: operations, bytes, and how long they took, as histograms whose buckets are an
// eighth of their value wide at most, so that a percentile is right to 12.5 %.
package opstats

import (
	"math/bits"
	"sync/atomic"
	"time"

	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

// Buckets 0 to 7 are of 1 ns each; from there on each power of two has 8.
const buckets = 8 * (64 - 2)

func bucketOf(ns uint64) int {
	if ns < 8 {
		return int(ns)
	}
	exp := bits.Len64(ns) - 4 // ns >> exp has four bits
	return 8*(exp+1) + int(ns>>exp) - 8
}

// upper is the largest value in a bucket.
func upper(bucket int) uint64 {
	if bucket < 8 {
		return uint64(bucket)
	}
	exp := bucket/8 - 1
	return uint64(bucket%8+9)<<exp - 1
}

// class counts one class of commands.
type class struct {
	good, failed, bytes, took atomic.Uint64
	max                       atomic.Uint64
	histogram                 [buckets]atomic.Uint64
}

// Recorder is a target.Meter: Observe neither waits nor allocates.
type Recorder struct {
	classes [target.Classes]class
	since   time.Time
}

// New is an empty recorder; since dates it.
func New(since time.Time) *Recorder { return &Recorder{since: since} }

// Observe implements target.Meter. Commands that were aborted have no time.
func (r *Recorder) Observe(c target.Class, outcome target.Outcome, n int, took time.Duration) {
	k := &r.classes[c]
	if outcome != target.OutcomeGood {
		k.failed.Add(1)
		return
	}
	ns := uint64(max(0, took))
	k.good.Add(1)
	k.bytes.Add(uint64(n))
	k.took.Add(ns)
	k.histogram[bucketOf(ns)].Add(1)
	for {
		old := k.max.Load()
		if ns <= old || k.max.CompareAndSwap(old, ns) {
			return
		}
	}
}

// Summary is what a class of commands did. Times are from a command's arrival to its answer, in microseconds.
type Summary struct {
	Ops    uint64 `json:"ops"`
	Failed uint64 `json:"failed"`
	Bytes  uint64 `json:"bytes"`
	// MeanUs is exact; P50Us and the others are the upper ends of their buckets.
	MeanUs    float64  `json:"mean_us"`
	P50Us     float64  `json:"p50_us"`
	P90Us     float64  `json:"p90_us"`
	P99Us     float64  `json:"p99_us"`
	P999Us    float64  `json:"p999_us"`
	MaxUs     float64  `json:"max_us"`
	Histogram []Bucket `json:"histogram"`
}

// Bucket is how many commands took as long as UpToUs, and longer than the bucket before allows.
type Bucket struct {
	UpToUs float64 `json:"up_to_us"`
	Count  uint64  `json:"count"`
}

// Stats are a volume's summaries since it was opened.
type Stats struct {
	Since time.Time `json:"since"`
	Read  Summary   `json:"read"`
	Write Summary   `json:"write"`
	Flush Summary   `json:"flush"`
	Other Summary   `json:"other"`
}

// Stats sums up; commands that end meanwhile may be counted in part.
func (r *Recorder) Stats() Stats {
	return Stats{Since: r.since, Read: r.classes[target.ClassRead].summary(), Write: r.classes[target.ClassWrite].summary(),
		Flush: r.classes[target.ClassFlush].summary(), Other: r.classes[target.ClassOther].summary()}
}

func (k *class) summary() Summary {
	s := Summary{Ops: k.good.Load(), Failed: k.failed.Load(), Bytes: k.bytes.Load(), MaxUs: us(k.max.Load()), Histogram: []Bucket{}}
	var counts [buckets]uint64
	var total uint64
	for i := range counts {
		if counts[i] = k.histogram[i].Load(); counts[i] > 0 {
			total += counts[i]
			s.Histogram = append(s.Histogram, Bucket{UpToUs: us(upper(i)), Count: counts[i]})
		}
	}
	if total == 0 {
		return s
	}
	s.MeanUs = us(k.took.Load()) / float64(total)
	for _, p := range []struct {
		part float64
		at   *float64
	}{{0.5, &s.P50Us}, {0.9, &s.P90Us}, {0.99, &s.P99Us}, {0.999, &s.P999Us}} {
		*p.at = min(s.MaxUs, percentile(counts[:], total, p.part))
	}
	return s
}

func percentile(counts []uint64, total uint64, part float64) float64 {
	rank, seen := uint64(float64(total)*part), uint64(0)
	for i, n := range counts {
		if seen += n; seen > rank || seen == total {
			return us(upper(i))
		}
	}
	return 0
}

func us(ns uint64) float64 { return float64(ns) / 1000 }
