package demo

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"text/template"

	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/netfault"
	"github.com/holdfast-dr/holdfast/pkg/config"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// The installation that every scenario runs on.
const (
	siteA, siteB, siteW domain.SiteID  = "a", "b", "w"
	siteC               domain.SiteID  = "c" // of some scenarios, far away
	groupSync           domain.GroupID = "erp"
	groupAsync          domain.GroupID = "web"
	plan                domain.PlanID  = "main"
	zone                               = "demo.holdfast.test"
)

// workload is one group of the demo with its one VM and name.
type workload struct {
	group domain.GroupID
	mode  domain.Mode
	vm    domain.VMID
	name  string
}

func workloads() []workload {
	return []workload{
		{groupSync, domain.ModeSync, "erp-db", "erp." + zone},
		{groupAsync, domain.ModeAsync, "web-app", "web." + zone},
	}
}

var siteHosts = map[domain.SiteID][]domain.HostID{siteA: {"a-h1", "a-h2"}, siteB: {"b-h1", "b-h2"}, siteC: {"c-h1"}}

// layout is where everything of one demo is: folders, and addresses within one /24 of the loopback network drawn at
// random, so that demos do not meet.
type layout struct {
	dir   string
	base  string
	octet map[domain.SiteID]int
	ports ports
	otlp  string // where traces go; empty: nowhere
}

// sites are those of the installation, in the order of their numbers.
func (l layout) sites() []domain.SiteID {
	out := []domain.SiteID{siteA, siteB, siteW}
	if l.far() {
		out = append(out, siteC)
	}
	return out
}

// far reports whether there is a third data site.
func (l layout) far() bool { return l.octet[siteC] != 0 }

// data are the sites that keep copies.
func (l layout) data() []domain.SiteID {
	return slices.DeleteFunc(l.sites(), func(s domain.SiteID) bool { return s == siteW })
}

func (l layout) addr(s domain.SiteID, port int) string {
	return fmt.Sprintf("%s.%d:%d", l.base, l.octet[s], port)
}
func (l layout) natsAddr(s domain.SiteID) string { return l.addr(s, l.ports.nats) }
func (l layout) dnsAddr(s domain.SiteID) string  { return l.addr(s, l.ports.dns) }
func (l layout) configFile(s domain.SiteID) string {
	return filepath.Join(l.dir, "site-"+string(s)+".yaml")
}
func (l layout) stateDir(s domain.SiteID) string { return filepath.Join(l.dir, "site-"+string(s)) }

// vmAddr is where a workload answers at a site.
func (l layout) vmAddr(w workload, s domain.SiteID) string {
	n := 100 + 10*(l.octet[s]-10)
	if w.group == groupAsync {
		n++
	}
	return fmt.Sprintf("%s.%d", l.base, n)
}

// links holds a proxy for each direction in which one site connects to another.
type links map[[2]domain.SiteID]*netfault.Proxy

func openLinks(ctx context.Context, l layout) (links, error) {
	out := links{}
	sites := l.sites()
	for i, from := range sites {
		for j, to := range sites {
			if from == to {
				continue
			}
			p, err := netfault.Listen(ctx, l.addr(from, l.ports.link+linkOf(i, j)), l.natsAddr(to))
			if err != nil {
				return nil, err
			}
			out[[2]domain.SiteID{from, to}] = p
		}
	}
	return out, nil
}

// isolate cuts a site off from every other, in both directions.
func (ls links) isolate(s domain.SiteID) {
	for pair, p := range ls {
		if pair[0] == s || pair[1] == s {
			p.Set(netfault.Cut)
		}
	}
}

