package group

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/journal"
	"github.com/holdfast-dr/holdfast/services/replicator/lineage"
	"github.com/holdfast-dr/holdfast/services/replicator/survey"
	"github.com/holdfast-dr/holdfast/services/replicator/transport"
)

// receiver follows one primary under one epoch: frames from the pipe into the journal, positions back, and to the volumes
// what the primary acknowledged.
type receiver struct {
	g       *Group
	st      *store
	epoch   domain.Epoch
	source  []api.LineageEntry
	cancel  context.CancelFunc
	ended   chan struct{}
	apply   chan struct{}
	gapSaid domain.LSN // the last LSN a resend was asked for
	peers   *peers
	ring    sync.Mutex // held while the ring lets go of frames
	taking  sync.Mutex // held while a message is taken, whichever way it came
	arrived atomic.Uint64
	offer   *api.LineOffer // nil: frames come through NATS
	unoffer func()         // waits until nothing comes by a line any more
}

// startReceiver follows the primary of an epoch. The pipe exists; nothing else changes the store.
func (g *Group) startReceiver(epoch domain.Epoch, source []api.LineageEntry) error {
	if err := g.store.reloadTail(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(g.ctx)
	r := &receiver{g: g, st: g.store, epoch: epoch, source: source, cancel: cancel, ended: make(chan struct{}), apply: make(chan struct{}, 1), peers: newPeers(ctx, g, epoch, source)}
	if err := g.cfg.Mesh.Local().Subscribe(ctx, api.DirectSubject(g.id, epoch), r.direct); err != nil {
		cancel()
		return err
	}
	r.offerLine(ctx)
	g.mu.Lock()
	g.receiver = r
	g.mu.Unlock()
	poke(r.apply)
	parts := make(chan struct{}, 4)
	for _, run := range []func(context.Context){r.readLoop, r.applyLoop, r.tellLoop, r.g.trimLoop} {
		go func() {
			run(ctx)
			parts <- struct{}{}
		}()
	}
	go func() {
		for range cap(parts) {
			<-parts
		}
		cancel()
		close(r.ended)
	}()
	return nil
}

// stopReceiver ends the receiver, if there is one, and waits until it takes nothing more.
func (g *Group) stopReceiver() {
	g.mu.Lock()
	r := g.receiver
	g.receiver = nil
	g.mu.Unlock()
	if r != nil {
		r.cancel()
		<-r.ended
		r.unoffer()
		r.taking.Lock()   // what came past the pipe is taken, or will not be
		r.taking.Unlock() //nolint:staticcheck // an empty section: see above
	}
}

// direct takes what comes past the pipe.
func (r *receiver) direct(ctx context.Context, m bus.Message) {
	if r.g.cfg.failpoint("arrive") != nil {
		return
	}
	err := r.takeFrom(ctx, m.Data, r.came, r.tell)
	if errors.Is(err, errBrokenStore) {
		r.g.fail(err)
	} else if err != nil && ctx.Err() == nil {
		r.g.log.Debug("frame not taken", "epoch", r.epoch.String(), "error", err)
		r.tell(ctx, true)
	}
}

// readLoop takes frames until the pipe is sealed or the receiver ends; a lost connection is taken up again.
func (r *receiver) readLoop(ctx context.Context) {
	local := r.g.cfg.Mesh.Local()
	for again := false; ctx.Err() == nil; again = true {
		if again {
			r.tell(ctx, true) // what came past the pipe while the connection was lost is gone
		}
		err := local.ReadPipe(ctx, r.g.id, r.epoch, func(raw []byte) error { return r.take(ctx, raw) })
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, errBrokenStore):
			r.g.fail(err)
			return
		case errors.Is(err, domain.ErrNotFound):
			// Sealed, or lost with its server: the primary's next rejoin makes another.
			<-ctx.Done()
			return
		}
		r.g.log.Debug("pipe not read", "epoch", r.epoch.String(), "error", err)
		if !sleep(ctx, 50*time.Millisecond) {
			return
		}
	}
}

var errBrokenStore = errors.New("the copy cannot be written")

