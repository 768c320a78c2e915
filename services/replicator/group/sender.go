package group

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/telemetry"
	"github.com/holdfast-dr/holdfast/services/replicator/transport"
)

// sender brings one target on: connect (rejoin), resync when frames alone cannot do it, then stream.
type sender struct {
	s     *session
	site  domain.SiteID
	conn  *bus.Conn
	track *track
	pace  transport.Pacer
	link  *transport.Flow
	wake  chan struct{} // a frame, a position, or a wish to try again
	lined chan struct{} // the target says that there is a line to it

	mu         sync.Mutex
	how        domain.Mode // of the policy; none: it is being let go
	state      string
	lost       bool // a write waited too long for it
	live       bool // rejoined: positions count
	reached    bool // rejoined at least once in this session: acked means something
	via        domain.Transport
	opens      []domain.Compression // what the target makes of what is sent to it packed
	bundles    bool                 // the target takes several frames in one message
	changes    bool                 // the target follows when volumes are added and removed
	direct     bool                 // the target takes frames past the pipe
	deaf       bool                 // what was sent past the pipe never arrived: not in this session again
	lines      linePace             // when a line is tried again
	lineTo     string               // the address that it is about
	noLine     string               // why there is none though the target offers one; empty: there is, or it does not
	out        *outgoing            // of the stream; nil: there is none
	arrived    domain.LSN
	came       time.Time // when arrived last grew
	sent       sentBytes
	flying     int           // bytes of frames, or of a resync, that are sent and not acknowledged
	room       chan struct{} // closed when a resync that waits for room in the window is to look again; nil: none waits
	acked      domain.LSN
	ackTime    time.Time // of the target's last frame
	rewind     domain.LSN
	joining    bool // required; proposed once it holds joinLSN
	joinLSN    domain.LSN
	resynced   uint64
	total      uint64
	pass       pass // of the last resync
	err        error
	caught     bool      // reported as streaming, and not as stalled since
	breaks     uint64    // times that the stream broke off in this session
	toldBreaks uint64    // of these, when the last was told
	toldAt     time.Time // when
	damaged    bool      // a frame that it needs is damaged in the ring
	noted      bool      // the ring let go of what it lacks, and that was told
	moved      time.Time // when its position last grew
	heard      time.Time // when it last told its position
	committing bool      // a resync was sent whole; the target makes it its image

	cancel context.CancelFunc // ends run
	ended  chan struct{}      // closed when run has
}

var (
	// errRejoin ends a stream that has to begin again with a rejoin.
	errRejoin = errors.New("begin again")
	// errCut ends a stream whose connection was lost: a break, after which it begins again as soon as there is a connection.
	errCut = errors.New("the connection was lost")
	// errCommitted ends a resync that the target now makes its image.
	errCommitted = errors.New("the target takes over what was sent")
)

func (s *session) newSender(site domain.SiteID, mode domain.Mode) (*sender, error) {
	conn, err := s.g.cfg.Mesh.Conn(site)
	if err != nil {
		return nil, err
	}
	tr, err := s.st.loadTrack(site)
	if err != nil {
		return nil, err
	}
	return &sender{s: s, site: site, how: mode, conn: conn, track: tr, via: s.st.policy().TransportTo(s.g.cfg.Site, site), wake: make(chan struct{}, 1), lined: make(chan struct{}, 1),
		lines: linePace{timing: s.g.cfg.Timing}, link: s.g.cfg.Links[site].Flow(), state: api.TargetConnecting}, nil
}

func (t *sender) run(ctx context.Context) {
	if err := t.conn.Subscribe(ctx, api.PositionSubject(t.s.st.group.ID, t.site), t.position); err != nil {
		t.s.fail(fmt.Errorf("follow target %s: %w", t.site, err))
		return
	}
	for ctx.Err() == nil {
		err := t.connectAndStream(ctx)
		if ctx.Err() != nil {
			return
		}
		t.disconnected(err)
		if errors.Is(err, domain.ErrStaleEpoch) {
			// The target was fenced to a higher epoch: ours is over, whatever our clock says.
			t.s.fail(fmt.Errorf("target %s: %w: %w", t.site, errOvertaken, err))
			return
		}
		t.tellStalled(ctx, err)
		t.s.log.Debug("target not streaming", "target", string(t.site), "error", err)
		pause := t.s.g.cfg.Timing.Retry
		if errors.Is(err, errRejoin) || errors.Is(err, errCut) {
			pause = min(pause, 20*time.Millisecond)
		}
		if !sleep(ctx, pause) {
			return
		}
	}
}

