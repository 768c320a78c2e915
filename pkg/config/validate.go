package config

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/libvirturi"
)

// validator collects problems by field.
type validator struct{ problems []Problem }

func (v *validator) bad(field, what, mend string) {
	v.problems = append(v.problems, Problem{Field: field, What: what, Mend: mend})
}

func (v *validator) token(field, id string) {
	switch {
	case id == "":
		v.bad(field, "missing", "give it a name of a-z, 0-9 and '-'")
	case !domain.ValidToken(id):
		v.bad(field, fmt.Sprintf("%q is not a name", id), "use 1 to 32 of a-z, 0-9 and '-', not beginning or ending with '-'")
	}
}

func (v *validator) hostPort(field, addr string) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || port == "" {
		v.bad(field, fmt.Sprintf("%q is not an address", addr), "write host:port, for example 127.0.0.1:4222")
		return
	}
	if _, err := net.LookupPort("tcp", port); err != nil {
		v.bad(field, fmt.Sprintf("%q has no valid port", addr), "write a port of 0 to 65535")
	}
	_ = host
}

func oneOf[T ~string](v *validator, field string, got T, want ...T) {
	if !slices.Contains(want, got) {
		names := make([]string, len(want))
		for i, w := range want {
			names[i] = string(w)
		}
		v.bad(field, fmt.Sprintf("%q is not known", string(got)), "use "+strings.Join(names, " or "))
	}
}

// unique tells names that stand twice in a list.
func unique[T ~string](v *validator, seen map[T]string, field string, id T) {
	if id == "" {
		return
	}
	if first, ok := seen[id]; ok {
		v.bad(field, fmt.Sprintf("%q is already the name of %s", string(id), strings.TrimSuffix(first, ".id")), "give one of them another name")
		return
	}
	seen[id] = field
}

// Validate tells every mistake that decoding cannot see. The problems carry fields, not lines.
func (c Config) Validate() []Problem {
	v := &validator{}
	v.token("cluster", c.Cluster)
	v.token("site", string(c.Site))
	if c.DataDir == "" {
		v.bad("data_dir", "missing", "name the folder where this site keeps its state")
	}
	oneOf(v, "timing", c.Timing, "default", "fast")
	oneOf(v, "log.level", c.Log.Level, "debug", "info", "warn", "error")
	if c.NATS.Listen != "" {
		v.hostPort("nats.listen", c.NATS.Listen)
	}
	c.Tracing.validate(v)
	if c.Metrics.Listen != "" {
		v.hostPort("metrics.listen", c.Metrics.Listen)
	}
	for _, service := range slices.Sorted(maps.Keys(c.Metrics.Ports)) {
		v.hostPort("metrics.ports."+service, c.Metrics.Ports[service])
	}
	data := c.validateSites(v)
	c.validateSecurity(v)
	c.validateQuorum(v)
	self := c.Self()
	if self.Role == domain.SiteData {
		c.validateISCSI(v)
		c.validateReplication(v)
		if c.Journal.Size < 16<<20 {
			v.bad("journal.size", c.Journal.Size.String()+" is too small", "give a journal at least 16MiB")
		}
		c.Copies.validate(v)
		c.validateHosts(v)
		c.validateDNS(v)
	}
	c.validateHealth(v)
	c.validateLinks(v, data)
	c.validateVia(v)
	c.validateRelay(v)
	c.Declarations.validate(v)
	groups := c.validateGroups(v, data)
	c.validatePlans(v, groups)
	c.validateRelations(v)
	c.validateSupport(v)
	return v.problems
}

func (c Copies) validate(v *validator) {
	switch every := time.Duration(c.ScrubEvery); {
	case every != 0 && every < time.Minute:
		v.bad("copies.scrub_every", every.String()+" is too often", "give it at least 1m, or 0s for never")
	case every == 0 && c.ScrubHeal:
		v.bad("copies.scrub_heal", "nothing is compared by itself that could be healed", "give copies.scrub_every, or leave it out")
	}
	if c.CheckpointReserve != 0 && c.CheckpointReserve < minReserve {
		v.bad("copies.checkpoint_reserve", c.CheckpointReserve.String()+" is too small", "give it at least 16MiB, or 0B to keep 5 % of the disk free")
	}
}

