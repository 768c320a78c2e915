package hostagent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
	"github.com/holdfast-dr/holdfast/pkg/telemetry"
	"github.com/holdfast-dr/holdfast/services/failover/workload"
)

// agent is one host while it runs.
type agent struct {
	cfg    Config
	deps   Deps
	log    *slog.Logger
	life   context.Context // the host's power, for the VMs, which outlive the requests that start them
	pull   puller
	events *bus.Events
	epochs *epochs
	boot   string

	wg sync.WaitGroup // attempts

	mu     sync.Mutex
	vms    map[domain.VMID]*attempt // the newest of each VM
	closed bool                     // no attempt may begin any more
}

// Run is the host: it answers start, stop and status, says that it lives, and keeps its VMs within their leases, until
// ctx ends, which is loss of power. It returns when nothing of it runs any more: nil after the end of ctx, else what kept
// it from starting.
func Run(ctx context.Context, cfg Config, deps Deps) error {
	cfg, deps = cfg.withDefaults(), deps.withDefaults()
	if err := cfg.validate(deps); err != nil {
		return err
	}
	if err := os.MkdirAll(cfg.Dir, 0o755); err != nil {
		return fmt.Errorf("host %s: make its folder: %w", cfg.Host, err)
	}
	seen, err := openEpochs(cfg.Dir)
	if err != nil {
		return fmt.Errorf("host %s: %w", cfg.Host, err)
	}
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", cfg.Probe)
	if err != nil {
		return fmt.Errorf("host %s: listen for probes: %w", cfg.Host, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	local := deps.Mesh.Local()
	ag := &agent{
		cfg: cfg, deps: deps, log: deps.Logger, life: ctx, epochs: seen, boot: workload.NewInstance(), vms: map[domain.VMID]*attempt{},
		events: bus.NewEvents(ctx, local, api.HostService(cfg.Host), deps.Logger),
	}
	ag.pull = func(ctx context.Context, g domain.GroupID, e domain.Epoch) (api.Lease, error) {
		return bus.Call[api.Lease](ctx, local, api.ServiceQuorum, api.VerbLease, api.LeaseRequest{Group: g, Epoch: e})
	}
	return ag.run(ctx, ln)
}

func (ag *agent) run(ctx context.Context, ln net.Listener) error {
	defer ag.wg.Wait()
	var side sync.WaitGroup
	defer side.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	side.Go(func() { ag.servePage(ctx, ln) })
	ag.tellMetrics()
	err := ag.deps.Mesh.Local().Serve(ctx, api.HostService(ag.cfg.Host), map[string]bus.Endpoint{
		api.VerbStart:  bus.Answer(ag.start),
		api.VerbStop:   bus.Answer(ag.stop),
		api.VerbFreeze: bus.Answer(ag.freeze),
		api.VerbThaw:   bus.Answer(ag.thaw),
		api.VerbStatus: bus.Answer(func(context.Context, api.Empty) (api.HostStatus, error) { return ag.status(), nil }),
	})
	if err != nil {
		return err
	}
	side.Go(func() { ag.beat(ctx, ln.Addr().String()) })
	if ag.deps.Ready != nil {
		ag.deps.Ready(ln.Addr().String())
	}
	<-ctx.Done()
	ag.mu.Lock()
	ag.closed = true
	ag.mu.Unlock()
	return nil
}

// start is the start verb.
func (ag *agent) start(ctx context.Context, req api.HostStartRequest) (vm api.HostVM, err error) {
	ctx, span := ag.span(ctx, "host start vm", req.VM, req.Epoch)
	defer func() { telemetry.End(span, err) }()
	if !domain.ValidToken(string(req.VM)) || !domain.ValidToken(string(req.Group)) || req.Epoch <= 0 || len(req.Disks) == 0 {
		return vm, fmt.Errorf("start VM %q of group %q under epoch %d with %d disks: %w", req.VM, req.Group, req.Epoch, len(req.Disks), domain.ErrInvalid)
	}
	if err := ag.epochs.raise(req.Group, req.Epoch); err != nil {
		return vm, fmt.Errorf("start VM %s: %w", req.VM, err)
	}
	a, err := ag.attempt(ctx, req)
	if err != nil {
		return vm, err
	}
	wait := time.NewTimer(ag.cfg.StartWait)
	defer wait.Stop()
	select {
	case <-a.started:
	case <-wait.C:
	case <-ctx.Done():
		return vm, ctx.Err()
	}
	return a.snapshot()
}

// attempt finds the live attempt of the VM under the epoch, or begins one, which belongs to ctx's trace.
func (ag *agent) attempt(ctx context.Context, req api.HostStartRequest) (*attempt, error) {
	ag.mu.Lock()
	defer ag.mu.Unlock()
	old := ag.vms[req.VM]
	if old != nil {
		switch {
		case req.Epoch < old.req.Epoch:
			return nil, fmt.Errorf("start VM %s: epoch %s after epoch %s: %w", req.VM, req.Epoch, old.req.Epoch, domain.ErrStaleEpoch)
		case req.Epoch == old.req.Epoch && old.usable():
			return old, nil
		}
	}
	if ag.closed {
		return nil, fmt.Errorf("start VM %s: the host is down: %w", req.VM, domain.ErrUnavailable)
	}
	a := newAttempt(req, old)
	ag.vms[req.VM] = a
	life := trace.ContextWithSpanContext(ag.life, trace.SpanContextFromContext(ctx))
	ag.wg.Go(func() { a.run(life, ag) })
	return a, nil
}

// stop is the stop verb.
func (ag *agent) stop(ctx context.Context, req api.HostStopRequest) (out api.Empty, err error) {
	ctx, span := ag.span(ctx, "host stop vm", req.VM, req.Epoch)
	defer func() { telemetry.End(span, err) }()
	ag.mu.Lock()
	a := ag.vms[req.VM]
	ag.mu.Unlock()
	if a == nil {
		return out, nil
	}
	if req.Epoch < a.req.Epoch {
		return out, fmt.Errorf("stop VM %s: epoch %s after epoch %s: %w", req.VM, req.Epoch, a.req.Epoch, domain.ErrStaleEpoch)
	}
	a.requestStop(time.Duration(req.GraceNs))
	select {
	case <-a.ended:
		return out, nil
	case <-ctx.Done():
		return out, ctx.Err()
	}
}

// status is the status verb.
func (ag *agent) status() api.HostStatus {
	ag.mu.Lock()
	defer ag.mu.Unlock()
	s := api.HostStatus{Site: ag.cfg.Site, Host: ag.cfg.Host, Driver: ag.deps.Driver.Name(), VMs: []api.HostVM{}}
	for _, a := range ag.vms {
		vm, _ := a.snapshot()
		s.VMs = append(s.VMs, vm)
	}
	slices.SortFunc(s.VMs, func(a, b api.HostVM) int { return cmp.Compare(a.VM, b.VM) })
	return s
}

// tellMetrics lets the VMs be counted by state.
func (ag *agent) tellMetrics() {
	ag.deps.Metrics.Collect([]string{telemetry.HostVMs}, func(set telemetry.Set) {
		count := map[string]int{StateStarting: 0, StateRunning: 0, StateStopped: 0, StateFailed: 0}
		for _, vm := range ag.status().VMs {
			count[vm.State]++
		}
		for state, n := range count {
			set(telemetry.HostVMs, float64(n), state)
		}
	})
}

// announce logs and publishes a change of a VM.
func (ag *agent) announce(ctx context.Context, fact string, vm api.HostVM, reason string) {
	ag.log.Info("vm "+fact, "site", ag.cfg.Site, "group", vm.Group, "vm", vm.VM, "epoch", vm.Epoch, "reason", reason) //nolint:sloglint // three facts
	id := fmt.Sprintf("%s-%s-%s-%s", ag.cfg.Host, vm.VM, vm.Instance, fact)
	ag.events.Publish(ctx, id, event.VMChanged{Fact: fact, Site: ag.cfg.Site, Host: ag.cfg.Host, VM: vm, Reason: reason})
}

// announceHold tells that a guest was let go on by the host.
func (ag *agent) announceHold(ctx context.Context, hold string, vm api.HostVM, reason string) {
	ag.log.Warn("guest let go on by its host", "site", ag.cfg.Site, "group", vm.Group, "vm", vm.VM, "reason", reason)
	id := fmt.Sprintf("%s-%s-%s-freeze_expired", ag.cfg.Host, vm.VM, hold)
	ag.events.Publish(ctx, id, event.VMChanged{Fact: "freeze_expired", Site: ag.cfg.Site, Host: ag.cfg.Host, VM: vm, Reason: reason})
}

func (ag *agent) span(ctx context.Context, name string, vm domain.VMID, epoch domain.Epoch) (context.Context, trace.Span) {
	return ag.deps.Tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(attribute.String("site", string(ag.cfg.Site)),
		attribute.String("host", string(ag.cfg.Host)), attribute.String("vm", string(vm)), attribute.Int64("epoch", int64(epoch))))
}

// beat says on every site's server that the host lives.
func (ag *agent) beat(ctx context.Context, probe string) {
	hb := api.Heartbeat{Site: ag.cfg.Site, Node: string(ag.cfg.Host), Kind: "host", Boot: ag.boot, Probe: probe}
	ag.deps.Mesh.Beat(ctx, hb, ag.cfg.Heartbeat)
}

// servePage answers GET /healthz and GET /status for probes, until ctx ends.
func (ag *agent) servePage(ctx context.Context, ln net.Listener) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(ag.status())
	})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		ag.log.Error("health page ended", "site", ag.cfg.Site, "error", err)
	}
}
