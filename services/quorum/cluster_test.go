package quorum_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
	"github.com/holdfast-dr/holdfast/pkg/natsd"
	"github.com/holdfast-dr/holdfast/services/quorum"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
	"github.com/holdfast-dr/holdfast/services/quorum/filevoter"
	"github.com/holdfast-dr/holdfast/services/quorum/planner"
)

// cluster is a few sites in one process, each with its NATS server and quorum service, joined by links that can be cut.
type cluster struct {
	t      *testing.T
	model  core.Model
	voters []quorum.Voter
	timing core.Timing
	plan   planner.Input
	name   string                              // "test" by default
	show   func(domain.SiteID) tls.Certificate // to a witness service
	sites  map[domain.SiteID]*site
	bootID string
}

type site struct {
	c      *cluster
	id     domain.SiteID
	index  int
	dir    string
	addr   string // of the NATS server
	nats   *natsd.Server
	links  map[domain.SiteID]*link
	client *bus.Mesh // the tests' own, to this site only
	cancel context.CancelFunc
	ended  chan error
	faults func(domain.GroupID, filevoter.Point) error
}

// testTiming is fast, with room for a test machine that does ten other things.
func testTiming() core.Timing {
	t := core.FastTiming()
	t.G, t.Renew, t.Round = 3*time.Second, 500*time.Millisecond, 400*time.Millisecond
	return t
}

const erp = domain.GroupID("erp")

func node(id domain.SiteID) quorum.Voter {
	return quorum.Voter{Member: core.Member{ID: core.VoterID("v-" + id), Kind: core.KindNode}, Site: id}
}

// newCluster starts the named sites; w is a witness. Every service runs when it returns.
func newCluster(t *testing.T, model core.Model, voters []quorum.Voter, ids ...domain.SiteID) *cluster {
	t.Helper()
	return startCluster(&cluster{t: t, model: model, voters: voters}, ids...)
}

