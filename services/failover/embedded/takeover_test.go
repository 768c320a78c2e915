package embedded

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/natsd"
	"github.com/holdfast-dr/holdfast/pkg/tgtd"
	"github.com/holdfast-dr/holdfast/services/failover/hostagent"
	"github.com/holdfast-dr/holdfast/services/failover/workload/applog"
	"github.com/holdfast-dr/holdfast/services/failover/workload/ledger"
)

// leaseTerm is long enough for a busy machine to renew in, and short enough to wait for.
const leaseTerm = 2 * time.Second

// vote is a lease that one site renews until it is cut off, and that another takes when its term is over.
type vote struct {
	mu     sync.Mutex
	holder domain.SiteID
	epoch  domain.Epoch
	until  clock.Time
	cut    bool
}

// ask answers a site's hosts as its quorum service would.
func (v *vote) ask(site domain.SiteID) api.Lease {
	v.mu.Lock()
	defer v.mu.Unlock()
	now := clock.Now()
	if site == v.holder && !v.cut && now.Before(v.until) {
		v.until = now.Add(leaseTerm)
	}
	return api.Lease{Group: "erp", Held: site == v.holder && now.Before(v.until), Epoch: v.epoch, RemainingNs: int64(v.until.Sub(now))}
}

// take gives the lease to a site once nobody can hold it any more.
func (v *vote) take(site domain.SiteID) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	now := clock.Now()
	if now.Before(v.until) {
		return false
	}
	v.holder, v.epoch, v.cut, v.until = site, v.epoch.Next(2), false, now.Add(leaseTerm)
	return true
}

// host runs an agent of a site of its own, and returns its bus.
func host(t *testing.T, ctx context.Context, site domain.SiteID, v *vote, dir string) *bus.Conn {
	t.Helper()
	srv, err := natsd.Start(natsd.Config{Site: site, Listen: "127.0.0.1:0", StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Stop)
	mesh, err := bus.Dial(bus.Config{Site: site, Service: "test", URLs: map[domain.SiteID]string{site: srv.URL()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(mesh.Close)
	conn := mesh.Local()
	if err := conn.AwaitConnected(ctx); err != nil {
		t.Fatal(err)
	}
	err = conn.Serve(ctx, api.ServiceQuorum, map[string]bus.Endpoint{
		api.VerbLease: bus.Answer(func(context.Context, api.LeaseRequest) (api.Lease, error) { return v.ask(site), nil }),
	})
	if err != nil {
		t.Fatal(err)
	}
	ready, done := make(chan string, 1), make(chan error, 1)
	hctx, cancel := context.WithCancel(ctx)
	go func() {
		done <- hostagent.Run(hctx, hostagent.Config{Site: site, Host: domain.HostID("host-" + site), Dir: dir, Pull: 50 * time.Millisecond},
			hostagent.Deps{Mesh: mesh, Driver: &Driver{}, Ready: func(p string) { ready <- p }})
	}()
	t.Cleanup(func() { cancel(); <-done })
	<-ready
	return conn
}

// TestCutOffHostStopsBeforeAnotherServes: site a is cut off while clients write; b takes over when the term is over. No
// acknowledgement of a comes after the first of b, and none is lost.
func TestCutOffHostStopsBeforeAnotherServes(t *testing.T) {
	file := filepath.Join(t.TempDir(), "disk")
	target := tgtd.Start(t, file, 16<<20)
	v := &vote{holder: "a", epoch: domain.NewEpoch(0, 1, 1), until: clock.Now().Add(leaseTerm)}
	dirs := map[domain.SiteID]string{"a": t.TempDir(), "b": t.TempDir()}
	address := map[domain.SiteID]string{"a": freePort(t, "127.77.11.10"), "b": freePort(t, "127.77.12.10")}
	start := func(c *bus.Conn, site domain.SiteID, e domain.Epoch) error {
		at, port, _ := net.SplitHostPort(address[site])
		n, _ := strconv.Atoi(port)
	again:
		vm, err := bus.Call[api.HostVM](t.Context(), c, api.HostService(domain.HostID("host-"+site)), api.VerbStart, api.HostStartRequest{
			VM: "erp-1", Group: "erp", Epoch: e, Disks: []api.Disk{{Volume: "data", URL: target.URL}}, Address: at, Port: n,
		})
		if err == nil && vm.State == hostagent.StateStarting {
			goto again // a repeat joins the start that is under way
		}
		if err == nil && vm.State != hostagent.StateRunning {
			err = errors.New(vm.State)
		}
		return err
	}
	a, b := host(t, t.Context(), "a", v, dirs["a"]), host(t, t.Context(), "b", v, dirs["b"])
	if err := start(a, "a", v.epoch); err != nil {
		t.Fatal(err)
	}
	var clients sync.WaitGroup
	stop := make(chan struct{})
	for site := range address {
		clients.Go(func() { write(stop, address[site]) })
	}
	time.AfterFunc(300*time.Millisecond, func() { v.mu.Lock(); v.cut = true; v.mu.Unlock() })
	for !v.take("b") {
		if err := start(b, "b", domain.NewEpoch(0, 2, 2)); err == nil {
			t.Fatal("b started without the lease")
		}
	}
	if err := start(b, "b", v.ask("b").Epoch); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for len(acks(t, dirs["b"])) < 20 && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond) // the ledger is a file: there is no event to wait for
	}
	close(stop)
	clients.Wait()
	judge(t, file, acks(t, dirs["a"]), acks(t, dirs["b"]))
}

func freePort(t *testing.T, ip string) string {
	t.Helper()
	ln, err := net.Listen("tcp", ip+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// write appends at an address until stop, whoever answers.
func write(stop <-chan struct{}, address string) {
	c := &http.Client{Timeout: time.Second, Transport: &http.Transport{}}
	defer c.CloseIdleConnections()
	for {
		select {
		case <-stop:
			return
		default:
		}
		if res, err := c.Post("http://"+address+"/append", "", nil); err == nil {
			res.Body.Close()
		}
	}
}

func acks(t *testing.T, dir string) []ledger.Line {
	t.Helper()
	f, err := os.Open(hostagent.LedgerPath(dir, "erp-1"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines, err := ledger.Parse(f)
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func judge(t *testing.T, file string, a, b []ledger.Line) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	found := map[uint64]string{}
	rep, err := applog.ScanWith(f, applog.Options{Each: func(r applog.Record, h applog.Hash) { found[r.Seq] = h.String() }})
	if err != nil || !rep.PrefixOK {
		t.Fatalf("%+v %v", rep, err)
	}
	all := append(a, b...)
	if lost := ledger.Lost(all, found); len(lost) > 0 {
		t.Errorf("%d acknowledged appends lost, the first %+v", len(lost), lost[0])
	}
	if twice := ledger.ServedTwice(all); len(twice) > 0 {
		t.Errorf("served twice: %+v", twice)
	}
	s := ledger.Servings(all)
	if len(s) != 2 || s[0].Site != "a" || s[1].Site != "b" {
		t.Fatalf("%+v", s)
	}
	gap := time.Duration(s[1].FirstNS - s[0].LastNS)
	t.Logf("a acknowledged %d, b %d; nobody served for %s", s[0].Acks, s[1].Acks, gap)
	if last := a[len(a)-1]; last.Kind != ledger.KindStop {
		t.Errorf("a's ledger ends with %+v", last)
	}
}
