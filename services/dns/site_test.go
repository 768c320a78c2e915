package dns_test

import (
	"context"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
	"github.com/holdfast-dr/holdfast/pkg/natsd"
	"github.com/holdfast-dr/holdfast/pkg/telemetry"
	"github.com/holdfast-dr/holdfast/services/dns"
	"github.com/holdfast-dr/holdfast/services/dns/authority"
)

const (
	name     = "erp.hf.example."
	addressA = "10.1.0.10"
	addressB = "10.2.0.10"
)

var (
	e1 = domain.NewEpoch(0, 1, 1)
	e2 = domain.NewEpoch(0, 2, 2)
	e3 = domain.NewEpoch(0, 3, 1)
)

// site is one site with its NATS server, its mesh, a quorum that says what the test wants, and a dns service that can be
// killed and started again.
type site struct {
	t     *testing.T
	mesh  *bus.Mesh
	cfg   dns.Config
	spans *tracetest.InMemoryExporter
	held  sync.Map // domain.GroupID -> bool
	addr  string
	stop  func()
}

// sites starts the NATS servers and meshes of the data sites a and b; their dns services do not run yet.
func sites(t *testing.T) (a, b *site) {
	t.Helper()
	urls := map[domain.SiteID]string{}
	for _, id := range []domain.SiteID{"a", "b"} {
		n, err := natsd.Start(natsd.Config{Site: id, Listen: "127.0.0.1:0", StoreDir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(n.Stop)
		urls[id] = n.URL()
	}
	return newSite(t, "a", "b", 1, addressA, urls), newSite(t, "b", "a", 2, addressB, urls)
}

func newSite(t *testing.T, id, peer domain.SiteID, index int, own string, urls map[domain.SiteID]string) *site {
	t.Helper()
	mesh, err := bus.Dial(bus.Config{Site: id, Service: "test", URLs: urls})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(mesh.Close)
	for _, s := range mesh.Sites() {
		c, _ := mesh.Conn(s)
		if err := c.AwaitConnected(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := mesh.Local().EnsureAssets(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, mesh: mesh, spans: tracetest.NewInMemoryExporter()}
	s.cfg = dns.Default()
	s.cfg.Site, s.cfg.SiteIndex, s.cfg.OwnAddresses, s.cfg.Peers = id, index, []string{own}, []domain.SiteID{peer}
	s.cfg.Zone, s.cfg.Listen, s.cfg.StateFile = "hf.example", "127.0.0.1:0", filepath.Join(t.TempDir(), "zone")
	s.cfg.Authority = authority.Config{NameServers: []string{"ns-a.hf.example", "ns-b.hf.example"}}
	s.cfg.Records = []api.DNSRecord{{Name: name, Type: "A", Value: addressA, TTL: 5, Group: "erp"}}
	s.cfg.LeasePoll = 50 * time.Millisecond
	err = mesh.Local().Serve(t.Context(), api.ServiceQuorum, map[string]bus.Endpoint{
		api.VerbLease: bus.Answer(func(_ context.Context, r api.LeaseRequest) (api.Lease, error) {
			held, _ := s.held.Load(r.Group)
			l := api.Lease{Group: r.Group, Held: held == true}
			if l.Held {
				l.RemainingNs = int64(time.Second)
			}
			return l, nil
		}),
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// start runs the dns service until kill or the test's end, and returns when it answers questions.
func (s *site) start() {
	s.t.Helper()
	provider, err := telemetry.New(s.t.Context(), telemetry.Config{Site: s.cfg.Site, Service: "dns", Exporter: s.spans})
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(s.t.Context())
	ready, ended := make(chan string, 1), make(chan error, 1)
	go func() {
		ended <- dns.Run(ctx, s.cfg, dns.Deps{Mesh: s.mesh, Tracer: provider, Log: slog.New(slog.DiscardHandler), Ready: func(addr string) { ready <- addr }})
	}()
	var once sync.Once
	s.stop = func() {
		once.Do(func() {
			cancel()
			began := time.Now()
			if err := <-ended; err != nil {
				s.t.Error(err)
			}
			if d := time.Since(began); d > 2*time.Second {
				s.t.Errorf("it took %s to stop", d)
			}
		})
	}
	s.t.Cleanup(s.stop)
	select {
	case s.addr = <-ready:
		if s.addr != "" {
			s.cfg.Listen = s.addr // the same when it is started again
		}
	case err := <-ended:
		ended <- nil
		s.t.Fatal(err)
	}
}

func (s *site) change(old, to string, e domain.Epoch) (api.DNSChanged, error) {
	return bus.Call[api.DNSChanged](s.t.Context(), s.mesh.Local(), api.ServiceDNS, api.VerbChange,
		api.DNSChange{Name: name, Type: "A", Old: old, New: to, TTL: 5, Group: "erp", Epoch: e})
}

func (s *site) mustChange(old, to string, e domain.Epoch) api.DNSChanged {
	s.t.Helper()
	r, err := s.change(old, to, e)
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// resolve asks the site's authority: the address, or the rcode's name.
func resolve(t *testing.T, addr string) string {
	t.Helper()
	c := mdns.Client{Timeout: 3 * time.Second}
	r, _, err := c.Exchange(new(mdns.Msg).SetQuestion(name, mdns.TypeA), addr)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Answer) == 1 {
		return r.Answer[0].(*mdns.A).A.String()
	}
	return mdns.RcodeToString[r.Rcode]
}

// becomes waits until the site's authority answers want.
func (s *site) becomes(want string) {
	s.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for resolve(s.t, s.addr) != want {
		if time.Now().After(deadline) {
			s.t.Fatalf("site %s answers %s, want %s", s.cfg.Site, resolve(s.t, s.addr), want)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// facts hands over each name event of the site as it is stored.
func (s *site) facts() <-chan *event.NameChanged {
	out := make(chan *event.NameChanged, 64)
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.mesh.Local().FollowEvents(ctx, []string{"hf.v1.evt." + string(s.cfg.Site) + ".name.>"}, bus.FromStart,
			func(_ context.Context, _ event.Event, f event.Fact) { out <- f.(*event.NameChanged) })
	}()
	s.t.Cleanup(func() { cancel(); <-done })
	return out
}

func next(t *testing.T, facts <-chan *event.NameChanged) event.NameChanged {
	t.Helper()
	select {
	case f := <-facts:
		return *f
	case <-time.After(10 * time.Second):
		t.Fatal("no event")
		return event.NameChanged{}
	}
}

func spansOf(s *site, name string) (out tracetest.SpanStubs) {
	for _, span := range s.spans.GetSpans() {
		if span.Name == name {
			out = append(out, span)
		}
	}
	return out
}
