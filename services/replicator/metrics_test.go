package replicator

import (
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/telemetry"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

func TestMeasuringACommandAllocatesNothing(t *testing.T) {
	m := meter()
	if n := testing.AllocsPerRun(1000, func() { m.Observe(target.ClassWrite, target.OutcomeGood, 4096, 80*time.Microsecond) }); n != 0 {
		t.Errorf("%v allocations a command", n)
	}
}

func TestTheWayToATargetIsMeasured(t *testing.T) {
	told := map[string]float64{}
	measureGroup(func(name string, value float64, labels ...string) {
		if name == telemetry.ReplicationLine {
			told[strings.Join(labels, " ")] = value
		}
	}, api.GroupStatus{Group: "erp", Role: domain.RolePrimary, Targets: []api.TargetStatus{{Site: "b", Way: api.WayLine}, {Site: "c", Way: api.WayNATS}, {Site: "d"}}})
	if want := map[string]float64{"erp b": 1, "erp c": 0, "erp d": 0}; !maps.Equal(told, want) {
		t.Errorf("%v, want %v", told, want)
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
