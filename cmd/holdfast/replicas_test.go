package main

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
	"github.com/holdfast-dr/holdfast/pkg/initiator"
	"github.com/holdfast-dr/holdfast/pkg/natsd"
	"github.com/holdfast-dr/holdfast/pkg/telemetry"
	"github.com/holdfast-dr/holdfast/services/replicator"
)

// replicas are the replicators of sites a and b, with a stand-in for the quorum and a configuration file for the commands.
type replicas struct {
	t    *testing.T
	file string // of site a
	urls map[domain.SiteID]string
	dirs map[domain.SiteID]string
	stop map[domain.SiteID]func()
	// sees is how a site's replicator reaches the others; without an entry as urls say.
	sees    map[domain.SiteID]map[domain.SiteID]string
	relays  map[domain.SiteID]map[domain.SiteID]string // by which a site's replicator reaches others
	metrics map[domain.SiteID]string                   // address of a replicator's page
	timing  replicator.Timing
	def     api.GroupDesired

	mu     sync.Mutex
	holder domain.SiteID
	epoch  domain.Epoch
	inSync []domain.SiteID
	noted  func(set []domain.SiteID) // called when a set is asked for, before that is answered; may be nil
}

const replicaBytes = 16 << 20

func newReplicas(t *testing.T, mode domain.Mode, change ...func(*domain.Group)) *replicas {
	t.Helper()
	return newReplicasAt(t, []domain.SiteID{"a", "b"}, mode, change...)
}

// newReplicasAt has more sites than a and b, to which change gives a part in the group.
func newReplicasAt(t *testing.T, sites []domain.SiteID, mode domain.Mode, change ...func(*domain.Group)) *replicas {
	t.Helper()
	r := &replicas{t: t, urls: map[domain.SiteID]string{}, dirs: map[domain.SiteID]string{}, stop: map[domain.SiteID]func(){}, metrics: map[domain.SiteID]string{}, inSync: []domain.SiteID{"a"},
		timing: replicator.Timing{Pull: 50 * time.Millisecond, Retry: 50 * time.Millisecond}}
	if mode == domain.ModeSync {
		r.inSync = append(r.inSync, "b")
	}
	for _, site := range sites {
		srv, err := natsd.Start(natsd.Config{Site: site, Listen: "127.0.0.1:0", StoreDir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(srv.Stop)
		r.urls[site], r.dirs[site] = srv.URL(), t.TempDir()
	}
	sample, err := os.ReadFile("../../deploy/examples/site-a.yaml")
	if err != nil {
		t.Fatal(err)
	}
	r.file = filepath.Join(t.TempDir(), "site-a.yaml")
	text := strings.NewReplacer("nats://127.0.0.1:4222", r.urls["a"], "nats://127.0.0.1:4223", r.urls["b"]).Replace(string(sample))
	if err := os.WriteFile(r.file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, site := range sites {
		r.desire(site, mode, change)
	}
	return r
}

// desire answers for a site's quorum, and writes the group's definition there.
func (r *replicas) desire(site domain.SiteID, mode domain.Mode, change []func(*domain.Group)) {
	r.t.Helper()
	local := r.dial(site).Local()
	err := local.Serve(r.t.Context(), api.ServiceQuorum, map[string]bus.Endpoint{api.VerbLease: bus.Answer(r.lease(site)), api.VerbInSync: bus.Answer(r.change(site))})
	if err == nil {
		err = local.Serve(r.t.Context(), api.ServiceFailover, map[string]bus.Endpoint{api.VerbGroupList: bus.Answer(func(context.Context, api.Empty) (api.GroupList, error) {
			return api.GroupList{Groups: []api.GroupDesired{r.def}}, nil
		})})
	}
	if err == nil {
		err = local.EnsureAssets(r.t.Context())
	}
	r.def = api.GroupDesired{Site: "a", Group: domain.Group{ID: "erp", Home: "a", Targets: []domain.Target{{Site: "b", Mode: mode}},
		OnTargetLoss: domain.TargetLossDegrade, Volumes: []domain.Volume{{ID: "data", SizeBytes: replicaBytes}}}}
	for _, f := range change {
		f(&r.def.Group)
	}
	def, merr := json.Marshal(r.def)
	if err == nil && merr == nil {
		_, err = local.CompareAndSwap(r.t.Context(), api.BucketDesired, "group.erp", def, 0)
	}
	if err != nil || merr != nil {
		r.t.Fatal(err, merr)
	}
}

func (r *replicas) lease(site domain.SiteID) func(context.Context, api.LeaseRequest) (api.Lease, error) {
	return func(_ context.Context, req api.LeaseRequest) (api.Lease, error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		return api.Lease{Group: req.Group, Held: r.holder == site && req.Epoch == r.epoch, Epoch: r.epoch, Holder: r.holder, RemainingNs: int64(20 * time.Second)}, nil
	}
}

func (r *replicas) change(site domain.SiteID) func(context.Context, api.InSyncRequest) (api.Register, error) {
	return func(_ context.Context, req api.InSyncRequest) (api.Register, error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.holder != site || r.epoch != req.Epoch {
			return api.Register{}, domain.ErrNoLease
		}
		r.inSync = req.InSync
		if r.noted != nil {
			r.noted(req.InSync)
		}
		return api.Register{InSync: req.InSync}, nil
	}
}

func (r *replicas) dial(site domain.SiteID) *bus.Mesh { return r.dialBy(site, r.urls, nil) }

func (r *replicas) dialBy(site domain.SiteID, urls, relays map[domain.SiteID]string) *bus.Mesh {
	r.t.Helper()
	m, err := bus.Dial(bus.Config{Site: site, Service: "test", URLs: urls, Relays: relays})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(m.Close)
	if err := m.Local().AwaitConnected(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	return m
}

// start runs a site's replicator until its stop, and waits until the group is open there.
func (r *replicas) start(site domain.SiteID) {
	r.t.Helper()
	r.launch(site)
	r.until("the group is open at "+string(site), func() bool {
		st, err := ask1[api.ReplicatorStatus](r, site, api.VerbStatus, api.GroupRequest{})
		return err == nil && len(st.Groups) == 1 && st.Groups[0].Error == ""
	})
}

func (r *replicas) launch(site domain.SiteID) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(r.t.Context())
	urls := r.urls
	if r.sees[site] != nil {
		urls = r.sees[site]
	}
	m := r.dialBy(site, urls, r.relays[site])
	registry := telemetry.NewRegistry(site, api.ServiceReplicator, telemetry.NewHealth(site, api.ServiceReplicator))
	ended := make(chan error, 1)
	go func() {
		ended <- replicator.Run(ctx, replicator.Config{Site: site, DataDir: r.dirs[site], ISCSIListen: "127.0.0.1:0", JournalBytes: 16 << 20, Timing: r.timing}, replicator.Deps{Mesh: m, Metrics: registry.For(api.ServiceReplicator)})
	}()
	page := httptest.NewServer(http.StripPrefix("/metrics", registry.Handler()))
	r.t.Cleanup(page.Close)
	r.metrics[site] = strings.TrimPrefix(page.URL, "http://")
	r.stop[site] = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			r.t.Errorf("replicator of site %s: %v", site, err)
		}
	})
	r.t.Cleanup(r.stop[site])
}

