package target

import (
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

// copyPart is how much is read and written at once.
const copyPart = 1 << 20

// check says why a segment cannot be copied now.
func (c *copySegment) check(t *task) *iscsi.Sense {
	switch {
	case c.sense != nil:
		return c.sense
	case c.src > c.from.blocks.Load() || c.blocks > c.from.blocks.Load()-c.src, c.dst > c.to.blocks.Load() || c.blocks > c.to.blocks.Load()-c.dst:
		return copyAborted(iscsi.ASCNone)
	case t.reaches(c.from, accessRead) == nil, t.reaches(c.to, accessWrite) == nil:
		return unreachable()
	}
	return nil
}

// copy goes on with an order until it is done, a segment fails, or the task was aborted. A unit that answers at once is a
// turn of the loop, not a deeper call.
func (t *task) copy(o *copyOrder) {
	for o.done < len(o.segments) && !t.isAborted() {
		seg := &o.segments[o.done]
		if sense := seg.check(t); sense != nil { // each time: somebody may have reserved a unit, or ejected it
			t.copyFailed(o, *sense)
			return
		}
		if o.moved == seg.blocks {
			o.done, o.moved = o.done+1, 0
			o.result.progress(o.done, seg.blocks)
			continue
		}
		if o.buf == nil {
			buf, ok := t.readBuffer(copyPart)
			if !ok {
				o.result.end(&iscsi.Sense{Key: iscsi.SenseCopyAborted})
				return
			}
			o.buf = buf
		}
		if !t.step(o, seg) {
			return
		}
	}
	if t.isAborted() {
		o.result.end(&iscsi.Sense{Key: iscsi.SenseCopyAborted})
	} else {
		o.result.end(nil)
	}
	t.finish()
}

// step copies the next part of a segment. False: it goes on, or has ended, elsewhere.
func (t *task) step(o *copyOrder, seg *copySegment) bool {
	n := min(seg.blocks-o.moved, copyPart/BlockSize)
	at := o.moved
	if seg.backwards {
		at = seg.blocks - o.moved - n
	}
	data := o.buf[:n*BlockSize]
	var ended atomic.Bool // by the one of the two that comes first: the answer, or the return of submit
	var failed error
	after := func(err error) {
		failed = err
		if err == nil {
			o.moved += n
		}
		if ended.CompareAndSwap(false, true) {
			return // the loop goes on
		}
		if err != nil {
			t.copyFailed(o, copySense(err))
			return
		}
		go t.copy(o) // this is the unit's goroutine, which others wait for
	}
	if !t.visit(seg.from, accessRead) {
		t.copyFailed(o, *unreachable())
		return false
	}
	t.submitTo(seg.from, Command{Op: OpRead, Off: int64(seg.src+at) * BlockSize, Len: int64(len(data)), Data: data}, func(err error) {
		if err != nil {
			after(err)
			return
		}
		if !t.visit(seg.to, accessWrite) {
			after(errUnreachable)
			return
		}
		c := Command{Op: OpWrite, Off: int64(seg.dst+at) * BlockSize, Len: int64(len(data)), Data: data}
		if seg.to.info.ThinProvisioned && allZero(data) {
			c.Op, c.Data = OpUnmap, nil
		}
		t.submitTo(seg.to, c, after)
	})
	if ended.CompareAndSwap(false, true) {
		return false
	}
	if failed != nil {
		t.copyFailed(o, copySense(failed))
		return false
	}
	return true
}

func allZero(b []byte) bool {
	for ; len(b) >= 8; b = b[8:] {
		if binary.NativeEndian.Uint64(b) != 0 {
			return false
		}
	}
	return true
}

// copySense is COPY ABORTED with what the unit's error means.
func copySense(err error) iscsi.Sense {
	if errors.Is(err, errUnreachable) {
		return *unreachable()
	}
	s := senseOf(err, OpWrite)
	s.Key = iscsi.SenseCopyAborted
	return s
}

func (t *task) copyFailed(o *copyOrder, s iscsi.Sense) {
	o.result.end(&s)
	t.fail(s)
}

// copyResults is what a session may ask of its copies by list identifier (RECEIVE COPY RESULTS).
type copyResults struct {
	mu   sync.Mutex
	byID map[byte]*copyResult
}

// copyResult is how a copy goes, and went.
type copyResult struct {
	of   *copyResults
	keep bool // after its end, until it is told
	id   byte

	ended    bool
	sense    *iscsi.Sense
	segments int
	blocks   uint64
}

// begin makes the result of a new copy, in place of one that ended; nil when one of this id is at work.
func (r *copyResults) begin(id byte, keep bool) *copyResult {
	r.mu.Lock()
	defer r.mu.Unlock()
	if old := r.byID[id]; old != nil && !old.ended {
		return nil
	}
	if r.byID == nil {
		r.byID = map[byte]*copyResult{}
	}
	c := &copyResult{of: r, keep: keep, id: id}
	r.byID[id] = c
	return c
}

func (c *copyResult) progress(segments int, blocks uint64) {
	if c == nil {
		return
	}
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	c.segments = segments
	c.blocks += blocks
}

func (c *copyResult) end(sense *iscsi.Sense) {
	if c == nil {
		return
	}
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	c.ended, c.sense = true, sense
	if !c.keep {
		delete(c.of.byID, c.id)
	}
}

// take gives a copy's result, and forgets one that ended when it is told for good.
func (r *copyResults) take(id byte, failure bool) (copyResult, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.byID[id]
	if c == nil || failure && !c.ended {
		return copyResult{}, false
	}
	if c.ended && (failure || c.sense == nil) {
		delete(r.byID, id)
	}
	return *c, true
}
