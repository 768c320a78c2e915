package sitefolder

import (
	"bytes"
	"embed"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/template"

	"go.yaml.in/yaml/v4"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/config"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/identity"
)

//go:embed templates
var templates embed.FS

// Ports of a site's own services. In containers they are the ports inside; .env says where they are reached from outside.
const (
	iscsiPort        = "3260"
	dnsPort          = "53"
	dnsPortInside    = "5353" // an unprivileged process cannot have 53
	linePort         = "4231"
	metricsPort      = "9190"
	firstServicePort = 9191 // of /healthz and /metrics of a service that is a process of its own
	firstProbePort   = 7101
	localServer      = "nats-local" // the NATS server's name within the site's own network of containers
)

// siteFile is what templates/site.yaml.tmpl is filled with.
type siteFile struct {
	Site                                           domain.SiteID
	Cluster, File                                  string
	Data                                           bool
	Listen, Local, Metrics, OTLP, ISCSI, DNS, Zone string
	Line, LineAddress                              string // where other sites' replicators connect, here and as they see it
	Sites, Hosts                                   []string
	Ports                                          []string // metrics.ports of services that run as processes of their own on this machine
	Sections                                       string
}

// renderSite writes config/site.yaml of a new site that knows of these sites.
func renderSite(o Options, cluster string, sites []identity.Facts) ([]byte, error) {
	v := siteFile{Site: o.Name, Cluster: cluster, File: Folder(o.Dir).Config(), Data: o.Role == domain.SiteData, Zone: o.Zone}
	if o.Embedded {
		_, port, _ := net.SplitHostPort(o.Address) // checked
		v.Listen, v.Local = net.JoinHostPort(o.Listen, port), "tls://"+net.JoinHostPort(reachable(o.Listen), port)
		v.Metrics, v.OTLP = net.JoinHostPort(o.Listen, metricsPort), "127.0.0.1:4317"
		v.Ports = processPorts(o)
		v.ISCSI, v.DNS = net.JoinHostPort(o.Listen, iscsiPort), net.JoinHostPort(o.Listen, dnsPortInside)
	} else {
		v.Local = "tls://" + localServer + ":" + strconv.Itoa(defaultPort)
		v.Metrics, v.OTLP = "0.0.0.0:"+metricsPort, "jaeger:4317"
		v.ISCSI, v.DNS = "replicator:"+iscsiPort, "dns:"+dnsPortInside // by name: the services of a site ask one another
	}
	v.Line, v.LineAddress = lines(o)
	for _, s := range sites {
		v.Sites = append(v.Sites, siteLine(s))
	}
	for i, h := range o.Hosts {
		v.Hosts = append(v.Hosts, hostLine(o, h, i))
	}
	if o.Groups != "" {
		sections, hosts, err := readSections(o.Groups)
		if err != nil {
			return nil, err
		}
		v.Sections = sections
		if hosts != nil {
			v.Hosts = nil
		}
	}
	t, err := template.ParseFS(templates, "templates/site.yaml.tmpl")
	if err != nil {
		return nil, fmt.Errorf("write site.yaml: %w", err)
	}
	var out bytes.Buffer
	if err := t.Execute(&out, v); err != nil {
		return nil, fmt.Errorf("write site.yaml: %w", err)
	}
	return out.Bytes(), validateSite(o, out.Bytes())
}

// lines is where replicators of other sites connect, and what these are told. Sites that reach one another on loopback are on one
// machine, where the port could be that of one site only: those that have no network of containers of their own take none.
func lines(o Options) (listen, address string) {
	host, _, _ := net.SplitHostPort(o.Address) // checked
	address = net.JoinHostPort(host, linePort)
	if !o.Embedded {
		return net.JoinHostPort("0.0.0.0", linePort), address
	}
	if ip := net.ParseIP(host); host == "localhost" || ip != nil && ip.IsLoopback() {
		return "", ""
	}
	return net.JoinHostPort(o.Listen, linePort), address
}

// processPorts gives each service an address of its own for /healthz and /metrics, one after the other behind the whole
// site's: under systemd each is a process on the same machine.
func processPorts(o Options) []string {
	names := []string{api.ServiceQuorum, api.ServiceHealth}
	if o.Role == domain.SiteData {
		names = append(names, api.ServiceReplicator, api.ServiceFailover, api.ServiceDNS)
		for _, h := range o.Hosts {
			names = append(names, api.HostService(domain.HostID(h)))
		}
	}
	names = append(names, "relay") // where the site has one
	var out []string
	for i, name := range names {
		out = append(out, fmt.Sprintf("%s: %q", name, net.JoinHostPort(o.Listen, strconv.Itoa(firstServicePort+i))))
	}
	return out
}

