package probe

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// link is a simulated one: a queue each way, in virtual time.
type link struct {
	rtt       time.Duration
	out, back float64 // bytes a second
	lose      int     // every so many requests gets no answer

	mu    sync.Mutex
	free  [2]time.Time // when the queue each way is empty
	asked int
	bytes uint64
	queue time.Duration // the longest that a request waited
}

func (l *link) pass(way, bytes int, rate float64) time.Time {
	now := time.Now()
	if l.free[way].Before(now) {
		l.free[way] = now
	}
	l.queue = max(l.queue, l.free[way].Sub(now))
	l.free[way] = l.free[way].Add(time.Duration(float64(bytes) / rate * float64(time.Second)))
	l.bytes += uint64(bytes)
	return l.free[way].Add(l.rtt / 2)
}

func (l *link) ask(ctx context.Context, request []byte) ([]byte, error) {
	l.mu.Lock()
	l.asked++
	lost := l.lose > 0 && l.asked%l.lose == 0
	at := l.pass(0, len(request), l.out)
	l.mu.Unlock()
	if lost {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if err := clock.Sleep(ctx, time.Until(at)); err != nil {
		return nil, err
	}
	answer, err := Answer(request)
	l.mu.Lock()
	at = l.pass(1, len(answer), l.back)
	l.mu.Unlock()
	if err := clock.Sleep(ctx, time.Until(at)); err != nil {
		return nil, err
	}
	return answer, err
}

func TestMeasureTellsWhatALinkCanDo(t *testing.T) {
	for _, c := range []struct {
		name      string
		rtt       time.Duration
		out, back float64
	}{
		{"a metro link", time.Millisecond, 100e6, 100e6}, {"far and narrow", 30 * time.Millisecond, 2e6, 5e6}, {"narrow one way", 5 * time.Millisecond, 50e6, 1e6},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := &link{rtt: c.rtt, out: c.out, back: c.back}
				m, err := Measure(t.Context(), l.ask, Options{Duration: 10 * time.Second})
				if err != nil {
					t.Fatal(err)
				}
				want := c.rtt.Seconds() * 1e3
				if m.RoundTrip.P50 < want || m.RoundTrip.P50 > want+0.2 || m.RoundTrip.Lost != 0 || m.RoundTrip.Sent < 100 {
					t.Errorf("round trips %+v, want %.1f ms", m.RoundTrip, want)
				}
				for what, r := range map[string][2]float64{"out": {m.Out.BytesPerSecond, c.out}, "back": {m.Back.BytesPerSecond, c.back}} {
					if math.Abs(r[0]-r[1]) > 0.1*r[1] {
						t.Errorf("%s: %.2f MB/s, want %.2f", what, r[0]/1e6, r[1]/1e6)
					}
				}
			})
		})
	}
}

func TestReplicationIsNotStarvedByASurvey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &link{rtt: 10 * time.Millisecond, out: 10e6, back: 10e6}
		began := time.Now()
		m, err := Measure(t.Context(), l.ask, Options{Duration: 10 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 12*time.Second {
			t.Errorf("took %s", took)
		}
		if share := float64(m.Out.Sent) / (10e6 * 3); share > 0.55 {
			t.Errorf("bulk took %.0f %% of its time's bandwidth, half is the most", 100*share)
		}
		if most := 2*maxQueue + 3*l.rtt; l.queue > most {
			t.Errorf("something behind the survey waited %s, %s is the most", l.queue, most)
		}
	})
}

func TestBurstsAreLeftOutWhileReplicationLags(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &link{rtt: time.Millisecond, out: 10e6, back: 10e6}
		m, err := Measure(t.Context(), l.ask, Options{Duration: 5 * time.Second, Busy: func() bool { return true }})
		if err != nil || m.Out.BytesPerSecond != 0 || m.Out.Sent != 0 || m.Out.Skipped == 0 {
			t.Errorf("%+v, %v", m.Out, err)
		}
	})
}

func TestARateLimitHoldsAndIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &link{rtt: time.Millisecond, out: 100e6, back: 100e6}
		m, err := Measure(t.Context(), l.ask, Options{Duration: 10 * time.Second, RateLimit: 2e6})
		if err != nil || !m.Out.AtLeast || float64(m.Out.Sent) > 3*2e6*1.1 {
			t.Errorf("sent %d bytes in 3 s at 2 MB/s at most: %+v, %v", m.Out.Sent, m.Out, err)
		}
	})
}

func TestLostRequestsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &link{rtt: time.Millisecond, out: 10e6, back: 10e6, lose: 50}
		times, lost, err := roundTrips(t.Context(), l.ask, 10*time.Second)
		if err != nil || lost < 3 || len(times) < 100 {
			t.Errorf("%d answered, %d lost, %v", len(times), lost, err)
		}
	})
}

func TestNothingComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &link{rtt: time.Millisecond, out: 10e6, back: 10e6, lose: 1}
		if _, err := Measure(t.Context(), l.ask, Options{Duration: 10 * time.Second}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("told %v", err)
		}
	})
}

func FuzzAnswer(f *testing.F) {
	f.Add([]byte{})
	f.Add(binary.LittleEndian.AppendUint32(nil, chunkBytes))
	f.Add(binary.LittleEndian.AppendUint32(nil, math.MaxUint32))
	f.Fuzz(func(t *testing.T, request []byte) {
		answer, err := Answer(request)
		if len(answer) > chunkBytes || err != nil && !errors.Is(err, domain.ErrInvalid) {
			t.Errorf("%d bytes, %v", len(answer), err)
		}
	})
}
