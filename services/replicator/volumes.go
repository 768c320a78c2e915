package replicator

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/audit"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/group"
)

// volumeDiscard is the volume_discard verb. What cannot be undone is in the audit before it is done; a refusal is kept there too.
func (s *service) volumeDiscard(ctx context.Context, r api.VolumeDiscard) (api.VolumeSlot, error) {
	what := fmt.Sprintf("volume_discarded.%s.%s", r.Group, r.Volume)
	v, err := s.mayDiscardVolume(r)
	if err == nil {
		entry := discardEntry(ctx, r.By, r.Host, r.Why, what)
		entry.Data, _ = json.Marshal(v) // plain fields always encode
		if aerr := audit.Append(ctx, s.deps.Mesh.Local(), entry); aerr != nil {
			err = fmt.Errorf("discard volume %s of group %s: it cannot be recorded in the audit of site %s, so nothing was deleted: try again: %w", r.Volume, r.Group, s.cfg.Site, aerr)
		}
	}
	if err == nil {
		v, err = with(s, r.Group, func(g *group.Group) (api.VolumeSlot, error) { return g.DiscardVolume(ctx, r.Volume) })
	}
	if err != nil {
		if refused := audit.Outcome("", "volume_discard_refused", err); refused != "" {
			entry := discardEntry(ctx, r.By, r.Host, err.Error(), fmt.Sprintf("%s.%s.%s", refused, r.Group, r.Volume))
			audit.Note(ctx, s.deps.Mesh.Local(), s.log, entry)
		}
	}
	return v, err
}

// mayDiscardVolume gives the removed volume when the request says what it must.
func (s *service) mayDiscardVolume(r api.VolumeDiscard) (api.VolumeSlot, error) {
	v, err := with(s, r.Group, func(g *group.Group) (api.VolumeSlot, error) { return g.RemovedVolume(r.Volume) })
	switch {
	case err != nil:
		return v, err
	case r.Why == "":
		return v, fmt.Errorf("discard volume %s of group %s: say why: it is kept in the audit: %w", r.Volume, r.Group, domain.ErrInvalid)
	case !r.Yes:
		return v, fmt.Errorf("discard volume %s of group %s: what it held at site %s would be lost for good: say yes: %w", r.Volume, r.Group, s.cfg.Site, domain.ErrRefused)
	}
	return v, nil
}