func (c Config) validateSites(v *validator) map[domain.SiteID]bool {
	data := map[domain.SiteID]bool{}
	ids, indexes := map[domain.SiteID]string{}, map[int]string{}
	for i, s := range c.Sites {
		f := fmt.Sprintf("sites[%d]", i)
		v.token(f+".id", string(s.ID))
		unique(v, ids, f+".id", s.ID)
		if slices.Contains(voterNames(), s.ID) {
			v.bad(f+".id", fmt.Sprintf("%q is the name of a voter", s.ID), "give the site another name: both would be taken for one")
		}
		oneOf(v, f+".role", s.Role, domain.SiteData, domain.SiteWitness)
		switch first, taken := indexes[s.Index]; {
		case s.Index < 1 || s.Index > 255:
			v.bad(f+".index", fmt.Sprintf("%d is out of range", s.Index), "give every site a number of 1 to 255 of its own, and never another site's")
		case taken:
			v.bad(f+".index", fmt.Sprintf("%d is already the index of %s", s.Index, first), "give every site a number of its own")
		default:
			indexes[s.Index] = f
		}
		c.natsURL(v, f+".nats", s.NATS)
		if s.DNS != "" {
			v.hostPort(f+".dns", s.DNS)
		}
		data[s.ID] = s.Role == domain.SiteData
	}
	if _, ok := data[c.Site]; !ok && c.Site != "" {
		v.bad("sites", fmt.Sprintf("site %q itself is not among them", c.Site), "list every site of the installation, this one included")
	}
	return data
}

// natsURL wants the scheme that goes with the site's security.
func (c Config) natsURL(v *validator, field, url string) {
	scheme := "nats"
	if c.Security.Secrets != "" {
		scheme = "tls"
	}
	if addr, ok := strings.CutPrefix(url, scheme+"://"); !ok {
		v.bad(field, fmt.Sprintf("%q is not a NATS address for a site %s", url, map[string]string{"nats": "without security.secrets", "tls": "with security.secrets"}[scheme]),
			"write "+scheme+"://host:port as this site reaches that server")
	} else {
		v.hostPort(field, addr)
	}
}

// validateSecurity lets a site without credentials use loopback addresses only.
func (c Config) validateSecurity(v *validator) {
	if c.NATS.Local != "" {
		c.natsURL(v, "nats.local", c.NATS.Local)
	}
	if c.Security.Secrets != "" {
		if c.NATS.Listen != "" && c.NATS.Conf == "" {
			v.bad("nats.conf", "missing", "name the nats-server configuration with this site's certificates and accounts; holdfast site init writes one")
		}
		return
	}
	if host, _, err := net.SplitHostPort(c.NATS.Listen); err == nil && !isLoopback(host) {
		v.bad("security.secrets", fmt.Sprintf("missing, and nats.listen %q can be reached from elsewhere", c.NATS.Listen),
			"make certificates and credentials with holdfast site init, or listen on a loopback address")
	}
}

func isLoopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}

// isUnspecified reports whether a host stands for every address of the machine.
func isUnspecified(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "" || err == nil && a.IsUnspecified()
}

func (c Config) validateISCSI(v *validator) {
	v.hostPort("iscsi.listen", c.ISCSI.Listen)
	c.validateCHAP(v)
	if c.ISCSI.Portal == "" {
		return
	}
	v.hostPort("iscsi.portal", c.ISCSI.Portal)
	if host, _, err := net.SplitHostPort(c.ISCSI.Portal); err == nil && isUnspecified(host) {
		v.bad("iscsi.portal", fmt.Sprintf("%q is no address that initiators can connect to", c.ISCSI.Portal), "give the address at which VM hosts reach this site's volumes")
	}
}

