package group

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/extent"
	"github.com/holdfast-dr/holdfast/services/replicator/history"
	"github.com/holdfast-dr/holdfast/services/replicator/journal"
	"github.com/holdfast-dr/holdfast/services/replicator/lineage"
	"github.com/holdfast-dr/holdfast/services/replicator/sparse"
	"github.com/holdfast-dr/holdfast/services/replicator/whole"
)

// past is what a copy keeps of the pace of its checkpoints. Only who applies uses it.
type past struct {
	at    time.Time // of the last frame applied, by its primary's clock
	taken time.Time // when the last checkpoint was taken, by ours
}

// Bounds of what is applied at once: what it overwrites is kept, and made durable, before.
const (
	bringFrames = 256
	bringBytes  = 16 << 20
)

func (s *store) historyDir() string { return filepath.Join(s.dir, "history") }

// openHistory opens the copy's past, beside its volumes.
func (s *store) openHistory(cfg Config) error {
	keep := s.keepPast(s.group.Checkpoints)
	dir := s.historyDir()
	if err := errors.Join(os.RemoveAll(s.overlaysDir()), os.MkdirAll(dir, 0o700)); err != nil {
		return err
	}
	hc := history.Config{FS: s.files, Dir: dir, Keep: keep,
		Log: cfg.Logger, Names: func() ([]string, error) { return namesIn(dir) }, Lost: cfg.historyLost}
	hc.Base, hc.Sizes = s.table().past()
	var err error
	s.hist, err = history.Open(hc)
	return err
}

// keepPast goes by what a policy says of the copy's past, from the next checkpoint on.
func (s *store) keepPast(c domain.Checkpoints) history.Keep {
	c = c.WithDefaults()
	if c.Disabled {
		c.Every = 0
	}
	s.every.Store(int64(c.Every))
	keep := history.Keep{Age: c.Keep.Age, Count: c.Keep.Count, Bytes: c.Keep.Bytes}
	if s.hist != nil {
		s.hist.SetKeep(keep)
	}
	return keep
}

// checkpointsEvery is the time between two checkpoints; 0: none are taken.
func (s *store) checkpointsEvery() time.Duration { return time.Duration(s.every.Load()) }

func namesIn(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out, err
}

// Extent implements history.Base.
func (v *volume) Extent(off int64) (mapped bool, length int64, err error) {
	return sparse.Extent(v.f, v.size, off, 0)
}

// replay applies what the journal holds after a crash, and records what it overwrites where the history needs it: see
// package history. No checkpoint is taken by the clock in it, as the volumes may hold later changes already. A marker that
// it finds is after the newest checkpoint only if nothing after the marker ever reached the volumes.
//
// On the way back to a checkpoint nothing is recorded: all that the way needs is there.
func (s *store) replay(rec *journal.Recovered, back bool) error {
	var floor domain.LSN
	if p := s.hist.Newest(); s.inLine(p) {
		floor = p.LSN
	}
	if back {
		floor = rec.LastLSN + 1
	}
	for f, err := range rec.Frames() {
		if err != nil {
			return err
		}
		b := bringer{s: s, floor: floor}
		if err := errors.Join(b.bring(f), b.flush()); err != nil {
			return err
		}
	}
	return nil
}

// inLine reports whether a checkpoint is of the line that the copy has lived through.
func (s *store) inLine(p history.Point) bool {
	return p.LSN <= s.last() && lineage.EpochOf(s.lineage(), p.LSN) == p.Epoch
}

// waiting gives the next frames to apply at once, at or before upto.
func (s *store) waiting(upto domain.LSN) []*journal.Frame {
	s.tailMu.Lock()
	defer s.tailMu.Unlock()
	var n, size int
	for n < len(s.tail) && n < bringFrames && size < bringBytes && s.tail[n].LastLSN <= upto {
		for _, e := range s.tail[n].Entries {
			size += len(e.Data)
		}
		n++
	}
	return slices.Clone(s.tail[:n])
}

// bring applies frames in order, once what they overwrite is kept. A checkpoint is taken where a marker asks for one, and
// between two frames that are far enough apart.
func (s *store) bring(frames []*journal.Frame) error {
	b := bringer{s: s}
	for _, f := range frames {
		if s.due(f.Time, b.upto()) {
			if err := b.take(b.upto(), b.time(), history.KindCrash, ""); err != nil {
				return err
			}
		}
		if err := b.bring(f); err != nil {
			return err
		}
	}
	return b.flush()
}

// part is a frame, to be applied up to an LSN.
type part struct {
	f    *journal.Frame
	upto domain.LSN
}

// bringer gathers what is to be applied, and what it overwrites.
type bringer struct {
	s *store
	// floor, in a redo, is the newest checkpoint: changes up to there are not recorded, and markers taken already.
	floor   domain.LSN
	readers *whole.Guard // nil: nobody reads the volumes meanwhile, or no frame is to be seen as a whole
	parts   []part
	ranges  []history.Range
}

