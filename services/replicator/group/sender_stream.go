package group

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/journal"
	"github.com/holdfast-dr/holdfast/services/replicator/line"
	"github.com/holdfast-dr/holdfast/services/replicator/transport"
)

// flight is a frame on its way.
type flight struct {
	last  domain.LSN
	bytes int
	sent  time.Time
	// result tells whether the pipe took it, settled is called when a message past the pipe is settled; one is nil.
	result  <-chan error
	settled func()
	crossed bool // the target's server had it, for certain
}

// outgoing is what a stream has sent and is about to send. The stream holds mu but while it waits.
type outgoing struct {
	mu       sync.Mutex
	w        *bus.PipeWriter
	direct   *bus.DirectWriter // nil: everything goes through the pipe
	line     *line.Conn        // instead of both; nil: there is none
	lineAt   atomic.Uint64     // the last LSN that the line told
	lineSeen uint64            // of these, the last that the stream saw
	seen     time.Time         // when
	mute     time.Time         // since when it has told less than NATS; zero: it has not
	began    time.Time         // the stream, and its line
	sent     bool              // something was
	anew     <-chan error      // why the stream begins again to open a line; nil: it has one
	straight bool              // it goes past the pipe now
	held     bool              // there may be more to send once the target has more of what is in flight
	cursor   domain.LSN        // the first LSN that is neither sent nor ready
	ready    []windowFrame
	inFlight []flight
	bytes    int // in flight
	// The next message, and its turn on the link; none when it is not to wait for one.
	next  *message
	place *transport.Turn
}

// message is what goes into the pipe at once.
type message struct {
	last   domain.LSN
	wire   []byte
	frames int // bytes of the frames in it
}

// stream sends frames, until something fails.
func (t *sender) stream(ctx context.Context, out *outgoing) error {
	out.mu.Lock()
	defer out.mu.Unlock()
	defer out.settle(math.MaxInt64)
	defer func() { out.place.Leave() }()
	defer t.onTheirWay(0)
	check := time.NewTicker(100 * time.Millisecond)
	defer check.Stop()
	var anew error
	for {
		acked, rewind := t.progress()
		out.settle(acked)
		t.onTheirWay(out.bytes)
		if rewind != 0 && rewind < out.cursor {
			return fmt.Errorf("target %s asks for LSN %d again: %w", t.site, rewind, errRejoin)
		}
		if err := failed(out.inFlight); err != nil {
			return err
		}
		if anew != nil && acked+1 >= t.s.st.j.State().TailLSN { // else the ring may lack what is on its way
			return anew
		}
		if err := t.lineTells(out, acked); err != nil {
			return err
		}
		t.caughtUp(ctx, acked)
		sent, turn, err := t.fill(ctx, out)
		if err != nil {
			return err
		}
		if sent {
			continue
		}
		if err := t.missed(ctx, out); err != nil {
			return err
		}
		if silent := t.silence(); silent > t.s.g.cfg.Timing.TargetTimeout {
			return fmt.Errorf("target %s is silent for %s: %w", t.site, silent, domain.ErrUnavailable)
		}
		if len(out.inFlight) > 0 && t.stalled(out.inFlight[0].sent) {
			return fmt.Errorf("target %s: no position for LSN %d in %s: %w", t.site, out.inFlight[0].last, t.s.g.cfg.Timing.TargetTimeout, domain.ErrUnavailable)
		}
		lost := out.lost()
		out.mu.Unlock()
		select {
		case <-t.wake:
		case <-turn:
		case <-check.C:
		case anew = <-out.anew:
		case <-lost:
			err = fmt.Errorf("target %s: %w: %w", t.site, errCut, domain.ErrUnavailable)
		case <-ctx.Done():
			err = ctx.Err()
		}
		if out.mu.Lock(); err != nil {
			return err
		}
	}
}

// settle forgets what the target holds.
func (o *outgoing) settle(acked domain.LSN) {
	for len(o.inFlight) > 0 && o.inFlight[0].last <= acked {
		o.bytes -= o.inFlight[0].bytes
		if done := o.inFlight[0].settled; done != nil {
			done()
		}
		o.inFlight = o.inFlight[1:]
	}
}

