package bus

import (
	"context"
	"sync"
	"time"
)

// gate lets a connection be made anew between requests instead of through them: while it is shut new requests wait, and
// what is in flight ends first.
type gate struct {
	mu       sync.Mutex
	inFlight int
	shut     chan struct{} // not nil while shut; closed when it opens
	idle     chan struct{} // not nil while somebody waits for the last to leave
}

// enter waits until the gate is open. Whoever enters must leave.
func (g *gate) enter(ctx context.Context) error {
	for {
		g.mu.Lock()
		if g.shut == nil {
			g.inFlight++
			g.mu.Unlock()
			return nil
		}
		wait := g.shut
		g.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// try enters if the gate is open; else opens is closed when it next is.
func (g *gate) try() (entered bool, opens <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut != nil {
		return false, g.shut
	}
	g.inFlight++
	return true, nil
}

// join enters also while the gate is shut: for an answer to what came in before.
func (g *gate) join() {
	g.mu.Lock()
	g.inFlight++
	g.mu.Unlock()
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.inFlight--; g.inFlight == 0 && g.idle != nil {
		close(g.idle)
		g.idle = nil
	}
}

// close shuts the gate and waits until nothing is in flight, at most for wait.
func (g *gate) close(ctx context.Context, wait time.Duration) {
	g.mu.Lock()
	g.shut = make(chan struct{})
	if g.inFlight == 0 {
		g.mu.Unlock()
		return
	}
	idle := make(chan struct{})
	g.idle = idle
	g.mu.Unlock()
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-idle:
	case <-t.C:
	case <-ctx.Done():
	}
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.shut)
	g.shut, g.idle = nil, nil
}
