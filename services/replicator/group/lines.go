package group

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/line"
)

const (
	lineTimeout = time.Second // for a line to be opened; writes may wait meanwhile
	// hurryBytes is how much may be on its way when the committer itself sends a frame: so little that a socket takes it at once, whatever
	// the target does.
	hurryBytes = 32 << 10
)

// errMute ends a stream whose line tells nothing.
var errMute = fmt.Errorf("nothing comes back by the line: %w", errCut)

// offerLine offers the primary a line, where this site has lines.
func (r *receiver) offerLine(ctx context.Context) {
	r.unoffer = func() {}
	if r.g.cfg.Lines == nil {
		return
	}
	o, closing := r.g.cfg.Lines.Open(func(lctx context.Context, message []byte) (line.Ack, error) {
		if ctx.Err() != nil {
			return line.Ack{}, ctx.Err() // the receiver has ended, or the copy has failed
		}
		return r.takeLine(lctx, message)
	})
	context.AfterFunc(ctx, closing) // not only when somebody stops the receiver: it also ends by itself
	r.offer, r.unoffer = &o, closing
}

// takeLine takes what comes by a line. An error ends the line, and the primary rejoins.
func (r *receiver) takeLine(ctx context.Context, message []byte) (line.Ack, error) {
	resend := false
	err := r.takeFrom(ctx, message, r.came, func(_ context.Context, again bool) { resend = again })
	if errors.Is(err, errBrokenStore) {
		r.g.fail(err)
	}
	p := r.position(resend)
	return line.Ack{LSN: p.LSN, Frame: p.Frame, Time: p.Time, Arrived: p.Arrived, Resend: p.Resend}, err
}

// lineOffered is the way past NATS to the receiver as it is now; nil: there is none.
func (g *Group) lineOffered() *api.LineOffer {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.receiver == nil || g.receiver.offer == nil {
		return nil
	}
	o := *g.receiver.offer
	if o.Address = g.cfg.Lines.Address(); o.Address == "" {
		return nil
	}
	return &o
}

// openLine opens the line that the target offers; nil when it offers none, or it is not to be had: then NATS carries the frames.
func (t *sender) openLine(ctx context.Context, o *api.LineOffer) *line.Conn {
	if !t.mayOpenLine(o) {
		return nil
	}
	c, err := t.dialLine(ctx, o, t.ackedBy)
	before := t.triedLine(o, err)
	switch {
	case err != nil:
		t.s.log.Warn("no line to the target, so changes go through NATS, which is slower; let this site reach the address, or set replication.address there",
			"target", string(t.site), "address", o.Address, "error", err)
		return nil
	case before != "":
		t.s.log.Info("changes go to the target by a line", "target", string(t.site), "address", o.Address)
	}
	return c
}

// mayOpenLine reports whether the target offers a line, and it is time to try it.
func (t *sender) mayOpenLine(o *api.LineOffer) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if o == nil {
		t.noLine = ""
		return false
	}
	if o.Address != t.lineTo {
		t.lineTo = o.Address
		t.lines.begin()
	}
	return t.lines.wait(time.Now()) == 0
}

func (t *sender) dialLine(ctx context.Context, o *api.LineOffer, acked func(line.Ack)) (*line.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, lineTimeout)
	defer cancel()
	return line.Dial(ctx, t.site, *o, t.s.g.cfg.Credentials, acked)
}

// triedLine keeps what became of a try to open a line, and gives why there was none before.
func (t *sender) triedLine(o *api.LineOffer, err error) (before string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	before, t.noLine = t.noLine, ""
	switch {
	case err == nil:
		t.lines.isOpen()
		return before
	case errors.Is(err, domain.ErrNotFound): // the token was just given: it was shown to somebody else
		t.lines.isMute(time.Now())
	default:
		t.lines.isUnreached(time.Now())
	}
	t.noLine = noLineText(o, err)
	return before
}

// noLineText is why there is no line, in a few words.
func noLineText(o *api.LineOffer, err error) string {
	var op *net.OpError
	text := err.Error()
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		text = fmt.Sprintf("no answer within %s", lineTimeout)
	case errors.As(err, &op):
		text = op.Err.Error()
	case errors.Unwrap(err) != nil:
		text = errors.Unwrap(err).Error() // without site and address
	}
	return o.Address + ": " + text
}

// awaitLine gives why the stream is to begin again, once a rejoin may bring a line: see lineMayBeHad. stop ends the waiting.
func (t *sender) awaitLine(ctx context.Context, o *api.LineOffer) (anew <-chan error, stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	why, ended := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(ended)
		if err := t.lineMayBeHad(ctx, o); ctx.Err() == nil {
			why <- err
		}
	}()
	return why, func() {
		cancel()
		<-ended
	}
}

