package history

import (
	"fmt"
	"slices"

	"github.com/holdfast-dr/holdfast/pkg/domain"
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
// It may be repeated until the base changes. Without that checkpoint, or room for it, the whole history is given up. An error
// is one that must stop the copy, as Take's.
func (h *History) Rewind(lsn domain.LSN) error {
	h.change.Lock()
	defer h.change.Unlock()
	if err := h.rewind(lsn); err != nil {
		return h.abandon(fmt.Errorf("go back to checkpoint %d: %w", lsn, err))
	}
	return nil
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
	left := h.segs[i:]
	h.mu.Lock()
	h.segs = append(h.segs[:i:i], fresh)
	h.bytes += fresh.size
	h.next++
	for _, s := range left {
		h.bytes -= s.size
		h.gone = append(h.gone, s.seq)
		s.drop()
	}
	h.mu.Unlock()
	if err := h.save(); err != nil {
		return err
	}
	for _, s := range left {
		if err := h.remove(s.seq); err != nil { // with the next start
			h.cfg.Log.Warn("segment of a checkpoint that was left is not removed", "folder", h.cfg.Dir, "segment", s.seq, "error", err)
			continue
		}
		h.mu.Lock()
		h.gone = slices.DeleteFunc(h.gone, func(q uint64) bool { return q == s.seq })
		h.mu.Unlock()
	}
	return nil
}
