package initiator

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

// Session is one logical unit, open for reading and writing. Its methods may be called from any goroutine.
type Session struct {
	url  URL
	opts Options
	isid [6]byte
	id   Identity

	slots  chan struct{} // bounds the commands in flight
	over   chan struct{} // closed when the session is over
	wg     sync.WaitGroup
	life   context.Context // the session's own, for ReadAt and WriteAt, whose interfaces have none
	cancel context.CancelFunc

	mu          sync.Mutex
	conn        *conn // nil while there is no connection
	outstanding order
	err         error // why the session is over
	closing     bool
}

// Dial opens the logical unit at rawURL. The session lives until Close or the end of ctx, which cuts it off at once, or,
// without Options.Replay, until its connection breaks. Errors wrap ErrAuth for refused credentials; other failures may
// be repeated.
func Dial(ctx context.Context, rawURL string, o Options) (*Session, error) {
	u, err := ParseURL(rawURL)
	if err != nil {
		return nil, err
	}
	s := &Session{url: u, opts: o.withDefaults(u), over: make(chan struct{}), isid: newISID()}
	s.slots = make(chan struct{}, s.opts.QueueDepth)
	c, err := connect(ctx, u, s.opts, s.isid, s.forget)
	if err != nil {
		return nil, err
	}
	ctx, s.cancel = context.WithCancel(ctx)
	s.life = ctx
	s.conn = c
	c.start()
	s.wg.Go(func() { s.supervise(ctx, c) })
	if s.id, err = s.identify(ctx); err != nil {
		s.cancel()
		s.wg.Wait()
		return nil, fmt.Errorf("open %s: %w", u, err)
	}
	return s, nil
}

// newISID draws a random initiator session id (RFC 7143 section 11.12.5, type 10b).
func newISID() [6]byte {
	var id [6]byte
	rand.Read(id[:]) // never fails since Go 1.24
	id[0] = 0x80
	return id
}

// Close logs out and ends the session. What is in flight fails with ErrClosed.
func (s *Session) Close() error {
	s.mu.Lock()
	s.closing = true
	c := s.conn
	s.mu.Unlock()
	if c != nil {
		c.logout()
		t := time.NewTimer(time.Second)
		select {
		case <-c.broken:
		case <-t.C:
		}
		t.Stop()
	}
	s.cancel()
	s.wg.Wait()
	return nil
}

// Done is closed when the session is over; Err says why.
func (s *Session) Done() <-chan struct{} { return s.over }

// Err is why the session is over, nil while it is not.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// supervise follows one connection after the other until the session is over.
func (s *Session) supervise(ctx context.Context, c *conn) {
	for {
		cause := s.follow(ctx, c)
		s.mu.Lock()
		s.conn = nil
		closing := s.closing
		s.mu.Unlock()
		switch {
		case closing:
			s.end(ErrClosed)
			return
		case ctx.Err() != nil:
			s.end(fmt.Errorf("%w: %w", ErrClosed, context.Cause(ctx)))
			return
		case !s.opts.Replay:
			s.end(fmt.Errorf("%w: %w", ErrBroken, cause))
			return
		}
		s.failWhatMayNotRepeat(cause)
		var err error
		if c, err = s.reconnect(ctx); err != nil {
			if ctx.Err() != nil {
				s.end(fmt.Errorf("%w: %w", ErrClosed, err))
			} else {
				s.end(fmt.Errorf("%w: %w (first: %w)", ErrBroken, err, cause))
			}
			return
		}
	}
}

// follow waits until the connection or ctx ends, and until no goroutine of the connection runs.
func (s *Session) follow(ctx context.Context, c *conn) error {
	select {
	case <-c.broken:
	case <-ctx.Done():
		c.fail(ctx.Err())
	}
	return c.wait()
}

// end is the end of the session: everything outstanding fails.
func (s *Session) end(err error) {
	s.mu.Lock()
	s.err = err
	var all []*command
	for c := s.outstanding.first; c != nil; c = s.outstanding.first {
		s.outstanding.remove(c)
		all = append(all, c)
	}
	close(s.over)
	s.mu.Unlock()
	s.cancel()
	for _, c := range all {
		c.done <- result{err: err}
		<-s.slots
	}
}

func (s *Session) failWhatMayNotRepeat(cause error) {
	s.mu.Lock()
	var failed []*command
	for c := s.outstanding.first; c != nil; {
		next := c.slot.next
		if !c.idempotent {
			s.outstanding.remove(c)
			failed = append(failed, c)
		}
		c = next
	}
	s.mu.Unlock()
	for _, c := range failed {
		c.done <- result{err: fmt.Errorf("%w: %w", ErrBroken, cause)}
		<-s.slots
	}
}

