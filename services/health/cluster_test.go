package health_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
	"github.com/holdfast-dr/holdfast/pkg/natsd"
	"github.com/holdfast-dr/holdfast/pkg/telemetry"
	"github.com/holdfast-dr/holdfast/services/health"
)

var siteIDs = []domain.SiteID{"a", "b", "w"}

func testTiming() health.Timing {
	t := health.FastTiming()
	t.Beat = 200 * time.Millisecond // a loaded test machine is late by more than a fast beat or two
	t.NodeBeat = t.Beat
	return t
}

// cluster is three sites in one process, each with its server, its health service and a fake node, joined by links that can
// be cut.
type cluster struct {
	t     *testing.T
	sites map[domain.SiteID]*testSite
}

type testSite struct {
	id    domain.SiteID
	dir   string
	addr  string // of its server, the same after a restart
	srv   *natsd.Server
	links map[domain.SiteID]*link // from this site's clients to another site's server
	spans *tracetest.InMemoryExporter
	stop  func() // its services, as if killed
	host  *fakeHost

	mu     sync.Mutex
	events []seen
	more   chan struct{}
}

// seen is one event as a follower of the site's stream got it.
type seen struct {
	event.Event
	fact event.Fact
}

// newCluster runs three sites once they are prepared, and returns when each sees the others.
func newCluster(t *testing.T, prepare ...func(*cluster)) *cluster {
	t.Helper()
	c := &cluster{t: t, sites: map[domain.SiteID]*testSite{}}
	for _, id := range siteIDs {
		s := &testSite{id: id, dir: t.TempDir(), addr: "127.0.0.1:0", links: map[domain.SiteID]*link{}, spans: tracetest.NewInMemoryExporter(), more: make(chan struct{}, 1)}
		c.sites[id] = s
		c.serve(s)
		t.Cleanup(func() { s.srv.Stop() })
	}
	for _, s := range c.sites {
		for _, far := range c.sites {
			if far != s {
				s.links[far.id] = newLink(t, far.addr)
			}
		}
	}
	for _, s := range c.sites {
		c.follow(s)
	}
	for _, f := range prepare {
		f(c)
	}
	for _, s := range c.sites {
		c.start(s)
	}
	c.awaitAllSeen()
	return c
}

func (c *cluster) serve(s *testSite) {
	c.t.Helper()
	srv, err := natsd.Start(natsd.Config{Site: s.id, Listen: s.addr, StoreDir: s.dir})
	if err != nil {
		c.t.Fatal(err)
	}
	s.srv, s.addr = srv, srv.Addr()
}

func (c *cluster) dial(s *testSite, service string) *bus.Mesh {
	c.t.Helper()
	urls := map[domain.SiteID]string{s.id: "nats://" + s.addr}
	for far, l := range s.links {
		urls[far] = "nats://" + l.addr
	}
	m, err := bus.Dial(bus.Config{Site: s.id, Service: service, URLs: urls})
	if err != nil {
		c.t.Fatal(err)
	}
	return m
}

// follow collects the site's events over a connection of its own.
func (c *cluster) follow(s *testSite) {
	m := c.dial(s, "test")
	c.t.Cleanup(m.Close)
	if err := m.Local().AwaitConnected(c.t.Context()); err != nil {
		c.t.Fatal(err)
	}
	if err := m.Local().EnsureAssets(c.t.Context()); err != nil {
		c.t.Fatal(err)
	}
	go func() {
		_ = m.Local().FollowEvents(c.t.Context(), nil, bus.FromStart, func(_ context.Context, e event.Event, f event.Fact) {
			s.mu.Lock()
			s.events = append(s.events, seen{e, f})
			s.mu.Unlock()
			select {
			case s.more <- struct{}{}:
			default:
			}
		})
	}()
}

