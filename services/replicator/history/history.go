package history

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/journal/vfs"
	"github.com/holdfast-dr/holdfast/services/replicator/record"
)

// BlockSize is the unit of what is recorded, in bytes.
const BlockSize = vfs.PageSize

// Kinds of checkpoint.
const (
	KindCrash = "crash" // a prefix of the write order, as after a power cut
	KindApp   = "app"   // the guests were quiesced
)

// Point is a checkpoint.
type Point struct {
	LSN   domain.LSN   `json:"lsn"`   // the last change it holds
	Epoch domain.Epoch `json:"epoch"` // that change was made under
	Time  time.Time    `json:"time"`  // of that change, by its primary's wall clock
	Kind  string       `json:"kind"`
	Label string       `json:"label,omitempty"` // a person's; empty for those taken by themselves
}

// weight orders the checkpoints for being thinned out: the lightest go first.
func (p Point) weight() int {
	switch {
	case p.Label != "":
		return 2 // stays
	case p.Kind == KindApp:
		return 1
	}
	return 0
}

// Held is a checkpoint and what it costs.
type Held struct {
	Point
	Bytes int64 // of its own segment
	Open  bool  // somebody reads it
}

// Base is one volume of the copy as it is now.
type Base interface {
	ReadAt(p []byte, off int64) (int, error)
	// Extent tells whether off takes space, and for how many bytes from there on that holds. What takes none is zeroes.
	Extent(off int64) (mapped bool, length int64, err error)
}

// Config is what a history needs.
type Config struct {
	FS    vfs.FS
	Dir   string // exists, and is the history's own
	Base  []Base // by volume
	Sizes []int64
	Keep  Keep
	Log   *slog.Logger
	// Names lists the files of Dir, so that what a kill left over is removed; nil removes nothing.
	Names func() ([]string, error)
	// Lost is told when checkpoints were given up that ought to have been kept: how many (0: nobody knows), and why. It may be nil.
	Lost func(count int, reason string)
}

// History is the past of one copy. Record, Take and Recording are for the one goroutine that changes the base; Forget, End
// and Restore while nobody does; all else for anyone.
type History struct {
	cfg  Config
	keep atomic.Pointer[Keep] // as it is wanted now

	change sync.Mutex // held while the list of segments changes, or a closed segment grows

	mu    sync.RWMutex // segs and their indexes; held shared by who reads, against their being removed
	segs  []*segment   // oldest first; the last is open
	next  uint64       // number of the next segment
	gone  []uint64     // segments that were taken out and may still be there
	bytes int64        // of all segments
}

// manifest is the list of segments, as it is kept.
type manifest struct {
	Next     uint64    `json:"next"`
	Segments []listed  `json:"segments"`
	Gone     []uint64  `json:"gone,omitempty"`
	Made     time.Time `json:"made"`
}

type listed struct {
	Seq    uint64 `json:"seq"`
	Point  Point  `json:"point"`
	Hidden bool   `json:"hidden,omitempty"`
	Bytes  int64  `json:"bytes"` // that are durable; of the last there may be more
}

// SetKeep changes how much is kept, from the next Trim or Record on.
func (h *History) SetKeep(k Keep) { h.keep.Store(&k) }

// Open reads what there is. A history that is damaged is given up, and told; the error is one that keeps it from being
// given up.
func Open(cfg Config) (*History, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	h := &History{cfg: cfg, next: 1}
	h.SetKeep(cfg.Keep)
	m, err := h.load()
	if err == nil {
		err = h.openSegments(m)
	}
	if err != nil {
		h.cfg.Log.Warn("history not readable: its checkpoints are given up", "folder", cfg.Dir, "error", err)
		h.tellLost(len(m.Segments), err.Error())
		if err := h.End(); err != nil {
			return nil, fmt.Errorf("open history %s: %w", cfg.Dir, err)
		}
	}
	if err := h.sweep(); err != nil {
		return nil, fmt.Errorf("open history %s: %w", cfg.Dir, err)
	}
	return h, nil
}

// SetVolumes gives it another list of volumes, as the copy has them from now on; those that both have are the same. The one that
// changes the base calls it.
func (h *History) SetVolumes(base []Base, sizes []int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cfg.Base, h.cfg.Sizes = base, sizes
}

func (h *History) record() record.File {
	return record.File{FS: h.cfg.FS, Path: filepath.Join(h.cfg.Dir, "manifest")}
}

func (h *History) load() (m manifest, err error) {
	b, err := h.record().Load()
	if err != nil || b == nil {
		return m, err
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("read the list of segments: %w", err)
	}
	return m, nil
}