// bring gathers a frame; where a checkpoint lies in it, or a change of the volumes, everything up to there is applied.
func (b *bringer) bring(f *journal.Frame) error {
	for i, e := range f.Entries {
		lsn := f.FirstLSN + domain.LSN(i)
		if _, is, _ := tableChange(e); is {
			b.parts = append(b.parts, part{f, lsn - 1})
			if err := b.flush(); err != nil {
				return err // the table never goes ahead of what was applied
			}
			if err := b.s.followTable(e, lsn, f.Epoch); err != nil {
				return err
			}
		}
		if r, ok := overwrites(e); ok && lsn > b.floor {
			b.ranges = append(b.ranges, r)
		}
		if at, ok := confirms(e); ok {
			if err := b.s.hist.Confirm(at, f.Epoch); err != nil {
				return err
			}
		}
		kind := markerKind(e)
		if lsn < b.floor || lsn != b.floor && kind == "" {
			continue
		}
		b.parts = append(b.parts, part{f, lsn})
		if err := b.flush(); err != nil {
			return err
		}
		if lsn == b.floor || !b.s.hist.Recording() {
			continue // taken; or nobody knows whether later changes are there already
		}
		if err := b.s.take(b.s.point(lsn, f.Time, kind, string(e.Data))); err != nil {
			return err
		}
	}
	b.parts = append(b.parts, part{f, f.LastLSN})
	return nil
}

func (b *bringer) upto() domain.LSN {
	if n := len(b.parts); n > 0 {
		return b.parts[n-1].upto
	}
	return b.s.applied()
}

func (b *bringer) time() time.Time {
	if n := len(b.parts); n > 0 {
		return b.parts[n-1].f.Time
	}
	return b.s.past.at
}

// overwrites is what an entry changes, if it does.
func overwrites(e journal.Entry) (history.Range, bool) {
	r := history.Range{Volume: int(e.Volume), Off: e.Off, Len: e.Len}
	switch e.Op {
	case journal.OpWrite:
		r.Data = e.Data
	case journal.OpZero, journal.OpUnmap:
		r.Zero = true
	default:
		return r, false
	}
	return r, true
}

// flush keeps what the parts overwrite, durably, and then applies them.
func (b *bringer) flush() error {
	if err := b.s.hist.Record(b.ranges); err != nil {
		return err
	}
	for _, p := range b.parts {
		if err := b.s.show(p.f, p.upto, b.readers); err != nil {
			return err
		}
		b.s.past.at = p.f.Time
	}
	b.parts, b.ranges = nil, nil
	return nil
}

func (b *bringer) take(lsn domain.LSN, at time.Time, kind, label string) error {
	if err := b.flush(); err != nil {
		return err
	}
	return b.s.take(b.s.point(lsn, at, kind, label))
}

// due reports whether a frame of that time is to be applied after another checkpoint, at applied.
func (s *store) due(at time.Time, applied domain.LSN) bool {
	p := s.hist.Newest()
	every := s.checkpointsEvery()
	return every > 0 && p.LSN > 0 && applied > p.LSN && at.Sub(p.Time) >= every
}

func (s *store) point(lsn domain.LSN, at time.Time, kind, label string) history.Point {
	if at.IsZero() {
		at = time.Now()
	}
	return history.Point{LSN: lsn, Epoch: lineage.EpochOf(s.lineage(), lsn), Time: at, Kind: kind, Label: label}
}

// take makes a checkpoint. The volumes show exactly the prefix that it names; while they do not, for want of room, none is
// taken.
func (s *store) take(p history.Point) error {
	if s.torn() {
		return nil
	}
	s.past.taken = time.Now()
	return s.hist.Take(p)
}

// tickHistory takes the first checkpoint, and one of what has come since when nothing more comes.
func (s *store) tickHistory() error {
	applied, p, every := s.applied(), s.hist.Newest(), s.checkpointsEvery()
	switch {
	case every == 0 || applied == 0:
		return nil
	case s.hist.Recording() && (applied <= p.LSN && s.inLine(p) || time.Since(s.past.taken) < every):
		return nil
	}
	return s.take(s.point(applied, s.past.at, history.KindCrash, ""))
}

// renewHistory follows a resync that has been installed: checkpoints that are not of the new line go, and one is taken
// where it begins.
func (s *store) renewHistory() error {
	if !s.hist.Recording() {
		return nil
	}
	if err := s.hist.Forget(s.inLine); err != nil {
		return err
	}
	return s.take(s.point(s.last(), time.Now(), history.KindCrash, ""))
}

