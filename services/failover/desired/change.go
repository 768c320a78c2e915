package desired

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Changed is a group with what a request names; what it leaves out stays. A target that is named is added, or has its mode
// changed. Errors: domain.ErrInvalid.
func Changed(g domain.Group, r api.GroupSetRequest) (domain.Group, error) {
	var err error
	if g.Targets, err = targets(g, r); err != nil {
		return g, err
	}
	if err = sentTo(&g, r); err != nil {
		return g, err
	}
	if g.VMs, err = placed(g, r); err != nil {
		return g, err
	}
	if g.Volumes, err = volumes(g, r); err != nil {
		return g, err
	}
	set(&g.Tier, r.Tier)
	set(&g.RPO, r.RPO)
	set(&g.HoldDown, r.HoldDown)
	set(&g.Approvers, r.Approvers)
	set(&g.Automatic, r.Automatic)
	set(&g.Placement.Preferred, r.Preferred)
	set(&g.Placement.Pinned, r.Pinned)
	set(&g.Placement.Forbidden, r.Forbidden)
	set(&g.Placement.Return, r.Return)
	if x := r.Checkpoints; x != nil {
		g.Checkpoints = g.Checkpoints.WithDefaults()
		set(&g.Checkpoints.Disabled, x.Disabled)
		set(&g.Checkpoints.Every, x.Every)
		set(&g.Checkpoints.AppEvery, x.AppEvery)
		set(&g.Checkpoints.Keep.Age, x.Age)
		set(&g.Checkpoints.Keep.Count, x.Count)
		set(&g.Checkpoints.Keep.Bytes, x.Bytes)
	}
	if r.Durability != "" {
		g.Durability = r.Durability
	}
	if r.OnTargetLoss != "" {
		g.OnTargetLoss = r.OnTargetLoss
	}
	if r.Failover != "" {
		g.Failover = r.Failover
	}
	if r.Congestion != "" {
		g.Congestion = r.Congestion
	}
	return g, nil
}

func set[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

// sentTo changes how targets are sent to; g's list is its own already.
func sentTo(g *domain.Group, r api.GroupSetRequest) error {
	for site, x := range r.Transports {
		i := slices.IndexFunc(g.Targets, func(t domain.Target) bool { return t.Site == site })
		if i < 0 {
			return fmt.Errorf("change group %s: %w: site %s is no target of it", g.ID, domain.ErrInvalid, site)
		}
		to := &g.Targets[i].Transport
		set(&to.RateLimit, x.RateLimit)
		set(&to.Schedule, x.Schedule)
		set(&to.Compression, x.Compression)
		set(&to.Window, x.Window)
	}
	return nil
}

func targets(g domain.Group, r api.GroupSetRequest) ([]domain.Target, error) {
	out := slices.Clone(g.Targets)
	at := func(site domain.SiteID) int {
		return slices.IndexFunc(out, func(t domain.Target) bool { return t.Site == site })
	}
	for _, site := range r.Remove {
		if at(site) < 0 {
			return nil, fmt.Errorf("change group %s: %w: site %s is no target of it", g.ID, domain.ErrInvalid, site)
		}
		out = slices.Delete(out, at(site), at(site)+1)
	}
	for _, t := range r.Targets {
		switch i := at(t.Site); {
		case slices.Contains(r.Remove, t.Site):
			return nil, fmt.Errorf("change group %s: %w: target %s is given and removed at once", g.ID, domain.ErrInvalid, t.Site)
		case i >= 0:
			out[i].Mode = t.Mode
		default:
			out = append(out, t)
		}
	}
	return out, nil
}

// volumes gives the list with what was added at its end, and what was removed marked so.
func volumes(g domain.Group, r api.GroupSetRequest) ([]domain.Volume, error) {
	out := slices.Clone(g.Volumes)
	at := func(id domain.VolumeID) int {
		return slices.IndexFunc(out, func(v domain.Volume) bool { return v.ID == id })
	}
	for _, v := range r.AddVolumes {
		switch i := at(v.ID); {
		case i >= 0 && out[i].Removed:
			return nil, fmt.Errorf("change group %s: %w: it had a volume %s, which was removed; a name is not given again: take another", g.ID, domain.ErrInvalid, v.ID)
		case i >= 0:
			return nil, fmt.Errorf("change group %s: %w: it has a volume %s", g.ID, domain.ErrConflict, v.ID)
		}
		out = append(out, domain.Volume{ID: v.ID, SizeBytes: v.SizeBytes, Added: true})
	}
	for _, id := range r.RemoveVolumes {
		i := at(id)
		if i < 0 || out[i].Removed {
			return nil, fmt.Errorf("change group %s: %w: it has no volume %s", g.ID, domain.ErrNotFound, id)
		}
		for _, vm := range g.VMs {
			if slices.Contains(vm.Volumes, id) {
				return nil, fmt.Errorf("change group %s: %w: vm %s uses volume %s: only what no vm of the group uses is removed", g.ID, domain.ErrRefused, vm.ID, id)
			}
		}
		out[i].Removed = true
	}
	return out, nil
}

func placed(g domain.Group, r api.GroupSetRequest) ([]domain.VM, error) {
	out := slices.Clone(g.VMs)
	for id, at := range r.Placements {
		i := slices.IndexFunc(out, func(v domain.VM) bool { return v.ID == id })
		if i < 0 {
			return nil, fmt.Errorf("change group %s: %w: it has no vm %s", g.ID, domain.ErrInvalid, id)
		}
		sites := maps.Clone(out[i].Sites)
		if sites == nil {
			sites = map[domain.SiteID]domain.VMPlacement{}
		}
		maps.Copy(sites, at)
		out[i].Sites = sites
	}
	return out, nil
}

// Change writes a changed definition of a group, under the epoch it stands under: only the site that holds the lease of that
// epoch may. revision, when not 0, must be the newest. Errors: those of f, domain.ErrStaleEpoch (another epoch wrote),
// domain.ErrConflict (somebody else's change came first), domain.ErrUnavailable.
func (s *Store) Change(ctx context.Context, id domain.GroupID, epoch domain.Epoch, revision uint64, f func(domain.Group) (domain.Group, error)) (api.GroupDesired, error) {
	g, err := s.Group(ctx, id)
	if err != nil {
		return g, err
	}
	if g.Epoch != epoch {
		return g, fmt.Errorf("change group %s under epoch %s: %w: epoch %s wrote it last; a run is about to, or has: look again", id, epoch, domain.ErrStaleEpoch, g.Epoch)
	}
	if revision != 0 && revision != g.Revision {
		return g, fmt.Errorf("change group %s: %w: it stands at revision %d, you have seen %d: look at it again", id, domain.ErrConflict, g.Revision, revision)
	}
	revision = g.Revision
	if g.Group, err = f(g.Group); err != nil {
		return g, err
	}
	g.Version, g.Revision = g.Version+1, 0
	raw, err := json.Marshal(g)
	if err != nil {
		return g, fmt.Errorf("change group %s: %w", id, err)
	}
	key := groupPrefix + string(id)
	if g.Revision, err = s.conn.CompareAndSwap(ctx, api.BucketDesired, key, raw, revision); err != nil {
		return g, fmt.Errorf("change group %s: %w", id, err)
	}
	s.see(bus.Entry{Key: key, Value: raw, Revision: g.Revision})
	s.tell(ctx, key, raw)
	return g, nil
}
