package quiesce

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/natsd"
)

const epoch = domain.Epoch(257)

// host is a VM host's agent, played by the test.
type host struct {
	mu     sync.Mutex
	vms    []api.HostVM
	frozen map[domain.VMID]string
	refuse error          // of a freeze
	thawed api.HostThawed // the answer
	frees  int            // thaws asked for
}

func (h *host) freeze(_ context.Context, r api.HostFreezeRequest) (api.Empty, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if r.Group != "erp" || r.Epoch != epoch || r.LimitNs != int64(time.Second) {
		return api.Empty{}, domain.ErrInvalid
	}
	if h.refuse != nil {
		return api.Empty{}, h.refuse
	}
	h.frozen[r.VM] = r.Hold
	return api.Empty{}, nil
}

func (h *host) thaw(_ context.Context, r api.HostThawRequest) (api.HostThawed, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.frees++
	if h.frozen[r.VM] != r.Hold {
		return api.HostThawed{}, domain.ErrNotFound
	}
	delete(h.frozen, r.VM)
	return h.thawed, nil
}

func (h *host) state() (frozen, frees int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.frozen), h.frees
}

func vm(id domain.VMID) api.HostVM {
	return api.HostVM{VM: id, Group: "erp", Epoch: epoch, State: "running"}
}

