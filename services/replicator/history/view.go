package history

import (
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/journal/vfs"
)

// View is the copy as it was at a checkpoint. It may be read while the copy changes; a checkpoint with a view is kept as
// long as there is room for it.
type View struct {
	h     *History
	start *segment
	point Point
	base  []Base // as it was when the view was opened: a resync may give the copy other volumes
	once  sync.Once
}

// View opens a checkpoint. domain.ErrNotFound when it is not listed.
func (h *History) View(lsn domain.LSN) (*View, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	i := h.at(lsn)
	if i < 0 {
		return nil, fmt.Errorf("checkpoint %d: %w", lsn, domain.ErrNotFound)
	}
	s := h.segs[i]
	s.pins++
	return &View{h: h, start: s, point: s.point, base: h.cfg.Base}, nil
}

// at is the index of the segment of a listed checkpoint, -1 when there is none. Call it under mu.
func (h *History) at(lsn domain.LSN) int {
	return slices.IndexFunc(h.segs, func(s *segment) bool { return !s.hidden && s.point.LSN == lsn })
}

// Point is the checkpoint.
func (v *View) Point() Point { return v.point }

// Listed reports whether the checkpoint still is one. One that a resync took off the list can be read on, and another may have its LSN.
func (v *View) Listed() bool {
	v.h.mu.RLock()
	defer v.h.mu.RUnlock()
	return !v.start.gone && !v.start.hidden
}

// Close lets go of the checkpoint.
func (v *View) Close() {
	v.once.Do(func() {
		v.h.mu.Lock()
		defer v.h.mu.Unlock()
		v.start.pins--
	})
}

// ReadAt reads a volume as it was.
//
// The lock is held, shared, to the end: what Record makes known it makes known before the base changes, and so a block
// that no segment has is in the base, unchanged, for as long as nothing new is made known.
func (v *View) ReadAt(volume int, p []byte, off int64) (int, error) {
	h := v.h
	h.mu.RLock()
	defer h.mu.RUnlock()
	from := slices.Index(h.segs, v.start)
	if from < 0 || v.start.left {
		return 0, errGone
	}
	page := pages.Get().(*[]byte)
	defer pages.Put(page)
	for at := 0; at < len(p); {
		pos := off + int64(at)
		s, x, n := h.locate(from, volume, pos, int64(len(p)-at))
		part := p[at : at+int(n)]
		if s == nil {
			if m, err := v.base[volume].ReadAt(part, pos); m < len(part) {
				if err == nil {
					err = io.ErrUnexpectedEOF
				}
				return at + m, err
			}
		} else {
			if err := s.load(x, *page); err != nil {
				return at, err
			}
			copy(part, (*page)[pos%BlockSize:])
		}
		at += int(n)
	}
	return len(p), nil
}

var pages = sync.Pool{New: func() any { b := vfs.Aligned(BlockSize); return &b }}

// locate is the segment that has the block at pos and how much of it is asked for; a nil segment: the base has it and what
// follows, n bytes.
func (h *History) locate(from, volume int, pos, want int64) (s *segment, x slot, n int64) {
	n = min(want, BlockSize-pos%BlockSize)
	if s, x = h.find(from, blockOf(volume, pos)); s != nil {
		return s, x, n
	}
	for n < want {
		if s, _ := h.find(from, blockOf(volume, pos+n)); s != nil {
			break
		}
		n = min(want, n+BlockSize)
	}
	return nil, slot{}, n
}

// find is the first segment from an index on that has the block. Call it under mu.
func (h *History) find(from int, block uint64) (*segment, slot) {
	for _, s := range h.segs[from:] {
		if x, ok := s.find(block); ok {
			return s, x
		}
	}
	return nil, slot{}
}

// Changed visits every block that was overwritten since a checkpoint; domain.ErrNotFound when it is not listed.
func (h *History) Changed(lsn domain.LSN, visit func(volume int, off, length int64)) error {
	h.mu.RLock()
	defer h.mu.RUnlock()
	i := h.at(lsn)
	if i < 0 {
		return fmt.Errorf("checkpoint %d: %w", lsn, domain.ErrNotFound)
	}
	for _, s := range h.segs[i:] {
		for x := range s.each() {
			if volume, off := volumeOf(x.block); h.inside(volume, off) {
				visit(volume, off, min(BlockSize, h.cfg.Sizes[volume]-off))
			}
		}
	}
	return nil
}

// inside reports whether there is such a block. There is none of a volume that another line had, and this one has not.
func (h *History) inside(volume int, off int64) bool {
	return volume < len(h.cfg.Sizes) && off < h.cfg.Sizes[volume]
}

// Restore gives every block that was overwritten since a checkpoint as it was then, each once; nil is zeroes. Given to the
// base, whatever of it was already, that is the copy at the checkpoint. It may be repeated.
func (h *History) Restore(lsn domain.LSN, put func(volume int, off int64, data []byte) error) error {
	h.mu.RLock()
	defer h.mu.RUnlock()
	i := h.at(lsn)
	if i < 0 {
		return fmt.Errorf("restore checkpoint %d: %w", lsn, domain.ErrNotFound)
	}
	page := vfs.Aligned(BlockSize)
	for j, s := range h.segs[i:] {
		for _, x := range s.slots() {
			if first, _ := h.find(i, x.block); first != h.segs[i+j] {
				continue // an older segment has it
			}
			volume, off := volumeOf(x.block)
			if !h.inside(volume, off) {
				continue
			}
			data := page[:min(BlockSize, h.cfg.Sizes[volume]-off)]
			if x.page == 0 {
				data = nil
			} else if err := s.load(x, page); err != nil {
				return fmt.Errorf("restore checkpoint %d: %w", lsn, err)
			}
			if err := put(volume, off, data); err != nil {
				return fmt.Errorf("restore checkpoint %d: %w", lsn, err)
			}
		}
	}
	return nil
}
