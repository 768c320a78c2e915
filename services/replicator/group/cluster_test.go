package group

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace/noop"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
	"github.com/holdfast-dr/holdfast/pkg/natsd"
	"github.com/holdfast-dr/holdfast/services/replicator/journal/vfs"
	"github.com/holdfast-dr/holdfast/services/replicator/line"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
	"github.com/holdfast-dr/holdfast/services/replicator/transport"
)

// register is a stand-in for the quorum of all sites: it grants what the test says and keeps the in-sync set.
type register struct {
	mu      sync.Mutex
	holder  domain.SiteID
	epoch   domain.Epoch
	left    time.Duration
	inSync  []domain.SiteID
	counter uint64
	blocked bool   // in-sync requests find no majority
	lost    bool   // in-sync requests are carried out, their answers lost
	onLease func() // called at each question about the lease, outside the lock
	onAsked func() // called at each in-sync request, under the lock
	asked   int    // in-sync requests seen
	history [][]domain.SiteID
}

func (q *register) grant(site domain.SiteID, epoch domain.Epoch) []domain.SiteID {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.holder, q.epoch, q.counter = site, epoch, 0
	return slices.Clone(q.inSync)
}

func (q *register) block(on bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.blocked = on
}

func (q *register) lose(on bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.lost = on
}

// requests is how many in-sync requests were made.
func (q *register) requests() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.asked
}

// seen has f called after each in-sync request from now on.
func (q *register) seen(f func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.onAsked = f
}

func (q *register) set() []domain.SiteID {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Clone(q.inSync)
}

func (q *register) lease(site domain.SiteID) func(context.Context, api.LeaseRequest) (api.Lease, error) {
	return func(_ context.Context, r api.LeaseRequest) (api.Lease, error) {
		if q.onLease != nil {
			q.onLease()
		}
		q.mu.Lock()
		defer q.mu.Unlock()
		held := q.holder == site && (r.Epoch == 0 || r.Epoch == q.epoch)
		return api.Lease{Group: r.Group, Held: held, Holder: q.holder, Epoch: q.epoch, RemainingNs: int64(q.left), InSync: q.inSync}, nil
	}
}

func (q *register) change(site domain.SiteID) func(context.Context, api.InSyncRequest) (api.Register, error) {
	return func(_ context.Context, r api.InSyncRequest) (api.Register, error) {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.asked++
		if q.onAsked != nil {
			defer q.onAsked()
		}
		switch {
		case q.holder != site || q.epoch != r.Epoch:
			return api.Register{}, domain.ErrNoLease
		case q.blocked:
			return api.Register{}, domain.ErrNoQuorum
		case r.Counter <= q.counter:
			return api.Register{}, domain.ErrConflict
		}
		q.counter, q.inSync = r.Counter, slices.Clone(r.InSync)
		q.history = append(q.history, q.inSync)
		if q.lost {
			return api.Register{}, domain.ErrNoQuorum
		}
		return api.Register{WriteEpoch: r.Epoch, InSync: r.InSync}, nil
	}
}

// fakePortal keeps the units a group serves.
type fakePortal struct {
	mu    sync.Mutex
	units map[string]target.Unit
	adds  func() // called before each
}

func (p *fakePortal) Add(iqn string, u target.Unit) error {
	if p.adds != nil {
		p.adds()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.units[iqn] != nil {
		return domain.ErrConflict
	}
	p.units[iqn] = u
	return nil
}

func (p *fakePortal) Remove(iqn string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.units, iqn)
	return nil
}

func (p *fakePortal) URL(iqn string) string { return "iscsi://test/" + iqn + "/0" }

func (p *fakePortal) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.units)
}

// facts keeps what was published.
type facts struct {
	mu  sync.Mutex
	all []event.Fact
}

func (f *facts) Publish(_ context.Context, _ string, fact event.Fact) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all = append(f.all, fact)
}

func (f *facts) has(name string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, x := range f.all {
		if _, n := x.Key(); n == name {
			return true
		}
	}
	return false
}

// node is one site with its NATS server and its copy of the group.
type node struct {
	t      *testing.T
	id     domain.SiteID
	srv    *natsd.Server
	dir    string
	nats   string       // the server's folder
	mute   bool         // see cluster
	skew   atomic.Int64 // added to the clock of the leases
	fail   atomic.Pointer[func(string) error]
	free   atomic.Int64 // the room that its disk says it has; 0: what it has
	portal *fakePortal
	facts  *facts
	lines  *line.Server // nil: it takes none

	cancel context.CancelFunc
	mesh   *bus.Mesh
	g      *Group
}