// fill sends frames while there are any, the window has room for them, and the target's rate and its turn on the
// link allow it; turn says when the last two may, or when a bundle has waited for more for long enough. A synchronous target
// waits for none of these three, and has the largest window: writes wait for it.
func (t *sender) fill(ctx context.Context, out *outgoing) (sent bool, turn <-chan struct{}, err error) {
	out.held = true
	for limit := t.window(); out.bytes < limit && out.turn(t.mode() == domain.ModeSync); limit = t.window() {
		now := time.Now()
		rate := t.streamRate(now)
		if wait := t.pace.Wait(now, rate); wait > 0 {
			return sent, soon(wait), nil
		}
		if wait, err := t.pack(out, now); err != nil || out.next == nil {
			out.held = false
			return sent, wait, err
		}
		if out.bytes > 0 && out.bytes+len(out.next.wire) > limit {
			return sent, nil, nil
		}
		if !t.mayGo(out) {
			return sent, out.place.Come(), nil
		}
		m := out.next
		f, opens, err := out.send(ctx, m.wire)
		if err != nil || opens != nil {
			return sent, opens, err
		}
		out.next, out.place = nil, nil
		t.pace.Sent(now, rate, len(m.wire))
		out.went(f, m.last, len(m.wire))
		t.count(len(m.wire), m.frames, out.bytes)
		sent = true
	}
	return sent, nil, nil
}

// pack makes the next message ready, if there are frames for one; wait says when a bundle has waited for long enough.
func (t *sender) pack(out *outgoing, now time.Time) (wait <-chan struct{}, err error) {
	if out.next != nil {
		return nil, nil
	}
	most := t.bundled()
	full, err := t.load(out, most)
	if err != nil || len(out.ready) == 0 {
		return nil, err
	}
	if d := bundleWait - now.Sub(out.ready[0].at); most > 0 && !full && d > 0 {
		return soon(d), nil
	}
	taken, raw := bundle(out.ready, most)
	out.next = &message{last: out.ready[taken-1].last, wire: t.packed(raw), frames: len(raw)}
	out.ready = out.ready[taken:]
	return nil, nil
}

// mayGo reports whether the next message's turn on the link has come. One that an acknowledgement waits for takes no turn: the
// others wait for it.
func (t *sender) mayGo(out *outgoing) bool {
	if t.mode() == domain.ModeSync {
		out.place.Leave()
		if out.place == nil || !came(out.place) {
			t.link.Charge(len(out.next.wire))
		}
		return true
	}
	if out.place == nil {
		out.place = t.link.Ask(len(out.next.wire), t.weight())
	}
	return came(out.place)
}

func came(turn *transport.Turn) bool {
	if turn == nil {
		return true
	}
	select {
	case <-turn.Come():
		return true
	default:
		return false
	}
}

// soon is closed when a time has passed.
func soon(d time.Duration) <-chan struct{} {
	c := make(chan struct{})
	time.AfterFunc(d, func() { close(c) })
	return c
}

// load reads frames until they make a message of most bytes (full) or there are no more.
func (t *sender) load(out *outgoing, most int) (full bool, err error) {
	n := 0
	for i := range out.ready {
		n += len(out.ready[i].raw)
	}
	for n < max(most, 1) {
		more, err := t.frames(out.cursor)
		if err != nil || len(more) == 0 {
			return false, err
		}
		for i := range more {
			n += len(more[i].raw)
		}
		out.ready, out.cursor = append(out.ready, more...), more[len(more)-1].last+1
	}
	return true, nil
}

// went notes a message that was sent.
func (o *outgoing) went(f flight, last domain.LSN, bytes int) {
	f.last, f.bytes, f.sent = last, bytes, time.Now()
	o.inFlight = append(o.inFlight, f)
	o.bytes += bytes
	o.sent = true
}

// turn lets frames that writes wait for go past the pipe, and others through it, where there is no line for all. false: what is on its way the one way has to
// arrive before anything goes the other.
func (o *outgoing) turn(sync bool) bool {
	straight := o.line != nil || sync && o.direct != nil
	if straight != o.straight && len(o.inFlight) > 0 {
		return false
	}
	o.straight = straight
	return true
}

// send sends a message; opens is not nil when the connection is made anew first: then it was not sent, and may be when opens is closed.
func (o *outgoing) send(ctx context.Context, message []byte) (f flight, opens <-chan struct{}, err error) {
	switch {
	case o.line != nil:
		err = o.line.Send(message)
	case o.straight:
		f.settled, opens, err = o.direct.Send(message)
	default:
		f.result, err = o.w.Send(ctx, message)
	}
	return f, opens, err
}

// lost is closed when what went past the pipe may not have arrived.
func (o *outgoing) lost() <-chan struct{} {
	switch {
	case o.line != nil:
		return o.line.Lost()
	case o.straight:
		return o.direct.Lost()
	}
	return nil
}

// missedAfter is how long a position may tell nothing of a frame that went past the pipe.
const missedAfter = 500 * time.Millisecond

