package health

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/telemetry"
	"github.com/holdfast-dr/holdfast/services/health/assess"
)

// Run watches until ctx ends, and then returns nil at once, as if killed. It waits for the site's own server as long as it
// takes. Errors: a configuration that cannot be (domain.ErrInvalid), or a bus that takes no subscription.
func Run(ctx context.Context, cfg Config, deps Deps) error {
	if cfg.Timing == (Timing{}) {
		cfg.Timing = DefaultTiming()
	}
	if cfg.ClockLimit == 0 {
		cfg.ClockLimit = DefaultClockLimit
	}
	if err := cfg.Validate(); err != nil {
		return err
	}
	if deps.Tracer == nil {
		deps.Tracer = telemetry.Disabled()
	}
	if deps.Logger == nil {
		deps.Logger = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &service{cfg: cfg, mesh: deps.Mesh, log: deps.Logger.With("site", string(cfg.Site), "service", api.ServiceHealth), boot: rand.Text(), refused: deps.Refused}
	if err := s.ready(ctx); err != nil {
		return nil // only ctx ends the waiting
	}
	var err error
	if s.windows, err = openWindows(cfg.Dir, cfg.Site, time.Now()); err != nil {
		return err
	}
	s.records = openRecords(cfg.Dir, cfg.Site, s.log)
	open := s.told(ctx)
	s.obs = newObserver(cfg, now(), assess.Resume(open...))
	s.obs.windows = s.windows
	s.nodes = newNodes(cfg.ClockLimit, api.Protocol())
	s.probes = newProber(s.obs, cfg.Timing)
	s.vms = newInventory(cfg.Site, s.obs, s.probes)
	events := bus.NewEvents(ctx, deps.Mesh.Local(), api.ServiceHealth, s.log)
	s.pub = newPublisher(cfg.Site, s.boot, events, deps.Tracer.Tracer("holdfast/health"), s.log, s.records)
	s.tellMetrics(deps.Metrics)
	return s.run(ctx)
}

// status is the reply of the status verb.
func (s *service) status() api.HealthStatus {
	st := s.obs.Status(now())
	st.Nodes = s.nodes.status(now())
	return st
}

type service struct {
	cfg    Config
	mesh   *bus.Mesh
	log    *slog.Logger
	boot   string
	obs    *observer
	nodes  *nodes
	probes *prober
	vms    *inventory
	pub    *publisher

	windows *windows
	records *records

	refused refusalSource
}

// ready waits for the site's own server and its streams.
func (s *service) ready(ctx context.Context) error {
	if err := s.mesh.Local().AwaitConnected(ctx); err != nil {
		return err
	}
	ectx, done := context.WithCancel(ctx)
	defer done()
	every(ectx, s.cfg.Timing.Beat, func() {
		if err := s.mesh.Local().EnsureAssets(ectx); err != nil {
			s.log.Debug("streams not ready", "error", err)
			return
		}
		done()
	})
	return ctx.Err()
}

// told reads which sites' disasters this site told and did not yet tell to be over, so that their end is told after a restart.
func (s *service) told(ctx context.Context) []domain.SiteID {
	var open []domain.SiteID
	for _, site := range s.cfg.Sites {
		last := func(fact string) uint64 {
			subject := api.EventSubject(s.cfg.Site, assess.EntityDisaster, string(site.ID), fact)
			r, err := s.mesh.Local().Last(ctx, api.StreamEvents, subject)
			if err != nil && !errors.Is(err, domain.ErrNotFound) {
				s.log.Warn("last event not read", "subject", subject, "error", err)
			}
			return r.Seq
		}
		if max(last(assess.FactSuspected), last(assess.FactConfirmed)) > last(assess.FactOver) {
			open = append(open, site.ID)
		}
	}
	return open
}

func (s *service) run(ctx context.Context) error {
	local := s.mesh.Local()
	defer s.records.start()()
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, h := range s.cfg.Hosts {
		if h.Probe != "" {
			s.probe(hostKey(string(h.ID), s.cfg.Site, pathTCP), h.Probe)
		}
		wg.Go(func() { newAgent(h.ID, local, s.obs, s.vms, s.cfg.Timing).run(ctx) })
	}
	if s.cfg.Replicator != "" {
		s.probe(key{kind: assess.KindPort, id: nodeReplicator, site: s.cfg.Site, path: pathTCP}, s.cfg.Replicator)
	}
	for _, p := range s.cfg.Probes {
		k := key{kind: p.Kind, id: p.ID, site: s.cfg.Site, path: "probe-" + p.How}
		s.obs.expectEvery(now(), k, "", cmp.Or(p.Every, s.cfg.Timing.Beat))
		s.probes.add(k, p)
	}
	if err := local.Subscribe(ctx, "hf.v1.hb.>", s.heartbeat); err != nil {
		return err
	}
	if err := local.Serve(ctx, api.ServiceHealth, map[string]bus.Endpoint{
		api.VerbView:     bus.Answer(func(context.Context, api.Empty) (api.View, error) { return s.obs.View(now(), false), nil }),
		api.VerbStatus:   bus.Answer(func(context.Context, api.Empty) (api.HealthStatus, error) { return s.status(), nil }),
		api.VerbEvidence: bus.Answer(func(_ context.Context, r api.EvidenceRequest) (api.EvidenceReply, error) { return s.records.find(r) }),
		api.VerbMaintain: bus.Answer(s.maintain),
	}); err != nil {
		return err
	}
	for _, site := range s.cfg.Sites {
		conn, err := s.mesh.Conn(site.ID)
		if err != nil {
			return fmt.Errorf("watch site %s: %w", site.ID, err)
		}
		if site.ID != s.cfg.Site {
			wg.Go(func() { newPeer(conn, s.obs, s.cfg.Timing, s.learnWindows).run(ctx) })
		}
	}
	wg.Go(func() {
		s.mesh.Beat(ctx, api.Heartbeat{Site: s.cfg.Site, Node: api.ServiceHealth, Kind: api.ServiceHealth, Boot: s.boot}, s.cfg.Timing.Beat)
	})
	wg.Go(func() { s.probes.run(ctx) })
	wg.Go(func() { s.follow(ctx) })
	if s.refused != nil {
		r := &refusals{site: s.cfg.Site, boot: s.boot, log: s.log, tell: s.pub.events.Publish, seen: map[refusalKey]*refusalCount{}}
		wg.Go(func() { r.run(ctx, s.refused) })
	}
	s.log.Info("health watches", "sites", len(s.cfg.Sites), "hosts", len(s.cfg.Hosts))
	every(ctx, s.cfg.Timing.Beat/tickPart, func() {
		for _, c := range s.obs.tick(now(), local.Connected()) {
			s.pub.tell(ctx, c)
		}
		if doubts, confidence, changed := s.obs.judged(now()); changed {
			s.pub.observer(ctx, doubts, confidence)
		}
		for _, m := range s.windows.over(time.Now()) {
			s.tellWindow(ctx, m)
		}
		for _, f := range s.nodes.changes(s.cfg.Site) {
			s.pub.node(ctx, f)
		}
	})
	return nil
}

// learnWindows takes the maintenance windows of another site's view.
func (s *service) learnWindows(told []api.Maintenance) {
	told = slices.DeleteFunc(slices.Clone(told), func(m api.Maintenance) bool { return !s.believable(m) })
	if err := s.windows.learn(time.Now(), told); err != nil {
		s.log.Warn("maintenance windows of another site not kept", "error", err)
	}
}

// heartbeat takes what nodes push to this site's server. A node of this site that names a port has it probed.
func (s *service) heartbeat(_ context.Context, m bus.Message) {
	hb, err := readHeartbeat(s.cfg.Sites, m.Subject, m.Data)
	if err != nil {
		s.log.Debug("heartbeat not taken", "error", err)
		return
	}
	s.obs.beat(now(), hb)
	s.nodes.beat(now(), hb)
	if hb.Site == s.cfg.Site && hb.Probe != "" {
		s.learn(hb)
	}
}

// learn probes the port a node of this site names, unless the configuration names one.
func (s *service) learn(hb api.Heartbeat) {
	if validAddress(hb.Probe) != nil {
		return
	}
	switch hb.Kind {
	case nodeHost:
		for _, h := range s.cfg.Hosts {
			if string(h.ID) == hostOf(hb.Node) && h.Probe != "" {
				return
			}
		}
		s.probe(hostKey(hostOf(hb.Node), s.cfg.Site, pathTCP), hb.Probe)
	default:
		if hb.Kind == nodeReplicator && s.cfg.Replicator != "" {
			return
		}
		s.probe(key{kind: assess.KindPort, id: hb.Node, site: s.cfg.Site, path: pathTCP}, hb.Probe)
	}
}

func (s *service) probe(k key, address string) {
	s.obs.expect(now(), k, "")
	s.probes.set(k, address, false)
}

// follow keeps the desired state of groups, and begins again whenever the watch ends.
func (s *service) follow(ctx context.Context) {
	every(ctx, time.Second, func() {
		err := s.mesh.Local().WatchKeys(ctx, api.BucketDesired, "group.>", func(e bus.Entry) {
			var g api.GroupDesired
			if err := json.Unmarshal(e.Value, &g); err != nil || string(g.Group.ID) != strings.TrimPrefix(e.Key, "group.") {
				s.log.Warn("desired state not readable", "key", e.Key, "error", err)
				return
			}
			s.vms.desire(now(), g)
		})
		if err != nil {
			s.log.Debug("desired state not watched", "error", err)
		}
	})
}
