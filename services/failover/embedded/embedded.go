// Package embedded is the VM driver of the default installation: it runs the workload in the host agent's process, on
// disks it opens with our own iSCSI initiator. It needs nothing but the binary.
package embedded

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/holdfast-dr/holdfast/pkg/initiator"
	"github.com/holdfast-dr/holdfast/services/failover/hostagent"
	"github.com/holdfast-dr/holdfast/services/failover/workload"
)

// Driver implements hostagent.Driver. The zero value works.
type Driver struct {
	Logger *slog.Logger // nil: silent
	Tracer trace.Tracer // nil: none
	// Disk shapes the iSCSI sessions. A VM rides out the loss of its target as a real one does: outstanding writes are
	// replayed after a reconnect, until the VM ends.
	Disk initiator.Options
	// CHAP is what the host proves itself with to its site's volumes, asked for at each login; nil: nothing.
	CHAP func() initiator.CHAP
}

// Name implements hostagent.Driver.
func (*Driver) Name() string { return "embedded" }

// Start implements hostagent.Driver.
func (d *Driver) Start(ctx context.Context, spec hostagent.Spec) (hostagent.Instance, error) {
	ctx, power := context.WithCancel(ctx)
	m := &machine{power: power, stop: make(chan struct{}), done: make(chan struct{})}
	ln, err := m.boot(ctx, d, spec)
	if err != nil {
		m.off()
		return nil, fmt.Errorf("start VM %s: %w", spec.VM, err)
	}
	go m.run(ctx, ln)
	return m, nil
}

// machine implements hostagent.Instance.
type machine struct {
	power context.CancelFunc
	vm    *workload.VM
	disks []*initiator.Session
	stop  chan struct{} // closed for a graceful end
	done  chan struct{}
	once  sync.Once

	mu     sync.Mutex
	grace  time.Duration
	reason string // of an end that was asked for; empty while none was
	err    error
}

// disk is a session as the workload sees it.
type disk struct{ *initiator.Session }

// WriteDurable implements workload.Disk with forced unit access, which is durable in both durability classes.
func (d disk) WriteDurable(ctx context.Context, p []byte, off int64) error {
	return d.Write(ctx, p, off, true)
}

// Size implements workload.Disk.
func (d disk) Size() int64 { return d.Capacity() }

// boot opens the disks, boots the workload and listens, in this order: an open port means a VM that is up.
func (m *machine) boot(ctx context.Context, d *Driver, spec hostagent.Spec) (net.Listener, error) {
	o := d.Disk
	o.Replay, o.Timeout = true, -1
	if d.CHAP != nil {
		o.Credentials = d.CHAP
	}
	if o.Name == "" {
		o.Name = fmt.Sprintf("iqn.2026-11.dev.holdfast:%s:%s:%s", spec.Site, spec.Host, spec.VM)
	}
	var disks []workload.Disk
	for _, a := range spec.Disks {
		s, err := initiator.Dial(ctx, a.URL, o)
		if err != nil {
			return nil, fmt.Errorf("open volume %s: %w", a.Volume, hostagent.ExplainLogin(err, d.CHAP))
		}
		m.disks = append(m.disks, s)
		if a.Serial != "" && s.Serial() != a.Serial {
			return nil, fmt.Errorf("open volume %s: serial %q, want %q", a.Volume, s.Serial(), a.Serial)
		}
		disks = append(disks, disk{s})
	}
	w := workload.Spec{VM: spec.VM, Group: spec.Group, Site: spec.Site, Host: spec.Host, Instance: spec.Instance, Epoch: spec.Epoch}
	vm, err := workload.Boot(ctx, w, disks, workload.Deps{Gate: spec.Gate, Ledger: spec.Ledger, Logger: d.Logger, Tracer: d.Tracer})
	if err != nil {
		return nil, err
	}
	m.vm = vm
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(spec.Address, strconv.Itoa(spec.Port)))
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return ln, nil
}

// off ends everything a machine holds.
func (m *machine) off() {
	m.power()
	if m.vm != nil {
		m.vm.Halt()
	}
	for _, s := range m.disks {
		_ = s.Close()
	}
}

// run is the machine from power on to power off.
func (m *machine) run(ctx context.Context, ln net.Listener) {
	defer close(m.done)
	err := m.vm.Serve(ctx, ln, m.stop, m.graceTime)
	m.off()
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.reason != "":
		_ = m.vm.Stopped(m.reason) // evidence only: nothing waits for it
	case err != nil:
		m.err = err
		_ = m.vm.Stopped("failed: " + err.Error())
	}
}

func (m *machine) graceTime() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.grace
}

// Stop implements hostagent.Instance.
func (m *machine) Stop(ctx context.Context, grace time.Duration) {
	m.mu.Lock()
	if m.reason == "" {
		m.reason, m.grace = "stopped", grace
	}
	m.mu.Unlock()
	m.once.Do(func() { close(m.stop) })
	select {
	case <-m.done:
	case <-ctx.Done():
		m.power()
		<-m.done
	}
}

// Kill implements hostagent.Instance.
func (m *machine) Kill(reason string) {
	m.mu.Lock()
	if m.reason == "" {
		m.reason = "killed: " + reason
	}
	m.mu.Unlock()
	m.power()
	<-m.done
}

// Freeze implements hostagent.Freezer.
func (m *machine) Freeze(ctx context.Context) error { return m.vm.Freeze(ctx) }

// Thaw implements hostagent.Freezer.
func (m *machine) Thaw(context.Context) (stayed bool, err error) { return m.vm.Thaw(), nil }

// Done implements hostagent.Instance.
func (m *machine) Done() <-chan struct{} { return m.done }

// Err implements hostagent.Instance.
func (m *machine) Err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}
