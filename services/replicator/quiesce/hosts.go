// Package quiesce holds the guests of a group still through the agents of its site's VM hosts. Each host lets its guests go on by
// itself when the limit is over: nothing here has to outlive a checkpoint.
package quiesce

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

const (
	// askTime bounds the question where a VM runs.
	askTime = 2 * time.Second
	// thawTime bounds the wait for a host's word that its guest goes on.
	thawTime = 4 * time.Second
)

// Hosts are the VM hosts of a site. It implements group.Quiescer.
type Hosts struct {
	Conn *bus.Conn // to the site's own server
	Site domain.SiteID
}

// guest is a VM and where it runs.
type guest struct {
	vm   domain.VMID
	host domain.HostID
}

// call asks a host's agent.
func call[Resp, Req any](ctx context.Context, h Hosts, host domain.HostID, verb string, req Req) (Resp, error) {
	return bus.Call[Resp](ctx, h.Conn, api.HostService(host), verb, req)
}

// Quiesce implements group.Quiescer.
func (h Hosts) Quiesce(ctx context.Context, g domain.Group, e domain.Epoch, limit time.Duration) (release func() error, err error) {
	guests, err := h.find(ctx, g, e)
	if err != nil {
		return nil, err
	}
	hold := ulid.Make().String()
	release = sync.OnceValue(func() error {
		tctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), thawTime)
		defer cancel()
		return each(guests, func(x guest) error { return h.thaw(tctx, x, hold) })
	})
	err = each(guests, func(x guest) error {
		_, err := call[api.Empty](ctx, h, x.host, api.VerbFreeze, api.HostFreezeRequest{VM: x.vm, Group: g.ID, Epoch: e, Hold: hold, LimitNs: int64(limit)})
		return named(x, explain(err))
	})
	if err != nil {
		_ = release() // those that were frozen; the others say that they were not
		return nil, err
	}
	return release, nil
}

// find tells where the VMs of a group run. One that does not run under the epoch cannot be held: what its disks hold is what it left.
func (h Hosts) find(ctx context.Context, g domain.Group, e domain.Epoch) ([]guest, error) {
	if len(g.VMs) == 0 {
		return nil, fmt.Errorf("the group has no VMs in its definition: %w: take a crash-consistent one", domain.ErrRefused)
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	var hosts []domain.HostID
	for _, v := range g.VMs {
		hosts = append(hosts, v.Sites[h.Site].Hosts...)
	}
	slices.Sort(hosts)
	hosts = slices.Compact(hosts)
	var mu sync.Mutex
	where, silent := map[domain.VMID]domain.HostID{}, map[domain.HostID]error{}
	var wg sync.WaitGroup
	for _, host := range hosts {
		wg.Go(func() {
			st, err := call[api.HostStatus](ctx, h, host, api.VerbStatus, api.Empty{})
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				silent[host] = explain(err)
			}
			for _, vm := range st.VMs {
				if vm.Group == g.ID && vm.Epoch == e && vm.State == "running" {
					where[vm.VM] = host
				}
			}
		})
	}
	wg.Wait()
	var out []guest
	for _, v := range g.VMs {
		host, ok := where[v.ID]
		if !ok {
			return nil, notRunning(h.Site, v, e, silent)
		}
		out = append(out, guest{v.ID, host})
	}
	return out, nil
}

func notRunning(site domain.SiteID, v domain.VM, e domain.Epoch, silent map[domain.HostID]error) error {
	for _, host := range v.Sites[site].Hosts {
		if err := silent[host]; err != nil {
			return fmt.Errorf("VM %s: host %s, which may run it, does not say: %w", v.ID, host, err)
		}
	}
	return fmt.Errorf("VM %s runs on none of its hosts %v at site %s under epoch %s: %w: start it, or take a crash-consistent one", v.ID, v.Sites[site].Hosts, site, e, domain.ErrRefused)
}

// thaw lets a guest go on. An error says that it was not held until then, or that nobody knows.
func (h Hosts) thaw(ctx context.Context, x guest, hold string) error {
	reply, err := call[api.HostThawed](ctx, h, x.host, api.VerbThaw, api.HostThawRequest{VM: x.vm, Hold: hold})
	switch {
	case err != nil:
		return named(x, fmt.Errorf("%w; its host lets it go on by itself", err))
	case !reply.Held:
		return named(x, fmt.Errorf("it was let go on too early: %s: %w", reply.Reason, domain.ErrRefused))
	}
	return nil
}

// explain adds the mend to a call that a host of before does not know, or that credentials of before do not allow.
func explain(err error) error {
	switch {
	case err == nil:
		return nil
	case bus.Unanswered(err):
		return fmt.Errorf("%w: its agent does not run, or is older than application-consistent checkpoints: start or update it", err)
	case bus.Denied(err):
		return fmt.Errorf("%w: the credentials were made before application-consistent checkpoints: renew them (holdfast site rotate)", err)
	}
	return err
}

func named(x guest, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("VM %s on host %s: %w", x.vm, x.host, err)
}

// each does f for all guests at once, and joins what went wrong.
func each(guests []guest, f func(guest) error) error {
	errs := make([]error, len(guests))
	var wg sync.WaitGroup
	for i, x := range guests {
		wg.Go(func() { errs[i] = f(x) })
	}
	wg.Wait()
	return errors.Join(errs...)
}
