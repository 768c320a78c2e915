package health

import (
	"net"
	"strconv"
	"sync"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/health/assess"
)

// States of a VM as its host's agent reports it.
const (
	vmRunning = "running"
	vmStopped = "stopped"
)

// inventory knows which VMs are to run at this site and which do: a VM is expected once a host reports it running while its
// group is desired here, and until the group is desired elsewhere or the host that ran it reports that it was stopped.
type inventory struct {
	site   domain.SiteID
	obs    *observer
	probes *prober

	mu       sync.Mutex
	groups   map[domain.GroupID]api.GroupDesired
	hosts    map[domain.HostID]api.HostStatus
	expected map[domain.VMID]domain.HostID
}

func newInventory(site domain.SiteID, obs *observer, probes *prober) *inventory {
	return &inventory{site: site, obs: obs, probes: probes, groups: map[domain.GroupID]api.GroupDesired{},
		hosts: map[domain.HostID]api.HostStatus{}, expected: map[domain.VMID]domain.HostID{}}
}

func vmKey(id domain.VMID, site domain.SiteID) key {
	return key{kind: assess.KindVM, id: string(id), site: site, path: pathHTTP}
}

// desire takes a group's desired state.
func (v *inventory) desire(t instant, g api.GroupDesired) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.groups[g.Group.ID] = g
	v.reconcile(t)
}

// report takes what runs on a host; the last report of a host that falls silent stays.
func (v *inventory) report(t instant, s api.HostStatus) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.hosts[s.Host] = s
	v.reconcile(t)
}

func (v *inventory) reconcile(t instant) {
	here := map[domain.VMID]bool{}
	for _, g := range v.groups {
		if g.Site != v.site {
			continue
		}
		for _, vm := range g.Group.VMs {
			here[vm.ID] = true
			v.follow(t, vm.ID)
		}
	}
	for vm := range v.expected {
		if !here[vm] {
			v.forget(vm)
		}
	}
}

// follow decides whether a VM that is desired here is expected to answer, and where.
func (v *inventory) follow(t instant, id domain.VMID) {
	var best api.HostVM
	var on domain.HostID
	stopped := false
	for host, s := range v.hosts {
		for _, vm := range s.VMs {
			if vm.VM != id {
				continue
			}
			if vm.State == vmRunning && (on == "" || vm.Epoch > best.Epoch || vm.Epoch == best.Epoch && vm.Started.After(best.Started)) {
				best, on = vm, host
			}
			stopped = stopped || vm.State == vmStopped && v.expected[id] == host
		}
	}
	switch {
	case on != "":
		v.expected[id] = on
		v.obs.expect(t, vmKey(id, v.site), string(on))
		v.probes.set(vmKey(id, v.site), net.JoinHostPort(best.Address, strconv.Itoa(best.Port)), true)
	case stopped:
		v.forget(id)
	}
}

func (v *inventory) forget(id domain.VMID) {
	delete(v.expected, id)
	v.probes.remove(vmKey(id, v.site))
}
