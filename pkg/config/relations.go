package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// validateRelations tells what fits by itself and not with the rest of the file: what would otherwise be found when a run is
// planned, in the middle of a disaster.
func (c Config) validateRelations(v *validator) {
	c.validateAddresses(v)
	hosts := map[domain.HostID]bool{}
	for _, h := range c.Hosts {
		hosts[h.ID] = true
	}
	vms := map[domain.VMID]bool{}
	for _, g := range c.Groups {
		for _, vm := range g.VMs {
			vms[vm.ID] = true
		}
	}
	for i, g := range c.Groups {
		c.validateGroupRelations(v, fmt.Sprintf("groups[%d]", i), g, hosts, vms)
	}
	c.validateCircles(v)
	c.validateOrder(v)
}

func (c Config) validateGroupRelations(v *validator, f string, g Group, hosts map[domain.HostID]bool, vms map[domain.VMID]bool) {
	if g.Tier < 0 {
		v.bad(f+".tier", fmt.Sprintf("%d is no tier", g.Tier), "give 1 for what comes back first, or a higher number")
	}
	sites, owner := map[domain.SiteID]string{}, map[domain.VolumeID]string{}
	for j, t := range g.Targets {
		once(v, sites, fmt.Sprintf("%s.targets[%d].site", f, j), t.Site, "name each target site once")
	}
	for j, vm := range g.VMs {
		vf := fmt.Sprintf("%s.vms[%d]", f, j)
		for k, id := range vm.Volumes {
			once(v, owner, fmt.Sprintf("%s.volumes[%d]", vf, k), id, "give each volume to one VM, once: two would write over each other")
		}
		c.validateHostsOf(v, vf, vm, g, hosts)
		c.validateNames(v, vf, vm)
		for k, d := range vm.DependsOn {
			if !vms[d] || d == vm.ID {
				v.bad(fmt.Sprintf("%s.depends_on[%d]", vf, k), fmt.Sprintf("%q cannot be depended on", d), "name another VM of this file")
			}
		}
	}
}

// validateCircles finds VMs that would wait for one another for ever.
func (c Config) validateCircles(v *validator) {
	needs := map[domain.VMID][]domain.VMID{}
	for _, g := range c.Groups {
		for _, vm := range g.VMs {
			needs[vm.ID] = vm.DependsOn
		}
	}
	for i, g := range c.Groups {
		for j, vm := range g.VMs {
			if waitsForItself(vm.ID, needs) {
				v.bad(fmt.Sprintf("groups[%d].vms[%d].depends_on", i, j), fmt.Sprintf("%q waits for itself by way of others", vm.ID), "remove one of the dependencies of that circle")
			}
		}
	}
}

// once tells a value that stands twice where each may stand once.
func once[T ~string](v *validator, seen map[T]string, field string, value T, mend string) {
	if value == "" {
		return
	}
	if first, ok := seen[value]; ok {
		v.bad(field, fmt.Sprintf("%q stands already at %s", string(value), first), mend)
		return
	}
	seen[value] = field
}

// validateAddresses tells addresses that two parts of this site cannot share.
func (c Config) validateAddresses(v *validator) {
	own := map[string]string{}
	listens := func(field, addr string) {
		if !strings.HasSuffix(addr, ":0") {
			once(v, own, field, addr, "give each part of the site a port of its own")
		}
	}
	listens("nats.listen", c.NATS.Listen)
	listens("relay.listen", c.Relay.Listen)
	if c.Self().Role != domain.SiteData {
		return
	}
	listens("iscsi.listen", c.ISCSI.Listen)
	listens("replication.listen", c.Replication.Listen)
	listens("dns.listen", c.DNS.Listen)
	for i, h := range c.Hosts {
		listens(fmt.Sprintf("hosts[%d].probe", i), h.Probe)
	}
}

