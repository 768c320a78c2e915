package desired

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

const sitePrefix = "site."

// Site reads what is wanted of a site: one that was never drained has version 0.
func (s *Store) Site(ctx context.Context, id domain.SiteID) (api.SiteDesired, error) {
	out := api.SiteDesired{Site: id}
	e, err := s.conn.Get(ctx, api.BucketDesired, sitePrefix+string(id))
	if errors.Is(err, domain.ErrNotFound) {
		return out, nil
	}
	if err != nil {
		return out, fmt.Errorf("read site %s: %w", id, err)
	}
	if err := json.Unmarshal(e.Value, &out); err != nil {
		return out, fmt.Errorf("read site %s: %w", id, err)
	}
	out.Revision = e.Revision
	return out, nil
}

// SetSite writes the next version of what is wanted of a site, which only the site itself may. have is what it goes out from.
// domain.ErrConflict when somebody else's change came first.
func (s *Store) SetSite(ctx context.Context, have api.SiteDesired, drain *api.Drain) (api.SiteDesired, error) {
	next := have
	next.Drain, next.Version, next.Revision = drain, have.Version+1, 0
	raw, err := json.Marshal(next)
	if err != nil {
		return have, fmt.Errorf("change site %s: %w", have.Site, err)
	}
	key := sitePrefix + string(have.Site)
	if next.Revision, err = s.conn.CompareAndSwap(ctx, api.BucketDesired, key, raw, have.Revision); err != nil {
		return have, fmt.Errorf("change site %s: %w", have.Site, err)
	}
	s.see(bus.Entry{Key: key, Value: raw, Revision: next.Revision})
	s.tell(ctx, key, raw)
	return next, nil
}

// Drained is a site's drain as last seen, from memory; nil when it takes groups.
func (s *Store) Drained(id domain.SiteID) *api.Drain {
	s.mu.Lock()
	defer s.mu.Unlock()
	var d api.SiteDesired
	if json.Unmarshal(s.cache[sitePrefix+string(id)].Value, &d) != nil {
		return nil // none is written
	}
	return d.Drain
}