// take makes what a message holds durable, a frame or several, and says so once. What is not the next frame is passed over, and
// asked for again.
func (r *receiver) take(ctx context.Context, message []byte) error {
	return r.takeFrom(ctx, message, func(*journal.Frame) {}, r.tell)
}

// came notes a frame that came past the pipe.
func (r *receiver) came(f *journal.Frame) { r.arrived.Store(uint64(f.LastLSN)) }

// takeFrom is take; came is told of each frame before it is durable, tell says where the journal stands.
func (r *receiver) takeFrom(ctx context.Context, message []byte, came func(*journal.Frame), tell func(ctx context.Context, resend bool)) error {
	r.taking.Lock()
	defer r.taking.Unlock()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	raw, err := transport.Unpack(message)
	resend := false
	for len(raw) > 0 && err == nil && !resend {
		var f *journal.Frame
		var frame []byte
		if f, frame, raw, err = firstFrame(raw); err == nil && f.Group != r.g.id {
			err = fmt.Errorf("a frame of group %s: %w", f.Group, domain.ErrInvalid)
		}
		if err == nil {
			came(f)
			if resend, err = r.keep(ctx, f, frame); err != nil {
				return err
			}
		}
	}
	if err != nil {
		r.g.damageFound(fmt.Errorf("frame from the pipe of epoch %s refused, it is sent again: %w", r.epoch, err))
	}
	if missing := r.st.last() + 1; resend {
		if r.gapSaid == missing {
			return nil // asked for already
		}
		r.gapSaid = missing
	}
	tell(ctx, resend || err != nil)
	return nil
}

// firstFrame takes the first frame of a message that is out of its envelope. Its own checksums are what the sender's journal wrote.
func firstFrame(raw []byte) (f *journal.Frame, frame, rest []byte, err error) {
	n, err := journal.FrameSize(raw)
	if err != nil {
		return nil, nil, nil, err
	}
	n = min(n, int64(len(raw)))
	f, err = journal.Decode(raw[:n:n])
	return f, raw[:n:n], raw[n:], err
}

// keep makes a frame durable if it is the next one. resend: frames before it are missing.
func (r *receiver) keep(ctx context.Context, f *journal.Frame, raw []byte) (resend bool, err error) {
	last := r.st.last()
	if f.LastLSN <= last {
		return false, nil
	}
	if f.FirstLSN != last+1 {
		return true, nil
	}
	if err := r.raise(f.Epoch); err != nil {
		return false, fmt.Errorf("%w: %w", errBrokenStore, err)
	}
	if err := r.g.cfg.failpoint("take"); err != nil {
		return false, err
	}
	if err := r.append(ctx, raw); err != nil {
		return false, err
	}
	r.gapSaid = 0
	r.st.push(f)
	r.g.mu.Lock()
	r.g.commit = max(r.g.commit, f.CommitLSN)
	r.g.lastTime = f.Time
	r.g.mu.Unlock()
	poke(r.apply)
	return false, nil
}

// raise takes the epochs of the source's lineage that begin here, up to the frame's.
func (r *receiver) raise(upto domain.Epoch) error {
	missing, ok := lineage.Missing(r.source, r.st.j.Next().Epoch, r.st.last())
	if !ok {
		return fmt.Errorf("copy at LSN %d is no prefix of lineage %v: %w", r.st.last(), r.source, domain.ErrRefused)
	}
	for _, e := range missing {
		if e.Epoch > upto {
			break
		}
		if err := r.st.raiseEpoch(e, r.letGo); err != nil {
			return err
		}
	}
	return nil
}

// append waits for room in the ring: what holds it is applied and released as the primary acknowledges it.
func (r *receiver) append(ctx context.Context, raw []byte) error {
	for {
		err := r.st.j.Append(raw)
		if err == nil {
			return nil
		}
		if !errors.Is(err, journal.ErrFull) {
			return fmt.Errorf("%w: %w", errBrokenStore, err)
		}
		r.g.heldBy(api.HeldByJournal, "the ring is full of what the volumes do not have yet")
		poke(r.apply)
		if err := r.checkpoint(1, true); err != nil {
			return fmt.Errorf("%w: %w", errBrokenStore, err)
		}
		if !sleep(ctx, 5*time.Millisecond) {
			return ctx.Err()
		}
	}
}

