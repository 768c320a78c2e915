package failover

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
	"github.com/holdfast-dr/holdfast/services/failover/desired"
	"github.com/holdfast-dr/holdfast/services/failover/run"
)

// service is one running failover service. mu guards what stands below it.
type service struct {
	cfg    Config
	mesh   *bus.Mesh
	tracer trace.Tracer
	log    *slog.Logger
	hook   func(context.Context, string, api.Run, api.Step)
	events *bus.Events
	meters meters
	store  *desired.Store
	jour   *run.Journal
	copies *copies
	ledger *ledger
	peers  map[domain.SiteID]*peer
	web    *http.Client
	life   context.Context //nolint:containedctx // the life of the service, which outlives the request that begins a run
	wg     sync.WaitGroup
	kick   chan struct{} // wakes the reconciler
	alarm  chan struct{} // wakes the policy

	waiting map[domain.GroupID]clock.Time // the reconciler's own: since when another site is said to hold a lease

	starting  sync.Mutex // held from the check that a group is free until its run, or its VM, stands
	closed    bool       // under starting: nothing is begun any more
	mu        sync.Mutex
	runs      []*run.Live // oldest first
	evacuated map[domain.GroupID]evacuation
	abandoned map[domain.GroupID]domain.Epoch // moved away in vain, under which epoch
	backoff   map[domain.GroupID]backoff
	hosts     map[domain.HostID]hostView
	lost      lostSites
}

// evacuation says that a group is held down here for a run that another site leads.
type evacuation struct {
	run   domain.RunID
	epoch domain.Epoch
	heard clock.Time // when the run was last known to go on
}

type backoff struct {
	next clock.Time
	wait time.Duration
}

const (
	keptRuns = 200
	beat     = 500 * time.Millisecond
)

// Run is the service. It returns when ctx ends (nil), or with an error in its configuration. Cancelling ctx stops it at once, as
// if killed; started again it goes on with the runs it leads.
func Run(ctx context.Context, cfg Config, deps Deps) error {
	cfg = cfg.withDefaults()
	if err := cfg.Validate(); err != nil {
		return err
	}
	s := newService(ctx, cfg, deps)
	s.tellMetrics(deps.Metrics)
	defer s.close()
	defer s.web.CloseIdleConnections()
	s.wg.Go(func() {
		s.mesh.Beat(ctx, api.Heartbeat{Site: cfg.Site, Node: api.ServiceFailover, Kind: api.ServiceFailover, Boot: rand.Text()}, beat)
	})
	if !s.begin(ctx) {
		return nil
	}
	for _, p := range s.peers {
		s.wg.Go(func() { s.copyDesired(ctx, p) })
		s.wg.Go(func() { s.copyRuns(ctx, p) })
	}
	s.wg.Go(func() { s.store.Watch(ctx, s.cfg.Timings.Copy, s.wake) })
	s.wg.Go(func() { s.guard(ctx) })
	s.wg.Go(func() { s.watchHosts(ctx) })
	if !s.retry(ctx, "serve api", func() error { return s.mesh.Local().Serve(ctx, api.ServiceFailover, s.endpoints()) }) {
		return nil
	}
	s.awaitPeers(ctx)
	s.resume()
	s.wg.Go(func() { s.takeCommands(ctx) })
	s.wg.Go(func() { s.followHealth(ctx) })
	s.wg.Go(func() { s.decide(ctx) })
	s.wg.Go(func() { s.bringHome(ctx) })
	s.wg.Go(func() { s.carryDrain(ctx) })
	s.wg.Go(func() { s.tellActs(ctx) })
	s.wg.Go(func() { s.retain(ctx) })
	s.reconcile(ctx)
	return nil
}