// tellStalled tells that a target which streamed does not any more, every now and then while that goes on happening. What ends
// a stream in order is not told.
func (t *sender) tellStalled(ctx context.Context, err error) {
	if errors.Is(err, errRejoin) || errors.Is(err, errCommitted) || t.mode() == domain.ModeNone {
		return
	}
	t.mu.Lock()
	tell := t.caught && time.Since(t.toldAt) >= t.s.g.cfg.Timing.Progress
	detail := err.Error()
	if n := t.breaks - t.toldBreaks; tell {
		if n > 1 {
			detail = fmt.Sprintf("%d times since it was told last: %s", n, detail)
		}
		t.caught, t.toldAt, t.toldBreaks = false, time.Now(), t.breaks
	}
	at := t.acked
	t.mu.Unlock()
	if tell {
		t.s.log.Warn("target stalled", "target", string(t.site), "error", err)
		t.s.g.publish(ctx, "target_stalled", t.s.epoch, at, t.site, detail)
	}
}

func (t *sender) disconnected(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.live && !errors.Is(err, errRejoin) {
		t.breaks++
	}
	t.live, t.err = false, err
	if t.state != api.TargetOverflow && !t.committing {
		t.state = api.TargetConnecting
	}
	if t.lost && !t.committing {
		t.state = api.TargetLost
	}
}

func (t *sender) setState(state string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.state = state
}

func (t *sender) setLost(lost bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lost = lost
	if lost {
		t.joining = false
		if !t.live {
			t.state = api.TargetLost
		}
	}
}

// overflowed tells that the ring lets go of what this target lacks.
func (t *sender) overflowed() {
	t.mu.Lock()
	t.state = api.TargetOverflow
	first, at := !t.noted, t.acked
	t.noted = true
	t.mu.Unlock()
	if first {
		t.s.g.publish(t.s.ctx, "target_overflowed", t.s.epoch, at, t.site, "the ring let go of what it lacks; which blocks that is, is noted")
	}
	poke(t.wake)
}

// keepsUp reports whether the target takes frames as they come.
func (t *sender) keepsUp() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.live && t.state == api.TargetStreaming
}

// durableLSN is the last change that the target's journal holds, as far as it told.
func (t *sender) durableLSN() domain.LSN {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.live {
		return 0
	}
	return t.acked
}

// position takes what the target tells of its journal.
func (t *sender) position(_ context.Context, m bus.Message) {
	var p api.Position
	if err := json.Unmarshal(m.Data, &p); err != nil || p.Primary || p.Epoch != t.s.epoch || p.Site != t.site {
		return
	}
	if p.Line {
		poke(t.lined)
	}
	t.told(p)
	poke(t.wake)
}

// told takes a position, whichever way it came.
func (t *sender) told(p api.Position) {
	given := t.s.given()
	t.mu.Lock()
	if !t.live || p.LSN > given {
		t.mu.Unlock()
		return
	}
	t.heard = time.Now()
	if p.Arrived > t.arrived {
		t.came = t.heard
	}
	t.arrived = p.Arrived
	moved := p.LSN > t.acked
	if moved {
		t.acked, t.ackTime, t.lost, t.moved = p.LSN, p.Time, false, t.heard
	}
	if p.Resend && p.LSN >= t.acked {
		t.rewind = p.LSN + 1
	}
	t.mu.Unlock()
	if moved {
		t.track.advance(p.LSN)
		t.s.acknowledge()
	}
}

// connectAndStream is one attempt, from rejoin to the failure that ends it.
func (t *sender) connectAndStream(ctx context.Context) error {
	if err := t.conn.AwaitConnected(ctx); err != nil {
		return err
	}
	reply, err := t.rejoin(ctx)
	if err != nil {
		return err
	}
	t.can(reply)
	from := reply.LSN
	if err := t.stillInSync(ctx, reply); err != nil {
		return err
	}
	if err := t.s.g.rejoined(t.site, from, t.needsResync(reply)); err != nil {
		return err
	}
	if t.needsResync(reply) {
		if err := t.resync(ctx, reply); err != nil {
			return err
		}
		return errCommitted
	}
	t.resyncDone(ctx, from)
	if err := t.s.goOnFrom(t, from); err != nil {
		return err
	}
	w, err := t.conn.OpenPipe(ctx, t.s.st.group.ID, t.s.epoch)
	if err != nil {
		return err
	}
	out := &outgoing{w: w, cursor: from + 1, began: time.Now(), lineSeen: uint64(from)}
	out.lineAt.Store(uint64(from)) // as a rejoin told it, the line has told nothing less
	if out.line = t.openLine(ctx, reply.Line); out.line != nil {
		defer out.line.Close()
		defer context.AfterFunc(ctx, out.line.Close)() // also while a Send waits for the socket
	} else {
		var stop func()
		out.anew, stop = t.awaitLine(ctx, reply.Line)
		defer stop()
	}
	t.joined(from)
	if t.goesDirect() {
		out.direct = t.conn.OpenDirect(t.s.st.group.ID, t.s.epoch)
	}
	t.streams(out)
	defer t.streams(nil)
	err = t.stream(ctx, out)
	if ctx.Err() == nil {
		t.lineEnded(out, from, err)
	}
	return err
}