// checkpoint releases what neither the volumes nor any other target may need: see store.release.
func (r *receiver) checkpoint(used float64, full bool) error {
	r.ring.Lock()
	defer r.ring.Unlock()
	all, err := r.peers.owed()
	if err != nil {
		return err
	}
	return r.st.release(all, used, full)
}

// letGo empties the ring of what was applied: see store.letGo.
func (r *receiver) letGo() error {
	r.ring.Lock()
	defer r.ring.Unlock()
	all, err := r.peers.owed()
	if err != nil {
		return err
	}
	return r.st.letGo(all)
}

// tell publishes where the journal stands.
func (r *receiver) tell(ctx context.Context, resend bool) { r.publish(ctx, r.position(resend)) }

func (r *receiver) publish(ctx context.Context, p api.Position) {
	if err := r.g.cfg.Mesh.Local().PublishJSON(ctx, api.PositionSubject(r.g.id, r.g.cfg.Site), p); err != nil {
		r.g.log.Debug("position not told", "error", err)
	}
}

func (r *receiver) position(resend bool) api.Position {
	n := r.st.j.Next()
	r.g.mu.Lock()
	at := r.g.lastTime
	r.g.mu.Unlock()
	return api.Position{Group: r.g.id, Site: r.g.cfg.Site, Epoch: r.epoch, LSN: n.FirstLSN - 1, Frame: n.Number - 1, Time: at, Resend: resend,
		Arrived: domain.LSN(r.arrived.Load())}
}

// tellLoop repeats the position, since a core message may be lost, and says whether there is a line to here: its port may have become free.
func (r *receiver) tellLoop(ctx context.Context) {
	for sleep(ctx, 200*time.Millisecond) {
		p := r.position(false)
		p.Line = r.g.lineOffered() != nil
		r.publish(ctx, p)
	}
}

