package clock

import (
	"context"
	"time"
)

// Sleep pauses, and returns ctx's error when that ended first. A pause is no deadline: it runs on the runtime's timers, which
// stand still while the machine is suspended and may be up to a millisecond late.
func Sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
