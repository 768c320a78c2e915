package group

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/journal"
)

// commitLoop is the one committer: it cuts the open frame whenever the one before it is written.
func (s *session) commitLoop() {
	for {
		select {
		case <-s.commitWake:
		case <-s.ctx.Done():
			return
		}
		for s.ctx.Err() == nil {
			b, ended := s.cut()
			s.settle(ended)
			if b == nil {
				break
			}
			if err := s.write(b); err != nil {
				if s.ctx.Err() == nil {
					s.fail(fmt.Errorf("write the journal: %w", err))
				}
				return
			}
		}
	}
}

// cut takes the open frame, if it has anything, and opens another.
func (s *session) cut() (*batch, []result) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.open
	if b == nil || b.builder.Len() == 0 {
		return nil, nil
	}
	b.frame.LastLSN = s.next - 1
	b.frame.CommitLSN = s.applied
	s.number++
	s.open = s.newBatch(s.g.cfg.Memory.builder())
	s.writing = b
	return b, s.pump()
}

// write makes a frame durable here, and lets the senders have it: those of synchronous targets at the same time.
func (s *session) write(b *batch) error {
	b.frame.Time = time.Now()
	enc := b.builder.Finish(b.frame.CommitLSN, s.st.j.Next().PrevHeaderCRC, b.frame.Time)
	s.g.writes.Frame(b.frame.Entries, len(enc))
	kept, copied := enc, len(s.senders.all()) > 0 // what has the payload until it is applied
	if copied || s.cache.on {                     // a buffer is many times a small frame, and those of the class cached may be many
		kept = append([]byte(nil), enc...)
	}
	if copied {
		s.window.push(windowFrame{first: b.frame.FirstLSN, last: b.frame.LastLSN, raw: kept, payload: b.payload(), at: b.frame.Time})
		s.wakeSenders(true)
	} else {
		s.window.skip()
	}
	if s.cache.on {
		b.keepPayload(kept)
	}
	err := s.st.j.Append(enc)
	held := errors.Is(err, journal.ErrFull)
	for errors.Is(err, journal.ErrFull) {
		s.g.heldBy(api.HeldByJournal, "the ring is full: "+s.whoLacks())
		poke(s.kickCkpt)
		select {
		case <-s.released:
		case <-s.ctx.Done():
			return s.ctx.Err()
		}
		if err = s.st.j.Append(enc); errors.Is(err, journal.ErrFull) && !sleep(s.ctx, 2*time.Millisecond) {
			return s.ctx.Err() // a target is waited for, and takes its time
		}
	}
	if err != nil {
		return err
	}
	if held {
		s.g.letOn(api.HeldByJournal)
	}
	s.window.durable(b.frame.LastLSN)
	s.mu.Lock()
	s.giveSpare(b)
	s.writing = nil
	b.since = s.g.cfg.Now()
	s.pending = append(s.pending, b)
	s.mu.Unlock()
	poke(s.completeWake)
	s.wakeSenders(false)
	return nil
}

// completeLoop applies and answers, in order.
func (s *session) completeLoop() {
	for {
		b := s.ready()
		if b == nil {
			select {
			case <-s.completeWake:
				continue
			case <-s.ctx.Done():
				return
			}
		}
		if !s.gate.open() {
			s.fail(fmt.Errorf("serve epoch %s: %w", s.epoch, domain.ErrNoLease))
			return
		}
		if err := s.apply(b); err != nil {
			s.fail(fmt.Errorf("apply to the volumes: %w", err))
			return
		}
		s.complete(b)
	}
}

// apply brings a frame to the volumes. Where their disk is full, initiators wait for room: what they wrote is in the journal.
func (s *session) apply(b *batch) error {
	if b.whole {
		s.whole.Begin()
		defer s.whole.End()
	}
	return s.g.roomy(s.ctx, func() error {
		if !s.gate.open() {
			return fmt.Errorf("wait for room under epoch %s: %w", s.epoch, domain.ErrNoLease)
		}
		return s.st.apply(&b.frame)
	})
}

// whoLacks says what keeps the ring from letting go, for people.
func (s *session) whoLacks() string {
	applied := s.st.applied()
	for site, t := range s.senders.all() {
		if t.track.covered() < applied {
			return fmt.Sprintf("target %s lacks what is in it", site)
		}
	}
	return "it waits for the volumes to be flushed"
}

// ready is the oldest frame, if every required target has it.
func (s *session) ready() *batch {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.pending) == 0 || s.ctx.Err() != nil {
		return nil
	}
	b := s.pending[0]
	for site, must := range s.required {
		if must && s.senders.durable(site) < b.frame.LastLSN {
			return nil
		}
	}
	return b
}

// complete answers the commands of a frame that was applied.
func (s *session) complete(b *batch) {
	s.mu.Lock()
	s.pending[0] = nil
	s.pending = s.pending[1:]
	s.applied = b.frame.LastLSN
	s.cache.applied(b)
	s.bytes += uint64(b.payload())
	ops := b.ops
	b.ops = nil
	ended := s.pump()
	wake := s.open != nil && s.open.builder.Len() > 0
	if s.applied == s.next-1 && len(s.queue) == 0 {
		for _, c := range s.idle {
			close(c)
		}
		s.idle = nil
	}
	s.mu.Unlock()
	for _, o := range ops {
		s.answer(o, nil)
	}
	s.settle(ended)
	if wake {
		poke(s.commitWake)
	}
}

// payload is the bytes of a frame that change a volume.
func (b *batch) payload() (n int) {
	for i := range b.frame.Entries {
		n += len(b.frame.Entries[i].Data)
	}
	return n
}

// drained is closed once nothing that was taken is in flight.
func (s *session) drained() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := make(chan struct{})
	if s.applied == s.next-1 && len(s.queue) == 0 {
		close(c)
	} else {
		s.idle = append(s.idle, c)
	}
	return c
}

// head is the last LSN acknowledged, and the payload bytes up to it.
func (s *session) head() (domain.LSN, uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.applied, s.bytes
}

// given is the last LSN given to a change.
func (s *session) given() domain.LSN {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.next - 1
}

func (s *session) wakeSenders(sync bool) {
	for _, t := range s.senders.all() {
		if !sync || t.mode() == domain.ModeSync {
			poke(t.wake)
		}
	}
}

// sleep waits for d; false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool { return clock.Sleep(ctx, d) == nil }