// missed is errRejoin when a frame that went past the pipe, and by no line, did not arrive: the target was heard since, more than once, and
// knows nothing of it, nor of others that went before: a target that works through many has them in order. When none ever did,
// though its server has what was sent, the pipe is taken until the session ends; a line that carries one way only looks the
// same, but for that.
func (t *sender) missed(ctx context.Context, out *outgoing) error {
	if !out.straight || out.line != nil || len(out.inFlight) == 0 {
		return nil
	}
	first := &out.inFlight[0]
	t.mu.Lock()
	late := max(t.arrived, t.acked) < first.last
	for _, at := range []time.Time{first.sent, t.came, t.moved} {
		late = late && t.heard.Sub(at) >= missedAfter
	}
	never := t.arrived == 0
	t.mu.Unlock()
	if !late {
		return nil
	}
	if never && !first.crossed {
		ctx, cancel := context.WithTimeout(ctx, t.s.g.cfg.Timing.TargetTimeout)
		defer cancel()
		if err := t.conn.RoundTrip(ctx); err != nil {
			return fmt.Errorf("target %s is heard, and does not hear: %w", t.site, err)
		}
		first.crossed, first.sent = true, time.Now() // heard for so long again, it would know of it
		return nil
	}
	if never {
		t.mu.Lock()
		t.deaf = true
		t.mu.Unlock()
		t.s.log.Warn("nothing that goes past the pipe reaches the target, so the pipe is used; are the credentials of both sites renewed (holdfast site rotate)?", "target", string(t.site))
	}
	return fmt.Errorf("target %s has not got LSN %d: %w", t.site, first.last, errRejoin)
}

// goesDirect reports whether frames may go past the pipe.
func (t *sender) goesDirect() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.direct && !t.deaf
}

// silence is how long the target has not told its position, which it does several times a second.
func (t *sender) silence() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return time.Since(t.heard)
}

// stalled reports that a frame sent then is not acknowledged, and that nothing else was since.
func (t *sender) stalled(sent time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	limit := t.s.g.cfg.Timing.TargetTimeout
	return time.Since(sent) > limit && time.Since(t.moved) > limit
}

// failed looks for a frame that the pipe did not take.
func failed(inFlight []flight) error {
	for i := range inFlight {
		if inFlight[i].result == nil {
			continue
		}
		select {
		case err := <-inFlight[i].result:
			if err != nil {
				return err
			}
			inFlight[i].result = nil
		default:
			return nil // results come in order
		}
	}
	return nil
}

func (t *sender) progress() (acked, rewind domain.LSN) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.acked, t.rewind
}

// frames gives the next frames from LSN cursor on: one from memory, or several from the ring.
func (t *sender) frames(cursor domain.LSN) ([]windowFrame, error) {
	f, ok, older := t.s.window.at(cursor, t.mode() == domain.ModeSync)
	if ok && f.first == cursor {
		t.setState(api.TargetStreaming)
		return []windowFrame{f}, nil
	}
	if !older && !ok {
		return nil, nil
	}
	raw, err := t.s.st.j.Read(cursor, 1<<20)
	if err != nil {
		if errors.Is(err, journal.ErrNotRetained) {
			return nil, fmt.Errorf("target %s lags behind the ring: %w: %w", t.site, errRejoin, err)
		}
		if errors.Is(err, journal.ErrCorrupt) { // the volumes have what it says: blocks must do
			t.s.g.damageFound(err)
			t.mu.Lock()
			t.damaged = true
			t.mu.Unlock()
			return nil, fmt.Errorf("target %s needs a damaged frame: %w: %w", t.site, errRejoin, err)
		}
		return nil, err
	}
	var out []windowFrame
	for _, b := range raw {
		fr, err := journal.Decode(b)
		if err != nil {
			return nil, err
		}
		out = append(out, windowFrame{first: fr.FirstLSN, last: fr.LastLSN, raw: b})
	}
	if len(out) > 0 {
		t.setState(api.TargetLagging)
	}
	return out, nil
}

// caughtUp looks whether the target holds everything acknowledged, and if so makes it count.
func (t *sender) caughtUp(ctx context.Context, acked domain.LSN) {
	head, _ := t.s.head()
	if acked < head {
		return
	}
	t.mu.Lock()
	first := !t.caught
	t.caught, t.state, t.lost, t.noted = true, api.TargetStreaming, false, false
	joining, join := t.joining, t.joinLSN
	t.mu.Unlock()
	if err := t.s.st.repaid(t.site, t.track, acked); err != nil {
		t.s.fail(err)
		return
	}
	if first {
		t.s.g.publish(ctx, "target_streaming", t.s.epoch, acked, t.site, string(t.mode()))
	}
	if t.mode() != domain.ModeSync || t.s.register.wants(t.site) {
		return
	}
	if !joining {
		// From here on every write waits for it; what was given an LSN before may be acknowledged without it.
		if !t.s.register.require(t.site) {
			return
		}
		join = t.s.given()
		t.mu.Lock()
		t.joining, t.joinLSN = true, join
		t.mu.Unlock()
	}
	if acked >= join {
		if !t.s.register.join(t.site) {
			t.mu.Lock()
			t.joining = false // let go meanwhile: from the beginning
			t.mu.Unlock()
		}
	}
}
