// Package site puts one site together: its embedded NATS server and its services in one process, and a VM host in
// another or the same. It wires; it decides nothing.
package site

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/holdfast-dr/holdfast/pkg/access"
	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/chap"
	"github.com/holdfast-dr/holdfast/pkg/config"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/identity"
	"github.com/holdfast-dr/holdfast/pkg/initiator"
	"github.com/holdfast-dr/holdfast/pkg/natsd"
	"github.com/holdfast-dr/holdfast/pkg/telemetry"
	"github.com/holdfast-dr/holdfast/services/dns"
	"github.com/holdfast-dr/holdfast/services/dns/authority"
	"github.com/holdfast-dr/holdfast/services/dns/rfc2136"
	"github.com/holdfast-dr/holdfast/services/failover"
	"github.com/holdfast-dr/holdfast/services/failover/embedded"
	"github.com/holdfast-dr/holdfast/services/failover/hostagent"
	"github.com/holdfast-dr/holdfast/services/failover/qemu"
	"github.com/holdfast-dr/holdfast/services/health"
	"github.com/holdfast-dr/holdfast/services/replicator"
)

// Options are what a site is given beside its configuration.
type Options struct {
	Logger   *slog.Logger
	Exporter sdktrace.SpanExporter // receives every span as well; may be nil
}

// service is one part of a site.
type service struct {
	name string
	run  func(ctx context.Context, d deps) error
}

// deps is what a service is wired to.
type deps struct {
	mesh    *bus.Mesh
	tracer  *telemetry.Provider
	log     *slog.Logger // a service names itself and its site in its log
	metrics *telemetry.Metrics
	note    func(name string, f func() error) // adds to the process's health what the service can do without
}

// Run runs a site's server, services and hosts (but those that are separate) until ctx ends, which is loss of power:
// nothing says goodbye. A service that fails by itself ends the site with its error, so that whoever started it can
// start it again; the other sites then see what they would see of a crash.
func Run(ctx context.Context, cfg config.Config, o Options) error {
	if err := quorumConfig(cfg).Validate(); err != nil { // before the server is waited for
		return err
	}
	if err := os.MkdirAll(cfg.DataDir, 0o755); err != nil {
		return fmt.Errorf("make the state folder of site %s: %w", cfg.Site, err)
	}
	all := services(cfg)
	mon, err := startMonitor(ctx, cfg, o, processName, all)
	if err != nil {
		return err
	}
	defer mon.stop()
	if cfg.Relay.Listen != "" {
		defer keepRelay(ctx, cfg, o, mon)()
	}
	if cfg.NATS.Listen != "" {
		srv, err := startNATS(cfg, o)
		if err != nil {
			return err
		}
		defer srv.Stop()
	}
	if err := prepare(ctx, cfg, o); err != nil {
		return err
	}
	return runAll(ctx, cfg, o, mon, all)
}

// startNATS starts the embedded server of a site.
func startNATS(cfg config.Config, o Options) (*natsd.Server, error) {
	return natsd.Start(natsd.Config{Site: cfg.Site, Listen: cfg.NATS.Listen, StoreDir: filepath.Join(cfg.DataDir, "nats"), Conf: cfg.NATS.Conf, Logger: o.Logger})
}

// dial connects a service, as the principal of its name when the site has credentials.
func dial(cfg config.Config, name string, log *slog.Logger) (*bus.Mesh, error) {
	creds, err := credentials(cfg, name)
	if err != nil {
		return nil, err
	}
	return bus.Dial(bus.Config{Site: cfg.Site, Service: name, URLs: urls(cfg), Relays: cfg.Relays(), Logger: log, Credentials: creds})
}

// urls are the servers of every site as this one reaches them.
func urls(cfg config.Config) map[domain.SiteID]string {
	out := map[domain.SiteID]string{}
	for _, s := range cfg.Sites {
		out[s.ID] = s.NATS
	}
	if cfg.NATS.Local != "" {
		out[cfg.Site] = cfg.NATS.Local
	}
	return out
}

func credentials(cfg config.Config, name string) (*identity.Credentials, error) {
	if cfg.Security.Secrets == "" {
		return nil, nil
	}
	return identity.Open(cfg.Security.Secrets, name)
}

