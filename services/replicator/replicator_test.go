package replicator_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/chap"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
	"github.com/holdfast-dr/holdfast/pkg/initiator"
	"github.com/holdfast-dr/holdfast/pkg/natsd"
	"github.com/holdfast-dr/holdfast/services/replicator"
)

// quorum grants what the test says.
type quorum struct {
	mu     sync.Mutex
	holder domain.SiteID
	epoch  domain.Epoch
	inSync []domain.SiteID
	left   time.Duration // of a lease; 0: 5 s
}

func (q *quorum) grant(site domain.SiteID, e domain.Epoch) []domain.SiteID {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.holder, q.epoch = site, e
	return q.inSync
}

func (q *quorum) endpoints(site domain.SiteID) map[string]bus.Endpoint {
	return map[string]bus.Endpoint{
		api.VerbLease: bus.Answer(func(_ context.Context, r api.LeaseRequest) (api.Lease, error) {
			q.mu.Lock()
			defer q.mu.Unlock()
			return api.Lease{Group: r.Group, Held: q.holder == site && r.Epoch == q.epoch, Epoch: q.epoch, Holder: q.holder, RemainingNs: int64(max(q.left, 5*time.Second))}, nil
		}),
		api.VerbInSync: bus.Answer(func(_ context.Context, r api.InSyncRequest) (api.Register, error) {
			q.mu.Lock()
			defer q.mu.Unlock()
			if q.holder != site || r.Epoch != q.epoch {
				return api.Register{}, domain.ErrNoLease
			}
			q.inSync = r.InSync
			return api.Register{InSync: r.InSync}, nil
		}),
	}
}

type world struct {
	t    *testing.T
	urls map[domain.SiteID]string
	dirs map[domain.SiteID]string
	q    *quorum
	ask  *bus.Mesh
	stop map[domain.SiteID]func()
	defs []domain.Group

	// Of what is started or dialled afterwards.
	chap    chap.Settings
	log     *slog.Logger
	login   func() initiator.CHAP
	journal int64 // bytes; 0: 16 MiB
	links   map[domain.SiteID]domain.Transport
	lines   string // where lines are taken; empty: nowhere
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return newWorldOf(t, domain.Group{ID: "erp", Home: "a", Targets: []domain.Target{{Site: "b", Mode: domain.ModeSync}},
		OnTargetLoss: domain.TargetLossDegrade, Volumes: []domain.Volume{{ID: "data", SizeBytes: 16 << 20}}})
}