// lineMayBeHad waits, beside the stream, until a rejoin may bring a line: errRejoin. Where the target offered one it is dialled now and then; one
// that was reached is closed again, as the rejoin ends its offer. An offer that has ended by itself is none that a probe could tell
// anything of: then the rejoin brings another, and that is tried. Where the target offered none it says when it does.
func (t *sender) lineMayBeHad(ctx context.Context, o *api.LineOffer) error {
	if o == nil {
		return t.lineOfferedLater(ctx)
	}
	for {
		t.mu.Lock()
		wait := t.lines.wait(time.Now())
		t.mu.Unlock()
		if !sleep(ctx, wait) {
			return ctx.Err()
		}
		c, err := t.dialLine(ctx, o, func(line.Ack) {})
		switch {
		case ctx.Err() != nil:
			if c != nil {
				c.Close()
			}
			return ctx.Err()
		case err == nil:
			c.Close()
			return fmt.Errorf("target %s can be reached by a line: %w", t.site, errRejoin)
		case errors.Is(err, domain.ErrNotFound):
			return fmt.Errorf("target %s does not know the line that it offered: %w", t.site, errRejoin)
		}
		t.triedLine(o, err)
		t.s.log.Debug("still no line to the target", "target", string(t.site), "address", o.Address, "error", err)
	}
}

// lineOfferedLater waits until the target says that there is a line to it by now. It does not look before LineAgain has passed, so that
// streams do not begin again for this more often.
func (t *sender) lineOfferedLater(ctx context.Context) error {
	if !sleep(ctx, t.s.g.cfg.Timing.LineAgain) {
		return ctx.Err()
	}
	select {
	case <-t.lined: // what it said before
	default:
	}
	select {
	case <-t.lined:
		return fmt.Errorf("target %s offers a line by now: %w", t.site, errRejoin)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// lineEnded keeps what the line of a stream that has ended, begun at from, was worth.
func (t *sender) lineEnded(out *outgoing, from domain.LSN, err error) {
	if out.line == nil {
		return
	}
	out.mu.Lock() // the committer may still send
	sent := out.sent
	out.mu.Unlock()
	never := sent && domain.LSN(out.lineAt.Load()) <= from && !errors.Is(err, errRejoin)
	mute := never || errors.Is(err, errMute)
	t.mu.Lock()
	t.lines.carried(out.seen.Sub(out.began))
	if mute {
		t.lines.isMute(time.Now())
		t.noLine = t.lineTo + ": it was opened, and nothing came by it"
	}
	address, wait := t.lineTo, t.lines.mute
	t.mu.Unlock()
	if mute {
		t.s.log.Warn("nothing came by the line to the target, so changes go through NATS, which is slower; see what stands between the sites",
			"target", string(t.site), "address", address, "again_in", wait.String())
	}
}

// lineTells is errMute when the target's positions come through NATS and not by the line: every write would wait for the former. acked is
// the newest, whichever way it came.
func (t *sender) lineTells(out *outgoing, acked domain.LSN) error {
	at := out.lineAt.Load()
	if out.line != nil && at != out.lineSeen {
		out.lineSeen, out.seen = at, time.Now()
	}
	switch {
	case out.line == nil || len(out.inFlight) == 0 && out.mute.IsZero() || acked <= domain.LSN(at):
		out.mute = time.Time{}
	case out.mute.IsZero():
		out.mute = time.Now()
	case time.Since(out.mute) > t.s.g.cfg.Timing.TargetTimeout:
		return fmt.Errorf("target %s: %w: %w", t.site, errMute, domain.ErrUnavailable)
	}
	return nil
}

// streams keeps the stream that runs; nil: none does.
func (t *sender) streams(out *outgoing) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.out = out
}

// ackedBy takes a position that came by the line.
func (t *sender) ackedBy(a line.Ack) {
	if out := t.lineOut(); out != nil {
		out.lineAt.Store(uint64(a.LSN))
	}
	t.told(api.Position{LSN: a.LSN, Frame: a.Frame, Time: a.Time, Arrived: a.Arrived, Resend: a.Resend})
	if !t.settles(a.LSN) {
		poke(t.wake)
	}
}

// settles forgets what the target has by now, and reports whether its stream has nothing else to do about that.
func (t *sender) settles(acked domain.LSN) bool {
	t.mu.Lock()
	out, quiet := t.out, t.caught && !t.joining && t.rewind == 0
	t.mu.Unlock()
	if out == nil || !quiet || !out.mu.TryLock() {
		return false
	}
	defer out.mu.Unlock()
	out.settle(acked)
	t.onTheirWay(out.bytes)
	return !out.held
}

// hurry sends a frame that is being committed by the line, without waiting for the stream's turn; false when that is not to be: there is
// none, or something else goes first. It does not wait for the target.
func (t *sender) hurry(f windowFrame) bool {
	out := t.streaming()
	if out == nil || !out.mu.TryLock() {
		return false
	}
	defer out.mu.Unlock()
	if out.line == nil || !out.straight || out.cursor != f.first || len(out.ready) > 0 || out.next != nil || out.bytes+len(f.raw) > hurryBytes {
		return false
	}
	if out.line.Send(f.raw) != nil {
		return false // the stream finds that it is lost
	}
	t.link.Charge(len(f.raw))
	out.cursor = f.last + 1
	out.went(flight{}, f.last, len(f.raw))
	t.count(len(f.raw), len(f.raw), out.bytes)
	return true
}

// isAhead reports whether a change was sent already.
func (t *sender) isAhead(last domain.LSN) bool {
	out := t.streaming()
	if out == nil || !out.mu.TryLock() {
		return false
	}
	defer out.mu.Unlock()
	return out.cursor > last
}

func (t *sender) lineOut() *outgoing {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.out
}

func (t *sender) streaming() *outgoing {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.how != domain.ModeSync || !t.live {
		return nil
	}
	return t.out
}
