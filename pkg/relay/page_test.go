package relay_test

import (
	"net/http/httptest"

	"github.com/holdfast-dr/holdfast/pkg/telemetry"
)

// scrape is what the metrics page says.
func scrape(r *telemetry.Registry) string {
	w := httptest.NewRecorder()
	r.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	return w.Body.String()
}
