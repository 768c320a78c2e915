package group

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/journal"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
	"github.com/holdfast-dr/holdfast/services/replicator/whole"
)

// session is one epoch's serving at the primary. It ends once, for good.
type session struct {
	g     *Group
	st    *store
	epoch domain.Epoch
	gate  *gate
	log   *slog.Logger
	cause trace.SpanContext // what the promote was asked by
	began time.Time

	ctx       context.Context //nolint:containedctx // the session's own life, ended by fail
	cancel    context.CancelCauseFunc
	core      sync.WaitGroup // the committer and the completer
	wg        sync.WaitGroup // everything else but supervise
	verifying sync.WaitGroup // comparisons, which end with ctx
	ended     chan struct{}  // closed when nothing of the session runs any more
	// confirmed is closed when the epoch's first change, a marker, is where every acknowledged change must be. Nothing is
	// served before: a copy that had more than this one, unacknowledged, could otherwise show it later, after a reader
	// here has seen that it is not there.
	confirmed chan struct{}
	served    atomic.Bool   // the volumes are served, however many there are
	serving   chan struct{} // closed when the volumes are served that the epoch began with

	volumeWake chan struct{} // the volumes may be wanted otherwise
	window     *window
	senders    senders
	changing   sync.Mutex // held while targets come and go, and while the ring lets go of what they have
	letting    sync.Mutex // held while the ring lets go of frames, and while a target begins to need those that it has; after changing
	register   *registrar
	kickCkpt   chan struct{}

	commitWake, completeWake chan struct{}
	released                 chan struct{} // the ring has room again

	whole whole.Guard // of atomic writes

	committing sync.Mutex // held while a frame is cut and written; before answering
	answering  sync.Mutex // held while frames' commands are answered; before mu

	mu       sync.Mutex
	closed   bool // nothing is taken any more, for good
	draining bool // nothing is taken for now (demote)
	open     *batch
	cache    cache
	next     domain.LSN // the next LSN to give
	number   uint64     // of the open frame
	queue    []*op      // wait for room in a frame, or for everything before to be applied
	writing  *batch
	pending  []*batch // in the journal; wait for targets and for their turn
	acked    domain.LSN
	// unapplied are answered and not in the volumes yet.
	unapplied   []*batch
	shownBehind atomic.Int64 // their number, for readers, who need no lock when there are none
	applied     domain.LSN
	bytes       uint64 // payload bytes acknowledged in this epoch
	required    map[domain.SiteID]bool
	idle        []chan struct{} // closed when nothing is in flight
}

// batch is a frame in the making, and the commands that end in it.
type batch struct {
	builder *journal.Builder
	frame   journal.Frame
	ops     []*op
	since   clock.Time    // when the journal had it
	whole   bool          // holds an atomic write: readers see what it changes at once
	late    bool          // its commands are answered when it is applied
	early   int           // of the cache's room that its commands took
	shown   chan struct{} // closed when it is applied; nil: nobody waits
}

// op is one command that changes a volume.
type op struct {
	volume int
	cmd    *target.Command
	done   func(error)
	at     int64 // bytes of the command that have an LSN already
	late   bool  // to be answered when the volumes show it, not before
	// marker: no command, but a mark: the one that an epoch begins with, or of a checkpoint.
	marker bool
	mark   int64      // what the mark is
	label  []byte     // a checkpoint's
	lsn    domain.LSN // of the mark, once it has one
}

// errOvertaken ends a session whose epoch is over elsewhere.
var errOvertaken = errors.New("overtaken")

func newSession(ctx context.Context, g *Group, epoch domain.Epoch, deadline clock.Time) *session {
	n := g.store.j.Next()
	s := &session{
		g: g, st: g.store, epoch: epoch, gate: newGate(g.cfg.Now, deadline), log: g.log.With("epoch", epoch.String()), began: time.Now(),
		ended: make(chan struct{}), confirmed: make(chan struct{}), serving: make(chan struct{}), volumeWake: make(chan struct{}, 1), window: newWindow(g.cfg.Memory),
		kickCkpt: make(chan struct{}, 1), commitWake: make(chan struct{}, 1), completeWake: make(chan struct{}, 1), released: make(chan struct{}, 1),
		next: n.FirstLSN, number: 1, applied: n.FirstLSN - 1, acked: n.FirstLSN - 1, required: map[domain.SiteID]bool{},
		cache: cache{on: g.store.class() == domain.DurabilityCached, pages: map[cachePage]int{}},
	}
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	s.open = s.newBatch(g.cfg.Memory.builder())
	return s
}

