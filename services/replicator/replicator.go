// Package replicator is the service that owns a site's volumes: it keeps a copy of each of the site's groups, serves the
// volumes of those it is primary for over iSCSI, and sends their changes to the other sites. It promotes nothing by itself.
package replicator

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/chap"
	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/identity"
	"github.com/holdfast-dr/holdfast/pkg/telemetry"
	"github.com/holdfast-dr/holdfast/services/replicator/group"
	"github.com/holdfast-dr/holdfast/services/replicator/journal"
	"github.com/holdfast-dr/holdfast/services/replicator/journal/vfs"
	"github.com/holdfast-dr/holdfast/services/replicator/line"
	"github.com/holdfast-dr/holdfast/services/replicator/quiesce"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
	"github.com/holdfast-dr/holdfast/services/replicator/transport"
)

// Timing is what the replicator waits for; the zero value of a field takes its default.
type Timing = group.Timing

// Config describes one site's replicator.
type Config struct {
	Site        domain.SiteID
	DataDir     string // one folder a group
	ISCSIListen string // host:port; port 0 takes a free one
	// ISCSIPortal is the host:port that initiators are told, when it is not the listener's own address.
	ISCSIPortal string
	// CHAP is what initiators must prove; without a user everyone is let in.
	CHAP         chap.Settings
	JournalBytes int64 // of a new journal, at least 16 MiB; 0 means 64 MiB
	PipeBytes    int64 // bound of a pipe, in memory at the target's NATS; 0 means 32 MiB
	Timing       Timing
	Heartbeat    time.Duration // 0 means 500 ms
	ResyncRate   int64         // bytes a second that resyncs send, all groups together; 0: no bound
	ScrubEvery   time.Duration // how often each target's copy is compared; 0: never
	ScrubHeal    bool          // and healed where it differs
	ScrubRate    int64         // bytes a second read for that; 0: no bound
	// CheckpointReserve is how many bytes of the disk are kept free of what is written to open checkpoints; 0: by the disk's size.
	CheckpointReserve int64
	// Links bound what is sent to other sites, of all groups together, which share it by tier; compression is not looked at.
	Links map[domain.SiteID]domain.Transport
	// LineListen is the host:port for lines, past NATS, on which primaries of other sites send changes here; port 0 takes a free one;
	// empty: everything comes through NATS. LineAddress is the host:port that those sites are told; empty: the listener's own.
	LineListen, LineAddress string
}

// Deps is what the replicator is wired to.
type Deps struct {
	Mesh    *bus.Mesh
	Tracer  trace.TracerProvider
	Logger  *slog.Logger
	Metrics *telemetry.Metrics // nil: none
	// Note adds what the service can do without to what its process tells of itself: f says why it lacks it, nil while it does not.
	// A nil Note tells nobody.
	Note func(name string, f func() error)
	// Credentials prove this service on lines, as the mesh's do over NATS; nil: plain, for loopback only.
	Credentials *identity.Credentials
}

// service is one running replicator.
type service struct {
	cfg    Config
	deps   Deps
	log    *slog.Logger
	tracer trace.Tracer
	events *bus.Events
	portal *portal
	guard  target.Guard // of every volume; nil: everyone
	meters meters

	resyncPace, scrubPace *transport.Bound
	links                 map[domain.SiteID]*transport.Link
	memory                group.Memory
	lines                 *line.Server // nil: everything comes through NATS
	noLines               fault        // why lines are not taken

	mu      sync.Mutex
	groups  map[domain.GroupID]*group.Group
	opening map[domain.GroupID]bool
	faults  map[domain.GroupID]error
	newest  map[domain.GroupID]api.GroupDesired
	wg      sync.WaitGroup

	surveying sync.Mutex // one survey at a time
}