func newService(ctx context.Context, cfg Config, deps Deps) *service {
	log := deps.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	log = log.With("site", string(cfg.Site), "service", api.ServiceFailover)
	local := deps.Mesh.Local()
	s := &service{cfg: cfg, mesh: deps.Mesh, tracer: deps.Tracer.Tracer("holdfast/failover"), log: log, hook: deps.hook, life: ctx,
		events: bus.NewEvents(ctx, local, api.ServiceFailover, log), meters: newMeters(deps.Metrics), copies: newCopies(), ledger: newLedger(),
		web:  &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: cfg.Timings.Call},
		kick: make(chan struct{}, 1), alarm: make(chan struct{}, 1), evacuated: map[domain.GroupID]evacuation{}, backoff: map[domain.GroupID]backoff{}, abandoned: map[domain.GroupID]domain.Epoch{},
		hosts: map[domain.HostID]hostView{}, lost: lostSites{news: make(chan struct{})}, waiting: map[domain.GroupID]clock.Time{}, peers: map[domain.SiteID]*peer{}}
	s.store = desired.NewStore(local, s.publish)
	s.jour = run.NewJournal(local, s.copies.add)
	for _, site := range deps.Mesh.Peers() {
		if conn, err := deps.Mesh.Conn(site); err == nil {
			s.peers[site] = newPeer(conn)
		}
	}
	return s
}

// close ends the service: nothing more is begun, and all that runs is waited for.
func (s *service) close() {
	s.starting.Lock()
	s.closed = true
	s.starting.Unlock()
	s.wg.Wait()
}

// begin waits for the own server, makes the assets, seeds desired state and loads the runs. It reports whether ctx still lives.
func (s *service) begin(ctx context.Context) bool {
	local := s.mesh.Local()
	if local.AwaitConnected(ctx) != nil {
		return false
	}
	return s.retry(ctx, "make assets", func() error { return local.EnsureAssets(ctx) }) &&
		s.retry(ctx, "seed desired state", func() error { return s.store.Seed(ctx, s.cfg.Groups, s.cfg.Plans) }) &&
		s.retry(ctx, "read desired state", func() error { return s.store.Prime(ctx) }) &&
		s.retry(ctx, "load runs", func() error {
			runs, err := s.jour.Load(ctx, s.cfg.Site, keptRuns, nil)
			if err == nil {
				s.mu.Lock()
				s.runs = runs
				s.mu.Unlock()
				s.recallEvacuations(runs)
			}
			return err
		})
}

// tellTries is how often in a row something fails before it is told, at the soonest.
const tellTries = 3

// retry repeats f until it succeeds or ctx ends, and reports which. What goes on failing, for five of the longest waits, is told: once for
// each change of its reason, and when it is over.
func (s *service) retry(ctx context.Context, what string, f func() error) bool {
	began, told := clock.Now(), ""
	for failed := 1; ctx.Err() == nil; failed++ {
		err := f()
		switch {
		case err == nil:
			if told != "" {
				s.log.Info("done at last", "what", what, "attempts", failed)
			}
			return true
		case ctx.Err() != nil:
			return false
		case failed < tellTries || clock.Now().Sub(began) < 5*s.cfg.Timings.MaxRetry || err.Error() == told:
			s.log.Debug("not ready yet", "what", what, "error", err)
		default:
			told = err.Error()
			s.log.Warn("fails again and again, and is tried on", "what", what, "attempts", failed, "mend", mendOf(err), "error", err)
		}
		_ = clock.Sleep(ctx, s.cfg.Timings.Retry)
	}
	return false
}

// mendOf is what to look at when the own site's server does not take or give what it should.
func mendOf(err error) string {
	switch {
	case errors.Is(err, domain.ErrUnavailable):
		return "see that this site's NATS server runs and answers, and that its disk has room"
	case errors.Is(err, domain.ErrNotFound):
		return "see that this site's quorum service runs: it makes the streams"
	}
	return "see the log of this site's NATS server, the room on its disk, and that this service's credentials are not of an older version (holdfast site rotate)"
}

func (s *service) publish(ctx context.Context, id string, f event.Fact) {
	s.meters.observe(f)
	s.events.Publish(ctx, id, f)
}

// wake makes the reconciler look now.
func (s *service) wake() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
	s.copies.wake()
}
