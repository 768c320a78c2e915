package hostagent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/natsd"
)

// puppet is a driver whose VMs do nothing.
type puppet struct {
	mu      sync.Mutex
	history []string
	running map[domain.VMID]int
	specs   []Spec
	err     error
	last    clock.Time
	hold    chan struct{} // when set, Start waits for it
	box     *icebox       // when set, guests can be held still
}

func (p *puppet) Name() string { return "puppet" }

func (p *puppet) said() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.history)
}

func (p *puppet) Start(ctx context.Context, s Spec) (Instance, error) {
	if p.hold != nil {
		select {
		case <-p.hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return nil, p.err
	}
	p.specs = append(p.specs, s)
	p.history = append(p.history, fmt.Sprintf("start %s %s", s.VM, s.Epoch))
	if p.running[s.VM]++; p.running[s.VM] > 1 {
		p.history = append(p.history, "TWO AT ONCE")
	}
	i := &doll{p: p, s: s, done: make(chan struct{})}
	i.unplug = context.AfterFunc(ctx, func() { i.end("") })
	if p.box != nil {
		return sleeper{i, p.box}, nil
	}
	return i, nil
}

type doll struct {
	p      *puppet
	s      Spec
	unplug func() bool
	done   chan struct{}
	once   sync.Once
	err    error
}

// ended is when the last VM ended.
func (p *puppet) ended() clock.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}

func (d *doll) end(what string) {
	d.once.Do(func() {
		d.p.mu.Lock()
		d.p.running[d.s.VM]--
		d.p.last = clock.Now()
		if what != "" {
			d.p.history = append(d.p.history, what)
		}
		d.p.mu.Unlock()
		close(d.done)
	})
}
func (d *doll) Stop(_ context.Context, g time.Duration) {
	d.end(fmt.Sprintf("stop %s %s", d.s.VM, g.Round(time.Second)))
}
func (d *doll) Kill(reason string)    { d.end("kill " + string(d.s.VM) + ": " + reason) }
func (d *doll) Done() <-chan struct{} { return d.done }
func (d *doll) Err() error            { return d.err }

// rig is one host with its site's server and a quorum service that says what it is told.
type rig struct {
	t      *testing.T
	conn   *bus.Conn
	peer   *bus.Conn
	dir    string
	driver *puppet
	probe  string
	mesh   *bus.Mesh
	url    string // of the site's server
	cancel context.CancelFunc
	done   chan error

	mu    sync.Mutex
	lease map[domain.GroupID]api.Lease
}

