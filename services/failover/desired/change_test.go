package desired

import (
	"errors"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

func TestAChangeIsWhatItNamesAndNothingElse(t *testing.T) {
	base := domain.Group{ID: "erp", Home: "a", Tier: 2, RPO: time.Second, OnTargetLoss: domain.TargetLossDegrade, Failover: domain.FailoverAuto,
		Placement: domain.Placement{Preferred: "a", Forbidden: []domain.SiteID{"c"}},
		Targets:   []domain.Target{{Site: "b", Mode: domain.ModeSync}}, Volumes: []domain.Volume{{ID: "data", SizeBytes: 4096}, {ID: "spare", SizeBytes: 4096}, {ID: "old", SizeBytes: 4096, Removed: true}},
		VMs: []domain.VM{{ID: "vm", Volumes: []domain.VolumeID{"data"}, Sites: map[domain.SiteID]domain.VMPlacement{"a": {Address: "10.0.0.1"}}}}}
	tier, rpo := 1, 5*time.Second
	at := domain.VMPlacement{Address: "10.3.0.1", Hosts: []domain.HostID{"c-h1"}}
	for name, c := range map[string]struct {
		req  api.GroupSetRequest
		want func(g *domain.Group)
	}{
		"nothing":      {api.GroupSetRequest{}, func(*domain.Group) {}},
		"mode":         {api.GroupSetRequest{Targets: []domain.Target{{Site: "b", Mode: domain.ModeAsync}}}, func(g *domain.Group) { g.Targets = []domain.Target{{Site: "b", Mode: domain.ModeAsync}} }},
		"another site": {api.GroupSetRequest{Targets: []domain.Target{{Site: "c", Mode: domain.ModeAsync}}}, func(g *domain.Group) { g.Targets = append(g.Targets, domain.Target{Site: "c", Mode: domain.ModeAsync}) }},
		"removed":      {api.GroupSetRequest{Remove: []domain.SiteID{"b"}}, func(g *domain.Group) { g.Targets = nil }},
		"numbers":      {api.GroupSetRequest{Tier: &tier, RPO: &rpo, HoldDown: &rpo}, func(g *domain.Group) { g.Tier, g.RPO, g.HoldDown = tier, rpo, rpo }},
		"words": {api.GroupSetRequest{OnTargetLoss: domain.TargetLossSuspend, Failover: domain.FailoverManual},
			func(g *domain.Group) { g.OnTargetLoss, g.Failover = domain.TargetLossSuspend, domain.FailoverManual }},
		"placement": {api.GroupSetRequest{Preferred: new(domain.SiteID), Pinned: &[]domain.SiteID{"a", "b"}, Return: &domain.Return{After: time.Hour}},
			func(g *domain.Group) {
				g.Placement = domain.Placement{Pinned: []domain.SiteID{"a", "b"}, Forbidden: []domain.SiteID{"c"}, Return: domain.Return{After: time.Hour}}
			}},
		"volume added": {api.GroupSetRequest{AddVolumes: []domain.Volume{{ID: "x", SizeBytes: 8192}}},
			func(g *domain.Group) {
				g.Volumes = append(slices.Clone(g.Volumes), domain.Volume{ID: "x", SizeBytes: 8192, Added: true})
			}},
		"volume removed": {api.GroupSetRequest{RemoveVolumes: []domain.VolumeID{"spare"}},
			func(g *domain.Group) { g.Volumes = slices.Clone(g.Volumes); g.Volumes[1].Removed = true }},
		"transport": {api.GroupSetRequest{Transports: map[domain.SiteID]domain.TransportChange{"b": {RateLimit: new(domain.Rate(1 << 20)), Window: new(domain.Bytes(4 << 20))}}},
			func(g *domain.Group) {
				g.Targets = []domain.Target{{Site: "b", Mode: domain.ModeSync, Transport: domain.Transport{RateLimit: 1 << 20, Window: 4 << 20}}}
			}},
		"checkpoints": {api.GroupSetRequest{Checkpoints: &domain.CheckpointsChange{Every: &rpo}, Durability: domain.DurabilityCached},
			func(g *domain.Group) {
				g.Checkpoints, g.Durability = domain.Checkpoints{Every: rpo, Keep: domain.Keep{Age: 24 * time.Hour, Count: 120, Bytes: 16 << 30}}, domain.DurabilityCached
			}},
		"place": {api.GroupSetRequest{Placements: map[domain.VMID]map[domain.SiteID]domain.VMPlacement{"vm": {"c": at}}},
			func(g *domain.Group) { g.VMs[0].Sites["c"] = at }},
	} {
		t.Run(name, func(t *testing.T) {
			want, _ := Changed(base, api.GroupSetRequest{Placements: map[domain.VMID]map[domain.SiteID]domain.VMPlacement{"vm": {}}}) // a deep copy
			c.want(&want)
			got, err := Changed(base, c.req)
			if err != nil || len(got.Targets) != len(want.Targets) || len(got.Targets) > 0 && !reflect.DeepEqual(got.Targets, want.Targets) {
				t.Fatalf("%v: targets %v, want %v", err, got.Targets, want.Targets)
			}
			got.Targets, want.Targets = nil, nil
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("%+v, want %+v", got, want)
			}
			if len(base.Targets) != 1 || base.Targets[0].Mode != domain.ModeSync || len(base.VMs[0].Sites) != 1 || len(base.Volumes) != 3 || base.Volumes[1].Removed {
				t.Fatal("the group that was given changed")
			}
		})
	}
	for name, req := range map[string]api.GroupSetRequest{
		"remove no target":       {Remove: []domain.SiteID{"c"}},
		"both at once":           {Remove: []domain.SiteID{"b"}, Targets: []domain.Target{{Site: "b", Mode: domain.ModeSync}}},
		"transport of no target": {Transports: map[domain.SiteID]domain.TransportChange{"c": {}}},
		"no such vm":             {Placements: map[domain.VMID]map[domain.SiteID]domain.VMPlacement{"other": {"c": at}}},
	} {
		if _, err := Changed(base, req); !errors.Is(err, domain.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, c := range map[string]struct {
		req  api.GroupSetRequest
		want error
	}{
		"a volume it has":       {api.GroupSetRequest{AddVolumes: []domain.Volume{{ID: "data", SizeBytes: 4096}}}, domain.ErrConflict},
		"a name that was given": {api.GroupSetRequest{AddVolumes: []domain.Volume{{ID: "old", SizeBytes: 4096}}}, domain.ErrInvalid},
		"a volume it has not":   {api.GroupSetRequest{RemoveVolumes: []domain.VolumeID{"x"}}, domain.ErrNotFound},
		"one that is removed":   {api.GroupSetRequest{RemoveVolumes: []domain.VolumeID{"old"}}, domain.ErrNotFound},
		"one that a vm uses":    {api.GroupSetRequest{RemoveVolumes: []domain.VolumeID{"data"}}, domain.ErrRefused},
	} {
		if _, err := Changed(base, c.req); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
