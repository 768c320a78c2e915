package group

import (
	"context"

	xrate "golang.org/x/time/rate"
)

// Pace bounds bytes a second. The nil one bounds nothing.
type Pace struct{ limit *xrate.Limiter }

// NewPace makes a bound of so many bytes a second; 0 gives none.
func NewPace(bytesPerSecond int64) *Pace {
	if bytesPerSecond <= 0 {
		return nil
	}
	return &Pace{xrate.NewLimiter(xrate.Limit(bytesPerSecond), int(min(bytesPerSecond, 1<<20)))}
}

// wait returns when n bytes may go, or with ctx's error.
func (p *Pace) wait(ctx context.Context, n int) error {
	if p == nil {
		return nil
	}
	for n > 0 {
		part := min(n, p.limit.Burst())
		if err := p.limit.WaitN(ctx, part); err != nil {
			return err
		}
		n -= part
	}
	return nil
}
