package dns

import (
	"errors"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/telemetry"
)

// meters count the changes of names that were asked for.
type meters struct {
	changes *telemetry.CounterVec
	took    *telemetry.HistogramVec
}

func newMeters(m *telemetry.Metrics) meters {
	return meters{changes: m.Counter(telemetry.DNSChanges), took: m.Histogram(telemetry.DNSDuration)}
}

// observe counts one change: changed, unchanged (it was a repeat), refused by a safety check, or failed.
func (m meters) observe(took time.Duration, changed bool, err error) {
	result := "unchanged"
	switch {
	case refused(err):
		result = "refused"
	case err != nil:
		result = "failed"
	case changed:
		result = "changed"
		m.took.WithLabelValues().Observe(took.Seconds())
	}
	m.changes.WithLabelValues(result).Inc()
}

// refused reports whether a safety check said no.
func refused(err error) bool {
	return errors.Is(err, domain.ErrConflict) || errors.Is(err, domain.ErrStaleEpoch) || errors.Is(err, domain.ErrRefused)
}
