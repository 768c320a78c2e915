package failover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/failover/plan"
	"github.com/holdfast-dr/holdfast/services/failover/run"
)

// hostView is the last answer of a host.
type hostView struct {
	status api.HostStatus
	err    error
}

// startResult is the intent (Host) and the outcome of a VM's start.
type startResult struct {
	Host domain.HostID `json:"host"`
	VM   api.HostVM    `json:"vm"`
}

func up(vm api.HostVM) bool { return vm.State == "running" || vm.State == "starting" }

func (s *service) hostStatus(ctx context.Context, h domain.HostID) (api.HostStatus, error) {
	return call[api.HostStatus](ctx, s, s.cfg.Timings.Call/2, api.HostService(h), api.VerbStatus, api.Empty{})
}

// askHosts asks hosts for what runs on them, all at once.
func (s *service) askHosts(ctx context.Context, hosts []domain.HostID) map[domain.HostID]hostView {
	var mu sync.Mutex
	var wg sync.WaitGroup
	out := map[domain.HostID]hostView{}
	for _, h := range hosts {
		wg.Go(func() {
			st, err := s.hostStatus(ctx, h)
			mu.Lock()
			defer mu.Unlock()
			out[h] = hostView{st, err}
		})
	}
	wg.Wait()
	return out
}

