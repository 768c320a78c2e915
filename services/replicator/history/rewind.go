package history

import (
	"errors"
	"fmt"
	"slices"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/journal/vfs"
)

// Leave says that the base is about to go back to a checkpoint: what came after is no checkpoint any more for who reads it. What
// Restore needs is there until Rewind, or End.
func (h *History) Leave(lsn domain.LSN) {
	h.mu.Lock()
	defer h.mu.Unlock()
	i := h.at(lsn)
	if i < 0 {
		return
	}
	for _, s := range h.segs[i+1:] {
		s.hidden, s.left = true, true
	}
}

// Rewind says that the base is again what it was at a checkpoint, durably there: the checkpoints before it stay, and it is the newest one.
// It may be repeated until the base changes. Without that checkpoint the whole history is given up. An error is one for want of room
// on the disk, after which all is as before, or one that must stop the copy, as Take's.
func (h *History) Rewind(lsn domain.LSN) error {
	h.change.Lock()
	defer h.change.Unlock()
	err := h.rewind(lsn)
	if err != nil {
		err = fmt.Errorf("go back to checkpoint %d: %w", lsn, err)
	}
	if err == nil || vfs.IsFull(err) {
		return err
	}
	return h.abandon(err)
}

// rewind puts an empty segment in the place of the checkpoint's own and of all that follow. Under change.
func (h *History) rewind(lsn domain.LSN) error {
	h.mu.RLock()
	i := h.at(lsn)
	h.mu.RUnlock()
	if i < 0 {
		return domain.ErrNotFound
	}
	if s := h.segs[i]; i == len(h.segs)-1 && len(s.open) == 0 {
		return nil // it was done before
	}
	fresh, err := h.createSegment(h.next, h.segs[i].point)
	if err != nil {
		return err
	}
	before, left, gone := h.segs, h.segs[i:], h.gone
	going := slices.Clone(gone)
	for _, s := range left {
		going = append(going, s.seq)
	}
	h.turn(append(slices.Clone(before[:i]), fresh), going)
	h.next++
	if err := h.save(); err != nil {
		h.turn(before, gone)
		return errors.Join(err, fresh.f.Close())
	}
	h.mu.Lock()
	h.gone = gone
	h.bytes += fresh.size
	for _, s := range left {
		h.bytes -= s.size
		s.drop()
	}
	h.mu.Unlock()
	for _, s := range left {
		h.unlink(s)
	}
	return nil
}

// turn makes another list of segments the present one. Under change.
func (h *History) turn(segs []*segment, gone []uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.segs, h.gone = segs, gone
}
