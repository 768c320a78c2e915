package target

import (
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
	"github.com/holdfast-dr/holdfast/pkg/telemetry"
)

// meteredUnit is measured as a group's volumes are: a counter, a sum of bytes and a histogram for each command.
type meteredUnit struct {
	*memUnit
	commands, moved telemetry.Counter
	took            telemetry.Histogram
}

func newMeteredUnit(size int) *meteredUnit {
	m := telemetry.NewRegistry("a", "replicator", telemetry.NewHealth("a", "replicator")).For("replicator")
	return &meteredUnit{memUnit: newMemUnit(size), commands: m.Counter(telemetry.ISCSICommands).WithLabelValues("erp", "data", "read", "good"),
		moved: m.Counter(telemetry.ISCSIBytes).WithLabelValues("erp", "data", "read"), took: m.Histogram(telemetry.ISCSIDuration).WithLabelValues("erp", "data", "read")}
}

func (u *meteredUnit) Meter() Meter { return u }

func (u *meteredUnit) Observe(_ Class, _ Outcome, bytes int, took time.Duration) {
	u.commands.Inc()
	u.moved.Add(float64(bytes))
	u.took.Observe(took.Seconds())
}

// BenchmarkRead4K and BenchmarkWrite4K keep 32 commands of 4 KiB in flight on one session over loopback, against a unit in
// memory: what the target itself costs, without and with measuring.
func BenchmarkRead4K(b *testing.B) {
	benchmarkBoth(b, nil, func(c *client) iscsi.SCSICommand { return c.command(iscsi.Read16CDB(0, 8), 4096, false) })
}

func BenchmarkWrite4K(b *testing.B) {
	benchmarkBoth(b, make([]byte, 4096), func(c *client) iscsi.SCSICommand { return c.command(iscsi.Write16CDB(0, 8, false), 4096, true) })
}

func benchmarkBoth(b *testing.B, data []byte, next func(*client) iscsi.SCSICommand) {
	b.Run("plain", func(b *testing.B) { benchmark(b, newMemUnit(1<<20), data, next) })
	b.Run("measured", func(b *testing.B) { benchmark(b, newMeteredUnit(1<<20), data, next) })
}

// cpuTime is what the process has used, initiator and target: on a machine with other work it says more than the wall clock.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func benchmark(b *testing.B, unit Unit, data []byte, next func(*client) iscsi.SCSICommand) {
	const depth = 32
	const iqn = "iqn.2026-11.test:bench"
	t := newBench(b, Config{}, nil)
	if err := t.srv.AddTarget(iqn, map[int]Unit{0: unit}, nil); err != nil {
		b.Fatal(err)
	}
	c := t.dial()
	if rsp, _ := c.loginStep(iscsi.Login{Transit: true, CSG: 1, NSG: 3}, kv("InitiatorName", c.name, "TargetName", iqn)); rsp.Status != 0 {
		b.Fatalf("login: status %04x", rsp.Status)
	}
	c.command(iscsi.CDB{}, 0, false) // TEST UNIT READY takes the unit attention of the login
	c.cmdSN--
	c.send(c.command(iscsi.CDB{}, 0, false), nil)
	c.recv()
	begin := func() {
		var p iscsi.PDU
		next(c).Put(&p)
		p.Data = data
		if err := c.w.Write(&p); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	b.SetBytes(4096)
	b.ResetTimer()
	began := cpuTime(b)
	defer func() { b.ReportMetric(float64(cpuTime(b)-began)/float64(b.N), "cpu-ns/op") }()
	for range min(depth, b.N) {
		begin()
	}
	var p iscsi.PDU
	for i := range b.N {
		if i%(depth/2) == 0 {
			if err := c.w.Flush(); err != nil {
				b.Fatal(err)
			}
		}
		if err := c.r.Next(&p); err != nil {
			b.Fatal(err)
		}
		if p.Opcode() == iscsi.OpSCSIResponse && p.BHS[3] != 0 {
			b.Fatalf("status %02x", p.BHS[3])
		}
		p.Release()
		if i+depth < b.N {
			begin()
		}
	}
}
