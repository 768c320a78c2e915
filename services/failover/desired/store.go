// Package desired keeps what is wanted of groups, plans and sites: at every site a copy, in the bucket HF_DESIRED, changed by
// compare-and-swap. A group belongs to the site that holds its lease, and every change carries that lease's epoch, so there is
// nothing to merge: of two copies the one with the higher (epoch, version) is right. What is wanted of a site (that it is drained) only
// the site itself changes, without an epoch.
package desired

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
)

// Plan is a plan's desired state as it stands under the key plan.<id>.
type Plan struct {
	Plan    domain.Plan  `json:"plan"`
	Epoch   domain.Epoch `json:"epoch"`
	Version uint64       `json:"version"`
}

const (
	groupPrefix = "group."
	planPrefix  = "plan."
)

// Store is one site's copy.
type Store struct {
	conn    *bus.Conn
	publish func(ctx context.Context, id string, f event.Fact)

	mu    sync.Mutex
	cache map[string]bus.Entry // the newest revision seen of each key
}

// NewStore opens the copy at a site's own server; publish tells of each change.
func NewStore(conn *bus.Conn, publish func(ctx context.Context, id string, f event.Fact)) *Store {
	return &Store{conn: conn, publish: publish, cache: map[string]bus.Entry{}}
}

// Seed writes the groups and plans that are not there yet, each group at its home.
func (s *Store) Seed(ctx context.Context, groups []domain.Group, plans []domain.Plan) error {
	for _, g := range groups {
		if err := s.seed(ctx, groupPrefix+string(g.ID), api.GroupDesired{Group: g, Site: g.Home, Version: 1}); err != nil {
			return err
		}
	}
	for _, p := range plans {
		if err := s.seed(ctx, planPrefix+string(p.ID), Plan{Plan: p, Version: 1}); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) seed(ctx context.Context, key string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("seed %s: %w", key, err)
	}
	_, err = s.conn.Get(ctx, api.BucketDesired, key)
	if err == nil {
		return nil
	}
	if !errors.Is(err, domain.ErrNotFound) {
		return fmt.Errorf("seed %s: %w", key, err)
	}
	if _, err = s.conn.CompareAndSwap(ctx, api.BucketDesired, key, raw, 0); err == nil {
		s.tell(ctx, key, raw)
	} else if errors.Is(err, domain.ErrConflict) {
		err = nil // somebody else was first
	}
	return err
}

// Group reads one group. domain.ErrNotFound when it is not defined.
func (s *Store) Group(ctx context.Context, id domain.GroupID) (api.GroupDesired, error) {
	e, err := s.conn.Get(ctx, api.BucketDesired, groupPrefix+string(id))
	if err != nil {
		return api.GroupDesired{}, fmt.Errorf("read group %s: %w", id, err)
	}
	var g api.GroupDesired
	if err := json.Unmarshal(e.Value, &g); err != nil {
		return api.GroupDesired{}, fmt.Errorf("read group %s: %w", id, err)
	}
	g.Revision = e.Revision
	return g, nil
}

// see keeps an entry when it is newer than what is known, and reports whether it was.
func (s *Store) see(e bus.Entry) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cache[e.Key].Revision >= e.Revision {
		return false
	}
	s.cache[e.Key] = e
	return true
}

// Prime reads everything, so that All answers from memory.
func (s *Store) Prime(ctx context.Context) error {
	keys, err := keys(ctx, s.conn)
	if err != nil {
		return err
	}
	for _, k := range keys {
		e, err := s.conn.Get(ctx, api.BucketDesired, k)
		if err != nil {
			return err
		}
		s.see(e)
	}
	return nil
}

// Watch keeps what All answers current until ctx ends, and calls changed after each change. What this Store writes itself is
// there at once; what others write arrives through the watch, and through a Prime every interval should the watch be slow.
func (s *Store) Watch(ctx context.Context, every time.Duration, changed func()) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for ctx.Err() == nil {
			_ = s.conn.WatchKeys(ctx, api.BucketDesired, ">", func(e bus.Entry) {
				if s.see(e) {
					changed()
				}
			})
			_ = clock.Sleep(ctx, every) // it ended: the bucket or the server was gone
		}
	})
	for ctx.Err() == nil {
		_ = clock.Sleep(ctx, every)
		_ = s.Prime(ctx) // out of reach: what is known stays
	}
}

