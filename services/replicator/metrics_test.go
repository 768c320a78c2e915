package replicator

import (
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/telemetry"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

func TestMeasuringACommandAllocatesNothing(t *testing.T) {
	m := meter()
	if n := testing.AllocsPerRun(1000, func() { m.Observe(target.ClassWrite, target.OutcomeGood, 4096, 80*time.Microsecond) }); n != 0 {
		t.Errorf("%v allocations a command", n)
	}
}

// BenchmarkMeter is what measuring adds to each command, from several sessions at once.
func BenchmarkMeter(b *testing.B) {
	m := meter()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			m.Observe(target.ClassWrite, target.OutcomeGood, 4096, 80*time.Microsecond)
		}
	})
}

func meter() target.Meter {
	r := telemetry.NewRegistry("a", "replicator", telemetry.NewHealth("a", "replicator"))
	return newMeters(r.For("replicator")).volume("erp", "erp-data")
}
