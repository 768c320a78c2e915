package group

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/durable"
	"github.com/holdfast-dr/holdfast/services/replicator/slots"
)

const (
	quarantinePage  = 4096      // extents in one answer
	quarantinePiece = 512 << 10 // bytes of a file in one answer
	eventExtents    = 256       // extents in an event, which must fit a message

	// discardedSuffix is of a folder that is being deleted: it was renamed first, so that a crash leaves the item whole or gone.
	discardedSuffix = ".discarded"
)

// Quarantined lists what was kept aside here, each with every extent.
func (g *Group) Quarantined() ([]api.Quarantined, error) { return g.store.quarantined() }

// QuarantinedItem gives one item with a page of its extents from the given one on.
func (g *Group) QuarantinedItem(id string, from int) (api.Quarantined, error) {
	item, err := g.store.quarantinedItem(id)
	if err != nil {
		return item, err
	}
	from = min(max(from, 0), len(item.Extents))
	item.Extents = item.Extents[from:min(from+quarantinePage, len(item.Extents))]
	return item, nil
}

// QuarantinedPiece reads a piece of one of an item's files.
func (g *Group) QuarantinedPiece(r api.QuarantineRead) (api.QuarantinePiece, error) {
	item, err := g.store.quarantinedItem(r.ID)
	if err != nil {
		return api.QuarantinePiece{}, err
	}
	if r.File != quarantineFrames && r.File != quarantineBlocks {
		return api.QuarantinePiece{}, fmt.Errorf("read quarantine %s: it has no file %q: %w", r.ID, r.File, domain.ErrInvalid)
	}
	return readPiece(filepath.Join(item.Path, r.File), r.Offset)
}

func readPiece(path string, off int64) (p api.QuarantinePiece, err error) {
	f, err := os.Open(path)
	if err != nil {
		return p, fmt.Errorf("read quarantine: %w", err)
	}
	defer func() { _ = f.Close() }() // read only
	st, err := f.Stat()
	if err != nil {
		return p, fmt.Errorf("read quarantine: %w", err)
	}
	if p.Size = st.Size(); off < 0 || off > p.Size {
		return p, fmt.Errorf("read quarantine %s at %d of %d: %w", path, off, p.Size, domain.ErrInvalid)
	}
	p.Data = make([]byte, min(quarantinePiece, p.Size-off))
	if _, err := io.ReadFull(io.NewSectionReader(f, off, p.Size-off), p.Data); err != nil {
		return p, fmt.Errorf("read quarantine: %w", err)
	}
	return p, nil
}

// DiscardQuarantined deletes an item for good. While the journal still holds the diverged tail, which ends when the resync
// after it is installed, the next rejoin keeps the same writes aside once more: discarding never lets go of more than there is.
func (g *Group) DiscardQuarantined(ctx context.Context, id string) error {
	end, err := g.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	if err := g.store.discardQuarantined(id); err != nil {
		return fmt.Errorf("discard quarantine %s of group %s: %w", id, g.id, err)
	}
	g.log.Warn("diverged writes discarded", "quarantine", id)
	return nil
}

func (s *store) quarantinedItem(id string) (api.Quarantined, error) {
	all, err := s.quarantined()
	if err != nil {
		return api.Quarantined{}, err
	}
	for _, item := range all {
		if item.ID != id {
			continue
		}
		if len(item.Volumes) == 0 { // kept before items told their volumes
			item.Volumes = quarantineVolumes(slots.Of(s.group.Volumes))
		}
		return item, nil
	}
	return api.Quarantined{}, fmt.Errorf("group %s keeps no %q aside here: see holdfast quarantine list %s: %w", s.group.ID, id, s.group.ID, domain.ErrNotFound)
}

func (s *store) discardQuarantined(id string) error {
	item, err := s.quarantinedItem(id)
	if err != nil {
		return err
	}
	gone := item.Path + discardedSuffix
	if err := os.RemoveAll(gone); err != nil {
		return err
	}
	if err := os.Rename(item.Path, gone); err != nil {
		return err
	}
	s.mu.Lock()
	delete(s.kept, item.Path)
	s.mu.Unlock()
	return errors.Join(durable.SyncDir(s.quarantineDir()), removeDurably(gone))
}

// finishDiscards removes what a crash left of discarded items.
func (s *store) finishDiscards() error {
	left, err := filepath.Glob(filepath.Join(s.quarantineDir(), "*"+discardedSuffix))
	for _, dir := range left {
		err = errors.Join(err, removeDurably(dir))
	}
	return err
}

func quarantineVolumes(t slots.Table) []api.QuarantinedVolume {
	var out []api.QuarantinedVolume
	for _, v := range t {
		out = append(out, api.QuarantinedVolume{ID: v.ID, SizeBytes: v.SizeBytes})
	}
	return out
}

// brief is an item with its first extents only.
func brief(item api.Quarantined, extents int) api.Quarantined {
	item.Extents = item.Extents[:min(extents, len(item.Extents))]
	if len(item.Extents) == 0 {
		item.Extents = nil
	}
	return item
}
