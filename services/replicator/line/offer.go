package line

import (
	"context"
	"sync"
)

// offer is one receiver's. Of the connections that show its token the newest has the turn.
type offer struct {
	take func(ctx context.Context, message []byte) (Ack, error)

	mu     sync.Mutex
	closed bool
	newest *turn
}

// turn is one connection's time with an offer. It ends after all turns before it.
type turn struct {
	before *turn // nil once it has ended
	cancel context.CancelFunc
	ended  chan struct{}
}

// enter gives a connection its turn, and tells the one that had it to end. cancel ends this one. The caller awaits the turn, and
// closes its ended.
func (o *offer) enter(cancel context.CancelFunc) *turn {
	o.mu.Lock()
	defer o.mu.Unlock()
	t := &turn{before: o.newest, cancel: cancel, ended: make(chan struct{})}
	if o.newest = t; t.before != nil {
		t.before.cancel()
	}
	if o.closed {
		cancel()
	}
	return t
}

// await waits until every turn before has ended.
func (t *turn) await() {
	if t.before != nil {
		<-t.before.ended
		t.before = nil
	}
}

// close ends the turn that is, waits until it has ended, and has none begin that is not cancelled.
func (o *offer) close() {
	o.mu.Lock()
	o.closed = true
	last := o.newest
	if last != nil {
		last.cancel()
	}
	o.mu.Unlock()
	if last != nil {
		<-last.ended
	}
}
