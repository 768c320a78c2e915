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

// Sync makes the copies here and at a peer the same: key by key the higher (epoch, version) replaces the lower one. It tells
// whether anything changed here. A peer whose bucket is not made yet is not an error.
func (s *Store) Sync(ctx context.Context, peer *bus.Conn) (changed bool, err error) {
	mine, err := entries(ctx, s.conn)
	if err != nil {
		return false, fmt.Errorf("read desired state here: %w", err)
	}
	for key, m := range mine {
		s.see(bus.Entry{Key: key, Value: m.raw, Revision: m.revision})
	}
	theirs, err := entries(ctx, peer)
	if errors.Is(err, domain.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read desired state of site %s: %w", peer.Site(), err)
	}
	for key, t := range theirs {
		if m := mine[key]; newer(t, m) {
			revision, err := replace(ctx, s.conn, key, t, m)
			if err != nil {
				return changed, err
			}
			if revision == 0 {
				continue
			}
			changed = true
			s.see(bus.Entry{Key: key, Value: t.raw, Revision: revision})
			s.tell(ctx, key, t.raw)
		}
	}
	for key, m := range mine {
		if t := theirs[key]; newer(m, t) {
			if _, err := replace(ctx, peer, key, m, t); err != nil {
				return changed, err
			}
		}
	}
	return changed, nil
}

type entry struct {
	epoch    domain.Epoch
	version  uint64
	raw      []byte
	revision uint64
}

func newer(a, b entry) bool {
	return a.epoch > b.epoch || a.epoch == b.epoch && a.version > b.version
}

func entries(ctx context.Context, conn *bus.Conn) (map[string]entry, error) {
	keys, err := keys(ctx, conn)
	if err != nil {
		return nil, err
	}
	out := make(map[string]entry, len(keys))
	for _, k := range keys {
		e, err := conn.Get(ctx, api.BucketDesired, k)
		if err != nil {
			return nil, err
		}
		var v struct {
			Epoch   domain.Epoch `json:"epoch"`
			Version uint64       `json:"version"`
		}
		if err := json.Unmarshal(e.Value, &v); err != nil {
			return nil, fmt.Errorf("read %s at site %s: %w", k, conn.Site(), err)
		}
		out[k] = entry{epoch: v.Epoch, version: v.Version, raw: e.Value, revision: e.Revision}
	}
	return out, nil
}

// replace swaps old for what is newer and returns the new revision: 0 when somebody else's swap came in between, which is left
// to the next round.
func replace(ctx context.Context, conn *bus.Conn, key string, with, old entry) (uint64, error) {
	revision, err := conn.CompareAndSwap(ctx, api.BucketDesired, key, with.raw, old.revision)
	if errors.Is(err, domain.ErrConflict) {
		return 0, nil
	}
	return revision, err
}