// applyLoop brings to the volumes what the primary acknowledged, and checkpoints.
func (r *receiver) applyLoop(ctx context.Context) {
	tick := time.NewTicker(min(250*time.Millisecond, r.g.cfg.Timing.Checkpoint))
	defer tick.Stop()
	last, applied := time.Now(), time.Time{}
	for {
		select {
		case <-r.apply:
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if !r.gather(ctx, applied) {
			return
		}
		r.g.mu.Lock()
		commit := r.g.commit
		r.g.mu.Unlock()
		err := r.g.roomy(ctx, func() error { return r.st.applyUpTo(commit) })
		if ctx.Err() != nil {
			return
		}
		applied = time.Now()
		if err == nil {
			err = r.st.tickHistory()
		}
		used := r.st.used()
		if used < nearlyFull {
			r.g.letOn(api.HeldByJournal)
		}
		if err == nil && (used > pressureShare || time.Since(last) >= r.g.cfg.Timing.Checkpoint) {
			last = time.Now()
			err = r.checkpoint(used, false)
		}
		if err != nil {
			r.g.fail(fmt.Errorf("%w: %w", errBrokenStore, err))
			return
		}
	}
}

// gatherFrames is how long frames are gathered to be applied at once, while a history is kept: what they overwrite costs one
// durable write for all of them. Nothing waits for it: the journal has them.
const gatherFrames = 50 * time.Millisecond

// gather waits until enough time has passed since frames were last applied; false when ctx ended.
func (r *receiver) gather(ctx context.Context, applied time.Time) bool {
	wait := gatherFrames - time.Since(applied)
	if wait <= 0 || !r.st.hist.Recording() || r.st.used() > pressureShare {
		return ctx.Err() == nil
	}
	return sleep(ctx, wait)
}

const headsKept = 4096 // 17 minutes

var primarySays = []byte(`"primary":true`) // as api.Position is encoded

// heard takes what is published about the group here: the primary's head.
func (g *Group) heard(_ context.Context, m bus.Message) {
	if !bytes.Contains(m.Data, primarySays) {
		return // this copy's own position, told for every message that is taken
	}
	var p api.Position
	if err := json.Unmarshal(m.Data, &p); err != nil || !p.Primary {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.session != nil || p.Epoch < g.store.fence() {
		return
	}
	if n := len(g.heads); n > 0 && g.heads[n-1].Epoch != p.Epoch {
		g.heads = nil
	}
	g.heads, g.heardAt = append(g.heads, p), g.cfg.Now()
	if len(g.heads) > headsKept {
		g.heads = g.heads[1:]
	}
	if g.receiver != nil && g.receiver.epoch == p.Epoch && p.LSN > g.commit {
		g.commit = p.LSN
		poke(g.receiver.apply)
	}
}

// relation is how this copy's line stands to that of the primary it follows.
type relation struct {
	epoch  domain.Epoch // of the primary that compared; none yet: zero
	common domain.LSN   // the last change in both
	apart  bool         // what follows common here is not the primary's: until a resync is installed
}

// related keeps what a rejoin found.
func (g *Group) related(l relation) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.relation = l
}

// Estimate says what of the primary's last known state is missing here.
func (g *Group) Estimate() api.LossEstimate {
	g.mu.Lock()
	at := g.lastTime
	g.mu.Unlock()
	return g.estimate(g.store.last(), at, "")
}

// silentHeads is how many heads in a row may fail to come before what was heard counts as of then only: six seconds, in which the
// health services of this site and the others find out whether the primary's is lost.
const silentHeads = 24

// estimate is that of a copy which goes on from a change, of a time; note follows in the text.
func (g *Group) estimate(last domain.LSN, at time.Time, note string) api.LossEstimate {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.session != nil {
		return api.LossEstimate{Known: true, Text: "nothing: this site is primary", AsOf: time.Now()}
	}
	if len(g.heads) == 0 {
		return api.LossEstimate{Text: "unknown: nothing was heard of the primary"}
	}
	head := g.heads[len(g.heads)-1]
	silent := g.cfg.Now().Sub(g.heardAt)
	e := api.LossEstimate{AsOf: head.Time, Silent: silent.Seconds()}
	if head.Epoch != g.relation.epoch && (g.store == nil || head.Epoch != g.store.j.Next().Epoch) {
		e.Text = "unknown: the primary of epoch " + head.Epoch.String() + " has not compared its line with this copy's"
		return e
	}
	if head.Epoch == g.relation.epoch && g.relation.apart {
		last = min(last, g.relation.common)
	}
	e.Known = true
	if head.LSN > last {
		e.Writes = uint64(head.LSN - last)
		// The newest report at or before our position bounds the bytes from above.
		base := uint64(0)
		for _, h := range g.heads {
			if h.LSN <= last {
				base = h.Bytes
			}
		}
		e.Bytes = head.Bytes - min(base, head.Bytes)
		if !at.IsZero() {
			e.Seconds = max(0, head.Time.Sub(at).Seconds())
		}
	}
	e.Text = lossText(e) + note
	if !head.Ended && silent > silentHeads*g.cfg.Timing.Head {
		// The primary may have acknowledged writes ever since.
		e.AtLeast, e.Seconds = true, e.Seconds+silent.Seconds()
		e.Text = silentText(e, head.Site) + note
		if g.store != nil && g.store.policy().ModeTo(head.Site, g.cfg.Site) == domain.ModeSync {
			e.Text = "nothing where the quorum has this copy in sync, else " + e.Text
		}
	}
	return e
}

func silentText(e api.LossEstimate, primary domain.SiteID) string {
	return fmt.Sprintf("at least %d writes, %s, as of %s: nothing was heard from site %s since, for %s; up to %s of work", e.Writes, survey.Bytes(float64(e.Bytes)),
		e.AsOf.UTC().Format(time.RFC3339), primary, inSeconds(e.Silent), inSeconds(e.Seconds))
}

func inSeconds(s float64) time.Duration {
	return time.Duration(s * float64(time.Second)).Round(time.Second)
}