// validateCHAP wants each name with its secret. The files are read by the services that use them: others need not see them.
func (c Config) validateCHAP(v *validator) {
	const f = "iscsi.chap"
	h := c.ISCSI.CHAP
	pair := func(user, userField, file, fileField string) {
		switch {
		case user == "" && file != "":
			v.bad(userField, "missing", "give the name that goes with the secret of "+fileField)
		case user != "" && file == "":
			v.bad(fileField, "missing", "name the file that holds the secret: 12 bytes or more on its first line, mode 0600")
		case len(user) > 223 || strings.ContainsFunc(user, func(r rune) bool { return r <= ' ' || r > '~' || r == ',' || r == '%' || r == '@' }):
			v.bad(userField, fmt.Sprintf("%q is no name that every initiator takes", user), "use letters, digits and '-', without spaces")
		}
	}
	pair(h.User, f+".user", h.SecretFile, f+".secret_file")
	pair(h.MutualUser, f+".mutual_user", h.MutualSecretFile, f+".mutual_secret_file")
	if h.MutualUser == "" {
		return
	}
	if h.User == "" {
		v.bad(f+".mutual_user", "the target is to prove itself where no initiator has to", "give user and secret_file as well")
	}
	for i, host := range c.Hosts {
		if host.Driver == "qemu" {
			v.bad(fmt.Sprintf("hosts[%d].driver", i), "QEMU's initiator cannot ask the target to prove itself", "leave out iscsi.chap.mutual_user and mutual_secret_file, or use another driver")
		}
	}
}

func (c Config) validateHosts(v *validator) {
	ids := map[domain.HostID]string{}
	for i, h := range c.Hosts {
		f := fmt.Sprintf("hosts[%d]", i)
		v.token(f+".id", string(h.ID))
		unique(v, ids, f+".id", h.ID)
		if slices.Contains([]string{api.ServiceQuorum, api.ServiceHealth, api.ServiceReplicator, api.ServiceFailover, api.ServiceDNS}, string(h.ID)) {
			v.bad(f+".id", fmt.Sprintf("%q is the name of a service", h.ID), "give the host another name: both would be taken for one")
		}
		oneOf(v, f+".driver", h.Driver, "embedded", "qemu")
		v.hostPort(f+".probe", h.Probe)
		if h.Rack != "" {
			v.token(f+".rack", h.Rack)
		}
	}
}

func (c Config) validateHealth(v *validator) {
	if n := c.Health.Vantages; n < 2 || n > 2 && n >= len(c.Sites) {
		v.bad("health.vantages", fmt.Sprintf("%d cannot be", n), "give at least 2, and fewer than there are sites: a site does not see its own loss")
	}
	for i, p := range c.Health.Probes {
		f := fmt.Sprintf("health.probes[%d]", i)
		kind, id, _ := strings.Cut(p.Of, "/")
		if !slices.Contains([]string{"host", "service", "storage", "port"}, kind) || !domain.ValidToken(id) {
			v.bad(f+".of", fmt.Sprintf("%q names nothing that is probed", p.Of), "write host/NAME, service/NAME, storage/NAME or port/NAME")
		}
		oneOf(v, f+".kind", p.Kind, "tcp", "http", "iscsi", "nats", "libvirt", "guest-agent")
		switch p.Kind {
		case "tcp", "nats":
			v.hostPort(f+".target", p.Target)
		case "http":
			if u, err := url.Parse(p.Target); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
				v.bad(f+".target", fmt.Sprintf("%q is no page", p.Target), "write http://host:port/path or https://")
			}
		case "iscsi":
			if u, err := url.Parse(p.Target); err != nil || u.Host == "" || u.Scheme != "iscsi" || u.User != nil || strings.Count(u.Path, "/") != 2 {
				v.bad(f+".target", fmt.Sprintf("%q is no logical unit", p.Target), "write iscsi://host:port/iqn/lun; credentials go into chap")
			}
		case "libvirt", "guest-agent":
			u, err := libvirturi.Parse(p.Target)
			if err != nil {
				v.bad(f+".target", fmt.Sprintf("%q is no libvirt URI that a probe reaches", p.Target),
					"write it like qemu:///system, qemu:///session?socket=FILE or qemu+tcp://host/system, with #DOMAIN for one of its domains")
			} else if p.Kind == "guest-agent" && u.Domain == "" {
				v.bad(f+".target", fmt.Sprintf("%q names no guest", p.Target), "write the domain after the URI: qemu:///system#dc1")
			}
		}
		if every := time.Duration(p.Every); every != 0 && every < 100*time.Millisecond {
			v.bad(f+".every", every.String()+" is too often", "give it at least 100ms")
		}
		if p.CHAP.User != "" && p.Kind != "iscsi" {
			v.bad(f+".chap", "only an iSCSI login has credentials", "leave it out")
		}
	}
}