// reachable is where a process of the same machine connects to what listens on host.
func reachable(host string) string {
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		return "127.0.0.1"
	}
	return host
}

func hostLine(o Options, id string, i int) string {
	if o.Embedded {
		return fmt.Sprintf("- {id: %s, driver: embedded, probe: %q}", id, net.JoinHostPort(reachable(o.Listen), strconv.Itoa(firstProbePort+i)))
	}
	return fmt.Sprintf("- {id: %s, driver: embedded, probe: %q, separate: true}", id, net.JoinHostPort("host-"+id, strconv.Itoa(firstProbePort)))
}

func siteLine(s identity.Facts) string {
	dns := ""
	if s.DNS != "" {
		dns = fmt.Sprintf(", dns: %q", s.DNS)
	}
	return fmt.Sprintf("- {id: %s, index: %d, role: %s, nats: %q%s}", s.Site, s.Index, s.Role, s.NATS, dns)
}

// readSections takes hosts, groups and plans out of a file, as text, comments and all.
func readSections(path string) (text string, hosts []domain.HostID, err error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return "", nil, invalid("--groups: %v", err)
	}
	var root yaml.Node
	if err := yaml.Unmarshal(raw, &root); err != nil {
		return "", nil, invalid("--groups %s: not readable as YAML: %v", path, err)
	}
	if len(root.Content) == 0 || root.Content[0].Kind != yaml.MappingNode || root.Content[0].Style&yaml.FlowStyle != 0 {
		return "", nil, invalid("--groups %s: want the keys hosts, groups or plans, each at the beginning of a line", path)
	}
	pairs := root.Content[0].Content
	for i := 0; i < len(pairs); i += 2 {
		if !slices.Contains([]string{"hosts", "groups", "plans"}, pairs[i].Value) {
			return "", nil, invalid("--groups %s:%d: %q does not belong here: it may have hosts, groups and plans; the rest is for config/site.yaml", path, pairs[i].Line, pairs[i].Value)
		}
	}
	var listed struct{ Hosts []config.Host }
	if err := root.Decode(&listed); err != nil {
		return "", nil, invalid("--groups %s: %v", path, err)
	}
	for _, h := range listed.Hosts {
		hosts = append(hosts, h.ID)
	}
	return strings.TrimSpace(strings.TrimPrefix(string(raw), "---\n")) + "\n", hosts, nil
}

// validateSite holds the new file to the rules of pkg/config. Groups may speak of sites that have not joined yet: those
// are taken for data sites here.
func validateSite(o Options, text []byte) error {
	name := "site.yaml"
	if o.Groups != "" {
		name = "site.yaml with " + filepath.Base(o.Groups)
	}
	_, err := siteFacts(name, text)
	return err
}

// siteFacts is config.Parse of a file whose groups may speak of sites that have not joined yet: those are taken for data
// sites.
func siteFacts(name string, text []byte) (config.Config, error) {
	if cfg, err := config.Parse(name, text); err == nil {
		return cfg, nil
	}
	var known struct {
		Sites  []config.Site
		Groups []struct {
			Home    domain.SiteID
			Targets []domain.Target
		}
	}
	if err := yaml.Unmarshal(text, &known); err != nil {
		return config.Parse(name, text)
	}
	var add []identity.Facts
	have := func(id domain.SiteID) bool {
		return slices.ContainsFunc(known.Sites, func(s config.Site) bool { return s.ID == id }) ||
			slices.ContainsFunc(add, func(f identity.Facts) bool { return f.Site == id })
	}
	stand := func(id domain.SiteID) {
		if id != "" && !have(id) {
			add = append(add, identity.Facts{Site: id, Role: domain.SiteData, Index: freeIndex(known.Sites, len(add)), NATS: "tls://192.0.2.1:4222"})
		}
	}
	for _, g := range known.Groups {
		stand(g.Home)
		for _, t := range g.Targets {
			stand(t.Site)
		}
	}
	whole, err := editSites(name, text, facts(known.Sites, add), nil)
	if err != nil {
		return config.Parse(name, text)
	}
	return config.Parse(name, whole)
}

func freeIndex(sites []config.Site, skip int) int {
	for i := maxIndex; i > 0; i-- {
		if !slices.ContainsFunc(sites, func(s config.Site) bool { return s.Index == i }) {
			if skip == 0 {
				return i
			}
			skip--
		}
	}
	return maxIndex
}

func facts(sites []config.Site, more []identity.Facts) []identity.Facts {
	var out []identity.Facts
	for _, s := range sites {
		out = append(out, identity.Facts{Site: s.ID, Role: s.Role, Index: s.Index, NATS: s.NATS, DNS: s.DNS})
	}
	return append(out, more...)
}
