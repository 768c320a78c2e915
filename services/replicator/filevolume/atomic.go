package filevolume

import (
	"errors"
	"fmt"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

// An atomic write (SBC-4, WRITE ATOMIC (16) command) is there as a whole or not at all, for readers and after a loss of
// power. A file system promises that for no more than a sector, so the write goes through an intent beside the volume:
//
//	intent durable, and what it replaces -> volume written -> volume durable -> intent cleared, durably -> done
//
// Invariant: from the first step to the last nothing else changes the write's range, and what the range held before is
// durable before the first of its sectors is written. So what an intent is found with, when the volume is opened, has of
// each sector of the range the content from before, or the new one; carrying it out brings back nothing that was overwritten
// later, and an image that has something else is not what it was made for. A torn intent fails its check sum, and then the
// range was not touched. The write is durable when it completes, in either durability class.
//
// Changes of other ranges, and flushes, go on meanwhile. Those that overlap wait; another atomic write does.
const maxAtomicBytes = 1 << 20

// span is the range that an atomic write has for itself until done is closed.
type span struct {
	off, end int64
	done     chan struct{}
}

// inTheWay is the atomic write that a change of a range has to wait for, nil when there is none. Whoever holds order asks for
// sure: a span is set while order is held exclusively.
func (v *Volume) inTheWay(off, n int64) *span {
	if s := v.span.Load(); s != nil && off < s.end && s.off < off+n {
		return s
	}
	return nil
}

// share holds order shared, free of atomic writes in the range.
func (v *Volume) share(off, n int64) {
	for {
		v.order.RLock()
		s := v.inTheWay(off, n)
		if s == nil {
			return
		}
		v.order.RUnlock()
		<-s.done
	}
}

// exclude holds order alone, free of atomic writes in the range.
func (v *Volume) exclude(off, n int64) {
	for {
		v.order.Lock()
		s := v.inTheWay(off, n)
		if s == nil {
			return
		}
		v.order.Unlock()
		<-s.done
	}
}

// take gives a range to the atomic write that holds v.atomic. The changes that had begun have ended when it returns.
func (v *Volume) take(off, n int64) (release func()) {
	s := &span{off: off, end: off + n, done: make(chan struct{})}
	v.order.Lock()
	v.span.Store(s)
	v.order.Unlock()
	return func() {
		v.span.Store(nil)
		close(s.done)
	}
}

// writeAtomic carries out an atomic write.
func (v *Volume) writeAtomic(c *target.Command) error {
	v.atomic.Lock()
	defer v.atomic.Unlock()
	defer v.take(c.Off, c.Len)()
	switch err := errors.Join(v.forbidden(), v.Err()); {
	case err != nil:
		return err
	case v.settings.ReadOnly:
		return fmt.Errorf("%v on volume %s: %w", c.Op, v.path, target.ErrReadOnly)
	case v.intent == nil || c.Len > maxAtomicBytes || c.Off < 0 || c.Off+c.Len > v.size.Load():
		return fmt.Errorf("atomic %v on volume %s: %w", c.Op, v.path, domain.ErrInvalid)
	}
	// Room first: a write that found none half way could not be taken back.
	if err := v.intent.reserve(c.Off, c.Len); err != nil {
		return v.fault("allocate", err)
	}
	if err := v.intend(c); err != nil {
		return v.fault("write intent of", err)
	}
	v.whole.Begin()
	_, err := v.store.WriteAt(c.Data, c.Off)
	if err != nil {
		_ = v.halfWritten(err) // before anybody reads the half of it
	}
	v.whole.End()
	if err == nil {
		err = v.flush()
	}
	if err == nil {
		err = v.intent.clear()
	}
	if err != nil {
		return v.halfWritten(err)
	}
	return nil
}

// halfWritten ends the volume in the middle of an atomic write.
func (v *Volume) halfWritten(err error) error {
	return v.fail(fmt.Errorf("write volume %s atomically: %w: %w; the volume stops, and finishes the write when it is opened again: check the disk; where you restore the volume instead, remove %s as well",
		v.path, target.ErrMedium, err, v.intent.path))
}

// intend makes an atomic write's intent durable, and beside that what it replaces. One that could not be made so must not be
// found later.
func (v *Volume) intend(c *target.Command) error {
	old := make([]byte, c.Len)
	if _, err := v.store.ReadAt(old, c.Off); err != nil {
		return err
	}
	before := make(chan error, 1)
	go func() { before <- v.flush() }()
	err := v.intent.put(&intention{off: c.Off, data: c.Data, id: v.intent.id, old: sums(old)})
	if err = errors.Join(err, <-before); err == nil {
		return nil
	}
	if undo := v.intent.clear(); undo != nil {
		return v.fail(fmt.Errorf("clear the intent of volume %s: %w: %w; the volume stops: check the disk", v.path, target.ErrMedium, undo))
	}
	return err
}
