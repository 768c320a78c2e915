package telemetry

import (
	"fmt"
	"net/http"
	"runtime"
	"runtime/debug"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// The instruments a service holds on to. With resolves the labels; what it gives may be used at any rate.
type (
	// Counter only grows.
	Counter = prometheus.Counter
	// CounterVec is a counter for each combination of labels.
	CounterVec = prometheus.CounterVec
	// Histogram counts observations in buckets, without locks or allocation.
	Histogram = prometheus.Observer
	// HistogramVec is a histogram for each combination of labels.
	HistogramVec = prometheus.HistogramVec
)

// Registry holds the metrics of a process.
type Registry struct {
	reg  *prometheus.Registry
	site domain.SiteID
}

// NewRegistry makes the registry of a process, with the metrics of the Go runtime, the process and the build. service names
// the process, as in Health.
func NewRegistry(site domain.SiteID, service string, health *Health) *Registry {
	r := &Registry{reg: prometheus.NewRegistry(), site: site}
	own := r.For(service)
	own.reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	own.Collect([]string{BuildInfo, ServiceReady, ServiceImpaired}, func(set Set) {
		r := health.Report()
		set(BuildInfo, 1, Version(), runtime.Version())
		set(ServiceReady, Bool(r.OK))
		set(ServiceImpaired, Bool(r.Impaired()))
	})
	return r
}

// For gives the metrics of one service of the process.
func (r *Registry) For(service string) *Metrics {
	return newMetrics(prometheus.WrapRegistererWith(prometheus.Labels{"site": string(r.site), "service": service}, r.reg))
}

// Handler answers GET /metrics. A metric that fails leaves the others.
func (r *Registry) Handler() http.Handler {
	return promhttp.HandlerFor(r.reg, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: 4})
}

// Gather reads every metric once and throws the numbers away: it returns only if every part that tells some can be asked.
func (r *Registry) Gather() error {
	if _, err := r.reg.Gather(); err != nil {
		return fmt.Errorf("read the process's metrics: %w", err)
	}
	return nil
}

// Metrics makes a service's instruments from the catalogue. A nil Metrics makes instruments that nobody reads. A name that is
// not in the catalogue, or a second instrument of one name, is a mistake of the program and panics.
type Metrics struct {
	reg  prometheus.Registerer
	defs map[string]Metric
}

func newMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{reg: reg, defs: map[string]Metric{}}
	for _, d := range Catalogue() {
		m.defs[d.Name] = d
	}
	return m
}

func (m *Metrics) or() *Metrics {
	if m == nil {
		return newMetrics(prometheus.NewRegistry())
	}
	return m
}

func (m *Metrics) def(name string, kind Kind) Metric {
	d, ok := m.defs[name]
	if !ok || d.Kind != kind {
		panic(fmt.Sprintf("metric %s: the catalogue has no %s of that name", name, kind))
	}
	return d
}

// Counter makes the counter of a name.
func (m *Metrics) Counter(name string) *CounterVec {
	m = m.or()
	d := m.def(name, KindCounter)
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: d.Name, Help: d.Help}, d.Labels)
	m.reg.MustRegister(v)
	return v
}

// Histogram makes the histogram of a name.
func (m *Metrics) Histogram(name string) *HistogramVec {
	m = m.or()
	d := m.def(name, KindHistogram)
	v := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: d.Name, Help: d.Help, Buckets: d.Buckets}, d.Labels)
	m.reg.MustRegister(v)
	return v
}

// Set tells the value a gauge has now; labels are the values of those in the catalogue, in their order.
type Set func(name string, value float64, labels ...string)

// Collect tells gauges from the service's own state whenever they are asked for, so that nothing has to keep them up to
// date. f must not wait for another process. It sets each combination of labels at most once.
func (m *Metrics) Collect(names []string, f func(set Set)) {
	if m == nil {
		return
	}
	c := &gaugeSet{descs: map[string]*prometheus.Desc{}, f: f}
	for _, name := range names {
		d := m.def(name, KindGauge)
		c.descs[name] = prometheus.NewDesc(d.Name, d.Help, d.Labels, nil)
	}
	m.reg.MustRegister(c)
}

type gaugeSet struct {
	descs map[string]*prometheus.Desc
	f     func(Set)
}

// Describe implements prometheus.Collector.
func (c *gaugeSet) Describe(out chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c *gaugeSet) Collect(out chan<- prometheus.Metric) {
	c.f(func(name string, value float64, labels ...string) {
		d, ok := c.descs[name]
		if !ok {
			panic("metric " + name + ": not among those its collector announced")
		}
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	})
}

// Bool is 1 for true.
func Bool(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// Version is that of the build: the module's, or else the revision it was built from.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value
		}
	}
	return "devel"
}
