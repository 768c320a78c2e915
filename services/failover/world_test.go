package failover

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/natsd"
	"github.com/holdfast-dr/holdfast/pkg/telemetry"
)

// world is two sites, or more, with real NATS servers, and stand-ins for the other services that count effects: a repeated call is
// allowed, a second effect is not.
type world struct {
	t     *testing.T
	spans *tracetest.InMemoryExporter
	trace *telemetry.Provider
	nats  map[domain.SiteID]*natsd.Server
	urls  map[domain.SiteID]string
	sites map[domain.SiteID]*fakeSite
	group []domain.Group
	plan  domain.Plan

	mu           sync.Mutex
	effects      map[string]int // by what, where and under which epoch
	order        []string
	lease        map[domain.GroupID]*fakeLease
	refuseDemote bool
	hangs        bool                   // the replicators answer no question for an estimate
	running      map[domain.VMID]string // where, for the check that nothing runs twice
}

type fakeLease struct {
	holder, reserved domain.SiteID
	epoch            domain.Epoch
	inSync           []domain.SiteID
}

// fakeSite is what a site has besides the service under test.
type fakeSite struct {
	w         *world
	id        domain.SiteID
	stop      context.CancelFunc
	epoch     map[domain.GroupID]domain.Epoch // promoted under; 0: target
	lived     map[domain.GroupID]domain.Epoch // newest promoted under, which is not promoted under twice
	at        map[domain.GroupID]domain.LSN   // the checkpoint promoted at
	decided   map[domain.GroupID]string       // by what
	goingBack chan struct{}                   // nil, or closed when a copy is back at its checkpoint
	backTo    domain.LSN
	stopping  bool           // its replicator gives up serving when it is next asked to protect
	broken    domain.GroupID // its copy of this one cannot be promoted
	// its volumes go when a host next logs in to them
	vanishing bool
	records   map[string]api.DNSRecord
	hosts     map[domain.HostID]*fakeHost
	disaster  map[domain.SiteID]bool
	deadHost  map[domain.HostID]bool // on one path
	// aliveHost has it alive on another
	aliveHost map[domain.HostID]bool
	dns       string
	told      int  // answers of its health service
	dying     bool // its quorum service dies with the next candidacy
	forgotten bool // it died, and nobody competed since
}

type fakeHost struct {
	id   domain.HostID
	stop context.CancelFunc
	vms  map[domain.VMID]*fakeVM
}

type fakeVM struct {
	api.HostVM
	srv *http.Server
}

func freePort(t *testing.T) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port
}

func testGroup(t *testing.T, id domain.GroupID, mode domain.Mode, vms ...domain.VMID) domain.Group {
	g := domain.Group{ID: id, Home: "a", Targets: []domain.Target{{Site: "b", Mode: mode}}, Failover: domain.FailoverAuto, HoldDown: 50 * time.Millisecond,
		Volumes: []domain.Volume{{ID: "data", SizeBytes: 4096}}}
	for i, v := range vms {
		g.VMs = append(g.VMs, domain.VM{ID: v, Volumes: []domain.VolumeID{"data"}, Priority: i, DNS: []string{string(v) + ".example.test."}, Port: freePort(t),
			Sites: map[domain.SiteID]domain.VMPlacement{
				"a": {Address: "127.0.1.1", Hosts: []domain.HostID{"a-h1", "a-h2"}}, "b": {Address: "127.0.2.1", Hosts: []domain.HostID{"b-h1", "b-h2"}}}})
	}
	return g
}

func newWorld(t *testing.T, groups ...domain.Group) *world {
	return newWorldOf(t, []domain.SiteID{"a", "b"}, groups...)
}