func (c Config) validateDNS(v *validator) {
	if c.DNS.Zone == "" {
		if c.DNS.Listen != "" || c.DNS.Update != nil {
			v.bad("dns.zone", "missing", "name the zone whose records move, for example dr.example.org")
		}
		return
	}
	c.validateZone(v)
	switch u := c.DNS.Update; {
	case u == nil && c.DNS.Listen == "":
		v.bad("dns", "neither listen nor update", "give listen for an authority of its own, or update for an existing server")
	case u != nil && c.DNS.Listen != "":
		v.bad("dns.listen", "both listen and update", "keep the one that is the zone's authority")
	case u != nil:
		v.hostPort("dns.update.server", u.Server)
		if u.KeyFile == "" {
			v.bad("dns.update.key_file", "missing", "name the file tsig-keygen wrote; updates without a key are not sent")
		}
	default:
		v.hostPort("dns.listen", c.DNS.Listen)
	}
}

func (c Config) validateGroups(v *validator, data map[domain.SiteID]bool) map[domain.GroupID]bool {
	groups := map[domain.GroupID]bool{}
	ids, vms, names, addrs := map[domain.GroupID]string{}, map[domain.VMID]string{}, map[string]string{}, map[string]string{}
	isData := func(field string, s domain.SiteID) {
		if known, ok := data[s]; !ok || !known {
			v.bad(field, fmt.Sprintf("%q is no data site", s), "name a site of sites whose role is data")
		}
	}
	for i, g := range c.Groups {
		f := fmt.Sprintf("groups[%d]", i)
		v.token(f+".id", string(g.ID))
		unique(v, ids, f+".id", g.ID)
		groups[g.ID] = true
		isData(f+".home", g.Home)
		for j, t := range g.Targets {
			tf := fmt.Sprintf("%s.targets[%d]", f, j)
			isData(tf+".site", t.Site)
			if t.Site == g.Home {
				v.bad(tf+".site", "is the group's home", "name another site, or remove it")
			}
			oneOf(v, tf+".mode", t.Mode, domain.ModeSync, domain.ModeAsync, domain.ModeNone)
			validateTransport(v, tf+".transport", t.Transport)
		}
		oneOf(v, f+".durability", g.Durability, domain.DurabilityStrict, domain.DurabilityCached)
		oneOf(v, f+".on_target_loss", g.OnTargetLoss, domain.TargetLossSuspend, domain.TargetLossDegrade)
		if g.Congestion != "" {
			oneOf(v, f+".congestion", g.Congestion, domain.CongestionOverflow, domain.CongestionThrottle)
		}
		validateFailover(v, f, g.Failover, g.Approvers, g.Automatic)
		g.validatePlacement(v, f+".placement")
		g.Checkpoints.validate(v, f+".checkpoints")
		g.validateAppEvery(v, f+".checkpoints.app_every")
		volumes := c.validateVolumes(v, f, g)
		for j, vm := range g.VMs {
			validateVM(v, fmt.Sprintf("%s.vms[%d]", f, j), vm, g, volumes, vms, names, addrs)
		}
	}
	return groups
}