// Run serves until ctx ends, at once and without goodbye: nothing is flushed, released or told. It returns nil then. Any
// other return is an error that names what could not be had: an address in use, a folder that cannot be written.
func Run(ctx context.Context, cfg Config, deps Deps) error {
	if cfg.Site == "" || cfg.DataDir == "" || cfg.JournalBytes != 0 && (cfg.JournalBytes < journal.MinSize || cfg.JournalBytes%journal.PageSize != 0) {
		return fmt.Errorf("run replicator: %w: it needs a site, a folder, and a journal of at least %d bytes in whole pages", domain.ErrInvalid, journal.MinSize)
	}
	if deps.Logger == nil {
		deps.Logger = slog.New(slog.DiscardHandler)
	}
	if deps.Tracer == nil {
		deps.Tracer = noop.NewTracerProvider()
	}
	log := deps.Logger.With("site", string(cfg.Site), "service", api.ServiceReplicator)
	secrets, err := chap.Open(cfg.CHAP, log)
	if err != nil {
		return fmt.Errorf("run replicator of site %s: iscsi.chap: %w", cfg.Site, err)
	}
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", cfg.ISCSIListen)
	if err != nil {
		return fmt.Errorf("run replicator of site %s: listen for iSCSI on %s: %w: free the port, or set another", cfg.Site, cfg.ISCSIListen, err)
	}
	s := &service{
		cfg: cfg, deps: deps, log: log, guard: target.GuardOf(secrets), tracer: deps.Tracer.Tracer("holdfast/replicator"),
		groups: map[domain.GroupID]*group.Group{}, opening: map[domain.GroupID]bool{}, faults: map[domain.GroupID]error{}, newest: map[domain.GroupID]api.GroupDesired{}, meters: newMeters(deps.Metrics),
		resyncPace: transport.NewBound(cfg.ResyncRate), scrubPace: transport.NewBound(cfg.ScrubRate), links: map[domain.SiteID]*transport.Link{},
	}
	for site, t := range cfg.Links {
		s.links[site] = transport.NewLink(t)
	}
	return s.run(ctx, ln)
}

// run serves iSCSI on ln, and takes lines where it is to.
func (s *service) run(ctx context.Context, ln net.Listener) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	addr := s.cfg.ISCSIPortal
	if addr == "" {
		addr = ln.Addr().String()
	}
	s.portal = &portal{srv: target.New(target.Config{Log: s.log, Portal: addr}), addr: addr, guard: s.guard}
	s.tellMetrics(s.deps.Metrics)
	s.events = bus.NewEvents(ctx, s.deps.Mesh.Local(), api.ServiceReplicator, s.log)
	s.wg.Go(func() {
		if err := s.portal.srv.Serve(ctx, ln); err != nil && ctx.Err() == nil {
			cancel(fmt.Errorf("serve iSCSI: %w", err))
		}
	})
	if s.cfg.LineListen != "" {
		s.startLines(ctx)
	}
	s.wg.Go(func() { s.heartbeat(ctx, addr) })
	s.wg.Go(func() {
		if err := s.follow(ctx); err != nil && ctx.Err() == nil {
			cancel(err)
		}
	})
	<-ctx.Done()
	s.wg.Wait()
	s.mu.Lock()
	groups := s.groups
	s.mu.Unlock()
	for _, g := range groups {
		g.Close()
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) && !errors.Is(cause, context.DeadlineExceeded) {
		return fmt.Errorf("run replicator of site %s: %w", s.cfg.Site, cause)
	}
	return nil
}

