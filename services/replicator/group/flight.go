package group

import (
	"context"
	"iter"
	"sync"
)

// inFlight calls f for each item, a few at once (resyncFlight), and returns when all calls have. The first error ends the
// context of the others, no more begin, and it is returned; so is the cause of ctx.
func inFlight[T any](ctx context.Context, items iter.Seq[T], f func(context.Context, T) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	slots := make(chan struct{}, resyncFlight)
	var wg sync.WaitGroup
	for item := range items {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := f(ctx, item); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}