func (n *node) serveNATS(listen string) {
	n.t.Helper()
	srv, err := natsd.Start(natsd.Config{Site: n.id, Listen: listen, StoreDir: n.nats})
	if err != nil {
		n.t.Fatal(err)
	}
	n.srv = srv
}

// restartNATS ends a site's server and starts it anew at the same address.
func (n *node) restartNATS() {
	n.t.Helper()
	address := strings.TrimPrefix(n.srv.URL(), "nats://")
	n.srv.Stop()
	n.serveNATS(address)
}

type cluster struct {
	wire  *wire // what lines go through; nil: nothing
	lines bool  // sites take changes by lines, from their next boot on
	late  bool  // but offer none at first, as their port is taken
	t     *testing.T
	def   domain.Group
	pace  Timing // of the sites booted from now on
	scrub time.Duration
	heal  bool                // by the schedule
	heals func(domain.SiteID) // told of it
	rate  int64               // of resyncs, bytes a second
	pipe  int64               // bytes of a pipe
	mute  domain.SiteID       // answers for no sums, as before there were any
	links map[domain.SiteID]*transport.Link
	quo   *register
	nodes map[domain.SiteID]*node
	urls  map[domain.SiteID]string
	far   map[domain.SiteID]*farLink // ways to sites from the others, of those booted from now on

	version uint64 // of the definition
}

var fastTiming = Timing{Pull: 30 * time.Millisecond, TargetTimeout: time.Second, LinkTimeout: 200 * time.Millisecond,
	Head: 20 * time.Millisecond, Retry: 20 * time.Millisecond, Checkpoint: 100 * time.Millisecond, Hold: 100 * time.Millisecond}

const (
	volumeBytes = 8 << 20
	// reserveBytes is what a site keeps free of what is written to open checkpoints.
	reserveBytes = 1 << 20
)

// newCluster starts sites a, b, ... whose group has two volumes; modes are those of b, c, ...
func newCluster(t *testing.T, modes ...domain.Mode) *cluster {
	t.Helper()
	def := domain.Group{ID: "erp", Home: "a", Durability: domain.DurabilityStrict, OnTargetLoss: domain.TargetLossDegrade,
		Volumes: []domain.Volume{{ID: "data", SizeBytes: volumeBytes}, {ID: "log", SizeBytes: volumeBytes}}}
	c := &cluster{t: t, lines: byLine(t.Name()), pipe: 16 << 20, pace: fastTiming, quo: &register{left: 30 * time.Second, inSync: []domain.SiteID{"a"}}, nodes: map[domain.SiteID]*node{}, urls: map[domain.SiteID]string{}}
	for i, m := range modes {
		site := domain.SiteID(rune('b' + i))
		def.Targets = append(def.Targets, domain.Target{Site: site, Mode: m})
		if m == domain.ModeSync {
			c.quo.inSync = append(c.quo.inSync, site)
		}
	}
	c.def = def
	for _, site := range def.SitesOf() {
		n := &node{t: t, id: site, dir: t.TempDir(), nats: t.TempDir()}
		n.serveNATS("127.0.0.1:0")
		t.Cleanup(func() { n.srv.Stop() })
		c.urls[site], c.nodes[site] = n.srv.URL(), n
	}
	for _, site := range def.SitesOf() {
		c.quorum(site)
	}
	return c
}

func (c *cluster) dial(ctx context.Context, site domain.SiteID, service string) *bus.Mesh {
	c.t.Helper()
	urls := maps.Clone(c.urls)
	for to, l := range c.far {
		if to != site {
			urls[to] = l.url()
		}
	}
	m, err := bus.Dial(bus.Config{Site: site, Service: service, URLs: urls})
	if err != nil {
		c.t.Fatal(err)
	}
	if err := m.Local().AwaitConnected(ctx); err != nil {
		c.t.Fatal(err)
	}
	return m
}

func (c *cluster) quorum(site domain.SiteID) {
	c.t.Helper()
	m := c.dial(c.t.Context(), site, "quorum")
	c.t.Cleanup(m.Close)
	if err := m.Local().EnsureAssets(c.t.Context()); err != nil {
		c.t.Fatal(err)
	}
	err := m.Local().Serve(c.t.Context(), api.ServiceQuorum, map[string]bus.Endpoint{
		api.VerbLease: bus.Answer(c.quo.lease(site)), api.VerbInSync: bus.Answer(c.quo.change(site)),
	})
	if err != nil {
		c.t.Fatal(err)
	}
}

