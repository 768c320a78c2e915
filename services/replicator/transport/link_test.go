package transport

import (
	"context"
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// busy sends messages of a size over a flow until the time is over, and gives the bytes.
func busy(t *testing.T, f *Flow, tier, size int, until time.Time) float64 {
	total := 0
	for {
		if err := f.Take(t.Context(), size, Weight(tier)); err != nil {
			t.Error(err)
		}
		if !time.Now().Before(until) {
			return float64(total)
		}
		total += size
	}
}

func near(got, want float64) bool { return math.Abs(got-want) <= 0.05*want }

func TestGroupsShareALinkByTierAndUseAllOfIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate, seconds = 7 << 20, 20
		l := NewLink(domain.Transport{RateLimit: rate})
		until := time.Now().Add(seconds * time.Second)
		var got [4]float64
		var wg sync.WaitGroup
		for tier := 1; tier <= 3; tier++ {
			size := 32 << 10 << tier // shares are of bytes, whatever the size of a message
			wg.Go(func() { got[tier] = busy(t, l.Flow(), tier, size, until) })
		}
		wg.Wait()
		for tier, part := range map[int]float64{1: 4, 2: 2, 3: 1} {
			if want := part * (1 << 20) * seconds; !near(got[tier], want) {
				t.Errorf("tier %d: %.1f MiB, want %.1f", tier, got[tier]/(1<<20), want/(1<<20))
			}
		}
	})
}

func TestWhatAGroupLeavesOfALinkTheOthersHave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate = 4 << 20
		l := NewLink(domain.Transport{RateLimit: rate})
		first, low := l.Flow(), l.Flow()
		begin := time.Now()
		alone := busy(t, low, 3, 64<<10, begin.Add(10*time.Second))
		if !near(alone, 10*rate) {
			t.Errorf("alone on the link: %.1f MiB of %.1f", alone/(1<<20), 10.0*rate/(1<<20))
		}
		// The idle one has saved nothing up: from now on it has its share, and no more.
		until := begin.Add(20 * time.Second)
		var a, b float64
		var wg sync.WaitGroup
		wg.Go(func() { a = busy(t, first, 1, 64<<10, until) })
		wg.Go(func() { b = busy(t, low, 3, 64<<10, until) })
		wg.Wait()
		if !near(a, 8*rate) || !near(b, 2*rate) {
			t.Errorf("tier 1 has %.1f MiB, tier 3 %.1f; want 32 and 8", a/(1<<20), b/(1<<20))
		}
	})
}

func TestAHundredGroupsOfOneTierHaveTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate, groups, seconds = 50 << 20, 100, 20
		l := NewLink(domain.Transport{RateLimit: rate})
		until := time.Now().Add(seconds * time.Second)
		got := make([]float64, groups)
		var wg sync.WaitGroup
		for i := range groups {
			wg.Go(func() { got[i] = busy(t, l.Flow(), 2, 64<<10, until) })
		}
		wg.Wait()
		for i, n := range got {
			if !near(n, rate*seconds/groups) {
				t.Errorf("group %d: %.2f MiB", i, n/(1<<20))
			}
		}
	})
}

func TestWhatIsNotHeldBackIsCountedAndTheOthersWaitForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate = 4 << 20
		l := NewLink(domain.Transport{RateLimit: rate})
		sync, async := l.Flow(), l.Flow()
		until := time.Now().Add(10 * time.Second)
		stop := make(chan struct{})
		go func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(10 * time.Millisecond):
					began := time.Now()
					sync.Charge(rate / 200) // half of the link
					if time.Since(began) != 0 {
						t.Error("it was held back")
					}
				}
			}
		}()
		got := busy(t, async, 1, 32<<10, until)
		close(stop)
		if !near(got, 5*rate) {
			t.Errorf("%.1f MiB beside half of the link's 40", got/(1<<20))
		}
	})
}

func TestATurnThatIsGivenUpTakesNothingOfTheLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLink(domain.Transport{RateLimit: 1 << 20})
		f, g := l.Flow(), l.Flow()
		<-f.Ask(1<<20, 1).Come() // a second's worth
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if err := f.Take(ctx, 64<<20, 4); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		began := time.Now()
		if err := g.Take(t.Context(), 1<<10, 1); err != nil || time.Since(began) > time.Second {
			t.Fatalf("%v after %s", err, time.Since(began))
		}
		if n := l.Sent(); n != 1<<20+1<<10 {
			t.Fatalf("%d bytes count as sent", n)
		}
		f.Ask(1, 1).Leave() // one that may have come
	})
}

func TestALinksRateFollowsItsSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Hour - 5*time.Second) // virtual: the bubble begins at midnight UTC
		at := time.Now()
		clock := func(d time.Duration) domain.Clock { return domain.Clock(at.Add(d).Format("15:04")) }
		l := NewLink(domain.Transport{RateLimit: 1 << 20, Schedule: []domain.RateWindow{{From: clock(5 * time.Second), To: clock(time.Hour), RateLimit: 4 << 20}}})
		f := l.Flow()
		before := busy(t, f, 1, 64<<10, at.Add(5*time.Second))
		after := busy(t, f, 1, 64<<10, at.Add(10*time.Second))
		if !near(before, 5<<20) || !near(after, 20<<20) {
			t.Errorf("%.1f MiB before, %.1f after", before/(1<<20), after/(1<<20))
		}
	})
}

func TestALinkWithoutALimitHoldsNobodyBack(t *testing.T) {
	f := NewLink(domain.Transport{}).Flow()
	select {
	case <-f.Ask(1<<40, 1).Come():
	default:
		t.Fatal("it waits")
	}
	f.Charge(1 << 40)
	if err := NewBound(0).Take(t.Context(), 1<<40); err != nil {
		t.Fatal(err)
	}
}

func TestABoundLetsNoMoreThroughThanItSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBound(1 << 20)
		var total atomic.Int64
		until := time.Now().Add(10 * time.Second)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for b.Take(t.Context(), 32<<10) == nil && time.Now().Before(until) {
					total.Add(32 << 10)
				}
			})
		}
		wg.Wait()
		if !near(float64(total.Load()), 10<<20) {
			t.Errorf("%d bytes", total.Load())
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := b.Take(ctx, 1<<30); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}
