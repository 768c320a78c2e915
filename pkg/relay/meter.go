package relay

import (
	"sync/atomic"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/telemetry"
)

// noSite stands for the destination of a connection that named none which is configured: no site is called so.
const noSite domain.SiteID = "-"

// How a connection ended, for the metrics.
const (
	resultRelayed   = "relayed"
	resultRefused   = "refused"   // garbage, silence, or a destination that is not configured
	resultUnreached = "unreached" // the destination did not answer
	resultBusy      = "busy"      // too many of them
)

// meter counts.
type meter struct {
	conns  *telemetry.CounterVec
	moved  *telemetry.CounterVec
	active map[domain.SiteID]*atomic.Int64
}

func newMeter(m *telemetry.Metrics, to map[domain.SiteID]string) *meter {
	out := &meter{conns: m.Counter(telemetry.RelayEnded), moved: m.Counter(telemetry.RelayBytes), active: map[domain.SiteID]*atomic.Int64{}}
	for site := range to { // each is there from the start, as 0
		out.active[site] = &atomic.Int64{}
		out.conns.WithLabelValues(string(site), resultRelayed)
		out.bytes(site)
	}
	m.Collect([]string{telemetry.RelayConnections}, func(set telemetry.Set) {
		for site, n := range out.active {
			set(telemetry.RelayConnections, float64(n.Load()), string(site))
		}
	})
	return out
}

func (m *meter) began(to domain.SiteID) { m.active[to].Add(1) }

func (m *meter) ended(to domain.SiteID, result string) {
	m.conns.WithLabelValues(string(to), result).Inc()
	if result == resultRelayed {
		m.active[to].Add(-1)
	}
}

// bytes are the counters of both directions to a destination.
func (m *meter) bytes(to domain.SiteID) (up, down func(int)) {
	count := func(direction string) func(int) {
		c := m.moved.WithLabelValues(string(to), direction)
		return func(n int) { c.Add(float64(n)) }
	}
	return count("to"), count("from")
}