// validateFailover tells what is wrong with who decides that groups are taken over.
func validateFailover(v *validator, f string, policy domain.FailoverPolicy, approvers int, a domain.Automatic) {
	oneOf(v, f+".failover", policy, domain.FailoverAuto, domain.FailoverConfirm, domain.FailoverManual)
	if approvers < 0 || approvers > domain.MaxApprovers {
		v.bad(f+".approvers", fmt.Sprintf("%d is out of range", approvers), fmt.Sprintf("ask 1 to %d people", domain.MaxApprovers))
	}
	if approvers > 0 && policy != domain.FailoverConfirm {
		v.bad(f+".approvers", fmt.Sprintf("is set, and failover is %q", string(policy)), "write failover: confirm, or leave it out")
	}
	if bounded := len(a.Windows) > 0 || a.PerDay != 0; bounded && policy != domain.FailoverAuto {
		v.bad(f+".automatic", fmt.Sprintf("is set, and failover is %q", string(policy)), "write failover: auto, or leave it out")
	}
	if a.PerDay < 0 || a.PerDay > 1000 {
		v.bad(f+".automatic.per_day", fmt.Sprintf("%d is out of range", a.PerDay), "give 1 to 1000, or leave it out for no limit")
	}
	for i, w := range a.Windows {
		validateWindow(v, fmt.Sprintf("%s.automatic.windows[%d]", f, i), w)
	}
}

// validate tells what is wrong with how losses of sites are decided on.
func (d Declarations) validate(v *validator) {
	if d.ApprovalLasts < Duration(time.Minute) || d.ApprovalLasts > Duration(24*time.Hour) {
		v.bad("declarations.approval_lasts", time.Duration(d.ApprovalLasts).String()+" is out of range", "let an approval count for 1m to 24h")
	}
	for i, t := range d.Tiers {
		f := fmt.Sprintf("declarations.tiers[%d]", i)
		if t.Tier < 1 {
			v.bad(f+".tier", fmt.Sprintf("%d is no tier", t.Tier), "give 1 for what comes back first, or a higher number")
		}
		if slices.ContainsFunc(d.Tiers[:i], func(o TierDefault) bool { return o.Tier == t.Tier }) {
			v.bad(f+".tier", fmt.Sprintf("%d stands twice", t.Tier), "name each tier once")
		}
		if t.HoldDown < 0 {
			v.bad(f+".hold_down", time.Duration(t.HoldDown).String()+" is negative", "give how long a loss lasts before anything is done or asked")
		}
		validateFailover(v, f, t.Failover, t.Approvers, t.Automatic)
	}
}

// validate wants what a target can keep up with, and list.
func (c Checkpoints) validate(v *validator, f string) {
	if time.Duration(c.Every) < time.Second {
		v.bad(f+".every", time.Duration(c.Every).String()+" is too often", "take checkpoints 1s apart or more")
	}
	if c.Keep.Age < c.Every {
		v.bad(f+".keep.age", time.Duration(c.Keep.Age).String()+" is less than the time between two checkpoints", "keep them for longer than checkpoints.every")
	}
	if c.Keep.Count < 2 || c.Keep.Count > 2000 {
		v.bad(f+".keep.count", fmt.Sprintf("%d is out of range", c.Keep.Count), "keep 2 to 2000 checkpoints")
	}
	if c.Keep.Bytes < 1<<20 {
		v.bad(f+".keep.bytes", c.Keep.Bytes.String()+" is too small", "give them at least 1MiB at each target")
	}
}

// validateAppEvery wants guests that can be held still, seldom enough that they do not notice.
func (g Group) validateAppEvery(v *validator, f string) {
	c := g.Checkpoints
	every := time.Duration(c.AppEvery)
	switch {
	case every == 0:
	case every < 10*time.Second:
		v.bad(f, every.String()+" is too often", "the guests' writes wait for each: hold them still 10s apart or more, or leave it out")
	case c.Disabled:
		v.bad(f, "is set, and checkpoints are disabled", "leave one of the two out")
	case len(g.VMs) == 0:
		v.bad(f, "is set, and the group has no VMs to hold still", "leave it out, or name the group's VMs")
	case c.Keep.Age < c.AppEvery:
		v.bad(f, every.String()+" is more than checkpoints.keep.age", "keep checkpoints for longer than that")
	}
}

