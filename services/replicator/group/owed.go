package group

import (
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// owed is what a copy owes one other site: the changes that the site may lack stay in the ring, or go into its durable bitmap
// before the ring lets go of them. A primary owes its targets; a target's copy owes the other targets, for it may be their
// next primary.
type owed struct {
	site  domain.SiteID
	track *track
	// waits keeps the ring for the site while there is room: it is taking what it lacks.
	waits bool
	// always keeps it whatever the room: the writer is to wait.
	always     bool
	overflowed func() // told when the ring let go of what it lacks; may be nil
}

// release is the tail rule: the ring lets go of a change when the volumes hold it durably and every site that may lack it has
// it, or has its blocks in a durable bitmap here. Where that leaves the ring under pressure, what is owed to sites that do not
// keep up goes over to their bitmaps; when it is nearly full, everything that need not wait does.
func (s *store) release(all []owed, used float64, full bool) error {
	applied := s.applied()
	if err := s.checkpoint(releasable(all, applied), used, full); err != nil {
		return err
	}
	if used = s.used(); used < pressureShare {
		return nil
	}
	for _, o := range all {
		if o.track.covered() >= applied || o.always || o.waits && used < nearlyFull {
			continue
		}
		if err := s.overflow(o.site, o.track, applied); err != nil {
			return err
		}
		if o.overflowed != nil {
			o.overflowed()
		}
	}
	return s.checkpoint(releasable(all, applied), used, full)
}

// releasable is the last change that neither the volumes nor any other site needs the ring for.
func releasable(all []owed, applied domain.LSN) domain.LSN {
	limit := applied
	for _, o := range all {
		limit = min(limit, o.track.covered())
	}
	return limit
}

// letGo empties the ring of what was applied, whoever lacks it: into the bitmaps first.
func (s *store) letGo(all []owed) error {
	applied := s.applied()
	for _, o := range all {
		if o.track.covered() >= applied {
			continue
		}
		if err := s.overflow(o.site, o.track, applied); err != nil {
			return err
		}
		if o.overflowed != nil {
			o.overflowed()
		}
	}
	return s.checkpoint(applied, 1, true)
}
