package quorum

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/otel/trace"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/telemetry"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
	"github.com/holdfast-dr/holdfast/services/quorum/diskvoter"
	"github.com/holdfast-dr/holdfast/services/quorum/filevoter"
	"github.com/holdfast-dr/holdfast/services/quorum/witness"
)

// service is one site's quorum.
type service struct {
	cfg     Config
	mesh    *bus.Mesh
	log     *slog.Logger
	tracer  trace.Tracer
	now     func() clock.Time
	initial core.Config
	voter   *filevoter.Voter // nil when the site hosts none
	peers   map[core.VoterID]*peer
	events  *bus.Events
	meters  meters
	boot    string // of this process, for event ids
	bootID  string // of the machine
	// prevented: the site may join a quorum, not form one.
	prevented atomic.Bool
	forces    forces
	// replanned asks the planner to look again.
	replanned chan struct{}
	ctx       context.Context //nolint:containedctx // the life of the service, for the loops it starts

	mu     sync.Mutex
	groups map[domain.GroupID]*group
	wg     sync.WaitGroup
	// passiveWork is not waited for at the end: a share that hangs would keep the service from ending.
	passiveWork sync.WaitGroup
	disks       map[core.VoterID]*diskvoter.Disk
	// stores are the passive voters that this site can reach.
	stores    map[core.VoterID]store
	witnesses map[core.VoterID]*witness.Client // the witness services that other installations count on, too
}

// Run votes and holds leases until ctx ends, and then returns nil at once, as if killed: nothing is released. It waits for
// no site, its own server included. Errors: a configuration that cannot be (domain.ErrInvalid), a voter directory that
// cannot be used, a bus that takes no subscription.
func Run(ctx context.Context, cfg Config, deps Deps) error {
	if cfg.Timing == (core.Timing{}) {
		cfg.Timing = core.DefaultTiming()
	}
	if err := cfg.Validate(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := newService(ctx, cfg, deps)
	if err != nil {
		return err
	}
	if s.voter != nil {
		defer s.voter.Close()
	}
	defer s.wg.Wait()
	defer cancel()
	s.tellMetrics(deps.Metrics)
	if err := s.serveVotes(ctx); err != nil {
		return err
	}
	if err := s.mesh.Local().Serve(ctx, api.ServiceQuorum, s.endpoints()); err != nil {
		return fmt.Errorf("serve quorum of site %s: %w", cfg.Site, err)
	}
	s.wg.Go(func() { s.heartbeat(ctx) })
	s.wg.Go(func() { s.plan(ctx) })
	s.log.Info("quorum ready", "model", string(cfg.Model), "voters", len(cfg.Voters))
	<-ctx.Done()
	return nil
}

func newService(ctx context.Context, cfg Config, deps Deps) (*service, error) {
	if deps.Tracer == nil {
		deps.Tracer = telemetry.Disabled()
	}
	if deps.Logger == nil {
		deps.Logger = slog.New(slog.DiscardHandler)
	}
	if deps.Now == nil {
		deps.Now = clock.Now
	}
	if deps.BootID == "" {
		id, err := filevoter.BootID()
		if err != nil {
			return nil, err
		}
		deps.BootID = id
	}
	initial, err := cfg.config()
	if err != nil {
		return nil, err
	}
	s := &service{cfg: cfg, mesh: deps.Mesh, log: deps.Logger.With("site", string(cfg.Site), "service", api.ServiceQuorum),
		tracer: deps.Tracer.Tracer("holdfast/quorum"), now: deps.Now, initial: initial, boot: rand.Text(), bootID: deps.BootID, ctx: ctx,
		groups: map[domain.GroupID]*group{}, meters: newMeters(deps.Metrics), replanned: make(chan struct{}, 1)}
	other, err := filevoter.ForgetOtherBoots(cfg.Dir, cfg.MirrorDir, deps.BootID, func() error { return forgetHeard(cfg.Dir) })
	if err != nil {
		return nil, err
	}
	s.readPrevented()
	s.log.Info("quorum starts", "other_boot", other, "prevented", s.prevented.Load())
	if own, ok := cfg.own(); ok {
		s.voter, err = filevoter.Open(filevoter.Config{ID: own.ID, Dir: filepath.Join(cfg.Dir, "votes"), Mirror: cfg.MirrorDir,
			BootID: deps.BootID, Now: s.instant, Logger: s.log, Faults: deps.Faults})
		if err != nil {
			return nil, err
		}
	}
	if err := s.openStores(); err != nil {
		return nil, err
	}
	if err := s.openWitnesses(deps.Certificate); err != nil {
		return nil, err
	}
	s.events = bus.NewEvents(ctx, deps.Mesh.Local(), api.ServiceQuorum, s.log)
	return s, s.connectPeers()
}

// instant is the clock as the core reads it.
func (s *service) instant() core.Instant { return core.Instant(s.now()) }

// incarnation keeps the nonces of two lives of a candidate apart.
func incarnation() uint64 {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	return uint64(binary.BigEndian.Uint32(b[:]))
}

// ballot is a request of the vote on the wire.
type ballot struct {
	Cluster string         `json:"cluster"`
	Group   domain.GroupID `json:"group"`
	core.Request
}

// serveVotes answers for the own voter at the own site's server.
func (s *service) serveVotes(ctx context.Context) error {
	if s.voter == nil {
		return nil
	}
	for _, verb := range core.Verbs() {
		subject := api.VoteSubject(string(s.voter.ID()), string(verb))
		err := s.mesh.Local().Handle(ctx, subject, func(ctx context.Context, data []byte) ([]byte, error) {
			var b ballot
			if err := json.Unmarshal(data, &b); err != nil {
				return nil, fmt.Errorf("decode ballot: %w: %w", domain.ErrInvalid, err)
			}
			if b.Verb != verb {
				return nil, fmt.Errorf("ballot %s on the subject of %s: %w", b.Verb, verb, domain.ErrInvalid)
			}
			if who, ok := bus.CallerOf(ctx); ok && who.Site != b.From {
				return nil, fmt.Errorf("ballot of site %s, signed by %s: %w", b.From, who, domain.ErrRefused)
			}
			resp, err := s.handle(ctx, b)
			if err != nil {
				return nil, err
			}
			return json.Marshal(resp)
		})
		if err != nil {
			return fmt.Errorf("serve votes of %s: %w", s.voter.ID(), err)
		}
	}
	return nil
}