func (c Config) validateVolumes(v *validator, f string, g Group) map[domain.VolumeID]bool {
	volumes, ids := map[domain.VolumeID]bool{}, map[domain.VolumeID]string{}
	if len(g.Volumes) == 0 {
		v.bad(f+".volumes", "none", "give the group at least one volume")
	}
	for j, vol := range g.Volumes {
		vf := fmt.Sprintf("%s.volumes[%d]", f, j)
		v.token(vf+".id", string(vol.ID))
		unique(v, ids, vf+".id", vol.ID)
		if vol.Size < 1<<20 || vol.Size%4096 != 0 || vol.Size > domain.MaxVolumeBytes {
			v.bad(vf+".size", vol.Size.String()+" is no volume's size", fmt.Sprintf("give 1MiB to %s and a multiple of 4KiB", Size(domain.MaxVolumeBytes)))
		}
		volumes[vol.ID] = true
	}
	return volumes
}

func validateVM(v *validator, f string, vm domain.VM, g Group, volumes map[domain.VolumeID]bool, vms map[domain.VMID]string, names, addrs map[string]string) {
	v.token(f+".id", string(vm.ID))
	unique(v, vms, f+".id", vm.ID)
	for k, id := range vm.Volumes {
		if !volumes[id] {
			v.bad(fmt.Sprintf("%s.volumes[%d]", f, k), fmt.Sprintf("%q is no volume of group %s", id, g.ID), "name one of the group's volumes")
		}
	}
	for k, n := range vm.DNS {
		unique(v, names, fmt.Sprintf("%s.dns[%d]", f, k), strings.TrimSuffix(n, "."))
	}
	if vm.Port < 1 || vm.Port > 65535 {
		v.bad(f+".port", fmt.Sprintf("%d is no port", vm.Port), "give the TCP port (1 to 65535) that answers when the VM serves")
	}
	for _, s := range g.Domain().SitesOf() {
		pf := fmt.Sprintf("%s.sites[%s]", f, s)
		p, ok := vm.Sites[s]
		if !ok {
			v.bad(f+".sites", fmt.Sprintf("no entry for site %s", s), "give the VM's address and hosts at each of the group's sites")
			continue
		}
		if _, err := netip.ParseAddr(p.Address); err != nil {
			v.bad(pf+".address", fmt.Sprintf("%q is no IP address", p.Address), "write an IPv4 or IPv6 address without a mask")
		} else {
			unique(v, addrs, pf+".address", fmt.Sprintf("%s:%d", p.Address, vm.Port))
		}
		if len(p.Hosts) == 0 {
			v.bad(pf+".hosts", "none", "name the hosts of that site it may run on, the preferred one first")
		}
	}
}

func (c Config) validatePlans(v *validator, groups map[domain.GroupID]bool) {
	ids := map[domain.PlanID]string{}
	for i, p := range c.Plans {
		f := fmt.Sprintf("plans[%d]", i)
		v.token(f+".id", string(p.ID))
		unique(v, ids, f+".id", p.ID)
		if len(p.Groups) == 0 {
			v.bad(f+".groups", "none", "name the groups that this plan moves")
		}
		for j, g := range p.Groups {
			gf := fmt.Sprintf("%s.groups[%d]", f, j)
			if !groups[g.Group] {
				v.bad(gf+".group", fmt.Sprintf("%q is not known", g.Group), "name a group of groups")
			}
			for k, d := range g.DependsOn {
				if !groups[d] || d == g.Group {
					v.bad(fmt.Sprintf("%s.depends_on[%d]", gf, k), fmt.Sprintf("%q cannot be depended on", d), "name another group of this plan")
				}
			}
		}
	}
}

func (t Tracing) validate(v *validator) {
	if t.OTLP != "" {
		v.hostPort("tracing.otlp", t.OTLP)
	}
	if t.CA != "" && t.Insecure {
		v.bad("tracing.insecure", "contradicts tracing.ca", "leave one of the two out")
	}
	if t.UI == "" {
		return
	}
	u, err := url.Parse(t.UI)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		v.bad("tracing.ui", fmt.Sprintf("%q is not the address of a web page", t.UI), "write http://host:16686 or https://host")
	}
}