func startNATS(t *testing.T, id domain.SiteID) string {
	t.Helper()
	s, err := natsd.Start(natsd.Config{Site: id, Listen: "127.0.0.1:0", StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s.URL()
}

func newRig(t *testing.T) *rig {
	urls := map[domain.SiteID]string{"a": startNATS(t, "a"), "b": startNATS(t, "b")}
	mesh, err := bus.Dial(bus.Config{Site: "a", Service: "test", URLs: urls})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(mesh.Close)
	r := &rig{t: t, mesh: mesh, url: urls["a"], conn: mesh.Local(), dir: t.TempDir(), driver: &puppet{running: map[domain.VMID]int{}}, lease: map[domain.GroupID]api.Lease{}}
	r.peer, _ = mesh.Conn("b")
	for _, c := range []*bus.Conn{r.conn, r.peer} {
		if err := c.AwaitConnected(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	err = r.conn.Serve(t.Context(), api.ServiceQuorum, map[string]bus.Endpoint{
		api.VerbLease: bus.Answer(func(_ context.Context, q api.LeaseRequest) (api.Lease, error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			l, ok := r.lease[q.Group]
			if !ok {
				return l, domain.ErrUnavailable
			}
			l.Held = l.Held && (q.Epoch == 0 || q.Epoch == l.Epoch)
			return l, nil
		}),
	})
	if err != nil {
		t.Fatal(err)
	}
	r.power(mesh)
	return r
}

// power switches the host on.
func (r *rig) power(mesh *bus.Mesh) {
	ctx, cancel := context.WithCancel(r.t.Context())
	ready := make(chan string, 1)
	done := make(chan error, 1)
	r.cancel, r.done = cancel, done
	go func() {
		done <- Run(ctx, Config{Site: "a", Host: "h1", Dir: r.dir, Pull: 10 * time.Millisecond, Heartbeat: 10 * time.Millisecond, StartWait: 100 * time.Millisecond, KillMargin: 400 * time.Millisecond},
			Deps{Mesh: mesh, Driver: r.driver, Ready: func(p string) { ready <- p }})
	}()
	select {
	case r.probe = <-ready:
	case err := <-done:
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		cancel()
		<-done
		close(done)
	})
}

// grant says what the quorum answers from now on; 0 is silence.
func (r *rig) grant(e domain.Epoch, left time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if left == 0 {
		delete(r.lease, "erp")
		return
	}
	r.lease["erp"] = api.Lease{Group: "erp", Held: left > 0, Epoch: e, RemainingNs: int64(left)}
}

func (r *rig) start(e domain.Epoch) (api.HostVM, error) {
	return bus.Call[api.HostVM](r.t.Context(), r.conn, api.HostService("h1"), api.VerbStart, api.HostStartRequest{
		VM: "erp-1", Group: "erp", Epoch: e, Disks: []api.Disk{{Volume: "data", URL: "iscsi://x/y/0"}}, Address: "127.0.0.1", Port: 1,
	})
}

func (r *rig) stop(e domain.Epoch, grace time.Duration) error {
	_, err := bus.Call[api.Empty](r.t.Context(), r.conn, api.HostService("h1"), api.VerbStop, api.HostStopRequest{VM: "erp-1", Epoch: e, GraceNs: int64(grace)})
	return err
}

func (r *rig) state() api.HostVM {
	s, err := bus.Call[api.HostStatus](r.t.Context(), r.conn, api.HostService("h1"), api.VerbStatus, api.Empty{})
	if err != nil || len(s.VMs) != 1 {
		r.t.Fatalf("%+v %v", s, err)
	}
	return s.VMs[0]
}

// await asks for the status until the VM is in a state.
func (r *rig) await(state string) api.HostVM {
	r.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for time.Now().Before(deadline) {
		if vm := r.state(); vm.State == state {
			return vm
		}
	}
	r.t.Fatalf("not %s: %+v", state, r.state())
	return api.HostVM{}
}

func TestStartIsIdempotentAndFencedByEpoch(t *testing.T) {
	r := newRig(t)
	e1, e2 := domain.NewEpoch(0, 1, 1), domain.NewEpoch(0, 2, 1)
	r.grant(e2, time.Minute)
	first, err := r.start(e2)
	if err != nil || first.State != StateRunning {
		t.Fatal(first, err)
	}
	again, err := r.start(e2)
	if err != nil || again.Instance != first.Instance {
		t.Fatal("a repeat started it anew", again, err)
	}
	if _, err := r.start(e1); !errors.Is(err, domain.ErrStaleEpoch) {
		t.Fatal(err)
	}
	if err := r.stop(e1, 0); !errors.Is(err, domain.ErrStaleEpoch) {
		t.Fatal(err)
	}
	e3 := domain.NewEpoch(0, 3, 1)
	r.grant(e3, time.Minute)
	r.await(StateStopped) // the quorum is at another epoch
	third, err := r.start(e3)
	if err != nil || third.Instance == first.Instance || third.State != StateRunning {
		t.Fatal(third, err)
	}
	for range 2 {
		if err := r.stop(e3, time.Second); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"start erp-1 0.2.1", "kill erp-1: no lease", "start erp-1 0.3.1", "stop erp-1 1s"}
	if got := r.driver.said(); !slices.Equal(got, want) {
		t.Fatalf("%q, want %q", got, want)
	}
}

func TestHigherEpochReplacesARunningVM(t *testing.T) {
	r := newRig(t)
	e1, e2 := domain.NewEpoch(0, 1, 1), domain.NewEpoch(0, 2, 1)
	r.grant(e1, time.Minute)
	if _, err := r.start(e1); err != nil {
		t.Fatal(err)
	}
	r.grant(e2, time.Minute)
	if vm, err := r.start(e2); err != nil || vm.Epoch != e2 || vm.State != StateRunning {
		t.Fatal(vm, err)
	}
	got := r.driver.said()
	if len(got) != 3 || !strings.HasPrefix(got[1], "kill erp-1") {
		t.Fatal(got)
	}
}

func TestStartWithoutALeaseIsRefused(t *testing.T) {
	r := newRig(t)
	e := domain.NewEpoch(0, 4, 1)
	r.grant(e, -1)
	if vm, err := r.start(e); !errors.Is(err, domain.ErrNoLease) {
		t.Fatal(vm, err)
	}
	r.grant(e.Next(2), time.Minute)
	if _, err := r.start(e); !errors.Is(err, domain.ErrStaleEpoch) {
		t.Fatal(err)
	}
	if got := r.driver.said(); len(got) != 0 {
		t.Fatal(got)
	}
	r.grant(e, time.Minute)
	if vm, err := r.start(e); err != nil || vm.State != StateRunning {
		t.Fatal("a start after a refusal:", vm, err)
	}
}

func TestVMIsKilledBeforeItsLeaseEnds(t *testing.T) {
	r := newRig(t)
	e := domain.NewEpoch(0, 1, 1)
	const lease = 1200 * time.Millisecond
	r.grant(e, lease)
	if _, err := r.start(e); err != nil {
		t.Fatal(err)
	}
	r.grant(e, 0) // the quorum service falls silent; the last reply was sent before now
	silent := clock.Now()
	vm := r.await(StateStopped)
	if took := r.driver.ended().Sub(silent); took > lease {
		t.Fatalf("killed after %s of a lease of %s", took, lease)
	}
	if !strings.Contains(vm.Error, "runs out") {
		t.Fatalf("%+v", vm)
	}
	if got := r.driver.said(); got[len(got)-1] != "kill erp-1: no lease" {
		t.Fatal(got)
	}
}

func TestEpochsAreRememberedAcrossPowerLoss(t *testing.T) {
	r := newRig(t)
	e1, e2 := domain.NewEpoch(0, 1, 1), domain.NewEpoch(0, 2, 1)
	r.grant(e2, time.Minute)
	if _, err := r.start(e2); err != nil {
		t.Fatal(err)
	}
	r.cancel()
	if err := <-r.done; err != nil {
		t.Fatal(err)
	}
	if got := r.driver.said(); len(got) != 1 || r.driver.running["erp-1"] != 0 {
		t.Fatalf("power loss: %q, %d running", got, r.driver.running["erp-1"])
	}
	seen, err := openEpochs(r.dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := seen.raise("erp", e1); !errors.Is(err, domain.ErrStaleEpoch) {
		t.Fatal(err)
	}
	if err := seen.raise("erp", e2); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(r.dir, "epochs.json"), []byte(`{"erp":`), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := openEpochs(r.dir); err == nil {
		t.Fatal("a damaged file was taken")
	}
	r.done <- nil // for the clean-up
}

func TestSlowStartAnswersStartingAndARepeatJoins(t *testing.T) {
	r := newRig(t)
	r.driver.hold = make(chan struct{})
	e := domain.NewEpoch(0, 1, 1)
	r.grant(e, time.Minute)
	vm, err := r.start(e)
	if err != nil || vm.State != StateStarting {
		t.Fatal(vm, err)
	}
	close(r.driver.hold)
	again, err := r.start(e)
	if err != nil || again.State != StateRunning || again.Instance != vm.Instance {
		t.Fatal(again, err)
	}
}

func TestStopAndLostLeaseEndAStartUnderWay(t *testing.T) {
	for name, end := range map[string]func(r *rig, e domain.Epoch) error{
		"stop":  func(r *rig, e domain.Epoch) error { return r.stop(e, time.Second) },
		"lease": func(r *rig, e domain.Epoch) error { r.grant(e, -1); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.driver.hold = make(chan struct{})
			e := domain.NewEpoch(0, 1, 1)
			r.grant(e, time.Minute)
			if vm, err := r.start(e); err != nil || vm.State != StateStarting {
				t.Fatal(vm, err)
			}
			if err := end(r, e); err != nil {
				t.Fatal(err)
			}
			r.await(StateFailed)
			if got := r.driver.said(); len(got) != 0 {
				t.Fatal(got)
			}
		})
	}
}

func TestFailedStartIsTriedAgain(t *testing.T) {
	r := newRig(t)
	r.driver.err = errors.New("no such disk")
	e := domain.NewEpoch(0, 1, 1)
	r.grant(e, time.Minute)
	if _, err := r.start(e); err == nil || !strings.Contains(err.Error(), "no such disk") {
		t.Fatal(err)
	}
	r.driver.mu.Lock()
	r.driver.err = nil
	r.driver.mu.Unlock()
	if vm, err := r.start(e); err != nil || vm.State != StateRunning {
		t.Fatal(vm, err)
	}
}

func TestConcurrentRequestsRunOneVM(t *testing.T) {
	r := newRig(t)
	r.grant(domain.NewEpoch(0, 9, 1), time.Minute)
	var wg sync.WaitGroup
	for i := range 30 {
		wg.Go(func() {
			e := domain.NewEpoch(0, 9, 1)
			if i%3 == 0 {
				_ = r.stop(e, time.Second)
				return
			}
			_, _ = r.start(e)
		})
	}
	wg.Wait()
	if got := r.driver.said(); slices.Contains(got, "TWO AT ONCE") {
		t.Fatal(got)
	}
}

func TestHostSaysThatItLivesAtEverySite(t *testing.T) {
	r := newRig(t)
	beats := make(chan api.Heartbeat, 100)
	for _, c := range []*bus.Conn{r.conn, r.peer} {
		err := c.Subscribe(t.Context(), api.HeartbeatSubject("a", "h1"), func(_ context.Context, m bus.Message) {
			var hb api.Heartbeat
			if json.Unmarshal(m.Data, &hb) == nil {
				select {
				case beats <- hb:
				default:
				}
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	seen := map[uint64]int{}
	for {
		hb := <-beats
		if hb.Kind != "host" || hb.Node != "h1" || hb.Probe != r.probe || hb.Boot == "" {
			t.Fatalf("%+v", hb)
		}
		if seen[hb.Seq]++; seen[hb.Seq] == 2 {
			break // the same beat at both sites
		}
	}
	res, err := http.Get("http://" + r.probe + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if b, _ := io.ReadAll(res.Body); string(b) != "ok\n" {
		t.Fatalf("%q", b)
	}
}