func newWorldOf(t *testing.T, sites []domain.SiteID, groups ...domain.Group) *world {
	w := &world{t: t, spans: tracetest.NewInMemoryExporter(), nats: map[domain.SiteID]*natsd.Server{}, urls: map[domain.SiteID]string{},
		sites: map[domain.SiteID]*fakeSite{}, group: groups, plan: domain.Plan{ID: "all"}, effects: map[string]int{},
		lease: map[domain.GroupID]*fakeLease{}, running: map[domain.VMID]string{}}
	var err error
	if w.trace, err = telemetry.New(t.Context(), telemetry.Config{Service: "holdfast-failover", Exporter: w.spans}); err != nil {
		t.Fatal(err)
	}
	for i, g := range groups {
		w.plan.Groups = append(w.plan.Groups, domain.PlanGroup{Group: g.ID, Priority: i})
		l := &fakeLease{inSync: []domain.SiteID{"a"}}
		if g.ModeTo("a", "b") == domain.ModeSync {
			l.inSync = append(l.inSync, "b")
		}
		w.lease[g.ID] = l
	}
	for _, id := range sites {
		s, err := natsd.Start(natsd.Config{Site: id, Listen: "127.0.0.1:0", StoreDir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Stop)
		w.nats[id], w.urls[id] = s, s.URL()
	}
	for _, id := range sites {
		w.addSite(id)
	}
	return w
}

func (w *world) addSite(id domain.SiteID) {
	ctx, cancel := context.WithCancel(w.t.Context())
	s := &fakeSite{w: w, id: id, stop: cancel, epoch: map[domain.GroupID]domain.Epoch{}, lived: map[domain.GroupID]domain.Epoch{}, records: map[string]api.DNSRecord{},
		hosts: map[domain.HostID]*fakeHost{}, disaster: map[domain.SiteID]bool{}, deadHost: map[domain.HostID]bool{}, aliveHost: map[domain.HostID]bool{}}
	w.sites[id] = s
	m := w.mesh(id)
	local := m.Local()
	if err := local.EnsureAssets(ctx); err != nil {
		w.t.Fatal(err)
	}
	s.serveDNS(ctx)
	for service, endpoints := range map[string]map[string]bus.Endpoint{
		api.ServiceQuorum: s.quorum(), api.ServiceReplicator: s.replicator(), api.ServiceDNS: s.names(), api.ServiceHealth: s.health(),
	} {
		if err := local.Serve(ctx, service, endpoints); err != nil {
			w.t.Fatal(err)
		}
	}
	for _, n := range []string{"-h1", "-h2"} {
		hctx, hstop := context.WithCancel(ctx)
		h := &fakeHost{id: domain.HostID(string(id) + n), stop: hstop, vms: map[domain.VMID]*fakeVM{}}
		s.hosts[h.id] = h
		if err := local.Serve(hctx, api.HostService(h.id), s.host(h)); err != nil {
			w.t.Fatal(err)
		}
	}
	w.t.Cleanup(func() {
		cancel()
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, h := range s.hosts {
			for _, vm := range h.vms {
				_ = vm.srv.Close()
			}
		}
	})
}

func (w *world) mesh(id domain.SiteID) *bus.Mesh {
	m, err := bus.Dial(bus.Config{Site: id, Service: "test", URLs: w.urls})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(m.Close)
	if err := m.Local().AwaitConnected(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	return m
}

// fast timings for tests.
func timings() Timings {
	return Timings{Tick: 50 * time.Millisecond, Pull: 50 * time.Millisecond, Copy: 200 * time.Millisecond, BootWait: time.Second, Call: 4 * time.Second,
		Campaign: time.Second, Demote: 2 * time.Second, Patience: 20 * time.Second, Retry: 10 * time.Millisecond, MaxRetry: 50 * time.Millisecond,
		StopGrace: 100 * time.Millisecond, Evacuated: 30 * time.Second, Backoff: time.Second, Epsilon: 0.01}
}

// start runs the service of a site until the returned function is called, which waits for it to end.
func (w *world) start(id domain.SiteID, hook func(ctx context.Context, kill func(), moment string, r api.Run, st api.Step)) (kill func(), ended <-chan struct{}) {
	ctx, cancel := context.WithCancel(w.t.Context())
	deps := Deps{Mesh: w.mesh(id), Tracer: w.trace}
	if os.Getenv("FAILOVER_LOG") != "" {
		deps.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	if hook != nil {
		deps.hook = func(ctx context.Context, moment string, r api.Run, st api.Step) { hook(ctx, cancel, moment, r, st) }
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		cfg := Config{Site: id, Role: domain.SiteData, Groups: w.group, Plans: []domain.Plan{w.plan}, DNSAuthority: w.sites[id].dns, Timings: timings(),
			Hosts: map[domain.SiteID][]domain.HostID{id: slices.Collect(maps.Keys(w.sites[id].hosts))}}
		if err := Run(ctx, cfg, deps); err != nil {
			w.t.Errorf("service of site %s: %v", id, err)
		}
		deps.Mesh.Close()
	}()
	stop := func() { cancel(); <-done }
	w.t.Cleanup(stop)
	return stop, done
}

// effect counts one effect; w.mu is held.
func (w *world) effect(format string, args ...any) {
	what := fmt.Sprintf(format, args...)
	w.effects[what]++
	w.order = append(w.order, what)
}

// eventually waits for a condition, which is asked with w.mu held.
func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	end := time.Now().Add(60 * time.Second)
	for {
		w.mu.Lock()
		done := ok()
		w.mu.Unlock()
		if done {
			return
		}
		if time.Now().After(end) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.t.Fatalf("never came true: %s\neffects: %s\nrunning: %v", what, strings.Join(w.order, ", "), w.running)
		}
		time.Sleep(5 * time.Millisecond) // a poll of a condition, not a wait for its truth
	}
}

// comes asks services again and again until nothing is missing any more; ask says what is.
func (w *world) comes(within time.Duration, ask func() (missing string)) {
	w.t.Helper()
	end := time.Now().Add(within)
	for missing := ask(); missing != ""; missing = ask() {
		if time.Now().After(end) {
			w.t.Fatal(missing)
		}
		time.Sleep(20 * time.Millisecond) // a poll of a condition
	}
}

// runsAt waits until a VM answers at a site.
func (w *world) runsAt(vm domain.VMID, where string) {
	w.t.Helper()
	w.eventually(fmt.Sprintf("vm %s runs at %s", vm, where), func() bool { return strings.HasPrefix(w.running[vm], where) })
}

// runs asks a site's service for its runs.
func (w *world) runs(id domain.SiteID) []api.Run {
	w.t.Helper()
	m := w.mesh(id)
	defer m.Close()
	l, err := bus.Call[api.RunList](w.t.Context(), m.Local(), api.ServiceFailover, api.VerbRunList, api.Empty{})
	if err != nil {
		w.t.Fatal(err)
	}
	return l.Runs
}

// awaitRun waits until a site knows a run of the kind in the state.
func (w *world) awaitRun(id domain.SiteID, kind, state string) api.Run {
	w.t.Helper()
	end := time.Now().Add(60 * time.Second)
	m := w.mesh(id)
	defer m.Close()
	for {
		l, _ := bus.Call[api.RunList](w.t.Context(), m.Local(), api.ServiceFailover, api.VerbRunList, api.Empty{})
		for _, r := range l.Runs {
			if r.Kind == kind && r.State == state {
				return r
			}
		}
		if time.Now().After(end) {
			for _, r := range l.Runs {
				w.t.Logf("run %s %s %s: %s", r.ID, r.Kind, r.State, r.Error)
				for _, st := range r.Steps {
					w.t.Logf("  %s %s %s", st.ID, st.State, st.Error)
				}
			}
			w.t.Fatalf("site %s never had a run %s %s", id, kind, state)
		}
		time.Sleep(30 * time.Millisecond)
	}
}

// order a run of a site.
func (w *world) request(id domain.SiteID, req api.RunStartRequest) (api.Run, error) {
	m := w.mesh(id)
	defer m.Close()
	ctx, cancel := context.WithTimeout(w.t.Context(), 10*time.Second)
	defer cancel()
	return bus.Call[api.Run](ctx, m.Local(), api.ServiceFailover, api.VerbRunStart, req)
}

// once fails when anything took effect twice.
func (w *world) once() {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for what, n := range w.effects {
		if n != 1 {
			w.t.Errorf("%s took effect %d times", what, n)
		}
	}
}

// loseSite kills everything of a site; its lease ends.
func (w *world) loseSite(id domain.SiteID, kill func()) {
	kill()
	s := w.sites[id]
	s.stop()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, h := range s.hosts {
		for _, vm := range h.vms {
			s.halt(h, vm)
		}
	}
	for _, l := range w.lease {
		if l.holder == id {
			l.holder = ""
		}
	}
}
