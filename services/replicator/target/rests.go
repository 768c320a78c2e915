package target

import (
	"errors"
	"os"
	"sync"
	"time"
)

// rests lets the reader of a connection be called from its wait for the next PDU, so that a silent one gives its memory back.
type rests struct {
	mu     sync.Mutex
	waits  bool // the reader waits, and a deadline hurts no PDU
	large  bool // it has more memory than it needs for that
	called bool // its deadline was set
}

// await waits until the initiator sends something.
func (r *rests) await(c *conn) error {
	for {
		r.begin(!c.r.Small())
		err := c.r.Await()
		called, failed := r.end(c)
		if failed != nil {
			return failed
		}
		if !called || !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		c.r.Shrink()
	}
}

func (r *rests) begin(large bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waits, r.large = true, large
}

func (r *rests) end(c *conn) (called bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if called = r.called; called {
		err = c.socket.SetReadDeadline(time.Time{})
	}
	r.waits, r.called = false, false
	return called, err
}

// giveBack lets go of the memory that a busy connection has and a silent one does not need.
func (c *conn) giveBack() {
	c.rests.mu.Lock()
	if c.rests.waits && c.rests.large {
		c.rests.called = c.socket.SetReadDeadline(time.Unix(1, 0)) == nil
	}
	c.rests.mu.Unlock()
	c.wmu.Lock()
	defer c.wmu.Unlock()
	c.w.Shrink()
}
