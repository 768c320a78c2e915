package group

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
	"github.com/holdfast-dr/holdfast/pkg/telemetry"
	"github.com/holdfast-dr/holdfast/services/replicator/extent"
	"github.com/holdfast-dr/holdfast/services/replicator/journal"
	"github.com/holdfast-dr/holdfast/services/replicator/transport"
)

const (
	resyncChunk   = 512 << 10
	resyncFlight  = 4
	resyncRounds  = 64
	resyncTimeout = 5 * time.Second
)

// resync sends the blocks in which the target may differ, then the frames made meanwhile, and has them committed at once.
// The target carries that out by itself; the next rejoin finds it at the end sent, or as it was before.
//
// The data is read while writes go on. Whatever a block held when it was read, it is a state between the cut (taken
// before) and the end (taken after), and the frames of (cut, end], applied over it in order, make it the state at the end.
func (t *sender) resync(ctx context.Context, r api.RejoinReply) (err error) {
	ctx, span := t.s.linked(ctx, "resync", t.site)
	defer func() { telemetry.End(span, err) }()
	set, cut, err := t.toSend(r)
	if err != nil {
		return fmt.Errorf("resync target %s: %w", t.site, err)
	}
	defer t.track.stopFresh()
	defer t.s.tellOften(func() { t.publishResync(ctx, "resync_progressed", cut, t.progressText()) })()
	session := uint64(t.s.g.cfg.Now())
	if set, err = t.openStage(ctx, session, set, cut); err != nil {
		return fmt.Errorf("resync target %s: %w", t.site, err)
	}
	span.SetAttributes(attribute.Int64("total_bytes", set.Bytes()))
	var end domain.LSN
	for round := 0; ; round++ {
		if err := t.sendBlocks(ctx, session, set); err != nil {
			return fmt.Errorf("resync target %s: %w", t.site, err)
		}
		if end, err = t.s.st.settledAt(ctx); err != nil {
			return fmt.Errorf("resync target %s: %w", t.site, err)
		}
		err := t.sendFrames(ctx, session, cut, end)
		if err == nil {
			break
		}
		if !errors.Is(err, journal.ErrNotRetained) || round == resyncRounds {
			return fmt.Errorf("resync target %s: %w", t.site, err)
		}
		// The ring could not wait. What left it since the cut is in the fresh set: send that too, from a later cut.
		if set, cut, err = t.nextRound(cut); err != nil {
			return fmt.Errorf("resync target %s: %w", t.site, err)
		}
		t.addTotal(uint64(set.Bytes()))
	}
	if err := t.call(ctx, api.VerbResyncCommit, api.ResyncCommit{
		Group: t.s.st.group.ID, Epoch: t.s.epoch, Session: session, Cut: cut, LSN: end, Lineage: t.s.st.lineage(), Table: t.s.st.slots().At(end)}); err != nil {
		return fmt.Errorf("resync target %s: %w", t.site, err)
	}
	t.mu.Lock()
	t.committing, t.damaged = true, false
	t.pass.enter(api.ResyncInstalling, 0)
	t.mu.Unlock()
	return nil
}

// resyncDone tells, at the first rejoin that needs no blocks, that the resync before it is over.
func (t *sender) resyncDone(ctx context.Context, at domain.LSN) {
	t.mu.Lock()
	done := t.committing
	t.committing = false
	if done {
		t.pass.enter(api.ResyncCompleted, 0)
	}
	t.mu.Unlock()
	if done {
		t.s.log.Info("resync completed", "target", string(t.site), "lsn", uint64(at))
		t.publishResync(ctx, "resync_completed", at, t.resyncSummary())
	}
}

// toSend works out the blocks to send and the cut up to which they hold every change.
func (t *sender) toSend(r api.RejoinReply) (*extent.Set, domain.LSN, error) {
	st := t.s.st
	t.track.mu.Lock()
	defer t.track.mu.Unlock()
	cut := st.applied()
	t.track.cut, t.track.fresh = cut, extent.New(st.sizes())
	full := extent.New(st.sizes())
	full.MarkAll()
	if r.Full {
		return st.sendable(full), cut, nil
	}
	set := extent.New(st.sizes())
	if len(r.Diverged) > 0 {
		d, err := extent.Decode(r.Diverged, st.sizes())
		if err != nil {
			return nil, 0, err
		}
		set.Union(d)
	}
	ours, known, err := st.writtenSince(r.LSN, []*dirtyMap{t.track.dirty})
	if errors.Is(err, journal.ErrCorrupt) {
		t.s.g.damageFound(err)
		return st.sendable(full), cut, nil
	}
	if err != nil {
		return nil, 0, err
	}
	if !known && r.LSN+1 < st.j.State().TailLSN {
		return st.sendable(full), cut, nil
	}
	set.Union(ours)
	return st.sendable(set), cut, nil
}

// nextRound takes the blocks whose changes after cut left the ring, and all those still in it, up to a new cut.
func (t *sender) nextRound(cut domain.LSN) (*extent.Set, domain.LSN, error) {
	st := t.s.st
	t.track.mu.Lock()
	defer t.track.mu.Unlock()
	set, next := t.track.fresh, st.applied()
	if err := st.markFrames(set, max(cut, st.j.State().TailLSN-1), next); err != nil {
		return nil, 0, err
	}
	t.track.cut, t.track.fresh = next, extent.New(st.sizes())
	return st.sendable(set), next, nil
}