// start runs the session's parts. serve the volumes afterwards.
func (s *session) start() {
	s.window.open()
	s.core.Go(s.commitLoop)
	s.core.Go(s.completeLoop)
	for _, run := range []func(){s.guardLoop, s.checkpointLoop, s.watchLoop, s.headLoop, s.scrubLoop, s.resumeLoop, s.holdLoop, s.register.run, s.volumeLoop} {
		s.wg.Go(run)
	}
	for _, t := range s.senders.all() {
		s.launch(t)
	}
	s.wg.Go(func() { s.g.writes.Run(s.ctx, s.log) })
	s.wg.Go(func() { s.g.trimLoop(s.ctx) })
	go s.supervise()
	s.enqueue(&op{marker: true, done: func(err error) {
		if err == nil {
			close(s.confirmed)
		}
	}})
}

// fail ends the session at once: from here on nothing is acknowledged. It does not wait.
func (s *session) fail(cause error) {
	s.gate.close()
	s.cancel(cause)
}

// stop ends the session and waits until nothing of it runs and no answer can leave.
func (s *session) stop(cause error) {
	s.fail(cause)
	<-s.ended
}

// supervise settles what is left when the session ends: initiators are dropped without waiting for any other site.
func (s *session) supervise() {
	<-s.ctx.Done()
	s.gate.close()
	began := time.Now()
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.core.Wait()
	for _, busy := range []*sync.Mutex{&s.committing, &s.answering} { // no frame is, and no answer
		busy.Lock()
		busy.Unlock() //nolint:staticcheck // an empty section: see above
	}
	for _, o := range s.leftovers() {
		o.done(target.ErrFenced)
	}
	s.g.unserve(s.epoch)
	s.changing.Lock()   // whoever changes targets afterwards sees that the session has ended
	s.changing.Unlock() //nolint:staticcheck // an empty section: see above
	s.wg.Wait()
	s.verifying.Wait()
	s.window.close()
	s.g.sessionEnded(s, began, context.Cause(s.ctx))
	close(s.ended)
}

// leftovers takes every command that was not answered.
func (s *session) leftovers() []*op {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*op
	for _, b := range append(append(s.pending, s.writing), s.open) {
		if b != nil {
			out = append(out, b.ops...)
		}
	}
	out = append(out, s.queue...)
	s.pending, s.writing, s.open, s.queue = nil, nil, nil, nil
	return out
}

// submit takes a command that changes a volume, in the order of the calls.
func (s *session) submit(o *op) {
	if s.gate.shut.Load() { // the deadline is looked at for each frame, and for each answer
		o.done(target.ErrFenced)
		return
	}
	if o.cmd.Len == 0 && len(o.cmd.Data) == 0 {
		o.done(nil) // changes nothing
		return
	}
	s.enqueue(o)
}

func (s *session) enqueue(o *op) {
	s.mu.Lock()
	if s.closed || s.draining {
		s.mu.Unlock()
		o.done(target.ErrFenced)
		return
	}
	s.queue = append(s.queue, o)
	failed := s.pump()
	wake := s.open.builder.Len() > 0
	alone := !o.marker && o.cmd.Alone && len(s.queue) == 0 && s.writing == nil && len(s.pending) == 0 && len(s.open.ops) == 1
	s.mu.Unlock()
	s.settle(failed)
	if alone {
		wake = s.commitHere()
	}
	if wake {
		poke(s.commitWake)
	}
}

