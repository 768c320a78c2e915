package failover

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/failover/plan"
)

// backInPlace makes a start bring groups back that may be served here: under an epoch of its own, as they are started again when a host
// dies. starting is held: no other run takes an epoch for them meanwhile.
func (s *service) backInPlace(ctx context.Context, o *order, list api.GroupList) error {
	o.above = map[domain.GroupID]domain.Epoch{}
	for _, g := range list.Groups {
		if id := g.Group.ID; o.checkpoints[id] != 0 {
			l, err := s.lease(ctx, id, 0)
			if err != nil {
				return fmt.Errorf("checkpoint %d of group %s: its lease: %w", o.checkpoints[id], id, err)
			}
			o.above[id] = max(g.Epoch, l.Epoch)
		}
	}
	return nil
}

// promote has the site's replicator serve a group. The way back to a checkpoint takes as long as there is to be written: while the copy is
// on it, it is not given up.
func (a actor) promote(ctx context.Context, r api.Run, g domain.Group) (api.PromoteReply, error) {
	var l api.Lease
	if err := result(r, plan.ID(plan.KindAcquire, string(g.ID)), &l); err != nil {
		return api.PromoteReply{}, err
	}
	req := api.PromoteRequest{Group: g.ID, Epoch: r.Epochs[g.ID], RunID: r.ID, InSync: l.InSync, Checkpoint: r.Checkpoints[g.ID],
		Decision: cmp.Or(string(r.Declaration), string(r.ID))}
	if req.Checkpoint != 0 {
		a.stopOlder(ctx, g, req.Epoch)
	}
	for {
		out, err := call[api.PromoteReply](ctx, a.service, a.cfg.Timings.Demote, api.ServiceReplicator, api.VerbPromote, req)
		if req.Checkpoint == 0 || !errors.Is(err, domain.ErrUnavailable) {
			return out, err
		}
		if copied, known := a.copyHere(ctx, g.ID); !known || copied.GoingBackTo == 0 || clock.Sleep(ctx, a.cfg.Timings.Tick) != nil {
			return out, err
		}
	}
}

// stopOlder stops the VMs of a group that run here under an older epoch: their disks are about to go. What cannot be stopped loses them
// all the same, and is stopped when it is to be started again.
func (a actor) stopOlder(ctx context.Context, g domain.Group, epoch domain.Epoch) {
	view := a.askHosts(ctx, a.siteHosts(g))
	for _, v := range g.VMs {
		if err := a.stopVMOlder(ctx, view, v, epoch); err != nil {
			a.log.Warn("vm not stopped before its disks go back", "vm", string(v.ID), "error", err)
		}
	}
}

// stopVMOlder stops what an older epoch left running of a VM.
func (a actor) stopVMOlder(ctx context.Context, view map[domain.HostID]hostView, v domain.VM, epoch domain.Epoch) error {
	for h, seen := range view {
		for _, old := range seen.status.VMs {
			if old.VM == v.ID && up(old) && old.Epoch < epoch {
				if _, err := a.stopVM(ctx, h, old, 0); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
