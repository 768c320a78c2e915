package whole

import (
	"sync"
	"sync/atomic"
	"testing"
)

func TestAReaderNeverKeepsHalfAChange(t *testing.T) {
	var g Guard
	var a, b atomic.Int64 // always equal, but while a change is at work
	var stop atomic.Bool
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for !stop.Load() {
				seen := g.Seen()
				x, y := a.Load(), b.Load()
				if !g.Whole(seen) {
					g.Hold()
					x, y = a.Load(), b.Load()
					g.Release()
				}
				if x != y {
					t.Errorf("%d and %d", x, y)
					return
				}
			}
		})
	}
	for range 20000 {
		g.Begin()
		a.Add(1)
		b.Add(1)
		g.End()
	}
	stop.Store(true)
	readers.Wait()
}