// siteHosts are the hosts of this site: those of the configuration and those the groups name.
func (s *service) siteHosts(groups ...domain.Group) []domain.HostID {
	out := slices.Clone(s.cfg.Hosts[s.cfg.Site])
	for _, g := range groups {
		for _, v := range g.VMs {
			out = append(out, v.Sites[s.cfg.Site].Hosts...)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// watchHosts keeps the view of what runs at this site.
func (s *service) watchHosts(ctx context.Context) {
	for {
		if list, err := s.store.All(ctx); err == nil {
			groups := make([]domain.Group, 0, len(list.Groups))
			for _, g := range list.Groups {
				groups = append(groups, g.Group)
			}
			view := s.askHosts(ctx, s.siteHosts(groups...))
			s.mu.Lock()
			s.hosts = view
			s.mu.Unlock()
		}
		if clock.Sleep(ctx, s.cfg.Timings.Tick) != nil {
			return
		}
	}
}

// hostDead reports whether the own site's health service says that a host is dead.
func (s *service) hostDead(ctx context.Context, h domain.HostID) bool {
	st, err := call[api.HealthStatus](ctx, s, s.cfg.Timings.Call, api.ServiceHealth, api.VerbStatus, api.Empty{})
	return err == nil && st.View.Dead("host", string(h), s.cfg.Site)
}

// placed is the host on which a VM was started, or may have been, under an epoch; empty when on none.
func (s *service) placed(g domain.GroupID, e domain.Epoch, v domain.VMID) domain.HostID {
	s.mu.Lock()
	runs := slices.Clone(s.runs)
	s.mu.Unlock()
	for _, l := range slices.Backward(runs) {
		r := l.Snapshot()
		if r.Leader != s.cfg.Site || r.Epochs[g] != e {
			continue
		}
		var in startResult
		if result(r, plan.ID(plan.KindStart, string(v)), &in) == nil && in.Host != "" {
			return in.Host
		}
	}
	return ""
}

// startVM starts a VM on the host chosen for this epoch, choosing and recording it the first time.
func (a actor) startVM(ctx context.Context, r api.Run, st api.Step, v domain.VM, intend run.Intend) (string, error) {
	epoch, hosts := r.Epochs[st.Group], v.Sites[a.cfg.Site].Hosts
	view := a.askHosts(ctx, hosts)
	var in startResult
	if st.Result != "" {
		if err := json.Unmarshal([]byte(st.Result), &in); err != nil {
			return "", fmt.Errorf("read intent of step %s: %w", st.ID, err)
		}
	}
	if in.Host == "" {
		if in.Host = a.placed(st.Group, epoch, v.ID); in.Host == "" {
			i := slices.IndexFunc(hosts, func(h domain.HostID) bool { return view[h].err == nil })
			if i < 0 {
				return "", fmt.Errorf("start vm %s: %w: no host of %v answers", v.ID, domain.ErrUnavailable, hosts)
			}
			in.Host = hosts[i]
		}
		raw, err := asked(in, nil)
		if err != nil {
			return "", err
		}
		if err := intend(ctx, raw); err != nil {
			return "", err
		}
	} else if a.hostDead(ctx, in.Host) {
		return "", fmt.Errorf("start vm %s: %w: host %s, on which it may run under epoch %s, is dead: another host needs a new epoch", v.ID, domain.ErrRefused, in.Host, epoch)
	}
	if err := a.stopVMOlder(ctx, view, v, epoch); err != nil {
		return "", err
	}
	var promoted api.PromoteReply
	if err := result(r, plan.ID(plan.KindPromote, string(st.Group)), &promoted); err != nil {
		return "", err
	}
	vm, err := a.startOn(ctx, in.Host, r.ID, st.Group, epoch, v, promoted.Disks)
	if err != nil && a.servedNoMore(ctx, st.Group, epoch) {
		return "", fmt.Errorf("start vm %s: %w: its volumes are not served under epoch %s any more: the group needs a new one", v.ID, domain.ErrStaleEpoch, epoch)
	}
	in.VM = vm
	return asked(in, err)
}

func (s *service) startOn(ctx context.Context, h domain.HostID, id domain.RunID, g domain.GroupID, e domain.Epoch, v domain.VM, all []api.Disk) (api.HostVM, error) {
	disks, err := disksOf(v, all)
	if err != nil {
		return api.HostVM{}, err
	}
	vm, err := call[api.HostVM](ctx, s, 5*s.cfg.Timings.Call, api.HostService(h), api.VerbStart, api.HostStartRequest{
		VM: v.ID, Group: g, Epoch: e, RunID: id, Disks: disks, Address: v.Sites[s.cfg.Site].Address, Port: v.Port, Strict: true})
	if err != nil {
		return vm, fmt.Errorf("start vm %s on host %s: %w", v.ID, h, err)
	}
	if !up(vm) {
		return vm, fmt.Errorf("start vm %s on host %s: %s: %s", v.ID, h, vm.State, vm.Error)
	}
	return vm, nil
}

func disksOf(v domain.VM, all []api.Disk) ([]api.Disk, error) {
	out := make([]api.Disk, 0, len(v.Volumes))
	for _, id := range v.Volumes {
		i := slices.IndexFunc(all, func(d api.Disk) bool { return d.Volume == id })
		if i < 0 {
			return nil, fmt.Errorf("disks of vm %s: volume %s is not served: %w", v.ID, id, domain.ErrNotFound)
		}
		out = append(out, all[i])
	}
	return out, nil
}

func (s *service) stopVM(ctx context.Context, h domain.HostID, vm api.HostVM, grace time.Duration) (api.Empty, error) {
	out, err := call[api.Empty](ctx, s, grace+s.cfg.Timings.Call, api.HostService(h), api.VerbStop, api.HostStopRequest{VM: vm.VM, Epoch: vm.Epoch, GraceNs: int64(grace)})
	if err != nil {
		return out, fmt.Errorf("stop vm %s on host %s: %w", vm.VM, h, err)
	}
	return out, nil
}

// stopGroup stops every VM of a group at this site, dependents first. A host that does not answer is an error, unless the
// VMs it could run are known to be elsewhere.
func (s *service) stopGroup(ctx context.Context, g domain.Group, e domain.Epoch, grace time.Duration) error {
	view := s.askHosts(ctx, s.siteHosts(g))
	var errs []error
	for _, wave := range waves(g) {
		var wg sync.WaitGroup
		failed := make(chan error, len(wave)*len(view))
		for _, v := range wave {
			placed := s.placed(g.ID, e, v.ID)
			for _, h := range v.Sites[s.cfg.Site].Hosts {
				seen := view[h]
				if seen.err != nil {
					if placed == "" || placed == h {
						failed <- fmt.Errorf("stop vm %s: host %s: %w", v.ID, h, seen.err)
					}
					continue
				}
				for _, vm := range seen.status.VMs {
					if vm.VM == v.ID && up(vm) {
						wg.Go(func() {
							if _, err := s.stopVM(ctx, h, vm, grace); err != nil {
								failed <- err
							}
						})
					}
				}
			}
		}
		wg.Wait()
		close(failed)
		for err := range failed {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// waves orders a group's VMs for stopping: the highest priority number first. Dependencies within a priority are left to the

func waves(g domain.Group) [][]domain.VM {
	vms := slices.Clone(g.VMs)
	slices.SortStableFunc(vms, func(a, b domain.VM) int { return b.Priority - a.Priority })
	var out [][]domain.VM
	for _, v := range vms {
		if n := len(out); n > 0 && out[n-1][0].Priority == v.Priority {
			out[n-1] = append(out[n-1], v)
		} else {
			out = append(out, []domain.VM{v})
		}
	}
	return out
}
