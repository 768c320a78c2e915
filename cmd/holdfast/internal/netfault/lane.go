package netfault

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// lane is one direction of a link: its bytes leave one after the other, whichever connection they are of.
type lane struct {
	mu   sync.Mutex
	rate int64         // bytes a second, 0 without a limit
	free time.Time     // when the last byte that was given to it has left
	cut  chan struct{} // not nil while no byte passes; closed when they do again
}

// set cuts the lane, or mends it.
func (l *lane) set(m Mode) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case m == Cut && l.cut == nil:
		l.cut = make(chan struct{})
	case m != Cut && l.cut != nil:
		close(l.cut)
		l.cut = nil
	}
}

// pass waits until bytes may pass. It is false when ctx ends.
func (l *lane) pass(ctx context.Context) bool {
	for ctx.Err() == nil {
		l.mu.Lock()
		cut := l.cut
		l.mu.Unlock()
		if cut == nil {
			return true
		}
		select {
		case <-cut:
		case <-ctx.Done():
		}
	}
	return false
}

func (l *lane) narrow(rate int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rate = rate
}

// send takes n bytes and tells when the last of them has left.
func (l *lane) send(n int) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if l.rate == 0 {
		return now
	}
	if l.free.Before(now) {
		l.free = now
	}
	l.free = l.free.Add(time.Duration(int64(n) * int64(time.Second) / l.rate))
	return l.free
}

// until waits for a moment, and is false when ctx ended before. The last two milliseconds are the kernel's: the timers of
// Go's runtime come up to a millisecond late, which is a whole short link.
func until(ctx context.Context, at time.Time) bool {
	if d := time.Until(at) - 2*time.Millisecond; d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return false
		}
	}
	for d := time.Until(at); d > 0; d = time.Until(at) {
		ts := unix.NsecToTimespec(int64(d))
		_ = unix.Nanosleep(&ts, nil) // interrupted: the loop looks again
	}
	return ctx.Err() == nil
}
