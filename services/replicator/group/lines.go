package group

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/line"
)

const (
	lineTimeout = time.Second      // for a line to be opened; writes may wait meanwhile
	lineAgain   = 30 * time.Second // before it is tried again
	// hurryBytes is how much may be on its way when the committer itself sends a frame: so little that a socket takes it at once, whatever
	// the target does.
	hurryBytes = 32 << 10
)

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
	t.mu.Lock()
	lately := !t.noLine.IsZero() && time.Since(t.noLine) < lineAgain
	t.mu.Unlock()
	if o == nil || lately {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, lineTimeout)
	defer cancel()
	c, err := line.Dial(ctx, t.site, *o, t.s.g.cfg.Credentials, t.ackedBy)
	if err != nil {
		t.giveUpLines()
		t.s.log.Warn("no line to the target, so changes go through NATS, which is slower; let this site reach the address, or set replication.address there",
			"target", string(t.site), "address", o.Address, "error", err)
		return nil
	}
	return c
}

// giveUpLines has NATS carry the frames for a while.
func (t *sender) giveUpLines() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.noLine = time.Now()
}

// lineTells is errCut when the target's positions come through NATS and not by the line: every write would wait for the former. acked is
// the newest, whichever way it came.
func (t *sender) lineTells(out *outgoing, acked domain.LSN) error {
	switch {
	case out.line == nil || len(out.inFlight) == 0 && out.mute.IsZero() || acked <= domain.LSN(out.lineAt.Load()):
		out.mute = time.Time{}
	case out.mute.IsZero():
		out.mute = time.Now()
	case time.Since(out.mute) > t.s.g.cfg.Timing.TargetTimeout:
		t.giveUpLines()
		return fmt.Errorf("target %s: nothing comes back by the line: %w: %w", t.site, errCut, domain.ErrUnavailable)
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
