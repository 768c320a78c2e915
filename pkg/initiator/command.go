package initiator

import (
	"sync"
	"sync/atomic"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

// command is one SCSI command on its way. Its owner waits on done; the connection fills it in.
type command struct {
	cdb        iscsi.CDB
	out        []byte // to the target; a copy, so that the caller may return before the target took it all
	idempotent bool   // may be sent again after a break
	done       chan result
	sent       atomic.Bool // a target may have seen it

	mu   sync.Mutex
	in   []byte // from the target, the caller's; nil once the caller is gone
	want int    // len(in) at the start
	got  int    // bytes received

	slot element // its place in the session's order
}

// result is how a command ended: err for one that did not come back, else the target's answer.
type result struct {
	status iscsi.Status
	sense  iscsi.Sense
	got    int
	err    error
}

func newCommand(cdb iscsi.CDB, in, out []byte, idempotent bool) *command {
	return &command{cdb: cdb, in: in, want: len(in), out: out, idempotent: idempotent, done: make(chan result, 1)}
}

// fill takes data from the target, and reports whether it lay within what was asked for.
func (c *command) fill(offset uint32, data []byte) bool {
	end := uint64(offset) + uint64(len(data))
	if end > uint64(c.want) {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.in != nil {
		copy(c.in[offset:], data)
	}
	c.got += len(data)
	return true
}

// abandon is the caller leaving before the answer: nothing is written to its buffer any more.
func (c *command) abandon() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.in = nil
}

// restart forgets what a broken connection had delivered.
func (c *command) restart() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.got = 0
}

func (c *command) received() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.got
}

// element links commands in the order of their submission.
type element struct {
	prev, next *command
	linked     bool
}

// order is a list of commands. The zero value is empty.
type order struct {
	first, last *command
}

func (o *order) push(c *command) {
	c.slot = element{prev: o.last, linked: true}
	if o.last == nil {
		o.first = c
	} else {
		o.last.slot.next = c
	}
	o.last = c
}

// remove takes c out, and reports whether it was there.
func (o *order) remove(c *command) bool {
	if !c.slot.linked {
		return false
	}
	if c.slot.prev == nil {
		o.first = c.slot.next
	} else {
		c.slot.prev.slot.next = c.slot.next
	}
	if c.slot.next == nil {
		o.last = c.slot.prev
	} else {
		c.slot.next.slot.prev = c.slot.prev
	}
	c.slot = element{}
	return true
}