// start runs the site's services: health and one node, and at a and b a VM host.
func (c *cluster) start(s *testSite) {
	c.t.Helper()
	ctx, cancel := context.WithCancel(c.t.Context())
	mesh, node := c.dial(s, "health"), c.dial(s, "quorum")
	tracer, err := telemetry.New(ctx, telemetry.Config{Site: s.id, Service: "health", Exporter: s.spans})
	if err != nil {
		c.t.Fatal(err)
	}
	cfg := health.Config{Site: s.id, Role: domain.SiteData, Timing: testTiming(), Dir: filepath.Join(s.dir, "health")}
	for _, id := range siteIDs {
		cfg.Sites = append(cfg.Sites, health.Site{ID: id, Role: domain.SiteData})
	}
	if s.host != nil {
		cfg.Hosts = []health.Host{{ID: s.host.id, Probe: s.host.probe.Addr().String()}}
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := health.Run(ctx, cfg, health.Deps{Mesh: mesh, Tracer: tracer}); err != nil {
			c.t.Errorf("health of %s: %v", s.id, err)
		}
	})
	wg.Go(func() { beat(ctx, node, api.Heartbeat{Site: s.id, Node: "quorum", Kind: "quorum"}) })
	var once sync.Once
	s.stop = func() {
		once.Do(func() {
			cancel()
			wg.Wait()
			mesh.Close()
			node.Close()
		})
	}
	c.t.Cleanup(s.stop)
}

func beat(ctx context.Context, m *bus.Mesh, hb api.Heartbeat) {
	t := time.NewTicker(testTiming().Beat)
	defer t.Stop()
	for ctx.Err() == nil {
		hb.Seq++
		for _, s := range m.Sites() {
			conn, _ := m.Conn(s)
			_ = conn.PublishJSON(ctx, api.HeartbeatSubject(hb.Site, hb.Node), hb)
		}
		select {
		case <-t.C:
		case <-ctx.Done():
		}
	}
}

// await returns the first event from the given one on that f accepts.
func (c *cluster) await(s *testSite, what string, f func(seen) bool) seen {
	c.t.Helper()
	deadline := time.After(30 * time.Second)
	for i := 0; ; {
		s.mu.Lock()
		for ; i < len(s.events); i++ {
			if f(s.events[i]) {
				defer s.mu.Unlock()
				return s.events[i]
			}
		}
		s.mu.Unlock()
		select {
		case <-s.more:
		case <-deadline:
			c.t.Fatalf("site %s never told %s; it told %s", s.id, what, s.types())
		}
	}
}

func (s *testSite) types() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, e := range s.events {
		out = append(out, strings.TrimPrefix(e.Subject, "hf.v1.evt."))
	}
	return strings.Join(out, " ")
}

func disaster(fact string, of domain.SiteID) func(seen) bool {
	return func(e seen) bool {
		d, ok := e.fact.(*event.DisasterChanged)
		return ok && d.Fact == fact && d.Assessment.Site == of
	}
}

func object(kind, fact, id string) func(seen) bool {
	return func(e seen) bool {
		o, ok := e.fact.(*event.ObjectChanged)
		return ok && o.What == kind && o.Fact == fact && o.Object.ID == id
	}
}

func (c *cluster) never(s *testSite, what string) {
	c.t.Helper()
	if told := s.types(); strings.Contains(told, what) {
		c.t.Fatalf("site %s told %s: %s", s.id, what, told)
	}
}

func (c *cluster) status(s *testSite) api.HealthStatus {
	m := c.dial(s, "test")
	defer m.Close()
	if err := m.Local().AwaitConnected(c.t.Context()); err != nil {
		c.t.Fatal(err)
	}
	st, err := bus.Call[api.HealthStatus](c.t.Context(), m.Local(), api.ServiceHealth, api.VerbStatus, api.Empty{})
	if err != nil {
		return api.HealthStatus{}
	}
	return st
}