// openSegments opens them from the newest back, and stops at the first that is not whole: it and those before it are gone.
func (h *History) openSegments(m manifest) error {
	h.next, h.gone = max(m.Next, 1), m.Gone
	for i := len(m.Segments) - 1; i >= 0; i-- {
		l := m.Segments[i]
		open := i == len(m.Segments)-1
		s, err := h.openSegment(l, open)
		if err != nil && open {
			return err
		}
		if err != nil {
			if !isMissing(err) {
				h.cfg.Log.Warn("segment not readable: its checkpoint and those before it are given up", "folder", h.cfg.Dir, "segment", l.Seq, "error", err)
				h.tellLost(i+1, err.Error())
			}
			for _, l := range m.Segments[:i+1] {
				h.gone = append(h.gone, l.Seq)
			}
			break
		}
		h.segs = append(h.segs, s)
		h.bytes += s.size
	}
	slices.Reverse(h.segs)
	return nil
}

// save makes the list durable. Call it under change.
func (h *History) save() error {
	h.mu.RLock()
	m := manifest{Next: h.next, Gone: h.gone, Made: time.Now()}
	for _, s := range h.segs {
		m.Segments = append(m.Segments, listed{Seq: s.seq, Point: s.point, Hidden: s.hidden, Bytes: s.size})
	}
	h.mu.RUnlock()
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return h.record().Save(b)
}

