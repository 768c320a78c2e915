package filevolume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

// A sanitize writes over everything that the volume's file holds:
//
//	marker durable -> intent wiped -> blocks written, made durable and marked as done, again and again -> marker removed, durably
//
// Invariant: while the marker is there nothing else reads or writes the volume, whoever opens it. So what was to be erased is
// never seen again once the sanitize has begun, and when the power goes it goes on where it was known to be durable. A failure
// is marked too. OVERWRITE writes every block. BLOCK ERASE writes zeroes over what takes space and then gives the space back.
// What the file system gave to others before, or keeps elsewhere, is out of reach (docs/compliance.md).
const (
	sanitizePiece = 1 << 20
	// sanitizeStep is how much is made durable, and marked, at a time: less is written twice after a loss of power.
	sanitizeStep = 64 << 20
)

// sanitizing is a sanitize that has begun and not ended well.
type sanitizing struct {
	how    marked // of the goroutine that carries it out
	done   atomic.Int64
	total  int64
	failed atomic.Bool
}

func (v *Volume) begin(how marked) *sanitizing {
	s := &sanitizing{how: how, total: int64(max(how.Passes, 1)) * v.size.Load()}
	s.done.Store(how.Done)
	s.failed.Store(how.Failed)
	v.sanitize.Store(s)
	return s
}

// forbidden is what anyone is told while a sanitize has not ended well.
func (v *Volume) forbidden() error {
	s := v.sanitize.Load()
	switch {
	case s == nil:
		return nil
	case s.failed.Load():
		return fmt.Errorf("volume %s: %w: sanitize it again", v.path, target.ErrSanitizeFailed)
	}
	return fmt.Errorf("volume %s: %w", v.path, target.ErrSanitizing)
}

// SanitizeState implements target.Sanitizer.
func (v *Volume) SanitizeState() target.SanitizeState {
	s := v.sanitize.Load()
	switch {
	case s == nil:
		return target.SanitizeState{}
	case s.failed.Load():
		return target.SanitizeState{Failed: true, MayLeave: s.how.MayLeave}
	}
	return target.SanitizeState{Running: true, Progress: uint16(min(float64(s.done.Load())/float64(s.total)*65536, 65535))}
}

// Sanitize implements target.Sanitizer.
func (v *Volume) Sanitize(how target.Sanitization, begun func(), done func(error)) {
	v.erasing.Go(func() {
		s, err := v.mark(marked{Pattern: how.Pattern, Passes: how.Passes, Invert: how.Invert, MayLeave: how.MayLeave})
		if err != nil {
			done(err)
			return
		}
		begun()
		done(v.carryOut(s))
	})
}

// mark begins a sanitize when no change is in flight, durably.
func (v *Volume) mark(how marked) (s *sanitizing, err error) {
	err = v.alter(func() error {
		switch now := v.sanitize.Load(); {
		case v.marker == nil || v.settings.ReadOnly:
			return fmt.Errorf("sanitize volume %s: %w", v.path, target.ErrReadOnly)
		case now != nil && !now.failed.Load():
			return v.forbidden()
		}
		if err := v.marker.save(how); err != nil {
			// It may be found later all the same, and then nothing must have been answered.
			return v.fail(fmt.Errorf("mark volume %s: %w: %w; the volume stops: check the disk, and remove %s if the volume is not to be erased",
				v.path, target.ErrMedium, err, v.marker.Path))
		}
		s = v.begin(how)
		return nil
	})
	return s, err
}

// carryOut does the rest of a sanitize. One that is stopped by Close goes on when the volume is opened again.
func (v *Volume) carryOut(s *sanitizing) error {
	err := v.erase(s)
	if err == nil {
		err = v.marker.remove()
	}
	if err == nil {
		v.sanitize.Store(nil)
		return nil
	}
	if errors.Is(err, errClosed) {
		return fmt.Errorf("volume %s: %w: %w", v.path, target.ErrSanitizing, err)
	}
	s.how.Failed = true
	err = errors.Join(fmt.Errorf("sanitize volume %s: %w: %w", v.path, target.ErrSanitizeFailed, err), v.marker.save(s.how))
	s.failed.Store(true)
	return err
}

