package core

import (
	"fmt"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Timing is how long grants last and how often they are renewed. Every candidate and voter of a cluster uses the same.
type Timing struct {
	G       time.Duration // a grant, by the voter's clock
	Epsilon float64       // bound on clock-rate error, 0.01 is 1 %
	Renew   time.Duration // between renewals
	Poll    time.Duration // between reads of a passive voter while competing
	Retry   time.Duration // between attempts of a candidate
	Round   time.Duration // a round without quorum ends
}

// DefaultTiming suits sites up to 125 ms apart: takeover within 7.2 s.
func DefaultTiming() Timing {
	return Timing{G: 6 * time.Second, Epsilon: 0.01, Renew: 1500 * time.Millisecond,
		Poll: 500 * time.Millisecond, Retry: 250 * time.Millisecond, Round: 500 * time.Millisecond}
}

// FastTiming suits sites a few milliseconds apart: takeover within 2.4 s.
func FastTiming() Timing {
	return Timing{G: 1800 * time.Millisecond, Epsilon: 0.01, Renew: 450 * time.Millisecond,
		Poll: 150 * time.Millisecond, Retry: 100 * time.Millisecond, Round: 300 * time.Millisecond}
}

// Hold is H = G(1-ε)/(1+ε): how long a holder may count on a grant, from the sending of the request, by its own clock.
func (t Timing) Hold() time.Duration {
	return time.Duration(float64(t.G) * (1 - t.Epsilon) / (1 + t.Epsilon))
}

// Validate names the field that cannot be.
func (t Timing) Validate() error {
	switch {
	case t.G <= 0:
		return fmt.Errorf("timing g %v: must be above zero: %w", t.G, domain.ErrInvalid)
	case t.Epsilon < 0 || t.Epsilon > 0.2:
		return fmt.Errorf("timing epsilon %v: must be in 0 to 0.2: %w", t.Epsilon, domain.ErrInvalid)
	case t.Renew <= 0 || 2*t.Renew > t.Hold():
		return fmt.Errorf("timing renew %v: must be above zero and at most half of H = %v: %w", t.Renew, t.Hold(), domain.ErrInvalid)
	case t.Retry <= 0:
		return fmt.Errorf("timing retry %v: must be above zero: %w", t.Retry, domain.ErrInvalid)
	case t.Round <= 0 || t.Round > t.Renew:
		return fmt.Errorf("timing round %v: must be above zero and at most renew: %w", t.Round, domain.ErrInvalid)
	case t.Poll <= 0:
		return fmt.Errorf("timing poll %v: must be above zero: %w", t.Poll, domain.ErrInvalid)
	}
	return nil
}