const (
	reconnectMin = 50 * time.Millisecond
	reconnectMax = time.Second
)

// reconnect logs in again, checks the disk and sends what is outstanding.
func (s *Session) reconnect(ctx context.Context) (*conn, error) {
	if s.opts.ReplayTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.opts.ReplayTimeout)
		defer cancel()
	}
	var last error
	for wait := reconnectMin; ; wait = min(2*wait, reconnectMax) {
		c, err := s.resume(ctx)
		if err == nil {
			return c, nil
		}
		if errors.Is(err, ErrAuth) || errors.Is(err, ErrOtherDisk) {
			return nil, err
		}
		last = err
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, fmt.Errorf("reconnect: %w: %w", ctx.Err(), last)
		}
	}
}

// resume makes one connection and, when the same disk is behind it, gives it everything outstanding in its order.
func (s *Session) resume(ctx context.Context) (*conn, error) {
	c, err := connect(ctx, s.url, s.opts, s.isid, s.forget)
	if err != nil {
		return nil, err
	}
	c.start()
	if err := s.checkSame(ctx, c); err != nil {
		c.fail(err)
		_ = c.wait()
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn = c
	for cmd := s.outstanding.first; cmd != nil; cmd = cmd.slot.next {
		cmd.restart()
		c.send(cmd)
	}
	return c, nil
}

// forget takes a command that has ended out of the order.
func (s *Session) forget(c *command) {
	s.mu.Lock()
	removed := s.outstanding.remove(c)
	s.mu.Unlock()
	if removed {
		<-s.slots
	}
}

// submit gives a command to the connection, or keeps it for the next one.
func (s *Session) submit(ctx context.Context, cmd *command) error {
	select {
	case s.slots <- struct{}{}:
	case <-s.over:
		return s.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil || s.closing {
		<-s.slots
		if s.err == nil {
			return ErrClosed
		}
		return s.err
	}
	s.outstanding.push(cmd)
	if s.conn != nil {
		s.conn.send(cmd)
	}
	return nil
}

// withdraw is the caller giving up on a command. It reports whether the target can have seen it.
func (s *Session) withdraw(cmd *command) bool {
	cmd.abandon()
	s.mu.Lock()
	if s.conn != nil {
		s.conn.unsend(cmd)
	}
	removed := s.outstanding.remove(cmd)
	s.mu.Unlock()
	if removed {
		<-s.slots
	}
	return cmd.sent.Load()
}

// exec runs one command to its end. Unit attentions and busy statuses, which say that nothing was done, are repeated.
func (s *Session) exec(ctx context.Context, cdb iscsi.CDB, in, out []byte, idempotent bool) (result, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	attentions := 0
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		r, err := s.once(ctx, newCommand(cdb, in, out, idempotent))
		if err != nil || !again(r) {
			return r, err
		}
		if r.status == iscsi.StatusCheckCondition {
			if attentions++; attentions > maxAttentions {
				return r, nil
			}
			continue
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return r, s.timeError(ctx, false)
		}
	}
}

// maxAttentions is how many unit attentions may be pending at once; a target has about four kinds.
const maxAttentions = 16

func again(r result) bool {
	switch r.status {
	case iscsi.StatusBusy, iscsi.StatusTaskSetFull:
		return true
	case iscsi.StatusCheckCondition:
		return r.sense.Key == iscsi.SenseUnitAttention
	}
	return false
}

func (s *Session) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok || s.opts.Timeout < 0 {
		return ctx, func() {}
	}
	return context.WithTimeoutCause(ctx, s.opts.Timeout, ErrTimeout)
}

func (s *Session) once(ctx context.Context, cmd *command) (result, error) {
	if err := s.submit(ctx, cmd); err != nil {
		return result{}, err
	}
	select {
	case r := <-cmd.done:
		if r.err != nil && len(cmd.out) > 0 && cmd.sent.Load() && !errors.Is(r.err, ErrAmbiguous) {
			r.err = fmt.Errorf("%w: %w", ErrAmbiguous, r.err)
		}
		return r, r.err
	case <-ctx.Done():
		return result{}, s.timeError(ctx, s.withdraw(cmd) && len(cmd.out) > 0)
	}
}

func (s *Session) timeError(ctx context.Context, changed bool) error {
	err := context.Cause(ctx)
	if changed {
		return fmt.Errorf("%w: %w", ErrAmbiguous, err)
	}
	return err
}
