package nbd

import (
	"encoding/binary"
	"net"
	"time"

	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

// drain sends all that is queued.
func (c *conn) drain() error {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	defer c.out.end()
	for {
		batch := c.takeQueue()
		if len(batch) == 0 {
			c.spare = batch
			break
		}
		now := time.Since(c.srv.began)
		err := c.emitAll(batch)
		c.recycle(batch, now, err == nil)
		clear(batch)
		c.spare = batch[:0]
		if err != nil {
			return err
		}
	}
	if c.dead.Load() {
		return net.ErrClosed
	}
	return nil
}

func (c *conn) takeQueue() []*request {
	c.mu.Lock()
	defer c.mu.Unlock()
	batch := c.queue
	c.queue, c.queued = c.spare[:0], 0
	return batch
}

func (c *conn) emitAll(batch []*request) error {
	if c.dead.Load() {
		return net.ErrClosed
	}
	for _, r := range batch {
		if r.aborted {
			return target.ErrFenced
		}
		if err := r.emit(&c.out); err != nil {
			return err
		}
	}
	return c.out.flush()
}

// recycle takes requests back after their answers were written, or dropped.
func (c *conn) recycle(batch []*request, now time.Duration, sent bool) {
	held := int64(0)
	for _, r := range batch {
		r.measure(now, sent)
		held += int64(r.charge)
		r.buf.Release()
		r.reset()
	}
	if held > 0 {
		c.srv.budget.give(held)
	}
	c.mu.Lock()
	c.free = append(c.free, batch...)
	c.inFlight -= len(batch)
	c.held -= held
	wanting := c.wanting
	c.wanting = false
	c.mu.Unlock()
	if !wanting {
		return
	}
	select {
	case c.freed <- struct{}{}:
	default:
	}
}

func (r *request) reset() {
	r.header, r.cmd = header{}, target.Command{}
	r.data, r.buf, r.charge, r.extents = nil, nil, 0, r.extents[:0]
	r.at, r.end, r.failed = 0, 0, nil
	r.refused, r.aborted, r.arrived = refusal{}, false, 0
}

// measure tells the unit's meter how a request ended. now is shared by a batch, and the arrival by requests that were read at
// once, so that the clock is not read for each.
func (r *request) measure(now time.Duration, sent bool) {
	meter := r.c.exp.meter
	if meter == nil {
		return
	}
	class, bytes := target.ClassOther, 0
	switch r.typ {
	case cmdRead:
		class, bytes = target.ClassRead, len(r.data)
	case cmdWrite:
		class, bytes = target.ClassWrite, len(r.data)
	case cmdTrim, cmdWriteZeroes:
		class = target.ClassWrite
	case cmdFlush:
		class = target.ClassFlush
	}
	switch {
	case !sent:
		meter.Observe(class, target.OutcomeAborted, 0, 0)
	case r.refused.errno != 0:
		meter.Observe(class, target.OutcomeCheckCondition, 0, now-r.arrived)
	default:
		meter.Observe(class, target.OutcomeGood, bytes, now-r.arrived)
	}
}

// emit writes the answer: structured for reads, block status and errors where the client knows that, else simple.
func (r *request) emit(o *output) error {
	structured := r.c.structured
	switch {
	case structured && r.refused.errno != 0:
		return r.emitError(o)
	case structured && r.typ == cmdRead && len(r.data) == 0:
		_, err := r.chunk(o, chunkNone, 0, 0)
		return err
	case structured && r.typ == cmdRead:
		b, err := r.chunk(o, chunkOffsetData, 8, len(r.data))
		if err != nil {
			return err
		}
		binary.BigEndian.PutUint64(b, r.off)
		return o.data(r.data)
	case structured && r.typ == cmdBlockStatus:
		b, err := r.chunk(o, chunkBlockStatus, 4, len(r.extents))
		if err != nil {
			return err
		}
		binary.BigEndian.PutUint32(b, contextAllocationID)
		return o.data(r.extents)
	}
	b, err := o.room(simpleLen)
	if err != nil {
		return err
	}
	binary.BigEndian.PutUint32(b, magicSimple)
	binary.BigEndian.PutUint32(b[4:], uint32(r.refused.errno))
	binary.BigEndian.PutUint64(b[8:], r.cookie)
	if r.typ == cmdRead && r.refused.errno == 0 {
		return o.data(r.data)
	}
	return nil
}

// chunk writes the header of the only chunk of an answer and returns room for the first fixed bytes of its payload; more follow.
func (r *request) chunk(o *output, typ uint16, fixed, more int) ([]byte, error) {
	b, err := o.room(chunkLen + fixed)
	if err != nil {
		return nil, err
	}
	binary.BigEndian.PutUint32(b, magicStructured)
	binary.BigEndian.PutUint16(b[4:], chunkDone)
	binary.BigEndian.PutUint16(b[6:], typ)
	binary.BigEndian.PutUint64(b[8:], r.cookie)
	binary.BigEndian.PutUint32(b[16:], uint32(fixed+more))
	return b[chunkLen:], nil
}

func (r *request) emitError(o *output) error {
	b, err := r.chunk(o, chunkError, 6+len(r.refused.why), 0)
	if err != nil {
		return err
	}
	binary.BigEndian.PutUint32(b, uint32(r.refused.errno))
	binary.BigEndian.PutUint16(b[4:], uint16(len(r.refused.why)))
	copy(b[6:], r.refused.why)
	return nil
}
