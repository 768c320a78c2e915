package transport

import (
	"context"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// slack is how much of a second an idle pacer saves up.
const slack = 50 * time.Millisecond

// Pacer holds what is sent to a rate that may change with the time of day. What is sent is paid for afterwards, so that a frame
// larger than a moment's worth passes too. Safe for concurrent use. The zero value is ready, with no limit.
type Pacer struct {
	mu   sync.Mutex
	rate domain.Rate
	free time.Time // when all that was sent is paid for
}

// Wait is how long nothing may be sent, at a rate. A debt is counted anew when the rate changes: so many bytes, at the new rate.
func (p *Pacer) Wait(now time.Time, rate domain.Rate) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.turn(now, rate)
	if rate == 0 {
		return 0
	}
	return max(0, p.free.Sub(now))
}

// Sent counts bytes as sent now.
func (p *Pacer) Sent(now time.Time, rate domain.Rate, bytes int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.turn(now, rate)
	p.pay(now, bytes)
}

// turn goes over to another rate. Under mu.
func (p *Pacer) turn(now time.Time, rate domain.Rate) {
	if rate == p.rate {
		return
	}
	debt := p.free.Sub(now)
	switch {
	case p.rate == 0 || rate == 0 || debt <= 0:
		p.free = now
	default:
		p.free = now.Add(time.Duration(float64(debt) * float64(p.rate) / float64(rate)))
	}
	p.rate = rate
}

// pay takes bytes from what is saved up, or goes into debt. Under mu.
func (p *Pacer) pay(now time.Time, bytes int) {
	if p.rate == 0 {
		return
	}
	if earliest := now.Add(-slack); p.free.Before(earliest) {
		p.free = earliest
	}
	p.free = p.free.Add(time.Duration(float64(bytes) / float64(p.rate) * float64(time.Second)))
}

// maxNap is how often a wait looks at the time of day again.
const maxNap = time.Second

// Take waits for its turn to send so many bytes, at the rate of each moment, or for ctx to end.
func (p *Pacer) Take(ctx context.Context, rate func(time.Time) domain.Rate, bytes int) error {
	for {
		now := time.Now()
		if wait := p.claim(now, rate(now), bytes); wait <= 0 {
			return ctx.Err()
		} else if err := clock.Sleep(ctx, min(wait, maxNap)); err != nil {
			return err
		}
	}
}

// claim counts bytes as sent when they may be, and else says how long they have to wait.
func (p *Pacer) claim(now time.Time, rate domain.Rate, bytes int) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.turn(now, rate)
	if wait := p.free.Sub(now); rate != 0 && wait > 0 {
		return wait
	}
	p.pay(now, bytes)
	return 0
}
