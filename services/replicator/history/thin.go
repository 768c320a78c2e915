package history

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// Keep is how much of the past is kept.
type Keep struct {
	Age   time.Duration // older checkpoints go
	Count int           // of more, those go that are closest to their neighbours for their age
	Bytes int64         // on disk; beyond that the oldest go
}

// surplus says which checkpoint is to go next, oldest first in held, -1 for none. The newest stays. One that is open goes
// for want of room only. One that has a label is not thinned out, an application-consistent one after all others; both age.
func surplus(held []Held, total int64, keep Keep, now time.Time) int {
	n := len(held)
	switch {
	case n < 2:
		return -1
	case total > keep.Bytes, held[0].Time.Before(now.Add(-keep.Age)) && !held[0].Open:
		return 0
	case n <= keep.Count:
		return -1
	}
	for weight := range 2 {
		if i := crowded(held, weight, now); i >= 0 {
			return i
		}
	}
	if !held[0].Open {
		return 0
	}
	return -1
}

// Outlived reports whether even the newest checkpoint, or since where that is later, is longer ago than any is kept, and nobody reads one:
// where no other is taken, as in a copy that serves, nothing is left to record for.
func (h *History) Outlived(since, now time.Time) bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	n := len(h.segs)
	if n == 0 {
		return false
	}
	if newest := h.segs[n-1].point.Time; newest.After(since) {
		since = newest
	}
	return since.Before(now.Add(-h.keep.Load().Age)) && !slices.ContainsFunc(h.segs, func(s *segment) bool { return s.pins > 0 })
}

// Yield gives room on a full disk to whoever needs it more: the oldest checkpoint, or the last one. False: there is none. An error is one
// that must stop the copy, as Take's.
func (h *History) Yield(why error) (bool, error) {
	h.change.Lock()
	defer h.change.Unlock()
	if h.dropOldest(noRoom) {
		return true, nil
	}
	if len(h.segs) == 0 {
		return false, nil
	}
	return true, h.abandon(why)
}

// crowded is the checkpoint of a weight that is closest to its neighbours for its age, -1 when there is none that may go.
func crowded(held []Held, weight int, now time.Time) int {
	best, least := -1, 0.0
	for i := 1; i < len(held)-1; i++ {
		if held[i].weight() != weight || held[i].Open {
			continue
		}
		gap := held[i+1].Time.Sub(held[i-1].Time).Seconds()
		age := max(now.Sub(held[i].Time).Seconds(), 1)
		if crowd := gap / age; best < 0 || crowd < least {
			best, least = i, crowd
		}
	}
	return best
}

// Trim brings the history down to what is to be kept, one checkpoint after the other, until more says no. It may run
// beside everything. An error is one that must stop the copy, as Take's.
func (h *History) Trim(now time.Time, more func() bool) error {
	for more() {
		h.change.Lock()
		acted, err := h.trim(now)
		if err != nil {
			err = h.abandon(fmt.Errorf("thin checkpoints out: %w", err))
		}
		h.change.Unlock()
		if err != nil || !acted {
			return err
		}
	}
	return nil
}

// trim does one step; false when there is nothing to do. Under change.
func (h *History) trim(now time.Time) (bool, error) {
	switch i := h.leaving(); {
	case i == 0:
		return h.dropOldest(""), nil
	case i > 0:
		return true, h.mergePiece(i)
	}
	held := h.List()
	i := surplus(held, h.Bytes(), *h.keep.Load(), now)
	if i < 0 {
		return false, nil
	}
	if i == 0 {
		return h.dropOldest(""), nil
	}
	h.mu.Lock()
	if at := h.at(held[i].LSN); at >= 0 {
		h.segs[at].hidden = true
	}
	h.mu.Unlock()
	return true, h.withRoom(h.save)
}

// leaving is the first segment that is to be merged into the one before it, or, as the oldest, to be removed; -1 for none.
func (h *History) leaving() int {
	h.mu.RLock()
	defer h.mu.RUnlock()
	i := slices.IndexFunc(h.segs, func(s *segment) bool { return s.hidden && s.pins == 0 })
	if i == len(h.segs)-1 {
		return -1 // the newest is not closed yet
	}
	return i
}

// mergePiece appends to the segment before segs[i] some of what only segs[i] has; when nothing is left, segs[i] goes. Under
// change.
func (h *History) mergePiece(i int) error {
	older, s := h.segs[i-1], h.segs[i]
	if s.into != older {
		s.into, s.merged = older, 0
	}
	b, at, err := s.lacking(older)
	if errors.Is(err, ErrDamaged) {
		for range i + 1 { // what passes through it cannot be read any more
			h.dropOldest(err.Error())
		}
		return nil
	}
	if err != nil {
		return err
	}
	if len(b.slots) == 0 {
		return h.takeOut(i)
	}
	slots, n, err := older.append(b)
	if err != nil {
		return err
	}
	both := merge(older.sorted, slots)
	h.mu.Lock()
	older.sorted = both
	older.size += n
	older.number++
	h.bytes += n
	s.merged = at
	h.mu.Unlock()
	return nil
}

// lacking is a batch of what an older segment does not have, and how far in s it reaches.
func (s *segment) lacking(older *segment) (b *batch, at int, err error) {
	b = &batch{}
	page := pages.Get().(*[]byte)
	defer pages.Put(page)
	for at = s.merged; at < len(s.sorted) && len(b.slots) < batchBlocks; at++ {
		x := s.sorted[at]
		if _, ok := older.find(x.block); ok {
			continue
		}
		if err := s.load(x, *page); err != nil {
			return nil, 0, err
		}
		if x.page == 0 {
			b.add(x.block, nil)
		} else {
			b.add(x.block, *page)
		}
	}
	return b, at, nil
}

// merge makes one list of two, each in order, that have no block in common.
func merge(a, b []slot) []slot {
	out := make([]slot, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		if a[0].block < b[0].block {
			out, a = append(out, a[0]), a[1:]
		} else {
			out, b = append(out, b[0]), b[1:]
		}
	}
	return append(append(out, a...), b...)
}

// takeOut removes a segment that the one before it has all of. Under change.
func (h *History) takeOut(i int) error {
	s := h.segs[i]
	h.mu.Lock()
	h.segs = slices.Delete(slices.Clone(h.segs), i, i+1)
	h.bytes -= s.size
	h.gone = append(h.gone, s.seq)
	h.mu.Unlock()
	if err := h.withRoom(h.save); err != nil {
		return err
	}
	h.mu.Lock()
	s.drop()
	h.gone = slices.DeleteFunc(h.gone, func(q uint64) bool { return q == s.seq })
	h.mu.Unlock()
	return h.remove(s.seq)
}