func (k *track) stopFresh() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fresh = nil
}

func (t *sender) addTotal(n uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.total += n
	t.pass.total += n
}

func (t *sender) sentBytes(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.resynced += uint64(n)
	t.pass.done += uint64(n)
}

func (t *sender) publishResync(ctx context.Context, fact string, lsn domain.LSN, detail string) {
	t.mu.Lock()
	f := event.ReplicaChanged{Fact: fact, Group: t.s.st.group.ID, Site: t.s.g.cfg.Site, Epoch: t.s.epoch, LSN: lsn, Target: t.site, Bytes: t.resynced, Detail: detail}
	t.mu.Unlock()
	for _, n := range t.s.st.sizes() {
		f.Volume += uint64(n)
	}
	t.s.g.emit(ctx, f)
}

func (t *sender) call(ctx context.Context, verb string, req any) error {
	ctx, cancel := context.WithTimeout(ctx, resyncTimeout)
	defer cancel()
	_, err := bus.Call[api.Empty](ctx, t.conn, api.ServiceReplicator, verb, req)
	return err
}

// sendBlocks sends the content of a set of blocks, a few requests at a time, and returns when all were taken.
func (t *sender) sendBlocks(ctx context.Context, session uint64, set *extent.Set) error {
	return inFlight(ctx, set.Runs(t.chunk()), func(ctx context.Context, run extent.Run) error { return t.sendBlock(ctx, session, run) })
}

// chunk is how much of a volume is sent at once: few enough that the window holds several.
func (t *sender) chunk() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return min(resyncChunk, max(int64(t.windowNow(false))/resyncFlight/extent.Block, 1)*extent.Block)
}

func (t *sender) sendBlock(ctx context.Context, session uint64, run extent.Run) error {
	buf := make([]byte, run.Len)
	if _, err := t.s.st.vols()[run.Volume].ReadAt(buf, run.Off); err != nil {
		return err
	}
	if t.s.st.slots()[run.Volume].Emptied {
		return nil // meanwhile: what other sites keep of it stays
	}
	rec := record{kind: recordData, volume: uint16(run.Volume), off: run.Off, length: run.Len, payload: buf}
	if allZero(buf) {
		rec.kind, rec.payload = recordZero, nil
	}
	return t.sendRecord(ctx, session, rec)
}

func (t *sender) sendRecord(ctx context.Context, session uint64, rec record) error {
	rec.packed = transport.Deflate(rec.payload, t.compression())
	b := rec.append(t.resyncHeader(session, len(rec.payload)))
	if err := t.s.g.cfg.ResyncPace.Take(ctx, len(b)); err != nil {
		return err
	}
	if err := t.pace.Take(ctx, t.rate, len(b)); err != nil {
		return err
	}
	if err := t.link.Take(ctx, len(b), t.weight()); err != nil {
		return err
	}
	if err := t.reserve(ctx, len(b)); err != nil {
		return err
	}
	defer t.release(len(b))
	ctx, cancel := context.WithTimeout(ctx, resyncTimeout)
	defer cancel()
	_, err := t.conn.Request(ctx, api.QuerySubject(t.site, api.ServiceReplicator, api.VerbResyncData), b)
	if err == nil {
		t.sentBytes(len(b) - len(rec.sent()) + len(rec.payload)) // progress, whatever it was on the way
	}
	return err
}

// resyncHeader is what each piece of a resync begins with: the group, epoch and session it is of. room is for what follows.
func (t *sender) resyncHeader(session uint64, room int) []byte {
	g := t.s.st.group.ID
	b := make([]byte, 0, 64+room)
	b = append(b, byte(len(g)))
	b = append(b, g...)
	b = binary.LittleEndian.AppendUint64(b, uint64(t.s.epoch))
	return binary.LittleEndian.AppendUint64(b, session)
}

// sendFrames sends the frames of (cut, end] to the stage, in order. journal.ErrNotRetained when the ring let go of one.
func (t *sender) sendFrames(ctx context.Context, session uint64, cut, end domain.LSN) error {
	for next := cut + 1; next <= end; {
		raw, err := t.s.st.j.Read(next, readBytes)
		if err != nil {
			return err
		}
		for _, b := range raw {
			f, err := journal.Decode(b)
			if err != nil {
				return err
			}
			if f.FirstLSN > end {
				return nil
			}
			if err := t.sendRecord(ctx, session, record{kind: recordFrame, length: int64(len(b)), payload: b}); err != nil {
				return err
			}
			next = f.LastLSN + 1
		}
	}
	return nil
}

// parseResync takes the group, epoch and session off a piece of resync data, and gives the record.
func parseResync(b []byte) (group domain.GroupID, epoch domain.Epoch, session uint64, rec []byte, err error) {
	if len(b) < 1 || len(b) < 1+int(b[0])+16 {
		return "", 0, 0, nil, fmt.Errorf("resync data of %d bytes: %w", len(b), domain.ErrInvalid)
	}
	n := int(b[0])
	group = domain.GroupID(b[1 : 1+n])
	epoch = domain.Epoch(binary.LittleEndian.Uint64(b[1+n:]))
	session = binary.LittleEndian.Uint64(b[9+n:])
	return group, epoch, session, b[17+n:], nil
}