var siteFile = template.Must(template.New("site").Parse(`# Written by holdfast demo.
site: {{.Site}}
data_dir: ./site-{{.Site}}
timing: default
nats: {listen: "{{.Listen}}"}
sites:
{{- range .Sites}}
  - {id: {{.ID}}, index: {{.Index}}, role: {{.Role}}, nats: "nats://{{.NATS}}"{{if .DNS}}, dns: "{{.DNS}}"{{end}}}
{{- end}}
quorum: {model: node_and_share_majority}
{{- if .OTLP}}
tracing: {otlp: "{{.OTLP}}"}
{{- end}}
{{- if .Data}}
iscsi: {listen: "{{.ISCSI}}"}
journal: {size: 64MiB}
hosts:
{{- range .Hosts}}
  - {id: {{.ID}}, driver: {{.Driver}}, probe: "{{.Probe}}", separate: true}
{{- end}}
dns: {zone: {{.Zone}}, listen: "{{.DNS}}", ttl: 1s}
{{- end}}
groups:
{{- range .Groups}}
  - id: {{.ID}}
    tier: {{.Tier}}
    home: a
    targets: [{site: b, mode: {{.Mode}}}{{if .Far}}, {site: c, mode: async}{{end}}]
    durability: strict
    on_target_loss: degrade
    failover: auto
    hold_down: 1s
    volumes:
{{- range .Volumes}}
      - {id: {{.}}, size: 64MiB}
{{- end}}
    vms:
      - id: {{.VM}}
        volumes: [{{range $i, $v := .Volumes}}{{if $i}}, {{end}}{{$v}}{{end}}]
        priority: 1
        dns: [{{.Name}}]
        port: {{.Port}}
        sites:
          a: {address: {{.AddrA}}, hosts: [{{.HostsA}}]}
          b: {address: {{.AddrB}}, hosts: [{{.HostsB}}]}
{{- if .Far}}
          c: {address: {{.AddrC}}, hosts: [c-h1]}
{{- end}}
{{- end}}
plans:
  - id: main
    groups:
      - {group: erp, priority: 1}
      - {group: web, priority: 2}
`))

type siteEntry struct {
	ID        domain.SiteID
	Index     int
	Role      domain.SiteRole
	NATS, DNS string
}

type hostEntry struct {
	ID            domain.HostID
	Driver, Probe string
}

type groupEntry struct {
	ID                           domain.GroupID
	Tier                         int
	Mode                         domain.Mode
	Volumes                      []string
	VM                           domain.VMID
	Name                         string
	Port                         int
	AddrA, AddrB, HostsA, HostsB string
	Far                          bool
	AddrC                        string
}

// writeConfigs writes each site's file and reads it back the way a site does.
func (l layout) writeConfigs(driver string, ls links) (map[domain.SiteID]config.Config, error) {
	out := map[domain.SiteID]config.Config{}
	for i, s := range l.sites() {
		data := map[string]any{"Site": s, "Listen": l.natsAddr(s), "Data": s != siteW, "ISCSI": l.addr(s, l.ports.iscsi), "DNS": l.dnsAddr(s),
			"Zone": zone, "Groups": l.groups(driver), "Sites": l.sitesSeenFrom(s, ls), "OTLP": l.otlp}
		var hosts []hostEntry
		for n, h := range siteHosts[s] {
			hosts = append(hosts, hostEntry{h, driver, l.addr(s, l.ports.probe+n)})
		}
		data["Hosts"] = hosts
		var b bytes.Buffer
		if err := siteFile.Execute(&b, data); err != nil {
			return nil, fmt.Errorf("write configuration of site %s: %w", s, err)
		}
		if err := os.WriteFile(l.configFile(s), b.Bytes(), 0o644); err != nil {
			return nil, fmt.Errorf("write configuration of site %s (index %d): %w", s, i, err)
		}
		cfg, err := config.Load(l.configFile(s))
		if err != nil {
			return nil, err
		}
		out[s] = cfg
	}
	return out, nil
}

func (l layout) sitesSeenFrom(self domain.SiteID, ls links) []siteEntry {
	var out []siteEntry
	for i, s := range l.sites() {
		e := siteEntry{ID: s, Index: i + 1, Role: domain.SiteData, NATS: l.natsAddr(s), DNS: l.dnsAddr(s)}
		if s == siteW {
			e.Role, e.DNS = domain.SiteWitness, ""
		}
		if s != self {
			e.NATS = ls[[2]domain.SiteID{self, s}].Addr()
		}
		out = append(out, e)
	}
	return out
}

func (l layout) groups(driver string) []groupEntry {
	volumes := []string{"data", "wal"}
	if driver == "qemu" {
		volumes = volumes[:1]
	}
	w := workloads()
	return []groupEntry{
		{groupSync, 1, domain.ModeSync, volumes, w[0].vm, w[0].name, l.ports.service, l.vmAddr(w[0], siteA), l.vmAddr(w[0], siteB), "a-h1, a-h2", "b-h1, b-h2", l.far(), l.vmAddr(w[0], siteC)},
		{groupAsync, 2, domain.ModeAsync, volumes[:1], w[1].vm, w[1].name, l.ports.service, l.vmAddr(w[1], siteA), l.vmAddr(w[1], siteB), "a-h2, a-h1", "b-h2, b-h1", l.far(), l.vmAddr(w[1], siteC)},
	}
}