// boot starts the copy at a site, as a process does.
func (c *cluster) boot(sites ...domain.SiteID) {
	c.t.Helper()
	for _, site := range sites {
		if err := c.open(site); err != nil {
			c.t.Fatalf("boot %s: %v", site, err)
		}
	}
}

// open is boot of one site, whose copy may not open.
func (c *cluster) open(site domain.SiteID) error {
	c.t.Helper()
	n := c.nodes[site]
	ctx, cancel := context.WithCancel(context.WithoutCancel(c.t.Context()))
	n.cancel = cancel
	n.mesh = c.dial(ctx, site, "replicator")
	n.portal = &fakePortal{units: map[string]target.Unit{}}
	if n.facts == nil {
		n.facts = &facts{}
	}
	cfg := Config{Site: site, Dir: n.dir, JournalBytes: 16 << 20, PipeBytes: c.pipe, Timing: c.pace, Mesh: n.mesh, Portal: n.portal, Events: n.facts, ScrubEvery: c.scrub, ScrubHeal: c.heal, CheckpointReserve: reserveBytes, ResyncPace: transport.NewBound(c.rate), Links: c.links,
		Tracer: noop.NewTracerProvider().Tracer(""), Logger: slog.New(logTo{c.t, site}),
		Now: func() clock.Time { return clock.Now() + clock.Time(n.skew.Load()) },
		Healing: func(_ context.Context, target domain.SiteID) {
			if c.heals != nil {
				c.heals(target)
			}
		},
		free: func(dir string) (uint64, bool) {
			if f := n.free.Load(); f > 0 {
				return uint64(f), true
			}
			return freeBytes(dir)
		},
		failpoint: n.failing,
		files:     failingFS{vfs.OS(), n},
	}
	if c.lines {
		cfg.Lines = c.serveLines(ctx)
		n.lines = cfg.Lines
	}
	g, err := Open(ctx, cfg, c.def)
	if err != nil {
		cancel()
		n.mesh.Close()
		return err
	}
	n.g = g
	n.mute = c.mute == site
	n.listen(ctx, g)
	c.t.Cleanup(func() { c.kill(site) })
	return nil
}

func (n *node) listen(ctx context.Context, g *Group) {
	n.t.Helper()
	err := n.mesh.Local().Serve(ctx, api.ServiceReplicator, map[string]bus.Endpoint{
		api.VerbRejoin: bus.Answer(g.Rejoin),
		api.VerbUnfollow: bus.Answer(func(ctx context.Context, r api.UnfollowRequest) (api.Empty, error) {
			return api.Empty{}, g.Unfollow(ctx, r)
		}),
		api.VerbResyncCommit: bus.Answer(func(ctx context.Context, r api.ResyncCommit) (api.Empty, error) {
			return api.Empty{}, g.ResyncCommit(ctx, r)
		}),
		api.VerbResyncBegin: bus.Answer(g.ResyncBegin),
		api.VerbVerifyHash: bus.Answer(func(ctx context.Context, r api.VerifyHash) (api.VerifySums, error) {
			if f := n.fail.Load(); f != nil {
				if err := (*f)(fmt.Sprintf("verify_hash %d", r.Volume)); err != nil {
					return api.VerifySums{}, err
				}
			}
			return g.VerifyHash(ctx, r)
		}),
		api.VerbVerifyExact: bus.Answer(g.VerifyExact),
	})
	if err == nil {
		err = n.mesh.Local().Handle(ctx, api.QuerySubject(n.id, api.ServiceReplicator, api.VerbResyncData),
			func(_ context.Context, b []byte) ([]byte, error) { return nil, g.ResyncData(b) })
	}
	if err == nil && !n.mute {
		err = n.mesh.Local().Handle(ctx, api.QuerySubject(n.id, api.ServiceReplicator, api.VerbResyncHash),
			func(_ context.Context, b []byte) ([]byte, error) { return g.ResyncHash(b) })
	}
	if err != nil {
		n.t.Fatal(err)
	}
}

// kill ends the copy at a site at once. Killing the dead is nothing.
func (c *cluster) kill(site domain.SiteID) {
	n := c.nodes[site]
	if n.g == nil {
		return
	}
	n.cancel()
	n.g.Close()
	n.mesh.Close()
	n.g = nil
}

// promote grants the epoch and makes the site primary.
func (c *cluster) promote(site domain.SiteID, epoch domain.Epoch) api.PromoteReply {
	c.t.Helper()
	set := c.quo.grant(site, epoch)
	reply, err := c.nodes[site].g.Promote(c.t.Context(), api.PromoteRequest{Group: "erp", Epoch: epoch, InSync: set})
	if err != nil {
		c.t.Fatalf("promote %s to %d: %v", site, epoch, err)
	}
	return reply
}