// RunHost runs one VM host's agent until ctx ends, which is loss of power.
func RunHost(ctx context.Context, cfg config.Config, id domain.HostID, o Options) error {
	i := slices.IndexFunc(cfg.Hosts, func(h config.Host) bool { return h.ID == id })
	if i < 0 {
		return fmt.Errorf("host %s: %w: site %s has no such host in its configuration", id, domain.ErrNotFound, cfg.Site)
	}
	all := []service{hostService(cfg, cfg.Hosts[i])}
	mon, err := startMonitor(ctx, cfg, o, all[0].name, all)
	if err != nil {
		return err
	}
	defer mon.stop()
	return runAll(ctx, cfg, o, mon, all)
}

// Services are the names RunService knows, in the order in which a site starts them.
func Services() []string {
	return []string{api.ServiceQuorum, api.ServiceHealth, api.ServiceReplicator, api.ServiceFailover, api.ServiceDNS}
}

// RunService runs one service of a site as a process of its own until ctx ends, which is loss of power. The quorum, which
// every site has and which starts first, makes the site's streams and buckets.
func RunService(ctx context.Context, cfg config.Config, name string, o Options) error {
	all := services(cfg)
	i := slices.IndexFunc(all, func(s service) bool { return s.name == name })
	if i < 0 {
		return fmt.Errorf("run %s: %w: site %s (%s) has no such service in its configuration", name, domain.ErrNotFound, cfg.Site, cfg.Self().Role)
	}
	if err := quorumConfig(cfg).Validate(); err != nil {
		return err
	}
	if err := os.MkdirAll(cfg.DataDir, 0o755); err != nil {
		return fmt.Errorf("make the state folder of site %s: %w", cfg.Site, err)
	}
	all = all[i : i+1]
	mon, err := startMonitor(ctx, cfg, o, name, all)
	if err != nil {
		return err
	}
	defer mon.stop()
	if name == api.ServiceQuorum {
		if err := prepare(ctx, cfg, o); err != nil {
			return err
		}
	}
	return runAll(ctx, cfg, o, mon, all)
}

// runAll runs services, each with its own connections and tracer, until ctx ends or one fails.
func runAll(ctx context.Context, cfg config.Config, o Options, mon *monitor, all []service) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for _, s := range all {
		wg.Go(func() {
			err := runOne(ctx, cfg, o, mon, s)
			if err != nil && ctx.Err() == nil {
				o.Logger.Error("service failed", "site", string(cfg.Site), "service", s.name, "error", err)
				cancel(fmt.Errorf("%s of site %s: %w", s.name, cfg.Site, err))
			}
		})
	}
	wg.Wait()
	if err := context.Cause(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

func runOne(ctx context.Context, cfg config.Config, o Options, mon *monitor, s service) error {
	tracer, err := newTracer(ctx, cfg, o, s.name)
	if err != nil {
		return err
	}
	defer flush(ctx, tracer)
	mesh, err := dial(cfg, s.name, o.Logger.With("site", string(cfg.Site), "service", s.name))
	if err != nil {
		return err
	}
	defer mesh.Close()
	note := func(name string, f func() error) { mon.health.Note(s.name, name, f) }
	return s.run(ctx, deps{mesh: mesh, tracer: tracer, log: o.Logger, metrics: mon.watch(s.name, mesh), note: note})
}

func newTracer(ctx context.Context, cfg config.Config, o Options, name string) (*telemetry.Provider, error) {
	tc := telemetry.Config{Site: cfg.Site, Service: "holdfast-" + name, OTLPEndpoint: cfg.Tracing.OTLP, OTLPCA: cfg.Tracing.CA, OTLPInsecure: cfg.Tracing.Insecure,
		Logger: o.Logger, Exporter: o.Exporter}
	for _, h := range cfg.Hosts {
		if name == api.HostService(h.ID) {
			tc.Service, tc.Host = "holdfast-host", h.ID
		}
	}
	return telemetry.New(ctx, tc)
}

// flush sends the spans that are left, after the service has ended.
func flush(ctx context.Context, tracer *telemetry.Provider) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = tracer.Shutdown(ctx)
}

