package nbd

import (
	"encoding/binary"
	"errors"
	"net"
	"sync/atomic"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

// maxExtents bounds what one block status answers.
const maxExtents = 256

// request is one request from its arrival to its answer. It belongs to whoever moves it on: the reader, the unit, the sender.
type request struct {
	header
	c       *conn
	data    []byte // of a read or a write
	buf     *iscsi.Buffer
	charge  int
	extents []byte // of a block status, in wire form

	cmd     target.Command
	doneFn  func(error)
	at, end int64 // what is left for the unit
	turn    atomic.Bool
	failed  error // of a part that is not the last

	refused refusal
	aborted bool // the unit is fenced: no answer
	arrived time.Duration
}

// newRequest takes a place and n bytes for a request, and waits until they are there.
func (c *conn) newRequest(n int) (*request, error) {
	r := c.place(n)
	for r == nil {
		if err := c.pause(); err != nil {
			return nil, err
		}
		select {
		case <-c.freed:
		case <-c.dying:
			return nil, net.ErrClosed
		}
		r = c.place(n)
	}
	if n > 0 && !c.srv.budget.try(int64(n)) {
		if err := c.pause(); err != nil || !c.srv.budget.take(int64(n), c.dying) {
			c.giveUp(n)
			return nil, net.ErrClosed
		}
	}
	c.busy.Store(true)
	r.charge = n
	if n > 0 {
		r.buf = c.srv.pool.Get(n)
		r.data = r.buf.Bytes(n)
	}
	return r, nil
}

// place makes a request in flight; nil when the connection has too many, or too much memory in them.
func (c *conn) place(n int) *request {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inFlight >= c.srv.cfg.QueueDepth || c.inFlight > 0 && c.held+int64(n) > c.srv.cfg.MaxBufferedBytes/2 {
		c.wanting = true
		return nil
	}
	c.inFlight++
	c.running++
	c.held += int64(n)
	if last := len(c.free) - 1; last >= 0 {
		r := c.free[last]
		c.free = c.free[:last]
		return r
	}
	r := &request{c: c}
	r.doneFn = r.done
	return r
}

// giveUp takes back what place did, on a connection that ends.
func (c *conn) giveUp(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inFlight--
	c.running--
	c.held -= int64(n)
}

// begin carries out a request that was checked.
func (r *request) begin() {
	kind := &commands[r.typ]
	if r.typ == cmdBlockStatus {
		r.blockStatus()
		return
	}
	r.cmd = target.Command{Op: kind.op, FUA: kind.changes && r.flags&flagFUA != 0}
	r.at, r.end = int64(r.off), int64(r.off)+int64(r.length)
	switch r.typ {
	case cmdWriteZeroes:
		r.cmd.Op = r.c.zeroOp(r.flags)
	case cmdCache:
		r.end = min(r.end, r.at+maxCache)
	case cmdFlush:
		r.at, r.end = 0, 0
	}
	if kind.ranged && r.at == r.end {
		r.finish()
		return
	}
	r.run(kind.part)
}

// run gives the unit the request part by part. A unit that answers at once is a turn of the loop, not a deeper call.
func (r *request) run(part int64) {
	for {
		n := r.end - r.at
		last := part == 0 || n <= part
		if !last {
			n = part
		}
		r.cmd.Off, r.cmd.Len = r.at, n
		switch r.typ {
		case cmdRead, cmdWrite:
			from := r.at - int64(r.off)
			r.cmd.Data = r.data[from : from+n]
		case cmdCache:
			r.cmd.Data = r.data[:n]
		}
		r.at += n
		if last {
			r.c.exp.unit.Submit(&r.cmd, r.doneFn) // r may be another request after this
			return
		}
		r.turn.Store(false)
		r.c.exp.unit.Submit(&r.cmd, r.doneFn)
		if r.turn.CompareAndSwap(false, true) {
			return // done goes on
		}
		if r.failed != nil || r.c.dead.Load() {
			r.end = r.at
			r.complete(r.failed)
			return
		}
	}
}

// done is the unit's end of a part.
func (r *request) done(err error) {
	if r.at == r.end {
		r.complete(err)
		return
	}
	r.failed = err
	if r.turn.CompareAndSwap(false, true) {
		return // the loop goes on
	}
	if err != nil || r.c.dead.Load() {
		r.complete(err)
		return
	}
	r.run(commands[r.typ].part)
}

// complete answers with the result of the unit.
func (r *request) complete(err error) {
	switch {
	case err == nil:
	case errors.Is(err, target.ErrFenced):
		r.aborted = true
		r.c.kill("unit is fenced")
	default:
		r.c.srv.log.Debug("request failed", "export", r.c.exp.name, "request", r.typ, "error", err)
		r.refused = refusalOf(err)
	}
	r.finish()
}

func (r *request) refuse(why refusal) {
	r.refused = why
	r.finish()
}

// finish queues the answer. While the reader is at a request it drains after it; a reader that just stopped to be busy drains
// after it said so; else the writer is woken.
func (r *request) finish() {
	c := r.c
	c.mu.Lock()
	c.queue = append(c.queue, r)
	if r.typ == cmdRead {
		c.queued += len(r.data)
	}
	c.running--
	settled := c.closing && c.running == 0
	c.mu.Unlock()
	if settled {
		close(c.settled)
	}
	if c.busy.Load() {
		return
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// blockStatus tells where the unit is allocated, by what the file system knows: nothing is read. Neighbours that are alike are
// one extent.
func (r *request) blockStatus() {
	most := maxExtents
	if r.flags&flagReqOne != 0 {
		most = 1
	}
	r.extents = r.extents[:0]
	for off, end := int64(r.off), int64(r.off)+int64(r.length); off < end; {
		mapped, n, err := r.c.exp.mapper.Extent(off, 0)
		if err != nil {
			r.complete(err)
			return
		}
		if n < target.BlockSize {
			mapped, n = true, target.BlockSize
		}
		n = min(n&^(target.BlockSize-1), end-off)
		state := uint32(stateHole | stateZero)
		if mapped {
			state = 0
		}
		if !r.addExtent(uint32(n), state, most) {
			break
		}
		off += n
	}
	r.finish()
}

// addExtent appends to the answer; false when it is full.
func (r *request) addExtent(n, state uint32, most int) bool {
	if last := len(r.extents) - 8; last >= 0 && binary.BigEndian.Uint32(r.extents[last+4:]) == state {
		binary.BigEndian.PutUint32(r.extents[last:], binary.BigEndian.Uint32(r.extents[last:])+n)
		return true
	}
	if len(r.extents) >= 8*most {
		return false
	}
	r.extents = binary.BigEndian.AppendUint32(r.extents, n)
	r.extents = binary.BigEndian.AppendUint32(r.extents, state)
	return true
}