// commitHere makes the one open command durable in its initiator's own time, which has nothing else to do: to wake the committer
// would take a good part of what the write takes. It reports whether the committer has something to do all the same; so it does where
// the ring is nearly full, for which nobody waits here.
func (s *session) commitHere() (more bool) {
	if !s.committing.TryLock() {
		return true
	}
	defer s.committing.Unlock()
	if s.ctx.Err() != nil || s.st.j.Room() < 2*journal.MaxFrameBytes {
		return true
	}
	if !s.commitOne() {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open != nil && s.open.builder.Len() > 0
}

// result is a command that ended while the lock was held.
type result struct {
	o   *op
	err error
}

func (s *session) settle(rs []result) {
	for _, r := range rs {
		s.answer(r.o, r.err)
	}
}

// answer ends a command. The deadline counts at the moment of acknowledging, for each.
func (s *session) answer(o *op, err error) {
	if err == nil && !s.gate.open() {
		err = target.ErrFenced
	}
	o.done(err)
}

// pump moves commands from the queue into the open frame while they fit. Under mu. What it gives back ended already.
func (s *session) pump() (ended []result) {
	for len(s.queue) > 0 && s.open != nil {
		o := s.queue[0]
		if !o.marker && o.cmd.Op == target.OpCompareAndWrite && o.at == 0 {
			if s.next-1 != s.applied {
				return ended // everything before it comes first, and is applied
			}
			if err := s.compare(o); err != nil {
				s.queue = s.queue[1:]
				ended = append(ended, result{o, err})
				continue
			}
		}
		done := false
		if o.flush() {
			done = s.flush(o)
		} else if !s.place(o) {
			return ended
		} else if done = s.early(o, s.open); !done {
			s.open.ops = append(s.open.ops, o)
		}
		if done {
			ended = append(ended, result{o, nil})
		}
		s.queue[0] = nil
		s.queue = s.queue[1:]
	}
	return ended
}

// compare holds a command's expectation against the volume. Under mu, with nothing in flight.
func (s *session) compare(o *op) error {
	have := make([]byte, len(o.cmd.Compare))
	if _, err := s.st.vols()[o.volume].ReadAt(have, o.cmd.Off); err != nil {
		return fmt.Errorf("compare: %w: %w", target.ErrMedium, err)
	}
	for i := range have {
		if have[i] != o.cmd.Compare[i] {
			return &target.MiscompareError{Offset: int64(i)}
		}
	}
	return nil
}

// pieceBytes bounds one entry, so that a large write does not make a frame wait for room. An atomic write is no longer: it
// is one entry with one LSN, so that every prefix of the group's order, at any site, has all of it or nothing.
const pieceBytes = 1 << 20

func (o *op) atomic() bool { return !o.marker && o.cmd.Atomic }
func (o *op) flush() bool  { return !o.marker && o.cmd.Op == target.OpFlush }

// place gives LSNs to as much of o as fits the open frame; true when that is all of it. Under mu.
func (s *session) place(o *op) bool {
	b := s.open
	for {
		e, ok := o.piece()
		if !ok {
			return true
		}
		if !b.builder.Add(e.Volume, e.Op, e.Off, e.Len, e.Data) {
			return false
		}
		if o.marker {
			o.lsn = s.next
		}
		b.frame.Entries = append(b.frame.Entries, e)
		s.cache.track(&e, 1)
		b.whole = b.whole || o.atomic()
		b.late = b.late || o.late || o.marker // whoever marks finds the volumes and their table as of the mark
		o.at += max(e.Len, 1)
		s.next++
	}
}

// piece is the next change of a command; false when it has none left.
func (o *op) piece() (journal.Entry, bool) {
	if o.marker {
		return journal.Entry{Op: journal.OpMarker, Off: o.mark, Len: int64(len(o.label)), Data: o.label}, o.at == 0
	}
	c := o.cmd
	e := journal.Entry{Volume: uint16(o.volume), Off: c.Off + o.at}
	switch c.Op {
	case target.OpZero, target.OpUnmap:
		e.Op, e.Len = journal.OpZero, c.Len-o.at
		if c.Op == target.OpUnmap {
			e.Op = journal.OpUnmap
		}
	default:
		n := min(int64(len(c.Data))-o.at, pieceBytes)
		e.Op, e.Len, e.Data = journal.OpWrite, n, c.Data[o.at:o.at+n]
		if n > 0 && allZero(e.Data) {
			e.Op, e.Data = journal.OpZero, nil
		}
	}
	return e, e.Len > 0
}

func (s *session) newBatch(b *journal.Builder) *batch {
	b.Reset(s.st.group.ID, s.epoch, s.number, s.next)
	return &batch{builder: b, frame: journal.Frame{Group: s.st.group.ID, Epoch: s.epoch, Number: s.number, FirstLSN: s.next}}
}

// poke wakes the one that waits on c, now or when it next looks.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