// All is every group, plan and site as last seen, sorted by id.
func (s *Store) All(context.Context) (api.GroupList, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out api.GroupList
	for _, k := range slices.Sorted(maps.Keys(s.cache)) {
		e := s.cache[k]
		if strings.HasPrefix(k, planPrefix) {
			var p Plan
			if err := json.Unmarshal(e.Value, &p); err != nil {
				return out, fmt.Errorf("read %s: %w", k, err)
			}
			out.Plans = append(out.Plans, p.Plan)
			continue
		}
		if strings.HasPrefix(k, sitePrefix) {
			var d api.SiteDesired
			if err := json.Unmarshal(e.Value, &d); err != nil {
				return out, fmt.Errorf("read %s: %w", k, err)
			}
			d.Revision = e.Revision
			out.Sites = append(out.Sites, d)
			continue
		}
		var g api.GroupDesired
		if err := json.Unmarshal(e.Value, &g); err != nil {
			return out, fmt.Errorf("read %s: %w", k, err)
		}
		g.Revision = e.Revision
		out.Groups = append(out.Groups, g)
	}
	return out, nil
}

// keys lists the bucket's keys, sorted. A stream's subjects cost one request; a listing through the bucket makes a consumer.
func keys(ctx context.Context, conn *bus.Conn) ([]string, error) {
	const prefix = "$KV." + api.BucketDesired + "."
	subjects, err := conn.Subjects(ctx, "KV_"+api.BucketDesired, prefix+">")
	if err != nil {
		return nil, err
	}
	var out []string
	for s := range subjects {
		k := strings.TrimPrefix(s, prefix)
		if strings.HasPrefix(k, groupPrefix) || strings.HasPrefix(k, planPrefix) || strings.HasPrefix(k, sitePrefix) {
			out = append(out, k)
		}
	}
	slices.Sort(out)
	return out, nil
}

// Move writes that a group is to run at a site from epoch on. A repeat succeeds and changes nothing. Errors:
// domain.ErrStaleEpoch (a later epoch wrote), domain.ErrUnavailable.
func (s *Store) Move(ctx context.Context, id domain.GroupID, site domain.SiteID, epoch domain.Epoch) (api.GroupDesired, error) {
	for {
		g, err := s.Group(ctx, id)
		if err != nil {
			return g, err
		}
		if g.Epoch > epoch || g.Epoch == epoch && g.Site != site {
			return g, fmt.Errorf("move group %s to site %s under epoch %s: %w: epoch %s moved it to site %s", id, site, epoch, domain.ErrStaleEpoch, g.Epoch, g.Site)
		}
		if g.Epoch == epoch {
			return g, nil
		}
		revision := g.Revision
		g.Site, g.Epoch, g.Version, g.Revision = site, epoch, g.Version+1, 0
		raw, err := json.Marshal(g)
		if err != nil {
			return g, fmt.Errorf("move group %s: %w", id, err)
		}
		revision, err = s.conn.CompareAndSwap(ctx, api.BucketDesired, groupPrefix+string(id), raw, revision)
		if errors.Is(err, domain.ErrConflict) && ctx.Err() == nil {
			continue // each round somebody else made progress
		}
		if err == nil {
			s.see(bus.Entry{Key: groupPrefix + string(id), Value: raw, Revision: revision})
			s.tell(ctx, groupPrefix+string(id), raw)
		}
		return g, err
	}
}

func (s *Store) tell(ctx context.Context, key string, raw []byte) {
	what, id, _ := strings.Cut(key, ".")
	var v struct {
		Site    domain.SiteID `json:"site"`
		Epoch   domain.Epoch  `json:"epoch"`
		Version uint64        `json:"version"`
	}
	if json.Unmarshal(raw, &v) == nil {
		s.publish(ctx, fmt.Sprintf("%s-%d-%d-desired_changed", key, v.Epoch, v.Version),
			event.DesiredChanged{What: what, ID: id, Site: v.Site, Epoch: v.Epoch, Version: v.Version})
	}
}