func ask1[Resp, Req any](r *replicas, site domain.SiteID, verb string, req Req) (Resp, error) {
	ctx, cancel := context.WithTimeout(r.t.Context(), 10*time.Second)
	defer cancel()
	m, err := bus.Dial(bus.Config{Site: site, Service: "test", URLs: r.urls})
	if err != nil {
		r.t.Fatal(err)
	}
	defer m.Close()
	if err := m.Local().AwaitConnected(ctx); err != nil {
		r.t.Fatal(err)
	}
	return bus.Call[Resp](ctx, m.Local(), api.ServiceReplicator, verb, req)
}

// promote makes a site primary and opens the volume there.
func (r *replicas) promote(site domain.SiteID, epoch domain.Epoch) *initiator.Session {
	r.t.Helper()
	r.mu.Lock()
	r.holder, r.epoch = site, epoch
	set := r.inSync
	r.mu.Unlock()
	reply, err := ask1[api.PromoteReply](r, site, api.VerbPromote, api.PromoteRequest{Group: "erp", Epoch: epoch, InSync: set})
	if err != nil {
		r.t.Fatal(err)
	}
	disk, err := initiator.Dial(r.t.Context(), reply.Disks[0].URL, initiator.Options{Silence: 30 * time.Second, Timeout: 2 * time.Minute})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = disk.Close() })
	return disk
}

// follows waits until the other site has everything, and gives what the primary then says.
func (r *replicas) follows(primary domain.SiteID) (is api.GroupStatus) {
	r.t.Helper()
	r.until("the target follows site "+string(primary), func() bool {
		st, err := ask1[api.ReplicatorStatus](r, primary, api.VerbStatus, api.GroupRequest{})
		if err != nil || len(st.Groups) != 1 || len(st.Groups[0].Targets) != 1 {
			return false
		}
		is = st.Groups[0]
		return is.Targets[0].State == api.TargetStreaming && is.Targets[0].DurableLSN >= is.HeadLSN
	})
	return is
}

// shows reports whether holdfast group show says something.
func (r *replicas) shows(text string) bool {
	o := holdfast(r.t.Context(), "group", "show", "erp", "--config", r.file)
	return strings.Contains(o.stdout, text)
}

// measures reports whether a site's replicator has one series of a metric with these labels, and that value.
func (r *replicas) measures(site domain.SiteID, want float64, name string, labels ...string) bool {
	m, err := scrape(r.t.Context(), r.metrics[site])
	return err == nil && m.is(want, name, labels...) == nil
}

// publishes waits for an event of a site that says something.
func (r *replicas) publishes(site domain.SiteID, fact, begins string) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 30*time.Second)
	defer cancel()
	found := false
	_ = r.dial(site).Local().FollowEvents(ctx, nil, bus.FromStart, func(_ context.Context, _ event.Event, f event.Fact) {
		if c, ok := f.(*event.ReplicaChanged); ok && c.Fact == fact && strings.HasPrefix(c.Detail, begins) {
			found = true
			cancel()
		}
	})
	if !found {
		r.t.Fatalf("site %s published no %s that begins with %q", site, fact, begins)
	}
}

func (r *replicas) until(what string, cond func() bool) {
	r.t.Helper()
	for end := time.Now().Add(time.Minute); !cond(); { // of a machine that has much else to do
		if time.Now().After(end) {
			r.t.Fatalf("never: %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