// sweep removes what is not listed any more.
func (h *History) sweep() error {
	for _, seq := range h.gone {
		if err := h.remove(seq); err != nil {
			return err
		}
	}
	h.gone = nil
	if h.cfg.Names == nil {
		return nil
	}
	names, err := h.cfg.Names()
	if err != nil {
		return err
	}
	keep := map[string]bool{"manifest": true}
	for _, s := range h.segs {
		keep[segmentName(s.seq)] = true
	}
	for _, n := range names {
		if !keep[n] {
			if err := h.cfg.FS.Remove(filepath.Join(h.cfg.Dir, n)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (h *History) remove(seq uint64) error {
	err := h.cfg.FS.Remove(h.path(seq))
	if isMissing(err) {
		return nil
	}
	return err
}

func (h *History) tellLost(n int, reason string) {
	if h.cfg.Lost != nil {
		h.cfg.Lost(n, reason)
	}
}

// Recording reports whether there is a checkpoint, so that changes must be recorded.
func (h *History) Recording() bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return len(h.segs) > 0
}

// Newest is the newest checkpoint that was taken, the zero Point when there is none.
func (h *History) Newest() Point {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if len(h.segs) == 0 {
		return Point{}
	}
	return h.segs[len(h.segs)-1].point
}

// List is every checkpoint that can be read, oldest first.
func (h *History) List() []Held {
	h.mu.RLock()
	defer h.mu.RUnlock()
	var out []Held
	for _, s := range h.segs {
		if !s.hidden {
			out = append(out, Held{Point: s.point, Bytes: s.size, Open: s.pins > 0})
		}
	}
	return out
}

// Bytes is what the history takes on disk.
func (h *History) Bytes() int64 {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.bytes
}

// Take makes a checkpoint of what the base shows now. One that is not after the newest on the list is passed over. An error is
// one that must stop the copy: whatever else goes wrong costs the history, not the caller.
func (h *History) Take(p Point) error {
	if s := h.newest(); s != nil && !h.isHidden(s) && p.LSN <= s.point.LSN && p.Epoch <= s.point.Epoch {
		return nil
	}
	h.change.Lock()
	defer h.change.Unlock()
	if err := h.take(p); err != nil {
		return h.abandon(fmt.Errorf("take a checkpoint: %w", err))
	}
	return nil
}

// Confirm says that the guests were quiesced at a checkpoint: it becomes one of KindApp, durably. One that is not there, or not of
// that epoch, is passed over. An error is one that must stop the copy, as Take's.
func (h *History) Confirm(lsn domain.LSN, epoch domain.Epoch) error {
	h.change.Lock()
	defer h.change.Unlock()
	h.mu.Lock()
	at := slices.IndexFunc(h.segs, func(s *segment) bool {
		return !s.hidden && s.point.LSN == lsn && s.point.Epoch == epoch && s.point.Kind != KindApp
	})
	if at >= 0 {
		h.segs[at].point.Kind = KindApp
	}
	h.mu.Unlock()
	if at < 0 {
		return nil
	}
	if err := h.withRoom(h.save); err != nil {
		return h.abandon(fmt.Errorf("confirm a checkpoint: %w", err))
	}
	return nil
}

// isHidden reports whether a segment's checkpoint was taken off the list.
func (h *History) isHidden(s *segment) bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return s.hidden
}

func (h *History) take(p Point) error {
	var s *segment
	err := h.withRoom(func() (err error) {
		s, err = h.createSegment(h.next, p)
		return err
	})
	if err != nil {
		return err
	}
	var sorted []slot
	if n := len(h.segs); n > 0 {
		sorted = h.segs[n-1].sort()
	}
	h.mu.Lock()
	if n := len(h.segs); n > 0 {
		h.segs[n-1].close(sorted)
	}
	h.segs = append(h.segs, s)
	h.bytes += s.size
	h.next++
	h.mu.Unlock()
	return h.withRoom(h.save)
}

const noRoom = "no space left on the disk"

// withRoom does what takes room on the disk, and again as long as it finds none and there is an old checkpoint to give up.
// Call it under change.
func (h *History) withRoom(do func() error) error {
	for {
		err := do()
		if err == nil || !vfs.IsFull(err) || !h.dropOldest(noRoom) {
			return err
		}
	}
}

// dropOldest removes the oldest segment if there is another. Call it under change.
func (h *History) dropOldest(reason string) bool {
	if len(h.segs) < 2 {
		return false
	}
	h.mu.Lock()
	s := h.segs[0]
	h.segs = slices.Clone(h.segs[1:])
	h.bytes -= s.size
	told := !s.hidden && reason != ""
	if s.pins > 0 && reason == "" {
		told, reason = true, "no room for it, although it was open"
	}
	s.drop()
	h.mu.Unlock()
	h.unlink(s)
	if told {
		h.tellLost(1, reason)
	}
	return true
}

// unlink removes the file of a segment that the list has no more, now or with the next start. Under change.
func (h *History) unlink(s *segment) {
	if err := h.remove(s.seq); err != nil {
		h.gone = append(h.gone, s.seq)
		h.cfg.Log.Warn("segment that was given up is not removed", "folder", h.cfg.Dir, "segment", s.seq, "error", err)
	}
}

// abandon gives the history up because of err. Call it under change.
func (h *History) abandon(err error) error {
	n := len(h.List())
	h.cfg.Log.Error("history given up; in a copy that follows it begins anew with the next checkpoint", "folder", h.cfg.Dir, "checkpoints", n, "error", err)
	if end := h.end(); end != nil {
		return errors.Join(err, end)
	}
	if n > 0 {
		h.tellLost(n, err.Error())
	}
	return nil
}

// End gives every checkpoint up, durably: from its return on the base may change without being recorded.
func (h *History) End() error {
	h.change.Lock()
	defer h.change.Unlock()
	return h.end()
}

func (h *History) end() error {
	path := h.record().Path
	there, err := h.cfg.FS.Exists(path)
	if err != nil {
		return fmt.Errorf("give up the history: %w", err)
	}
	if there { // in place: that needs no room
		f, err := h.cfg.FS.Open(path)
		if err == nil {
			_, err = f.WriteSync(vfs.Aligned(BlockSize), 0)
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			return fmt.Errorf("give up the history: %w", err)
		}
	}
	h.mu.Lock()
	segs := h.segs
	h.segs, h.bytes = nil, 0
	for _, s := range segs {
		s.drop()
	}
	h.mu.Unlock()
	for _, s := range segs {
		err = errors.Join(err, h.remove(s.seq))
	}
	if there {
		err = errors.Join(err, h.cfg.FS.Remove(path))
	}
	if err != nil {
		h.cfg.Log.Warn("what is left of a history that was given up is not removed", "folder", h.cfg.Dir, "error", err)
	}
	return nil
}

// Forget takes every checkpoint off the list, durably, for which keep is false. Those before them stay.
func (h *History) Forget(keep func(Point) bool) error {
	h.change.Lock()
	defer h.change.Unlock()
	n := 0
	h.mu.Lock()
	for _, s := range h.segs {
		if !s.hidden && !keep(s.point) {
			s.hidden = true
			n++
		}
	}
	h.mu.Unlock()
	if n == 0 {
		return nil
	}
	if err := h.withRoom(h.save); err != nil {
		return h.abandon(fmt.Errorf("forget checkpoints: %w", err))
	}
	return nil
}

// Close lets go of the files.
func (h *History) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.segs {
		s.drop()
	}
	h.segs = nil
}