// follow waits for the site's NATS, answers the verbs, and opens every group that the desired state names here.
func (s *service) follow(ctx context.Context) error {
	local := s.deps.Mesh.Local()
	for {
		err := local.AwaitConnected(ctx)
		if err == nil {
			err = local.EnsureAssets(ctx)
		}
		if err == nil {
			break
		}
		s.log.Debug("own NATS not ready", "error", err)
		if clock.Sleep(ctx, 200*time.Millisecond) != nil {
			return ctx.Err()
		}
	}
	// Known before the verbs are answered, so that a group that is being opened is never said not to exist.
	if err := s.load(ctx); err != nil {
		s.log.Warn("desired state not read yet", "error", err)
	}
	if err := local.Serve(ctx, api.ServiceReplicator, s.endpoints()); err != nil {
		return err
	}
	data := api.QuerySubject(s.cfg.Site, api.ServiceReplicator, api.VerbResyncData)
	if err := local.Handle(ctx, data, s.resyncData); err != nil {
		return err
	}
	if err := local.Handle(ctx, api.QuerySubject(s.cfg.Site, api.ServiceReplicator, api.VerbResyncHash), s.resyncHash); err != nil {
		return err
	}
	if err := local.Handle(ctx, api.QuerySubject(s.cfg.Site, api.ServiceReplicator, api.VerbProbe), answerProbe); err != nil {
		return err
	}
	for ctx.Err() == nil {
		err := local.WatchKeys(ctx, api.BucketDesired, "group.>", func(e bus.Entry) { s.desired(ctx, e) })
		if ctx.Err() == nil {
			s.log.Warn("watch of the desired state ended", "error", err)
			_ = clock.Sleep(ctx, 200*time.Millisecond)
		}
	}
	return ctx.Err()
}

// load reads the groups that the desired state names now.
func (s *service) load(ctx context.Context) error {
	local := s.deps.Mesh.Local()
	keys, err := local.Keys(ctx, api.BucketDesired)
	if err != nil {
		return err
	}
	for _, k := range keys {
		if !strings.HasPrefix(k, "group.") {
			continue
		}
		e, err := local.Get(ctx, api.BucketDesired, k)
		if err != nil {
			return err
		}
		s.desired(ctx, e)
	}
	return nil
}

// desired opens a group of this site, once, and has it adopt what changes later. A copy of a group that is not to be here any
// more stays as it is, open until the next start: its primary lets it go.
func (s *service) desired(ctx context.Context, e bus.Entry) {
	var d api.GroupDesired
	if err := json.Unmarshal(e.Value, &d); err != nil {
		s.log.Error("desired state not readable", "key", e.Key, "error", err)
		return
	}
	id := d.Group.ID
	if !domain.ValidToken(string(id)) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.newest[id] = d
	if g := s.groups[id]; g != nil {
		s.wg.Go(func() { s.adopt(ctx, g, d) })
		return
	}
	if s.opening[id] || !slices.Contains(d.Group.SitesOf(), s.cfg.Site) {
		return
	}
	s.opening[id] = true
	delete(s.faults, id)
	s.wg.Go(func() { s.open(ctx, d.Group) })
}

// retryMost is the longest time between two attempts at what did not go and may yet.
const retryMost = 30 * time.Second

// retryFirst is the time between the first two; each further one is twice as long.
func (s *service) retryFirst() time.Duration { return cmp.Or(s.cfg.Timing.Retry, time.Second) }

// adopter is a group's copy, as far as it takes a changed policy.
type adopter interface {
	Adopt(ctx context.Context, d api.GroupDesired) error
}

// adopt has a group go by a changed definition, again and again until it does, or there is a newer one. It waits for what
// changes the group's part now.
func (s *service) adopt(ctx context.Context, g adopter, d api.GroupDesired) {
	told := ""
	for wait := s.retryFirst(); ; wait = min(2*wait, retryMost) {
		err := g.Adopt(ctx, d)
		if err == nil || ctx.Err() != nil {
			return
		}
		if err.Error() != told {
			told = err.Error()
			s.log.Error("changed policy not adopted yet", "group", string(d.Group.ID), "error", err)
		}
		if clock.Sleep(ctx, wait) != nil || !s.isNewest(d) {
			return
		}
	}
}

// isNewest reports whether no newer definition of the group is known.
func (s *service) isNewest(d api.GroupDesired) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.newest[d.Group.ID]
	return n.Epoch == d.Epoch && n.Version == d.Version
}

