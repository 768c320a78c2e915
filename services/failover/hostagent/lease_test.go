package hostagent

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

var epoch5 = domain.NewEpoch(0, 5, 1)

// hand is a clock that is moved by hand.
type hand struct {
	mu sync.Mutex
	t  clock.Time
}

func (h *hand) now() clock.Time { h.mu.Lock(); defer h.mu.Unlock(); return h.t }
func (h *hand) move(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.t = h.t.Add(d)
}

func subleaseAt(h *hand, pull puller) *sublease {
	return &sublease{
		group: "erp", epoch: epoch5, pull: pull, now: h.now, every: time.Millisecond, epsilon: 0.01, margin: 10 * time.Millisecond,
		lost: make(chan struct{}),
	}
}

func held(left time.Duration) api.Lease {
	return api.Lease{Group: "erp", Held: true, Epoch: epoch5, RemainingNs: int64(left)}
}

func always(l api.Lease) puller {
	return func(context.Context, domain.GroupID, domain.Epoch) (api.Lease, error) { return l, nil }
}

func TestLeaseIsCountedFromSendingWithTheDriftMargin(t *testing.T) {
	h := &hand{t: 1000}
	l := subleaseAt(h, func(context.Context, domain.GroupID, domain.Epoch) (api.Lease, error) {
		h.move(2 * time.Second) // the reply takes its time
		return held(5 * time.Second), nil
	})
	if err := l.acquire(t.Context()); err != nil {
		t.Fatal(err)
	}
	left := 5 * time.Second
	want := clock.Time(1000).Add(time.Duration(float64(left) * 0.99 / 1.01))
	if l.deadline != want {
		t.Fatalf("deadline %v, want %v", l.deadline, want)
	}
	h.move(time.Duration(want-h.now()) - 1)
	if err := l.gate(); err != nil {
		t.Fatalf("just before the deadline: %v", err)
	}
	h.move(1)
	if err := l.gate(); !errors.Is(err, domain.ErrNoLease) {
		t.Fatalf("at the deadline: %v", err)
	}
}

func TestNothingExtendsALeaseThatRanOut(t *testing.T) {
	h := &hand{}
	l := subleaseAt(h, always(held(time.Second)))
	if err := l.acquire(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.move(2 * time.Second)
	l.take(h.now(), held(time.Hour))
	if err := l.gate(); !errors.Is(err, domain.ErrNoLease) {
		t.Fatal("extended after its end")
	}
}

func TestLateReplyDoesNotShortenTheLease(t *testing.T) {
	h := &hand{}
	l := subleaseAt(h, always(held(time.Second)))
	if err := l.acquire(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.move(500 * time.Millisecond)
	l.take(h.now(), held(time.Second))
	want := l.deadline
	l.take(0, held(time.Second)) // sent first, arrived last
	if l.deadline != want {
		t.Fatalf("deadline moved from %v to %v", want, l.deadline)
	}
}

func TestQuorumsNoIsFinal(t *testing.T) {
	other := held(time.Hour)
	other.Epoch++
	for name, answer := range map[string]api.Lease{"not held": {Epoch: epoch5}, "another epoch": other} {
		h := &hand{}
		l := subleaseAt(h, always(held(time.Second)))
		if err := l.acquire(t.Context()); err != nil {
			t.Fatal(err)
		}
		l.take(h.now(), answer)
		l.take(h.now(), held(time.Hour))
		select {
		case <-l.lost:
		default:
			t.Fatalf("%s: not lost", name)
		}
		if err := l.gate(); !errors.Is(err, domain.ErrNoLease) {
			t.Fatalf("%s: %v", name, err)
		}
	}
}

func TestAcquireRefuses(t *testing.T) {
	higher := held(time.Hour)
	higher.Epoch++
	for name, c := range map[string]struct {
		answer api.Lease
		want   error
	}{
		"not held":        {api.Lease{Epoch: epoch5, RemainingNs: int64(time.Hour)}, domain.ErrNoLease},
		"nothing left":    {held(5 * time.Millisecond), domain.ErrNoLease},
		"a higher epoch":  {higher, domain.ErrStaleEpoch},
		"an older holder": {api.Lease{Epoch: epoch5 - 256}, domain.ErrNoLease},
	} {
		if err := subleaseAt(&hand{}, always(c.answer)).acquire(t.Context()); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestLeaseIsLostBeforeItsDeadlineWhenNobodyAnswers(t *testing.T) {
	start := clock.Now()
	l := subleaseAt(&hand{}, func(context.Context, domain.GroupID, domain.Epoch) (api.Lease, error) {
		return api.Lease{}, domain.ErrUnavailable
	})
	l.margin = 300 * time.Millisecond
	l.now, l.deadline = clock.Now, start.Add(500*time.Millisecond)
	l.run(t.Context())
	if ended := clock.Now(); !ended.Before(start.Add(500*time.Millisecond)) || ended.Before(start.Add(200*time.Millisecond)) || l.reason() == nil {
		t.Fatalf("ended %v after the start, reason %v", ended.Sub(start), l.reason())
	}
}

func TestOneLostReplyCostsNothing(t *testing.T) {
	var mu sync.Mutex
	n := 0
	l := subleaseAt(&hand{}, func(ctx context.Context, _ domain.GroupID, _ domain.Epoch) (api.Lease, error) {
		mu.Lock()
		n++
		mine := n
		mu.Unlock()
		if mine%2 == 0 {
			<-ctx.Done() // lost
			return api.Lease{}, domain.ErrUnavailable
		}
		return held(500 * time.Millisecond), nil
	})
	l.now, l.every = clock.Now, 10*time.Millisecond
	if err := l.acquire(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	l.run(ctx)
	if err := l.reason(); err != nil {
		t.Fatalf("lost: %v", err)
	}
}
