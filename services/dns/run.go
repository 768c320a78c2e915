package dns

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/dns/authority"
	"github.com/holdfast-dr/holdfast/services/dns/rfc2136"
	"github.com/holdfast-dr/holdfast/services/dns/zone"
)

const beat = 500 * time.Millisecond

type service struct {
	cfg      Config
	log      *slog.Logger
	tracer   trace.Tracer
	events   *bus.Events
	meters   meters
	backends []backend
	own      *copyOfZone // nil without a zone
	pushers  []*pusher
}

// Run is the service until ctx is cancelled, which is no error and means: stop at once, as if killed. It fails when the
// configuration, the zone file or a socket does; when it returns, all it started has ended.
//
// Order: the zone is loaded and the sockets taken; the API answers; newer records are pulled from the peers and the leases
// asked for; then questions are answered.
func Run(ctx context.Context, cfg Config, deps Deps) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	s := &service{cfg: cfg, log: deps.Log.With("site", string(cfg.Site), "service", api.ServiceDNS), tracer: deps.Tracer.Tracer("holdfast/dns"), meters: newMeters(deps.Metrics)}
	for _, server := range cfg.Servers {
		c, err := rfc2136.New(server)
		if err != nil {
			return fmt.Errorf("dns.servers: %w", err)
		}
		s.backends = append(s.backends, c)
	}
	conns := make([]*bus.Conn, len(cfg.Peers))
	for i, p := range cfg.Peers {
		c, err := deps.Mesh.Conn(p)
		if err != nil {
			return fmt.Errorf("dns.peers: %w", err)
		}
		conns[i] = c
	}
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel() // runs before the wait
	s.events = bus.NewEvents(ctx, deps.Mesh.Local(), api.ServiceDNS, s.log)
	running.Go(func() {
		deps.Mesh.Beat(ctx, api.Heartbeat{Site: cfg.Site, Node: api.ServiceDNS, Kind: api.ServiceDNS, Boot: rand.Text()}, beat)
	})
	if cfg.Zone == "" {
		return s.runWithoutZone(ctx, deps)
	}
	return s.runZone(ctx, &running, conns, deps)
}

func (s *service) runWithoutZone(ctx context.Context, deps Deps) error {
	if err := deps.Mesh.Local().Serve(ctx, api.ServiceDNS, s.endpoints()); err != nil {
		return err
	}
	if deps.Ready != nil {
		deps.Ready("")
	}
	<-ctx.Done()
	return nil
}

func (s *service) runZone(ctx context.Context, running *sync.WaitGroup, conns []*bus.Conn, deps Deps) error {
	own, err := openZone(s.cfg, s.log)
	if err != nil {
		return err
	}
	leases := newLeases(s.cfg, deps.Mesh.Local(), own.zone, s.log)
	server, err := authority.Listen(ctx, s.cfg.Listen, s.cfg.Authority, own.zone, leases.serving, s.log)
	if err != nil {
		return err
	}
	s.own = own
	s.backends = append(s.backends, &ownAuthority{zone: own, leases: leases, addr: reachable(server.Addr()), wait: s.cfg.VerifyWait})
	for _, c := range conns {
		p := newPusher(c, s.log)
		s.pushers = append(s.pushers, p)
		running.Go(func() { p.run(ctx) })
	}
	if err := s.start(ctx, leases, conns, deps); err != nil {
		_ = server.Close()
		return err
	}
	running.Go(func() { leases.run(ctx) })
	if deps.Ready != nil {
		deps.Ready(server.Addr())
	}
	return server.Run(ctx)
}

// start brings the API up, and the zone up to date, before the first question is answered.
func (s *service) start(ctx context.Context, leases *leases, conns []*bus.Conn, deps Deps) error {
	if err := deps.Mesh.Local().Serve(ctx, api.ServiceDNS, s.endpoints()); err != nil {
		return err
	}
	began := time.Now()
	if err := pull(ctx, conns, s.cfg.PullWait, s.log, func(peer domain.SiteID, records []zone.Record) error {
		return s.takeOver(ctx, peer, records)
	}); err != nil {
		return err
	}
	for _, p := range s.pushers {
		p.add(ctx, s.own.zone().Records()) // what this site changed just before it died
	}
	leases.refreshAll(ctx)
	s.log.Info("names answered", "zone", s.own.zone().Origin(), "serial", s.own.zone().Serial(), "after", time.Since(began))
	return nil
}

// takeOver merges a peer's records, and passes on what was new: the sender may not reach every site that this one does.
func (s *service) takeOver(ctx context.Context, peer domain.SiteID, records []zone.Record) error {
	changed, conflict, err := s.own.merge(records)
	if conflict != nil {
		s.log.Error("names of two sites disagree", "peer", string(peer), "error", conflict)
	}
	if err != nil {
		return fmt.Errorf("merge names of site %s: %w", peer, err)
	}
	for _, r := range changed {
		s.log.Info("name taken over", "peer", string(peer), "name", r.Name, "value", r.Value, "group", string(r.Group), "epoch", r.Epoch.String())
	}
	for _, p := range s.pushers {
		if len(changed) > 0 && p.conn.Site() != peer {
			p.add(ctx, changed)
		}
	}
	return nil
}