func services(cfg config.Config) []service {
	out := []service{quorumService(cfg), healthService(cfg)}
	if cfg.Self().Role != domain.SiteData {
		return out
	}
	out = append(out, replicatorService(cfg), failoverService(cfg))
	if cfg.DNS.Zone != "" {
		out = append(out, dnsService(cfg))
	}
	for _, h := range cfg.Hosts {
		if !h.Separate {
			out = append(out, hostService(cfg, h))
		}
	}
	return out
}

func healthService(cfg config.Config) service {
	hc := health.Config{Site: cfg.Site, Role: cfg.Self().Role, Timing: healthTiming(cfg), Dir: filepath.Join(cfg.DataDir, "health")}
	for _, s := range cfg.Sites {
		hc.Sites = append(hc.Sites, health.Site{ID: s.ID, Role: s.Role})
	}
	hc.Services = []string{api.ServiceQuorum}
	if cfg.Self().Role == domain.SiteData {
		hc.Services = append(hc.Services, api.ServiceReplicator, api.ServiceFailover)
		if cfg.DNS.Zone != "" {
			hc.Services = append(hc.Services, api.ServiceDNS)
		}
	}
	for _, h := range cfg.Hosts {
		hc.Hosts = append(hc.Hosts, health.Host{ID: h.ID, Probe: h.Probe, Rack: h.Rack})
	}
	hc.Vantages = cfg.Health.Vantages
	hc.Probes = probes(cfg)
	return service{api.ServiceHealth, func(ctx context.Context, d deps) error {
		hd := health.Deps{Mesh: d.mesh, Tracer: d.tracer, Logger: d.log, Metrics: d.metrics}
		m, err := dialMonitor(cfg, d.log)
		if err != nil {
			d.log.Warn("connections that the NATS server refuses are not told", "site", string(cfg.Site), "error", err)
		}
		if m != nil {
			defer m.Close()
			hd.Refused = m
		}
		return health.Run(ctx, hc, hd)
	}}
}

// dialMonitor opens the server's own account of refused connections; nil without credentials.
func dialMonitor(cfg config.Config, log *slog.Logger) (*bus.Monitor, error) {
	creds, err := credentials(cfg, access.Monitor)
	if err != nil || creds == nil {
		return nil, err
	}
	return bus.DialMonitor(cfg.Site, urls(cfg)[cfg.Site], creds, log.With("site", string(cfg.Site)))
}

func failoverService(cfg config.Config) service {
	fc := failover.Config{Site: cfg.Site, Role: cfg.Self().Role, Plans: cfg.Plans, Hosts: map[domain.SiteID][]domain.HostID{},
		CheckGroup: cfg.CheckGroup, DNSAuthority: cfg.DNS.Listen, DNSTTL: uint32(time.Duration(cfg.DNS.TTL) / time.Second),
		ApprovalLasts: time.Duration(cfg.Declarations.ApprovalLasts)}
	for _, g := range cfg.Groups {
		fc.Groups = append(fc.Groups, g.Domain())
	}
	for _, h := range cfg.Hosts {
		fc.Hosts[cfg.Site] = append(fc.Hosts[cfg.Site], h.ID)
	}
	if cfg.DNS.Update != nil {
		fc.DNSAuthority = cfg.DNS.Update.Server
	}
	return service{api.ServiceFailover, func(ctx context.Context, d deps) error {
		return failover.Run(ctx, fc, failover.Deps{Mesh: d.mesh, Tracer: d.tracer, Logger: d.log, Metrics: d.metrics})
	}}
}

func dnsService(cfg config.Config) service {
	return service{api.ServiceDNS, func(ctx context.Context, d deps) error {
		dc, err := dnsConfig(cfg)
		if err != nil {
			return err
		}
		return dns.Run(ctx, dc, dns.Deps{Mesh: d.mesh, Tracer: d.tracer, Log: d.log, Metrics: d.metrics})
	}}
}