// rejoinTimeout bounds one request; a target that takes longer answers a later one at once.
const rejoinTimeout = 4 * time.Second

func (t *sender) rejoin(ctx context.Context) (_ api.RejoinReply, err error) {
	ctx, span := t.s.linked(ctx, "rejoin", t.site)
	defer func() { telemetry.End(span, err) }()
	st, applied := t.s.st.j.State(), t.s.st.applied()
	table := t.s.st.slots()
	ctx, cancel := context.WithTimeout(ctx, rejoinTimeout)
	defer cancel()
	return bus.Call[api.RejoinReply](ctx, t.conn, api.ServiceReplicator, api.VerbRejoin, api.RejoinRequest{
		Group: t.s.st.group.ID, Epoch: t.s.epoch, Site: t.s.g.cfg.Site, Lineage: lineageToAPI(st.Lineage),
		Volumes: table.Volumes(), Table: table, TableLSN: applied, First: st.TailLSN, Last: st.LastLSN,
		Cause: t.s.cameFrom(),
	})
}

// needsResync reports whether frames from the ring cannot do.
func (t *sender) needsResync(r api.RejoinReply) bool {
	st := t.s.st.j.State()
	t.mu.Lock()
	damaged := t.damaged
	t.mu.Unlock()
	return r.Resync || r.Full || r.LSN+1 < st.TailLSN || damaged
}

// stillInSync takes a target out of the in-sync set whose copy is lost, diverged, too old for the ring, or less than it had
// acknowledged: until it has caught up, a failover must not begin from it.
func (t *sender) stillInSync(ctx context.Context, r api.RejoinReply) error {
	acked, _ := t.progress()
	if t.mode() != domain.ModeSync && !t.s.register.isBarred(t.site) || !t.needsResync(r) && r.LSN >= acked || !t.s.register.may(t.site) {
		return nil
	}
	t.s.log.Warn("target came back with another copy than was in sync", "target", string(t.site), "lsn", uint64(r.LSN), "acknowledged", uint64(acked))
	return t.s.register.expel(ctx, t.site, "its copy is not the one that was in sync")
}

// joined begins to count the target's positions.
func (t *sender) joined(at domain.LSN) {
	t.mu.Lock()
	t.live, t.reached, t.acked, t.rewind, t.err, t.joining, t.arrived = true, true, at, 0, nil, false, 0
	t.state, t.heard = api.TargetLagging, time.Now()
	t.mu.Unlock()
	t.s.acknowledge()
}

func (t *sender) status(head domain.LSN) api.TargetStatus {
	t.mu.Lock()
	defer t.mu.Unlock()
	st := api.TargetStatus{Site: t.site, Mode: t.how, State: t.state, DurableLSN: t.acked, ResyncBytes: t.resynced, ResyncTotal: t.total}
	st.SentBytes, st.SentFrameBytes, st.RateLimit = t.sent.wire, t.sent.frames, t.via.Rate(time.Now())
	st.InFlight, st.Window = uint64(t.flying), uint64(t.windowNow(t.how == domain.ModeSync))
	for _, n := range t.s.st.sizes() {
		st.VolumeBytes += uint64(n)
	}
	if head > t.acked {
		st.LagBytes = t.s.window.after(t.acked)
	}
	if head > t.acked {
		st.LagSeconds = time.Since(t.s.window.since(t.acked, t.ackTime)).Seconds()
	}
	if t.err != nil {
		st.Error = t.err.Error()
	}
	st.Resync, st.Breaks = t.resyncProgress(), t.breaks
	if t.out != nil {
		st.Way, st.NoLine = api.WayNATS, t.noLine
		if t.out.line != nil {
			st.Way = api.WayLine
		}
	}
	return st
}

// loss is what would be lost if this site died now and the target went on: what was acknowledged and is not there.
func (t *sender) loss(head domain.LSN, inSync bool, lagSeconds float64) api.LossEstimate {
	t.mu.Lock()
	acked, reached := t.acked, t.reached
	t.mu.Unlock()
	l := api.LossEstimate{Known: true, AsOf: time.Now()}
	switch {
	case inSync || reached && acked >= head:
		l.Text = "nothing"
		return l
	case !reached:
		l.Known, l.Text = false, "unknown: the target has not been reached since this site became primary"
		return l
	}
	l.Writes, l.Seconds = uint64(head-acked), lagSeconds
	l.Bytes, l.AtLeast = t.s.window.payloadBetween(acked, head)
	l.Text = lossText(l)
	if l.AtLeast {
		l.Text = "at least " + l.Text
	}
	return l
}

func lossText(e api.LossEstimate) string {
	return fmt.Sprintf("%.1f s, %.1f MB, %d writes", e.Seconds, float64(e.Bytes)/1e6, e.Writes)
}