// open opens a group's copy. Where the disk is full it tries again: recovery writes to the volumes. Everything else that is wrong
// with a copy a person has to mend.
func (s *service) open(ctx context.Context, def domain.Group) {
	for wait := s.retryFirst(); ; wait = min(2*wait, retryMost) {
		g, err := s.openCopy(ctx, def)
		full := vfs.IsFull(err)
		if s.opened(ctx, def.ID, g, err, full); !full || clock.Sleep(ctx, wait) != nil {
			return
		}
	}
}

func (s *service) openCopy(ctx context.Context, def domain.Group) (*group.Group, error) {
	return group.Open(ctx, group.Config{
		Site: s.cfg.Site, Dir: filepath.Join(s.cfg.DataDir, string(def.ID)), JournalBytes: s.cfg.JournalBytes, PipeBytes: s.cfg.PipeBytes,
		Timing: s.cfg.Timing, Mesh: s.deps.Mesh, Portal: s.portal, Events: s.events, Tracer: s.tracer, Logger: s.log,
		Quiesce: quiesce.Hosts{Conn: s.deps.Mesh.Local(), Site: s.cfg.Site}, ScrubEvery: s.cfg.ScrubEvery, ScrubHeal: s.cfg.ScrubHeal, ResyncPace: s.resyncPace, ScrubPace: s.scrubPace, Links: s.links, Memory: &s.memory, Lines: s.lines, Credentials: s.deps.Credentials,
		CheckpointReserve: s.cfg.CheckpointReserve, Owed: s.owed,
		Healing: func(ctx context.Context, t domain.SiteID) { s.scrubHeals(ctx, def.ID, t) },
		Meter:   func(v domain.VolumeID) target.Meter { return s.meters.volume(def.ID, v) },
	}, def)
}

// opened keeps how opening a copy ended; again: it is tried once more.
func (s *service) opened(ctx context.Context, id domain.GroupID, g *group.Group, err error, again bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opening[id] = again
	if err != nil {
		if ctx.Err() == nil {
			s.log.Error("group not opened", "group", string(id), "again", again, "error", err)
		}
		s.faults[id] = err
		return
	}
	delete(s.faults, id)
	s.groups[id] = g
	newest := s.newest[id] // it may have changed while the group was opened
	s.wg.Go(func() { s.adopt(ctx, g, newest) })
	s.log.Info("group opened", "group", string(id))
}

// find gives a group that is open here.
func (s *service) find(id domain.GroupID) (*group.Group, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch g := s.groups[id]; {
	case g != nil:
		return g, nil
	case s.faults[id] != nil:
		return nil, fmt.Errorf("group %s could not be opened at site %s: %w: %w", id, s.cfg.Site, domain.ErrRefused, s.faults[id])
	case s.opening[id]:
		return nil, fmt.Errorf("group %s is being opened at site %s: %w", id, s.cfg.Site, domain.ErrUnavailable)
	}
	return nil, fmt.Errorf("group %s at site %s: %w", id, s.cfg.Site, domain.ErrNotFound)
}

func (s *service) heartbeat(ctx context.Context, probe string) {
	every := s.cfg.Heartbeat
	if every <= 0 {
		every = 500 * time.Millisecond
	}
	hb := api.Heartbeat{Site: s.cfg.Site, Node: api.ServiceReplicator, Kind: api.ServiceReplicator, Boot: ulid.Make().String(), Probe: probe}
	s.deps.Mesh.Beat(ctx, hb, every)
}

// portal is the site's iSCSI listener as a group sees it.
type portal struct {
	srv   *target.Server
	addr  string
	guard target.Guard
}

// Add implements group.Portal.
func (p *portal) Add(iqn string, u target.Unit) error {
	return p.srv.AddGuarded(iqn, map[int]target.Unit{0: u}, p.guard)
}

// Remove implements group.Portal.
func (p *portal) Remove(iqn string) error { return p.srv.RemoveTarget(iqn) }

// URL implements group.Portal.
func (p *portal) URL(iqn string) string { return "iscsi://" + p.addr + "/" + iqn + "/0" }
