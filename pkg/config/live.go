package config

import (
	"errors"
	"fmt"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// CheckGroup holds a group that is changed while it runs to the rules of one that is configured, and its sites to this file's.
// What is wrong wraps domain.ErrInvalid.
func (c Config) CheckGroup(g domain.Group) error {
	v, data, seen := &validator{}, map[domain.SiteID]bool{}, map[domain.SiteID]string{}
	for _, s := range c.Sites {
		data[s.ID] = s.Role == domain.SiteData
	}
	Config{Groups: []Group{groupOf(g)}}.validateGroups(v, data)
	if g.Tier < 0 {
		v.bad("tier", fmt.Sprintf("%d is no tier", g.Tier), "give 1 for what comes back first, or a higher number")
	}
	for i, t := range g.Targets {
		once(v, seen, fmt.Sprintf("targets[%d].site", i), t.Site, "name each target site once")
	}
	var all []error
	for _, p := range v.problems {
		all = append(all, fmt.Errorf("%s: %s: %s", p.Field, p.What, p.Mend))
	}
	if len(all) == 0 {
		return nil
	}
	return fmt.Errorf("group %s: %w: %w", g.ID, domain.ErrInvalid, errors.Join(all...))
}

// groupOf is a group as it would stand in the file.
func groupOf(g domain.Group) Group {
	out := Group{ID: g.ID, Tier: g.Tier, Home: g.Home, Targets: g.Targets, Durability: g.Durability, OnTargetLoss: g.OnTargetLoss,
		Failover: g.Failover, Approvers: g.Approvers, Automatic: g.Automatic, HoldDown: Duration(g.HoldDown), RPO: Duration(g.RPO), Congestion: g.Congestion, Placement: placementOf(g.Placement), VMs: g.VMs,
		Checkpoints: checkpointsOf(g.Checkpoints.WithDefaults())} // desired state of an older version has none
	for _, vol := range g.Served() {
		out.Volumes = append(out.Volumes, Volume{ID: vol.ID, Size: Size(vol.SizeBytes)})
	}
	return out
}