func (v *Volume) erase(s *sanitizing) error {
	if err := v.intent.wipe(); err != nil {
		return fmt.Errorf("wipe the intent: %w", err)
	}
	size, pace := v.size.Load(), newPace(v.settings.SanitizeRate)
	for s.how.Done < s.total {
		n, at := s.how.pass(size)
		end := min(at+sanitizeStep, size)
		if err := v.overwrite(s, at, end, s.how.fill(n), pace); err != nil {
			return err
		}
		if err := v.flush(); err != nil {
			return err
		}
		s.how.Done += end - at
		if err := v.marker.save(s.how); err != nil {
			return err
		}
	}
	if len(s.how.Pattern) > 0 {
		return nil
	}
	if err := v.store.Unmap(0, size); err != nil {
		return err
	}
	return v.flush()
}

// overwrite writes one step; an erase passes over holes, which hold nothing.
func (v *Volume) overwrite(s *sanitizing, at, end int64, fill []byte, pace *pace) error {
	for at < end {
		n := min(end-at, sanitizePiece)
		if len(s.how.Pattern) == 0 {
			mapped, length, err := v.store.Extent(at)
			if err != nil {
				return err
			}
			if n = min(n, length); !mapped {
				n = min(end-at, length)
				s.done.Add(n)
				at += n
				continue
			}
		}
		if err := pace.wait(v.closing, n); err != nil {
			return err
		}
		if _, err := v.store.WriteAt(fill[:n], at); err != nil {
			return err
		}
		s.done.Add(n)
		at += n
	}
	return nil
}

// LeaveSanitize implements target.Sanitizer.
func (v *Volume) LeaveSanitize() error {
	return v.alter(func() error {
		s := v.sanitize.Load()
		if s == nil {
			return nil
		}
		if !s.failed.Load() || !s.how.MayLeave {
			return v.forbidden()
		}
		if err := v.marker.remove(); err != nil {
			return v.fault("unmark", err)
		}
		v.sanitize.Store(nil)
		return nil
	})
}

// wipe writes over what atomic writes left in the intent, and cuts it off. No atomic write is at work.
func (in *intent) wipe() error {
	info, err := os.Stat(in.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = in.open()
	}
	if err != nil {
		return err
	}
	if _, err := in.f.WriteAt(make([]byte, info.Size()), 0); err != nil {
		return err
	}
	return errors.Join(in.f.Sync(), in.f.Truncate(0), in.f.Sync())
}

// pace keeps a sanitize to a rate, so that it leaves the disk to others too.
type pace struct {
	bytesPerSecond int64 // 0: none
	began          time.Time
	sent           int64
}

func newPace(rate int64) *pace { return &pace{bytesPerSecond: rate, began: time.Now()} }

// wait waits until n bytes more are due; errClosed when the volume is closed.
func (p *pace) wait(closing <-chan struct{}, n int64) error {
	var due time.Duration
	if p.bytesPerSecond > 0 {
		due = time.Duration(float64(p.sent)/float64(p.bytesPerSecond)*float64(time.Second)) - time.Since(p.began)
	}
	p.sent += n
	t := time.NewTimer(max(due, 0))
	defer t.Stop()
	select {
	case <-closing:
		return errClosed
	default:
	}
	select {
	case <-closing:
		return errClosed
	case <-t.C:
		return nil
	}
}

// eraser is what a volume needs to be sanitized.
type eraser struct {
	marker   *marker                    // nil: it is not offered
	sanitize atomic.Pointer[sanitizing] // nil: none has begun
	erasing  sync.WaitGroup
	closing  chan struct{}
}