// site has two hosts, h1 with VM db and h2 with VM app.
func site(t *testing.T) (q Hosts, g domain.Group, hosts map[domain.HostID]*host) {
	t.Helper()
	s, err := natsd.Start(natsd.Config{Site: "a", Listen: "127.0.0.1:0", StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	mesh, err := bus.Dial(bus.Config{Site: "a", Service: "test", URLs: map[domain.SiteID]string{"a": s.URL()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(mesh.Close)
	if err := mesh.Local().AwaitConnected(t.Context()); err != nil {
		t.Fatal(err)
	}
	hosts = map[domain.HostID]*host{"h1": {vms: []api.HostVM{vm("db")}}, "h2": {vms: []api.HostVM{vm("app")}}}
	for id, h := range hosts {
		h.frozen, h.thawed = map[domain.VMID]string{}, api.HostThawed{Held: true}
		err := mesh.Local().Serve(t.Context(), api.HostService(id), map[string]bus.Endpoint{
			api.VerbStatus: bus.Answer(func(context.Context, api.Empty) (api.HostStatus, error) {
				h.mu.Lock()
				defer h.mu.Unlock()
				return api.HostStatus{Host: id, VMs: h.vms}, nil
			}),
			api.VerbFreeze: bus.Answer(h.freeze), api.VerbThaw: bus.Answer(h.thaw),
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	at := func(h ...domain.HostID) map[domain.SiteID]domain.VMPlacement {
		return map[domain.SiteID]domain.VMPlacement{"a": {Hosts: h}}
	}
	g = domain.Group{ID: "erp", VMs: []domain.VM{{ID: "db", Sites: at("h1", "h2")}, {ID: "app", Sites: at("h2")}}}
	return Hosts{Conn: mesh.Local(), Site: "a"}, g, hosts
}

func TestAllGuestsOfAGroupAreHeldAndThenLetGo(t *testing.T) {
	q, g, hosts := site(t)
	release, err := q.Quiesce(t.Context(), g, epoch, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	for id, h := range hosts {
		if frozen, _ := h.state(); frozen != 1 {
			t.Errorf("host %s: %d are frozen", id, frozen)
		}
	}
	for range 2 {
		if err := release(); err != nil {
			t.Fatal(err)
		}
	}
	for id, h := range hosts {
		if frozen, frees := h.state(); frozen != 0 || frees != 1 {
			t.Errorf("host %s: %d are frozen, %d thaws", id, frozen, frees)
		}
	}
}

func TestWhereOneGuestCannotBeHeldNoneStaysHeld(t *testing.T) {
	q, g, hosts := site(t)
	hosts["h2"].refuse = errors.Join(domain.ErrUnavailable, errors.New("no guest agent answers"))
	_, err := q.Quiesce(t.Context(), g, epoch, time.Second)
	if !errors.Is(err, domain.ErrUnavailable) || !strings.Contains(err.Error(), "VM app on host h2") || !strings.Contains(err.Error(), "no guest agent answers") {
		t.Fatal(err)
	}
	if frozen, frees := hosts["h1"].state(); frozen != 0 || frees != 1 {
		t.Fatalf("%d are frozen, %d thaws", frozen, frees)
	}
	if _, frees := hosts["h2"].state(); frees != 1 {
		t.Fatal("a freeze that failed may have happened, and nobody thaws it")
	}
}

func TestAGuestThatWasLetGoTooEarlyIsTold(t *testing.T) {
	q, g, hosts := site(t)
	hosts["h1"].thawed = api.HostThawed{Reason: "nobody asked for the thaw within 1s"}
	release, err := q.Quiesce(t.Context(), g, epoch, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if err := release(); !errors.Is(err, domain.ErrRefused) || !strings.Contains(err.Error(), "VM db on host h1") || strings.Contains(err.Error(), "app") {
		t.Fatal(err)
	}
	hosts["h1"].thawed.Held = true
	release, err = q.Quiesce(t.Context(), g, epoch, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	hosts["h2"].mu.Lock()
	clear(hosts["h2"].frozen) // the agent was killed and started
	hosts["h2"].mu.Unlock()
	if err := release(); err == nil || !strings.Contains(err.Error(), "by itself") {
		t.Fatal(err)
	}
}

func TestGuestsAreLetGoAlthoughWhoAskedIsGone(t *testing.T) {
	q, g, hosts := site(t)
	ctx, cancel := context.WithCancel(t.Context())
	release, err := q.Quiesce(ctx, g, epoch, time.Second)
	cancel()
	if err != nil || release() != nil {
		t.Fatal(err)
	}
	if frozen, _ := hosts["h1"].state(); frozen != 0 {
		t.Fatal("frozen")
	}
}

func TestGroupsThatCannotBeHeld(t *testing.T) {
	change := func(vm func(*api.HostVM)) func(domain.Group, map[domain.HostID]*host) domain.Group {
		return func(g domain.Group, hosts map[domain.HostID]*host) domain.Group {
			vm(&hosts["h2"].vms[0])
			return g
		}
	}
	for name, x := range map[string]struct {
		change func(domain.Group, map[domain.HostID]*host) domain.Group
		want   error
		says   string
	}{
		"without VMs":         {func(g domain.Group, _ map[domain.HostID]*host) domain.Group { g.VMs = nil; return g }, domain.ErrRefused, "no VMs"},
		"not running":         {change(func(v *api.HostVM) { v.State = "stopped" }), domain.ErrRefused, "VM app runs on none of its hosts [h2]"},
		"under another epoch": {change(func(v *api.HostVM) { v.Epoch++ }), domain.ErrRefused, "under epoch"},
		"of another group":    {change(func(v *api.HostVM) { v.Group = "crm" }), domain.ErrRefused, "VM app"},
		"on a host that is silent": {func(g domain.Group, hosts map[domain.HostID]*host) domain.Group {
			hosts["h2"].vms = nil
			g.VMs[1].Sites["a"] = domain.VMPlacement{Hosts: []domain.HostID{"h3"}}
			return g
		}, domain.ErrUnavailable, "host h3, which may run it, does not say"},
	} {
		q, g, hosts := site(t)
		if _, err := q.Quiesce(t.Context(), x.change(g, hosts), epoch, time.Second); !errors.Is(err, x.want) || !strings.Contains(err.Error(), x.says) {
			t.Errorf("%s: %v", name, err)
		}
		if _, frees := hosts["h1"].state(); frees != 0 {
			t.Errorf("%s: somebody was frozen", name)
		}
	}
}