// pastMap is what the history knows of the blocks that are not as they were at `since`, nil when it does not reach back there. A
// block that it does not have is what it was, whatever wrote to it. Nothing else changes the store.
func (s *store) pastMap(since domain.LSN) (*dirtyMap, error) {
	var at history.Point
	for _, h := range s.hist.List() {
		if h.LSN <= since && s.inLine(h.Point) {
			at = h.Point
		}
	}
	if at.LSN == 0 {
		return nil, nil
	}
	d := &dirtyMap{base: at.LSN, upto: s.applied(), set: extent.New(s.sizes())}
	return d, s.hist.Changed(at.LSN, func(volume int, off, length int64) { d.set.Mark(volume, off, length) })
}

// trimLoop brings the history down to what is to be kept.
func (g *Group) trimLoop(ctx context.Context) {
	for sleep(ctx, max(100*time.Millisecond, min(time.Second, g.store.checkpointsEvery()))) {
		if err := g.store.hist.Trim(time.Now(), func() bool { return ctx.Err() == nil }); err != nil {
			g.fail(err)
			return
		}
	}
}

// Offsets of a marker, which say what it is.
const (
	markEpoch = 0 // an epoch begins
	markCrash = 1 // a checkpoint; its label is the marker's data
	// 2 was never given; markVolumes is 3
	markHeld = 4 // a checkpoint that is to be with the guests held still: it counts as crash-consistent until it is confirmed
	markSure = 5 // the guests were held still at a checkpoint, whose LSN is the marker's data
)

// markerKind is the kind of checkpoint an entry asks for; empty for none.
func markerKind(e journal.Entry) string {
	switch {
	case e.Op != journal.OpMarker:
		return ""
	case e.Off == markCrash, e.Off == markHeld:
		return history.KindCrash
	}
	return ""
}

// confirms is the checkpoint that an entry says the guests were held still at.
func confirms(e journal.Entry) (domain.LSN, bool) {
	if e.Op != journal.OpMarker || e.Off != markSure || len(e.Data) != 8 {
		return 0, false
	}
	return domain.LSN(binary.LittleEndian.Uint64(e.Data)), true
}

// Checkpoints lists the points of the past that this copy can be read at, and promoted at, oldest first.
func (g *Group) Checkpoints() api.CheckpointList {
	out := api.CheckpointList{Site: g.cfg.Site, Group: g.id, Checkpoints: []api.Checkpoint{}, Bytes: g.store.hist.Bytes()}
	held := g.store.hist.List()
	g.mu.Lock()
	overlays := maps.Clone(g.overlays)
	g.mu.Unlock() // a bound looks at the group
	for _, h := range held {
		p := api.Checkpoint{LSN: h.LSN, Epoch: h.Epoch, Time: h.Time, Kind: h.Kind, Label: h.Label, Bytes: h.Bytes, Open: h.Open}
		if o := overlays[h.LSN]; o != nil {
			p.Disks = o.disks
			p.WrittenBytes, p.LimitBytes, p.Refuses = o.bound.state()
		}
		out.Checkpoints = append(out.Checkpoints, p)
	}
	return out
}

// historyLost tells that checkpoints were given up which should have been kept.
func (g *Group) historyLost(count int, reason string) {
	g.log.Error("checkpoints given up", "count", count, "reason", reason)
	var lsn domain.LSN
	var epoch domain.Epoch
	if g.store != nil {
		lsn, epoch = g.store.last(), g.store.fence()
	}
	g.publish(g.ctx, "checkpoints_lost", epoch, lsn, "", fmt.Sprintf("%d checkpoints: %s", count, reason))
}

// leavePast makes the copy ready to change as a primary's: what is open of its past is closed, and the copy is brought back to a
// checkpoint when one is named and it is not back there already. What checkpoints there are stay; see store.apply.
func (g *Group) leavePast(ctx context.Context, req api.PromoteRequest) error {
	g.closeOverlays(ctx)
	if !g.store.goesBack(req) {
		return nil
	}
	g.goingBack.Store(uint64(req.Checkpoint))
	defer g.goingBack.Store(0)
	if err := g.rollBack(ctx, req); err != nil {
		return err
	}
	g.publish(ctx, "rolled_back", req.Epoch, req.Checkpoint, "", "")
	return nil
}

// outlivePast gives up the past of a copy that serves once all of it is older than is kept: no checkpoint comes by itself any more,
// and what is overwritten need not be kept for ever. Only who applies calls it.
//
// Its age begins with the session: the checkpoints of a group that nobody wrote to for long are all that there is when it is taken over.
func (g *Group) outlivePast(ctx context.Context, s *session) error {
	if !g.store.hist.Outlived(s.began, time.Now()) {
		return nil
	}
	n := len(g.store.hist.List())
	if err := g.store.hist.End(); err != nil {
		return err
	}
	g.publish(ctx, "checkpoints_ended", s.epoch, g.store.applied(), "", fmt.Sprintf("%d checkpoints: this site serves, and they are older than any is kept", n))
	return nil
}
