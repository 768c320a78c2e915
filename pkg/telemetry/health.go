package telemetry

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Health is what a process answers about itself at /healthz. It speaks of this process and its own site's server only: the
// loss of another site is what the product is for, and must not get a healthy service restarted.
type Health struct {
	site    domain.SiteID
	service string

	mu     sync.Mutex
	checks []check
}

type check struct {
	service, name string
	note          bool // it does not count for OK
	f             func() error
}

// HealthReport is the body of /healthz: status 200 when OK, 503 otherwise. One that is OK may have a check that is not: see Note.
type HealthReport struct {
	Site    domain.SiteID  `json:"site"`
	Service string         `json:"service"`
	OK      bool           `json:"ok"`
	Checks  []HealthResult `json:"checks"`
}

// Impaired reports whether the process does its work without something that it should have.
func (r HealthReport) Impaired() bool {
	return r.OK && slices.ContainsFunc(r.Checks, func(c HealthResult) bool { return !c.OK })
}

// HealthResult is the outcome of one check; Reason says why it is not OK.
type HealthResult struct {
	Service string `json:"service"`
	Name    string `json:"name"`
	OK      bool   `json:"ok"`
	Reason  string `json:"reason,omitempty"`
}

// NewHealth is the health of a process that has not begun: it is not OK until it has checks and all of them pass.
func NewHealth(site domain.SiteID, service string) *Health {
	return &Health{site: site, service: service}
}

// Check adds a condition of one service of the process, asked on every request: it must not block. Nil means fine.
func (h *Health) Check(service, name string, f func() error) {
	h.add(check{service: service, name: name, f: f})
}

// Note adds a condition like Check, of something that the process does its work without: it is reported, and does not count for OK.
func (h *Health) Note(service, name string, f func() error) {
	h.add(check{service: service, name: name, note: true, f: f})
}

func (h *Health) add(add check) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.checks = slices.DeleteFunc(h.checks, func(c check) bool { return c.service == add.service && c.name == add.name })
	h.checks = append(h.checks, add)
}

// Report asks every check.
func (h *Health) Report() HealthReport {
	h.mu.Lock()
	checks := slices.Clone(h.checks)
	h.mu.Unlock()
	r := HealthReport{Site: h.site, Service: h.service, OK: slices.ContainsFunc(checks, func(c check) bool { return !c.note }), Checks: []HealthResult{}}
	for _, c := range checks {
		res := HealthResult{Service: c.service, Name: c.name, OK: true}
		if err := c.f(); err != nil {
			res.OK, res.Reason, r.OK = false, err.Error(), r.OK && c.note
		}
		r.Checks = append(r.Checks, res)
	}
	slices.SortStableFunc(r.Checks, func(a, b HealthResult) int { return strings.Compare(a.Service, b.Service) })
	return r
}

// ServeHTTP answers GET /healthz.
func (h *Health) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	r := h.Report()
	w.Header().Set("Content-Type", "application/json")
	if !r.OK {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(r) // the asker has gone: nothing to do
}