func newWorldOf(t *testing.T, defs ...domain.Group) *world {
	t.Helper()
	w := &world{t: t, defs: defs, urls: map[domain.SiteID]string{}, dirs: map[domain.SiteID]string{}, q: &quorum{inSync: []domain.SiteID{"a", "b"}}, stop: map[domain.SiteID]func(){}}
	for _, site := range []domain.SiteID{"a", "b"} {
		srv, err := natsd.Start(natsd.Config{Site: site, Listen: "127.0.0.1:0", StoreDir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(srv.Stop)
		w.urls[site], w.dirs[site] = srv.URL(), t.TempDir()
	}
	for _, site := range []domain.SiteID{"a", "b"} {
		m := w.dial(site)
		if err := m.Local().Serve(t.Context(), api.ServiceQuorum, w.q.endpoints(site)); err != nil {
			t.Fatal(err)
		}
		w.ask = m
		if err := m.Local().EnsureAssets(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, g := range defs {
			def, err := json.Marshal(api.GroupDesired{Group: g})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := m.Local().CompareAndSwap(t.Context(), api.BucketDesired, "group."+string(g.ID), def, 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	return w
}

func (w *world) dial(site domain.SiteID) *bus.Mesh {
	w.t.Helper()
	m, err := bus.Dial(bus.Config{Site: site, Service: "test", URLs: w.urls})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(m.Close)
	for _, s := range m.Sites() {
		c, _ := m.Conn(s)
		if err := c.AwaitConnected(w.t.Context()); err != nil {
			w.t.Fatal(err)
		}
	}
	return m
}

// start runs a site's replicator until kill.
func (w *world) start(site domain.SiteID) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.t.Context())
	m := w.dial(site)
	ended, lines := make(chan error, 1), w.lines
	go func() {
		ended <- replicator.Run(ctx, replicator.Config{Site: site, DataDir: w.dirs[site], ISCSIListen: "127.0.0.1:0", JournalBytes: max(w.journal, 16<<20),
			Links: w.links, CHAP: w.chap, LineListen: lines, Timing: replicator.Timing{Pull: 50 * time.Millisecond, LineAgain: 200 * time.Millisecond}}, replicator.Deps{Mesh: m, Logger: w.log})
	}()
	var once sync.Once
	w.stop[site] = func() {
		once.Do(func() {
			cancel()
			if err := <-ended; err != nil {
				w.t.Errorf("replicator of site %s: %v", site, err)
			}
			m.Close()
		})
	}
	w.t.Cleanup(w.stop[site])
	w.until("the group is open at "+string(site), func() bool {
		st, err := call[api.ReplicatorStatus](w, site, api.VerbStatus, api.GroupRequest{})
		return err == nil && len(st.Groups) == len(w.defs) && !slices.ContainsFunc(st.Groups, func(g api.GroupStatus) bool { return g.Role != domain.RoleTarget })
	})
}

func call[Resp, Req any](w *world, site domain.SiteID, verb string, req Req) (Resp, error) {
	w.t.Helper()
	c, err := w.ask.Conn(site)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	return bus.Call[Resp](ctx, c, api.ServiceReplicator, verb, req)
}

func (w *world) until(what string, cond func() bool) {
	w.t.Helper()
	for end := time.Now().Add(time.Minute); !cond(); {
		if time.Now().After(end) {
			w.t.Fatalf("never: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (w *world) promote(site domain.SiteID, epoch domain.Epoch) *initiator.Session {
	w.t.Helper()
	r, err := call[api.PromoteReply](w, site, api.VerbPromote, api.PromoteRequest{Group: "erp", Epoch: epoch, InSync: w.q.grant(site, epoch)})
	if err != nil {
		w.t.Fatal(err)
	}
	disk, err := initiator.Dial(w.t.Context(), r.Disks[0].URL, initiator.Options{Silence: 30 * time.Second, Credentials: w.login})
	if err != nil {
		w.t.Fatalf("open %s: %v", r.Disks[0].URL, err)
	}
	w.t.Cleanup(func() { _ = disk.Close() })
	if disk.Serial() != r.Disks[0].Serial {
		w.t.Fatalf("serial %q, want %q", disk.Serial(), r.Disks[0].Serial)
	}
	return disk
}

func TestADiskWrittenOverISCSIOutlivesItsSite(t *testing.T) {
	w := newWorld(t)
	w.start("a")
	w.start("b")
	heard := make(chan struct{}, 100)
	if err := w.ask.Local().Subscribe(t.Context(), api.HeartbeatSubject("a", api.ServiceReplicator), func(_ context.Context, m bus.Message) {
		var hb api.Heartbeat
		if json.Unmarshal(m.Data, &hb) == nil && hb.Probe != "" {
			heard <- struct{}{}
		}
	}); err != nil {
		t.Fatal(err)
	}
	disk := w.promote("a", 257)
	ctx := t.Context()
	first, second := bytes.Repeat([]byte("a"), 8192), bytes.Repeat([]byte("b"), 1<<20)
	if err := errors.Join(disk.Write(ctx, first, 0, false), disk.Write(ctx, second, 1<<20, true), disk.Flush(ctx)); err != nil {
		t.Fatal(err)
	}
	<-heard
	var est api.LossEstimate
	var err error
	w.until("b heard of the primary's head, and misses nothing", func() bool {
		est, err = call[api.LossEstimate](w, "b", api.VerbEstimate, api.EstimateRequest{Group: "erp"})
		return err == nil && est.Known && est.Writes == 0
	})
	w.until("b is in sync", func() bool { // under a load that holds it up for seconds it may have left the line for a while
		st, err := call[api.ReplicatorStatus](w, "a", api.VerbStatus, api.GroupRequest{Group: "erp"})
		return err == nil && len(st.Groups[0].Targets) == 1 && st.Groups[0].Targets[0].InSync
	})
	w.stop["a"]()
	if err := disk.Write(ctx, first, 0, false); err == nil {
		t.Fatal("a dead site acknowledged a write")
	}
	there := w.promote("b", 514)
	buf := make([]byte, 1<<20)
	if err := there.Read(ctx, buf, 1<<20); err != nil || !bytes.Equal(buf, second) {
		t.Fatalf("the write of the lost site: %v", err)
	}
	if err := there.Write(ctx, second, 4<<20, false); err != nil {
		t.Fatal(err)
	}
	w.start("a")
	w.until("a follows b", func() bool {
		st, err := call[api.ReplicatorStatus](w, "b", api.VerbStatus, api.GroupRequest{Group: "erp"})
		return err == nil && len(st.Groups[0].Targets) == 1 && st.Groups[0].Targets[0].InSync
	})
	var story []string
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	cb, _ := w.ask.Conn("b")
	err = cb.FollowEvents(ctx, nil, bus.FromStart, func(_ context.Context, e event.Event, _ event.Fact) {
		story = append(story, e.Type[strings.LastIndexByte(e.Type, '.')+1:])
		if e.Type == "hf.v1.group.target_streaming" {
			cancel()
		}
	})
	if got := strings.Join(story, " "); err != nil || !strings.Contains(got, "promoted") || !strings.HasSuffix(got, "target_streaming") {
		t.Fatalf("events of b: %s, %v", got, err)
	}
}

func TestLosingTheLeaseDropsTheDisk(t *testing.T) {
	w := newWorld(t)
	w.start("a")
	disk := w.promote("a", 257)
	if err := disk.Write(t.Context(), make([]byte, 4096), 0, false); err != nil {
		t.Fatal(err)
	}
	w.q.grant("b", 514)
	w.until("the disk is gone", func() bool { return disk.Write(t.Context(), make([]byte, 4096), 0, false) != nil })
	w.until("a is a target", func() bool {
		st, err := call[api.ReplicatorStatus](w, "a", api.VerbStatus, api.GroupRequest{})
		return err == nil && st.Groups[0].Role == domain.RoleTarget && !st.Groups[0].Serving
	})
	if _, err := call[api.PromoteReply](w, "a", api.VerbPromote, api.PromoteRequest{Group: "erp", Epoch: 257}); !errors.Is(err, domain.ErrStaleEpoch) {
		t.Fatalf("want stale epoch, got %v", err)
	}
}

func TestAPortInUseIsNamed(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	err = replicator.Run(t.Context(), replicator.Config{Site: "a", DataDir: t.TempDir(), ISCSIListen: ln.Addr().String()}, replicator.Deps{})
	if err == nil || !strings.Contains(err.Error(), ln.Addr().String()) {
		t.Fatalf("got %v", err)
	}
}