// awaitStatus polls a site's status until f accepts it: a state without an event of its own.
func (c *cluster) awaitStatus(s *testSite, what string, f func(api.HealthStatus) bool) {
	c.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		st := c.status(s)
		if f(st) {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("site %s: no %s: %+v", s.id, what, st)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// awaitAllSeen waits until every site sees every other on both paths.
func (c *cluster) awaitAllSeen() {
	c.t.Helper()
	for _, s := range c.sites {
		c.awaitStatus(s, "sight of the others", func(st api.HealthStatus) bool {
			alive := 0
			for _, o := range st.View.Observations {
				if o.Kind == "site" && o.State == api.StateAlive {
					alive++
				}
			}
			return alive == 4 && !st.View.Sick
		})
	}
}

// link is a TCP proxy that can be cut: connections end and new ones are closed at once.
type link struct {
	addr, to string
	mu       sync.Mutex
	down     bool
	open     map[net.Conn]bool
}

func newLink(t *testing.T, to string) *link {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	k := &link{addr: l.Addr().String(), to: to, open: map[net.Conn]bool{}}
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			go k.join(near)
		}
	}()
	return k
}

func (k *link) join(near net.Conn) {
	defer func() { _ = near.Close() }()
	far, err := net.Dial("tcp", k.to)
	if err != nil {
		return
	}
	defer func() { _ = far.Close() }()
	k.mu.Lock()
	if k.down {
		k.mu.Unlock()
		return
	}
	k.open[near] = true
	k.mu.Unlock()
	go func() { _, _ = io.Copy(far, near); _ = far.Close() }()
	_, _ = io.Copy(near, far)
	k.mu.Lock()
	delete(k.open, near)
	k.mu.Unlock()
}

func (k *link) cut(down bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.down = down
	for c := range k.open {
		if down {
			_ = c.Close()
		}
	}
}

// cut cuts or mends the link between two sites in both directions.
func (c *cluster) cut(a, b domain.SiteID, down bool) {
	c.sites[a].links[b].cut(down)
	c.sites[b].links[a].cut(down)
}

// fakeHost is a VM host: an agent that beats and answers, a port, and one VM's service.
type fakeHost struct {
	id    domain.HostID
	probe net.Listener
	vm    *httptest.Server
	stop  func()
}

func (c *cluster) newHost(s *testSite, id domain.HostID) *fakeHost {
	c.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	h := &fakeHost{id: id, probe: l, vm: httptest.NewServer(http.NotFoundHandler())}
	h.vm.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/healthz" {
			http.NotFound(w, r)
		}
	})
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = conn.Close()
		}
	}()
	c.runAgent(s, h)
	return h
}

func (c *cluster) runAgent(s *testSite, h *fakeHost) {
	c.t.Helper()
	ctx, cancel := context.WithCancel(c.t.Context())
	m := c.dial(s, "host")
	if err := m.Local().AwaitConnected(ctx); err != nil {
		c.t.Fatal(err)
	}
	host, portText, _ := net.SplitHostPort(h.vm.Listener.Addr().String())
	port, _ := strconv.Atoi(portText)
	status := api.HostStatus{Site: s.id, Host: h.id, VMs: []api.HostVM{{VM: "erp-1", Group: "erp", Epoch: 257, State: "running", Address: host, Port: port}}}
	err := m.Local().Serve(ctx, api.HostService(h.id), map[string]bus.Endpoint{
		api.VerbStatus: bus.Answer(func(context.Context, api.Empty) (api.HostStatus, error) { return status, nil }),
	})
	if err != nil {
		c.t.Fatal(err)
	}
	go beat(ctx, m, api.Heartbeat{Site: s.id, Node: string(h.id), Kind: "host"})
	var once sync.Once
	h.stop = func() {
		once.Do(func() {
			cancel()
			m.Close()
			_ = h.probe.Close()
			h.vm.Close()
		})
	}
	c.t.Cleanup(h.stop)
}

func (c *cluster) desire(s *testSite) {
	c.t.Helper()
	m := c.dial(s, "test")
	defer m.Close()
	if err := m.Local().AwaitConnected(c.t.Context()); err != nil {
		c.t.Fatal(err)
	}
	g := api.GroupDesired{Site: s.id, Group: domain.Group{ID: "erp", Home: s.id, VMs: []domain.VM{{ID: "erp-1"}}}}
	data, err := json.Marshal(g)
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := m.Local().CompareAndSwap(c.t.Context(), api.BucketDesired, "group.erp", data, 0); err != nil {
		c.t.Fatal(fmt.Errorf("desire: %w", err))
	}
}