func startCluster(c *cluster, ids ...domain.SiteID) *cluster {
	t := c.t
	t.Helper()
	if c.name == "" {
		c.name = "test"
	}
	c.timing, c.sites, c.bootID = testTiming(), map[domain.SiteID]*site{}, "boot-1"
	for i, id := range ids {
		s := &site{c: c, id: id, index: i + 1, dir: t.TempDir(), addr: "127.0.0.1:0", links: map[domain.SiteID]*link{}}
		c.sites[id] = s
		s.startNATS()
		t.Cleanup(func() { s.nats.Stop() })
	}
	for _, s := range c.sites {
		for _, far := range c.sites {
			if far != s {
				s.links[far.id] = newLink(t, far.addr)
			}
		}
	}
	for _, s := range c.sites {
		s.client = s.dial("test")
		t.Cleanup(s.client.Close)
		if err := s.client.Local().AwaitConnected(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := s.client.Local().EnsureAssets(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.start()
	}
	return c
}

func threeSites(t *testing.T) *cluster {
	t.Helper()
	return newCluster(t, core.NodeMajority, []quorum.Voter{node("a"), node("b"), {Member: core.Member{ID: "v-w", Kind: core.KindWitness}, Site: "w"}}, "a", "b", "w")
}

func (s *site) startNATS() {
	s.c.t.Helper()
	srv, err := natsd.Start(natsd.Config{Site: s.id, Listen: s.addr, StoreDir: filepath.Join(s.dir, "nats")})
	if err != nil {
		s.c.t.Fatal(err)
	}
	s.nats, s.addr = srv, srv.Addr()
}

func (s *site) dial(service string) *bus.Mesh {
	s.c.t.Helper()
	urls := map[domain.SiteID]string{s.id: "nats://" + s.addr}
	for far, l := range s.links {
		urls[far] = "nats://" + l.addr
	}
	m, err := bus.Dial(bus.Config{Site: s.id, Service: service, URLs: urls})
	if err != nil {
		s.c.t.Fatal(err)
	}
	return m
}

func (s *site) config() quorum.Config {
	role := domain.SiteData
	if s.id == "w" {
		role = domain.SiteWitness
	}
	return quorum.Config{Cluster: s.c.name, Site: s.id, Role: role, Index: s.index, Rank: s.index - 1,
		Dir: filepath.Join(s.dir, "quorum"), MirrorDir: filepath.Join(s.dir, "mirror"),
		Model: s.c.model, Voters: s.c.voters, Timing: s.c.timing, Plan: s.c.plan}
}

// start runs the site's service and returns when it answers.
func (s *site) start() {
	s.c.t.Helper()
	ctx, cancel := context.WithCancel(s.c.t.Context())
	s.cancel, s.ended = cancel, make(chan error, 1)
	mesh := s.dial("quorum")
	ended := s.ended
	deps := quorum.Deps{Mesh: mesh, Logger: slog.New(slog.NewTextHandler(testLog{s.c.t}, nil)), BootID: s.c.bootID, Faults: s.faults}
	if s.c.show != nil {
		cert := s.c.show(s.id)
		deps.Certificate = func() (tls.Certificate, error) { return cert, nil }
	}
	cfg := s.config()
	go func() {
		err := quorum.Run(ctx, cfg, deps)
		mesh.Close()
		ended <- err
	}()
	s.c.t.Cleanup(cancel)
	s.c.await("quorum of site "+string(s.id)+" answers", func() bool {
		_, err := bus.Call[api.QuorumStatus](s.c.t.Context(), s.client.Local(), api.ServiceQuorum, api.VerbStatus, api.Empty{})
		return err == nil
	})
	for _, verb := range []string{api.VerbCampaign, api.VerbForce, api.VerbApprove, api.VerbPrevent} { // each is served from its own moment on
		s.c.await(verb+" of site "+string(s.id)+" is answered", func() bool {
			_, err := bus.Call[api.Empty](s.c.t.Context(), s.client.Local(), api.ServiceQuorum, verb, api.Empty{})
			return !errors.Is(err, domain.ErrUnavailable)
		})
	}
}

// kill ends the service as if its process were killed, and waits for the end.
func (s *site) kill() {
	s.c.t.Helper()
	s.cancel()
	select {
	case err := <-s.ended:
		if err != nil {
			s.c.t.Errorf("Run of site %s: %v, want nil after its end", s.id, err)
		}
	case <-time.After(10 * time.Second):
		s.c.t.Fatalf("quorum of site %s did not end", s.id)
	}
}

func (s *site) votePath() string { return filepath.Join(s.dir, "quorum", "votes", "test", "erp.vote") }

// vote is the content of the own voter's record.
func (s *site) vote() []byte {
	data, err := os.ReadFile(s.votePath())
	if err != nil {
		s.c.t.Error(err)
	}
	return data
}

type testLog struct{ t *testing.T }

func (l testLog) Write(b []byte) (int, error) {
	if l.t.Context().Err() == nil {
		l.t.Logf("%s", b)
	}
	return len(b), nil
}

// patience is more than what an operator's word holds for, the longest that anything here takes.
const patience = 45 * time.Second

// await polls until what holds. The services tell their state only when they are asked.
func (c *cluster) await(what string, holds func() bool) {
	c.t.Helper()
	end := time.Now().Add(patience)
	for !holds() {
		if time.Now().After(end) {
			c.t.Fatalf("waited %v in vain: %s", patience, what)
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-c.t.Context().Done():
			c.t.Fatal("the test ended: " + what)
		}
	}
}

func (s *site) campaign(req api.CampaignRequest) (api.Lease, error) {
	req.Group = erp
	if req.Members == nil {
		req.Members = []domain.SiteID{"a", "b"}
	}
	if req.TimeoutNs == 0 {
		req.TimeoutNs = int64(15 * time.Second)
	}
	ctx, cancel := context.WithTimeout(s.c.t.Context(), time.Duration(req.TimeoutNs)+5*time.Second)
	defer cancel()
	return bus.Call[api.Lease](ctx, s.client.Local(), api.ServiceQuorum, api.VerbCampaign, req)
}

func (s *site) acquire() api.Lease {
	s.c.t.Helper()
	l, err := s.campaign(api.CampaignRequest{})
	if err != nil || !l.Held {
		s.c.t.Fatalf("campaign at site %s: held %v, %v", s.id, l.Held, err)
	}
	return l
}

// lease asks as a gate does: the deadline counts from before the request was sent.
func (s *site) lease(e domain.Epoch) (api.Lease, clock.Time, error) {
	sent := clock.Now()
	l, err := bus.Call[api.Lease](s.c.t.Context(), s.client.Local(), api.ServiceQuorum, api.VerbLease, api.LeaseRequest{Group: erp, Epoch: e})
	eps := s.c.timing.Epsilon
	return l, sent.Add(time.Duration(float64(l.RemainingNs) * (1 - eps) / (1 + eps))), err
}

func (s *site) release(e domain.Epoch, to domain.SiteID) error {
	_, err := bus.Call[api.Empty](s.c.t.Context(), s.client.Local(), api.ServiceQuorum, api.VerbRelease,
		api.ReleaseRequest{Group: erp, Epoch: e, Successor: to})
	return err
}

func (s *site) inSync(e domain.Epoch, counter uint64, set ...domain.SiteID) (api.Register, error) {
	return bus.Call[api.Register](s.c.t.Context(), s.client.Local(), api.ServiceQuorum, api.VerbInSync,
		api.InSyncRequest{Group: erp, Epoch: e, Counter: counter, InSync: set})
}

// isolate cuts or joins every link of a site, both ways.
func (c *cluster) isolate(id domain.SiteID, cut bool) {
	for _, s := range c.sites {
		for far, l := range s.links {
			if s.id == id || far == id {
				l.set(cut)
			}
		}
	}
}

// facts follows the leases told in a site's events.
func (s *site) facts() <-chan event.LeaseChanged {
	out := make(chan event.LeaseChanged, 64)
	go func() {
		_ = s.client.Local().FollowEvents(s.c.t.Context(), nil, bus.FromStart, func(_ context.Context, _ event.Event, f event.Fact) {
			if l, ok := f.(*event.LeaseChanged); ok {
				out <- *l
			}
		})
	}()
	return out
}

func (c *cluster) next(facts <-chan event.LeaseChanged) event.LeaseChanged {
	c.t.Helper()
	select {
	case f := <-facts:
		return f
	case <-time.After(10 * time.Second):
		c.t.Fatal("no event came")
	}
	return event.LeaseChanged{}
}

// link is a TCP proxy in one direction of dialling; cutting it closes what is open and refuses what comes.
type link struct {
	addr, to string
	mu       sync.Mutex
	down     bool
	open     map[net.Conn]bool
}

func newLink(t *testing.T, to string) *link {
	t.Helper()
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
	k.open[near], k.open[far] = true, true
	k.mu.Unlock()
	done := make(chan error, 2)
	for _, pair := range [][2]net.Conn{{near, far}, {far, near}} {
		go func() { _, err := io.Copy(pair[0], pair[1]); done <- errors.Join(err, pair[0].Close()) }()
	}
	<-done
	<-done
	k.mu.Lock()
	delete(k.open, near)
	delete(k.open, far)
	k.mu.Unlock()
}

func (k *link) set(down bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.down = down
	if down {
		for c := range k.open {
			_ = c.Close()
		}
	}
}