func (n *node) unit(volume int) target.Unit {
	n.t.Helper()
	s := n.g.current()
	if s == nil {
		n.t.Fatalf("site %s does not serve", n.id)
	}
	return &unit{s: s, volume: volume}
}

// submit starts a command and gives its result.
func submit(u target.Unit, cmd *target.Command) <-chan error {
	out := make(chan error, 1)
	u.Submit(cmd, func(err error) { out <- err })
	return out
}

func await(t *testing.T, c <-chan error) error {
	t.Helper()
	select {
	case err := <-c:
		return err
	case <-time.After(15 * time.Second):
		t.Fatal("a command did not end")
		return nil
	}
}

func (n *node) write(volume int, off int64, data []byte) {
	n.t.Helper()
	if err := await(n.t, submit(n.unit(volume), &target.Command{Op: target.OpWrite, Off: off, Len: int64(len(data)), Data: data, Alone: off%8192 == 0})); err != nil {
		n.t.Fatalf("write at %d of site %s: %v", off, n.id, err)
	}
}

func (n *node) read(volume int, off int64, length int) []byte {
	n.t.Helper()
	buf := make([]byte, length)
	if err := await(n.t, submit(n.unit(volume), &target.Command{Op: target.OpRead, Off: off, Len: int64(length), Data: buf})); err != nil {
		n.t.Fatalf("read at %d of site %s: %v", off, n.id, err)
	}
	return buf
}

// applies waits until what was answered is in the volumes' files.
func (n *node) applies() {
	if n.g == nil {
		return
	}
	if s := n.g.current(); s != nil {
		head, _ := s.head()
		eventually(n.t, "what was answered is applied", func() bool { return n.g.store.applied() >= head || s.ctx.Err() != nil })
	}
}

// image is what a copy's volume file holds.
func (n *node) image(volume int) []byte {
	n.t.Helper()
	n.applies()
	b, err := os.ReadFile(filepath.Join(n.dir, []string{"data.img", "log.img"}[volume]))
	if err != nil {
		n.t.Fatal(err)
	}
	return b
}

// block is 4 KiB that tells its number everywhere.
func block(n uint64) []byte {
	b := make([]byte, 4096)
	for i := 0; i < len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], n)
	}
	return b
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	end := time.Now().Add(20 * time.Second)
	for !cond() {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func (c *cluster) target(primary, site domain.SiteID) api.TargetStatus {
	n := c.nodes[primary]
	if n.g == nil {
		return api.TargetStatus{}
	}
	for _, ts := range n.g.Status().Targets {
		if ts.Site == site {
			return ts
		}
	}
	return api.TargetStatus{}
}

// follows waits until a target streams and holds everything.
func (c *cluster) follows(primary, site domain.SiteID) {
	c.t.Helper()
	var ts api.TargetStatus
	defer func() {
		if c.t.Failed() {
			c.t.Logf("target %s of %s: %+v; primary %+v", site, primary, ts, c.nodes[primary].g.Status())
		}
	}()
	eventually(c.t, fmt.Sprintf("%s follows %s", site, primary), func() bool {
		ts = c.target(primary, site)
		return ts.State == api.TargetStreaming && ts.DurableLSN >= c.nodes[primary].g.Status().HeadLSN
	})
}

// same waits until two copies' volumes are alike.
func (c *cluster) same(a, b domain.SiteID) {
	c.t.Helper()
	for v := range c.def.Volumes {
		eventually(c.t, fmt.Sprintf("volume %d alike at %s and %s", v, a, b), func() bool { return bytes.Equal(c.nodes[a].image(v), c.nodes[b].image(v)) })
	}
}

// logTo writes warnings to the test's log.
type logTo struct {
	t    *testing.T
	site domain.SiteID
}

func (l logTo) Enabled(_ context.Context, level slog.Level) bool {
	return testing.Verbose() || level >= slog.LevelError
}
func (l logTo) Handle(_ context.Context, r slog.Record) error {
	s := ""
	r.Attrs(func(a slog.Attr) bool { s += " " + a.String(); return true })
	l.t.Logf("%s %s: %s%s", r.Time.Format("05.000"), l.site, r.Message, s)
	return nil
}
func (l logTo) WithAttrs([]slog.Attr) slog.Handler { return l }
func (l logTo) WithGroup(string) slog.Handler      { return l }

// slow keeps a test that takes seconds out of the quick run, and lets others of its kind run beside it. It comes first.
func slow(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("SKIPPED: it takes seconds; task test:full runs it")
	}
	t.Parallel() // it waits more than it works, with sites of its own
}