func dnsConfig(cfg config.Config) (dns.Config, error) {
	dc := dns.Default()
	dc.Site, dc.SiteIndex = cfg.Site, cfg.Self().Index
	if cfg.Timing == "fast" {
		dc.LeasePoll = 150 * time.Millisecond
	}
	ttl := uint32(time.Duration(cfg.DNS.TTL) / time.Second)
	for _, g := range cfg.Groups {
		for _, vm := range g.VMs {
			if p, ok := vm.Sites[cfg.Site]; ok {
				dc.OwnAddresses = append(dc.OwnAddresses, p.Address)
			}
			for _, name := range vm.DNS {
				dc.Records = append(dc.Records, record(g.ID, name, vm.Sites[g.Home].Address, ttl))
			}
		}
	}
	if u := cfg.DNS.Update; u != nil {
		key, err := rfc2136.ReadKey(u.KeyFile)
		if err != nil {
			return dc, err
		}
		dc.Servers = []rfc2136.Config{{Server: u.Server, Zone: cfg.DNS.Zone, Key: key, EpochTXT: u.EpochTXT, Timeout: 1500 * time.Millisecond}}
		dc.Zone, dc.Records = "", nil
		return dc, nil
	}
	dc.Zone, dc.Listen, dc.StateFile = cfg.DNS.Zone, cfg.DNS.Listen, filepath.Join(cfg.DataDir, "dns", "zone")
	dc.Authority = authority.Config{NameServers: []string{"ns." + cfg.DNS.Zone}}
	for _, s := range cfg.Sites {
		if s.Role == domain.SiteData && s.ID != cfg.Site {
			dc.Peers = append(dc.Peers, s.ID)
		}
	}
	return dc, os.MkdirAll(filepath.Dir(dc.StateFile), 0o755)
}

func record(g domain.GroupID, name, addr string, ttl uint32) api.DNSRecord {
	kind := "A"
	if strings.Contains(addr, ":") {
		kind = "AAAA"
	}
	return api.DNSRecord{Name: name, Type: kind, Value: addr, TTL: ttl, Group: g}
}

func hostService(cfg config.Config, h config.Host) service {
	hc := hostagent.Config{Site: cfg.Site, Host: h.ID, Dir: filepath.Join(cfg.DataDir, "hosts", string(h.ID)), Probe: h.Probe}
	if cfg.Timing == "fast" {
		hc.Pull = 150 * time.Millisecond
	}
	return service{api.HostService(h.ID), func(ctx context.Context, d deps) error {
		tr := d.tracer.Tracer("holdfast/host")
		log := d.log.With("site", string(cfg.Site), "service", api.HostService(h.ID))
		secrets, err := chap.Open(chap.Settings(cfg.ISCSI.CHAP), log)
		if err != nil {
			return fmt.Errorf("run host %s: iscsi.chap: %w", h.ID, err)
		}
		var login func() initiator.CHAP
		if secrets != nil {
			login = secrets.Initiator
		}
		var driver hostagent.Driver = &embedded.Driver{Logger: log, Tracer: tr, CHAP: login}
		if h.Driver == "qemu" {
			driver = &qemu.Driver{Logger: log, CHAP: login}
		}
		return hostagent.Run(ctx, hc, hostagent.Deps{Mesh: d.mesh, Driver: driver, Logger: log, Tracer: tr, Metrics: d.metrics})
	}}
}

func replicatorService(cfg config.Config) service {
	rc := replicator.Config{Site: cfg.Site, DataDir: filepath.Join(cfg.DataDir, "replicator"), ISCSIListen: cfg.ISCSI.Listen, ISCSIPortal: cfg.ISCSI.Portal,
		LineListen: cfg.Replication.Listen, LineAddress: cfg.Replication.Address,
		CHAP: chap.Settings(cfg.ISCSI.CHAP), JournalBytes: int64(cfg.Journal.Size),
		ResyncRate: int64(cfg.Copies.ResyncRate), ScrubEvery: time.Duration(cfg.Copies.ScrubEvery), ScrubHeal: cfg.Copies.ScrubHeal, ScrubRate: int64(cfg.Copies.ScrubRate), CheckpointReserve: int64(cfg.Copies.CheckpointReserve), Links: map[domain.SiteID]domain.Transport{}}
	for _, l := range cfg.Links {
		rc.Links[l.To] = l.Transport()
	}
	if cfg.Timing == "fast" {
		rc.Timing.Pull = 150 * time.Millisecond
	}
	return service{api.ServiceReplicator, func(ctx context.Context, d deps) error {
		creds, err := credentials(cfg, api.ServiceReplicator)
		if err != nil {
			return err
		}
		return replicator.Run(ctx, rc, replicator.Deps{Mesh: d.mesh, Tracer: d.tracer, Logger: d.log, Metrics: d.metrics, Note: d.note, Credentials: creds})
	}}
}
