package telemetry

import (
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

// units of the names that end in neither a base unit nor _total: they count or say yes and no.
var unitless = []string{BuildInfo, ServiceReady, ServiceImpaired, BusConnected, BreakerState, GroupEpoch, GroupServing, GroupRole, GroupConsistent, GroupFailed, GroupQuarantined,
	ReplicationInSync, ReplicationState, ISCSISessions, LeaseHeld, LeaseEpoch, VoterReachable, QuorumReachable, QuorumForced, QuorumPrevented, HealthObjects, HealthMissed, HealthAssessment, HealthSick,
	RunsActive, Declarations, HostVMs, GroupWriteBytes, GroupWrites, ReplicationLossWrites, TakeoverLossWrites, GroupHeld, GroupDamage,
	SiteDrained, DrainGroups,
	ReplicationBreaks, ReplicationLine, Checkpoints, VerifyRunning, VerifyFailed, RelayConnections}

func TestCatalogueKeepsTheConventions(t *testing.T) {
	name := regexp.MustCompile(`^holdfast_[a-z]+(_[a-z]+)*$`)
	unit := regexp.MustCompile(`_(seconds|bytes|ratio)$`)
	seen := map[string]bool{}
	for _, m := range Catalogue() {
		switch {
		case seen[m.Name]:
			t.Errorf("%s: twice", m.Name)
		case !name.MatchString(m.Name):
			t.Errorf("%s: bad name", m.Name)
		case (m.Kind == KindCounter) != strings.HasSuffix(m.Name, "_total"):
			t.Errorf("%s: counters, and they alone, end in _total", m.Name)
		case m.Kind == KindHistogram && (!strings.HasSuffix(m.Name, "_seconds") || len(m.Buckets) == 0 || !slices.IsSorted(m.Buckets)):
			t.Errorf("%s: a histogram is of seconds and has sorted buckets", m.Name)
		case m.Kind == KindGauge && !unit.MatchString(m.Name) && !slices.Contains(unitless, m.Name):
			t.Errorf("%s: no base unit", m.Name)
		case !strings.HasSuffix(m.Help, ".") || m.Service == "":
			t.Errorf("%s: no help or no service", m.Name)
		}
		for _, l := range m.Labels {
			if slices.Contains([]string{"site", "service", "run", "run_id", "le"}, l) {
				t.Errorf("%s: label %s is the registry's, or has no bound", m.Name, l)
			}
		}
		seen[m.Name] = true
	}
}

func TestEveryMetricOfTheCatalogueIsScrapedAndLintsClean(t *testing.T) {
	h := NewHealth("a", "site")
	r := NewRegistry("a", "site", h)
	one := r.For("replicator")
	var gauges []string
	for _, m := range Catalogue() {
		labels := make([]string, len(m.Labels))
		for i := range labels {
			labels[i] = "x"
		}
		switch m.Kind {
		case KindCounter:
			one.Counter(m.Name).WithLabelValues(labels...).Inc()
		case KindHistogram:
			one.Histogram(m.Name).WithLabelValues(labels...).Observe(0.001)
		default:
			gauges = append(gauges, m.Name)
		}
	}
	one.Collect(gauges, func(set Set) {
		for _, m := range Catalogue() {
			if m.Kind == KindGauge {
				set(m.Name, 1, slices.Repeat([]string{"x"}, len(m.Labels))...)
			}
		}
	})
	r.For("dns").Counter(DNSChanges).WithLabelValues("changed").Inc() // the same name of another service of the process
	body := scrape(t, r)
	for _, m := range Catalogue() {
		if !strings.Contains(body, "# TYPE "+m.Name+" "+string(m.Kind)+"\n") {
			t.Errorf("%s is not scraped as %s", m.Name, m.Kind)
		}
	}
	for _, want := range []string{`holdfast_dns_changes_total{result="changed",service="dns",site="a"} 1`, `holdfast_service_ready{service="site",site="a"} 0`, "go_goroutines{", "process_open_fds{"} {
		if !strings.Contains(body, want) {
			t.Errorf("%s is not scraped", want)
		}
	}
	problems, err := promlint.New(strings.NewReader(body)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "holdfast_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

func TestNoMetricsIsNoTrouble(t *testing.T) {
	var m *Metrics
	m.Counter(Runs).WithLabelValues("start", "done").Inc()
	m.Histogram(DNSDuration).WithLabelValues().Observe(1)
	m.Collect([]string{HostVMs}, func(Set) { t.Error("asked though nobody listens") })
}

func TestAMetricThatIsNotInTheCatalogueIsAMistake(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	NewRegistry("a", "site", NewHealth("a", "site")).For("dns").Counter("holdfast_surprises_total")
}

func scrape(t *testing.T, r *Registry) string {
	t.Helper()
	w := httptest.NewRecorder()
	r.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	body, err := io.ReadAll(w.Body)
	if err != nil || w.Code != http.StatusOK {
		t.Fatalf("scrape: %d %v %s", w.Code, err, body)
	}
	return string(body)
}