// validateHostsOf holds a VM's placements to the group's sites, and those at this site to its hosts.
func (c Config) validateHostsOf(v *validator, f string, vm domain.VM, g Group, hosts map[domain.HostID]bool) {
	of := g.Domain().SitesOf()
	for _, s := range slices.Sorted(maps.Keys(vm.Sites)) {
		p, pf := vm.Sites[s], fmt.Sprintf("%s.sites[%s]", f, s)
		if !slices.Contains(of, s) {
			v.bad(pf, fmt.Sprintf("group %s has no copy at site %q", g.ID, s), "remove it, or name the site among the group's targets")
		}
		names := map[domain.HostID]string{}
		for k, h := range p.Hosts {
			hf := fmt.Sprintf("%s.hosts[%d]", pf, k)
			once(v, names, hf, h, "name each host once")
			if s == c.Site && !hosts[h] {
				v.bad(hf, fmt.Sprintf("%q is no host of this site", h), "name one of hosts")
			}
		}
	}
}

// validateNames wants names that the site's zone can hold.
func (c Config) validateNames(v *validator, f string, vm domain.VM) {
	if c.DNS.Zone == "" {
		return
	}
	zone := strings.ToLower(strings.TrimSuffix(c.DNS.Zone, "."))
	for k, n := range vm.DNS {
		name, nf := strings.ToLower(strings.TrimSuffix(n, ".")), fmt.Sprintf("%s.dns[%d]", f, k)
		switch {
		case !domain.ValidHostname(name):
			v.bad(nf, fmt.Sprintf("%q is no host name", n), "write labels of 1 to 63 of a-z, 0-9, '-' and '_' with dots between them")
		case name != zone && !strings.HasSuffix(name, "."+zone):
			v.bad(nf, fmt.Sprintf("%q is not in the zone %s", n, c.DNS.Zone), "write a name that ends in ."+zone+", or set dns.zone")
		}
	}
}

// validateZone wants a zone that can be served, and a TTL that DNS can say.
func (c Config) validateZone(v *validator) {
	if !domain.ValidHostname(strings.ToLower(strings.TrimSuffix(c.DNS.Zone, "."))) {
		v.bad("dns.zone", fmt.Sprintf("%q is no zone", c.DNS.Zone), "write labels of 1 to 63 of a-z, 0-9, '-' and '_' with dots between them")
	}
	if t := time.Duration(c.DNS.TTL); t < time.Second || t > 24*time.Hour || t%time.Second != 0 {
		v.bad("dns.ttl", t.String()+" is no TTL", "give whole seconds, at least 1s and at most 24h")
	}
}

// validateOrder finds plans whose groups stand twice, depend on what is not in them, or wait for one another.
func (c Config) validateOrder(v *validator) {
	for i, p := range c.Plans {
		seen, needs := map[domain.GroupID]string{}, map[domain.GroupID][]domain.GroupID{}
		for j, g := range p.Groups {
			once(v, seen, fmt.Sprintf("plans[%d].groups[%d].group", i, j), g.Group, "name each group once")
		}
		for j, g := range p.Groups {
			for k, d := range g.DependsOn {
				if _, ok := seen[d]; !ok && d != g.Group {
					v.bad(fmt.Sprintf("plans[%d].groups[%d].depends_on[%d]", i, j, k), fmt.Sprintf("%q is not in this plan", d), "name another group of this plan")
				}
			}
			needs[g.Group] = slices.Clone(g.DependsOn)
			for _, x := range p.Groups {
				if x.Priority < g.Priority {
					needs[g.Group] = append(needs[g.Group], x.Group)
				}
			}
		}
		for j, g := range p.Groups {
			if waitsForItself(g.Group, needs) {
				v.bad(fmt.Sprintf("plans[%d].groups[%d].group", i, j), fmt.Sprintf("%q waits for itself by way of others, by priorities and dependencies together", g.Group), "remove one of the dependencies of that circle, or change a priority")
			}
		}
	}
}

// waitsForItself reports whether a chain of needs leads from x, over at least one other, back to x. What needs itself at once is
// told elsewhere.
func waitsForItself[T comparable](x T, needs map[T][]T) bool {
	seen := map[T]bool{x: true}
	next := slices.DeleteFunc(slices.Clone(needs[x]), func(y T) bool { return y == x })
	for len(next) > 0 {
		y := next[0]
		next = next[1:]
		if y == x {
			return true
		}
		if !seen[y] {
			seen[y] = true
			next = append(next, needs[y]...)
		}
	}
	return false
}
