package opstats

import (
	"math"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

func TestEveryValueIsInABucketNoWiderThanAnEighth(t *testing.T) {
	last := -1
	for _, ns := range []uint64{0, 1, 7, 8, 9, 15, 16, 17, 31, 32, 1000, 123456, 1 << 40, math.MaxUint64} {
		b := bucketOf(ns)
		if b < last || b >= buckets || upper(b) < ns || b > 0 && upper(b-1) >= ns || float64(upper(b)-ns) > float64(ns)/8 {
			t.Errorf("%d ns: bucket %d up to %d, after %d", ns, b, upper(b), last)
		}
		last = b
	}
}

func TestSummaries(t *testing.T) {
	r := New(time.Unix(0, 0))
	for i := range 1000 {
		r.Observe(target.ClassWrite, target.OutcomeGood, 4096, time.Duration(i+1)*time.Microsecond)
	}
	r.Observe(target.ClassWrite, target.OutcomeCheckCondition, 0, time.Second)
	r.Observe(target.ClassFlush, target.OutcomeGood, 0, 3*time.Millisecond)
	s := r.Stats()
	if s.Write.Ops != 1000 || s.Write.Failed != 1 || s.Write.Bytes != 4096000 || s.Write.MaxUs != 1000 || s.Write.MeanUs != 500.5 || s.Flush.Ops != 1 || s.Read.Ops != 0 {
		t.Errorf("%+v", s)
	}
	for want, got := range map[float64]float64{500: s.Write.P50Us, 900: s.Write.P90Us, 990: s.Write.P99Us, 1000: s.Write.P999Us} {
		if got < want || got > want*1.125 {
			t.Errorf("%v us is told as %v", want, got)
		}
	}
	if n := testing.AllocsPerRun(100, func() { r.Observe(target.ClassRead, target.OutcomeGood, 1, time.Microsecond) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
