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
	"github.com/holdfast-dr/holdfast/services/replicator/journal/vfs"
	"github.com/holdfast-dr/holdfast/services/replicator/whole"
)

// commitLoop is the committer: it cuts the open frame whenever the one before it is written. Only a command that is alone is committed
// by whoever brings it: see commitHere.
func (s *session) commitLoop() {
	for {
		select {
		case <-s.commitWake:
		case <-s.ctx.Done():
			return
		}
		for more := true; more; {
			s.committing.Lock()
			more = s.ctx.Err() == nil && s.commitOne()
			s.committing.Unlock()
		}
	}
}

// commitOne cuts the open frame and writes it; false when there is none, or the session is over. Under committing.
func (s *session) commitOne() bool {
	if !s.gate.open() {
		s.fail(fmt.Errorf("write under epoch %s: %w", s.epoch, domain.ErrNoLease))
		return false
	}
	b, ended := s.cut()
	s.settle(ended)
	if b == nil {
		return false
	}
	if err := s.write(b); err != nil {
		if s.ctx.Err() == nil {
			s.fail(fmt.Errorf("write the journal: %w", err))
		}
		return false
	}
	return true
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
	b.frame.CommitLSN = s.acked
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
	kept, sent := enc, len(s.senders.all()) > 0 // what has the payload until it is applied
	copied := sent || s.cache.on
	if copied { // a buffer is many times a small frame, and those of the class cached may be many
		kept = append([]byte(nil), enc...)
	}
	b.keepPayload(kept)
	if sent {
		f := windowFrame{first: b.frame.FirstLSN, last: b.frame.LastLSN, raw: kept, payload: b.payload(), at: b.frame.Time}
		s.window.push(f)
		s.sendEarly(f)
	} else {
		s.window.skip()
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
	if copied {
		s.giveSpare(b)
	}
	s.mu.Lock()
	s.writing = nil
	b.since = s.g.cfg.Now()
	s.pending = append(s.pending, b)
	s.mu.Unlock()
	s.acknowledge()
	s.wakeSenders(b.frame.LastLSN)
	return nil
}

// acknowledge answers, in order, the commands of frames that are durable wherever they must be, and leaves it to completeLoop to
// bring those to the volumes: a read of what was answered waits for that. Any goroutine may call it.
func (s *session) acknowledge() {
	s.answering.Lock()
	defer s.answering.Unlock()
	for {
		b := s.ready()
		if b == nil {
			return
		}
		if !s.gate.open() {
			s.fail(fmt.Errorf("serve epoch %s: %w", s.epoch, domain.ErrNoLease))
			return
		}
		if b.late {
			poke(s.completeWake)
			return
		}
		ops := s.acknowledged(b)
		poke(s.completeWake) // first, so that whoever sends the answers comes to run before it
		for _, o := range ops {
			s.answer(o, nil)
		}
	}
}

// acknowledged takes the commands of the oldest durable frame, which are answered now.
func (s *session) acknowledged(b *batch) []*op {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !b.late {
		s.unapplied = append(s.unapplied, b) // before anyone is answered: who is may read
		s.shownBehind.Store(int64(len(s.unapplied)))
	}
	s.pending[0] = nil
	s.pending = s.pending[1:]
	s.acked = b.frame.LastLSN
	s.bytes += uint64(b.payload())
	ops := b.ops
	b.ops = nil
	return ops
}

// unappliedMost is how many frames may be answered ahead of the volumes; what is answered later waits for them.
const unappliedMost = 4

// completeLoop brings frames to the volumes, in order.
func (s *session) completeLoop() {
	for {
		b := s.nextToApply()
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
		s.note(&b.frame)
		s.complete(b)
		s.acknowledge()
	}
}

// nextToApply is the oldest frame that may be brought to the volumes and is not.
func (s *session) nextToApply() *batch {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.unapplied) > 0 && s.ctx.Err() == nil {
		return s.unapplied[0]
	}
	if b := s.readyNow(); b != nil && b.late { // under one lock: what is answered meanwhile comes first
		return b
	}
	return nil
}

// apply brings a frame to the volumes. Where their disk is full, initiators wait for room: what they wrote is in the journal.
func (s *session) apply(b *batch) error {
	return s.g.roomy(s.ctx, func() error {
		err := s.show(b)
		for vfs.IsFull(err) { // writers would wait for what is kept of the past
			gave, failed := s.st.hist.Yield(err)
			if failed != nil {
				return failed
			}
			if !gave {
				return err
			}
			err = s.show(b)
		}
		return err
	})
}

// show tries to bring a frame to the volumes.
func (s *session) show(b *batch) error {
	if !s.gate.open() {
		return fmt.Errorf("wait for room under epoch %s: %w", s.epoch, domain.ErrNoLease)
	}
	if err := s.g.outlivePast(s.ctx, s); err != nil {
		return err
	}
	var readers *whole.Guard
	if b.whole {
		readers = &s.whole
	}
	return s.st.apply(&b.frame, readers)
}

// note keeps what was applied for the targets that do not keep up.
func (s *session) note(f *journal.Frame) {
	for _, t := range s.senders.all() {
		if t.keepsUp() {
			t.track.takeAhead()
		} else {
			t.track.note(f, s.st.sizes())
		}
	}
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

// ready is the oldest durable frame that is not answered, if every required target has it, and the volumes are not far behind.
func (s *session) ready() *batch {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.readyNow()
}

// readyNow is ready, under mu.
func (s *session) readyNow() *batch {
	if len(s.pending) == 0 || len(s.unapplied) >= unappliedMost || s.ctx.Err() != nil {
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

// complete lets go of a frame that was applied, and of the readers that wait for it. The commands of a late one are answered now.
func (s *session) complete(b *batch) {
	var late []*op
	if b.late {
		late = s.acknowledged(b)
	}
	s.mu.Lock()
	if !b.late {
		s.unapplied[0] = nil
		s.unapplied = s.unapplied[1:]
		s.shownBehind.Store(int64(len(s.unapplied)))
	}
	s.applied = b.frame.LastLSN
	s.cache.applied(b)
	if b.shown != nil {
		close(b.shown)
	}
	ended := s.pump()
	wake := s.open != nil && s.open.builder.Len() > 0
	if s.applied == s.next-1 && len(s.queue) == 0 {
		for _, c := range s.idle {
			close(c)
		}
		s.idle = nil
	}
	s.mu.Unlock()
	s.giveSpare(b)
	for _, o := range late {
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
	return s.acked, s.bytes
}

// given is the last LSN given to a change.
func (s *session) given() domain.LSN {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.next - 1
}

// sendEarly lets the senders of synchronous targets have a frame that is being committed.
func (s *session) sendEarly(f windowFrame) {
	for _, t := range s.senders.all() {
		if t.mode() == domain.ModeSync && !t.hurry(f) {
			poke(t.wake)
		}
	}
}

// wakeSenders tells the senders that have not sent a frame that it is durable.
func (s *session) wakeSenders(last domain.LSN) {
	for _, t := range s.senders.all() {
		if !t.isAhead(last) {
			poke(t.wake)
		}
	}
}

// sleep waits for d; false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool { return clock.Sleep(ctx, d) == nil }
