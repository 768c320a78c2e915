package ruletest

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"

	_ "github.com/prometheus/prometheus/discovery/dns" // prometheus.yml finds its targets by it

	"github.com/holdfast-dr/holdfast/pkg/telemetry"
)

const (
	alertsFile    = "../prometheus/alerts.yml"
	dashboardFile = "../dashboards/holdfast.json"
	runbookFile   = "../../../docs/operations/metrics.md"
	runbookURL    = "https://github.com/holdfast-dr/holdfast/blob/main/docs/operations/metrics.md#"
)

// known is every metric name a scrape of Holdfast has, with the labels it may be asked for.
func known() map[string]map[string]bool {
	out := map[string]map[string]bool{"up": {"job": true, "instance": true}}
	for _, m := range telemetry.Catalogue() {
		have := map[string]bool{"site": true, "service": true, "job": true, "instance": true}
		for _, l := range m.Labels {
			have[l] = true
		}
		if m.Kind != telemetry.KindHistogram {
			out[m.Name] = have
			continue
		}
		out[m.Name+"_sum"], out[m.Name+"_count"] = have, have
		buckets := map[string]bool{"le": true}
		for l := range have {
			buckets[l] = true
		}
		out[m.Name+"_bucket"] = buckets
	}
	return out
}

// checkExpr parses an expression and wants every metric and every label it matches by to exist.
func checkExpr(t *testing.T, where, text string) {
	t.Helper()
	expr, err := parser.ParseExpr(strings.ReplaceAll(text, "$__rate_interval", "1m"))
	if err != nil {
		t.Errorf("%s: %v", where, err)
		return
	}
	names := known()
	parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
		vs, ok := n.(*parser.VectorSelector)
		if !ok {
			return nil
		}
		have, ok := names[vs.Name]
		if !ok {
			t.Errorf("%s: no service tells %s", where, vs.Name)
			return nil
		}
		for _, m := range vs.LabelMatchers {
			if m.Name != model.MetricNameLabel && !have[m.Name] {
				t.Errorf("%s: %s has no label %s", where, vs.Name, m.Name)
			}
		}
		return nil
	})
}

func rules(t *testing.T) []rulefmt.Rule {
	t.Helper()
	groups, errs := rulefmt.ParseFile(alertsFile, false, model.UTF8Validation)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	var out []rulefmt.Rule
	for _, g := range groups.Groups {
		out = append(out, g.Rules...)
	}
	return out
}

func TestAlertsParseNameKnownMetricsAndSayWhatToDo(t *testing.T) {
	book, err := os.ReadFile(runbookFile)
	if err != nil {
		t.Fatal(err)
	}
	all := rules(t)
	if len(all) < 15 {
		t.Errorf("only %d alerts", len(all))
	}
	for _, r := range all {
		checkExpr(t, r.Alert, r.Expr)
		if s := r.Labels["severity"]; s != "critical" && s != "warning" {
			t.Errorf("%s: severity %q", r.Alert, s)
		}
		for _, a := range []string{"summary", "consequence", "mend"} {
			if !strings.HasSuffix(r.Annotations[a], ".") && !strings.HasSuffix(r.Annotations[a], "...") {
				t.Errorf("%s: %s %q is no sentence", r.Alert, a, r.Annotations[a])
			}
		}
		if want := runbookURL + strings.ToLower(r.Alert); r.Annotations["runbook_url"] != want {
			t.Errorf("%s: runbook %q, want %s", r.Alert, r.Annotations["runbook_url"], want)
		}
		if !strings.Contains(string(book), "\n### "+r.Alert+"\n") {
			t.Errorf("%s: %s has no section of that name", r.Alert, runbookFile)
		}
		if !strings.Contains(string(book), "- Fires on: `"+r.Expr+"`\n") {
			t.Errorf("%s: %s shows another expression", r.Alert, runbookFile)
		}
	}
}

// A label that a summary names must be one that the expression gives, or the person reads a gap.
func TestAlertsNameOnlyLabelsTheyHave(t *testing.T) {
	label := regexp.MustCompile(`\$labels\.(\w+)`)
	names := known()
	for _, r := range rules(t) {
		have := map[string]bool{}
		expr, err := parser.ParseExpr(r.Expr)
		if err != nil {
			t.Fatal(err)
		}
		parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
			if vs, ok := n.(*parser.VectorSelector); ok {
				for l := range names[vs.Name] {
					have[l] = true
				}
			}
			return nil
		})
		for _, text := range r.Annotations {
			for _, m := range label.FindAllStringSubmatch(text, -1) {
				if !have[m[1]] {
					t.Errorf("%s: label %s is in none of its metrics", r.Alert, m[1])
				}
			}
		}
	}
}

type dashboard struct {
	Annotations struct {
		List []struct{ Expr string }
	}
	Templating struct {
		List []struct{ Name, Type, Definition string }
	}
	Panels []struct {
		Title, Type string
		Targets     []struct{ Expr string }
	}
}

func TestDashboardParsesAndNamesKnownMetrics(t *testing.T) {
	raw, err := os.ReadFile(dashboardFile)
	if err != nil {
		t.Fatal(err)
	}
	var d dashboard
	if err := json.Unmarshal(raw, &d); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			checkExpr(t, p.Title, target.Expr)
			n++
		}
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %q asks for nothing", p.Title)
		}
	}
	if n < 30 {
		t.Errorf("only %d expressions", n)
	}
	for _, a := range d.Annotations.List {
		checkExpr(t, "annotation", a.Expr)
	}
	values := regexp.MustCompile(`^label_values\((\w+), (\w+)\)$`)
	for _, v := range d.Templating.List {
		if v.Type != "query" {
			continue
		}
		m := values.FindStringSubmatch(v.Definition)
		if m == nil || !known()[m[1]][m[2]] {
			t.Errorf("variable %s: %q has no such metric or label", v.Name, v.Definition)
		}
	}
}

func TestPrometheusTakesItsConfiguration(t *testing.T) {
	cfg, err := config.LoadFile("../prometheus/prometheus.yml", false, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(cfg.RuleFiles) != 1 || !strings.HasSuffix(cfg.RuleFiles[0], "prometheus/alerts.yml") {
		t.Errorf("rule files %v", cfg.RuleFiles)
	}
}

// What the alerts that matter most fire on, and what they do not.
func TestAlertsFireWhenTheyShould(t *testing.T) {
	const at = `site="a",service="replicator",group="erp"`
	for _, c := range []struct {
		alert, series string
		fires         bool
	}{
		{"HoldfastRPOOverTarget", `holdfast_replication_rpo_seconds{` + at + `,target="c"} 45x20
			holdfast_replication_rpo_target_seconds{` + at + `} 30x20`, true},
		{"HoldfastRPOOverTarget", `holdfast_replication_rpo_seconds{` + at + `,target="c"} 5x20
			holdfast_replication_rpo_target_seconds{` + at + `} 30x20`, false},
		{"HoldfastRPOOverTarget", `holdfast_replication_rpo_seconds{` + at + `,target="b"} 45x20
			holdfast_replication_rpo_target_seconds{` + at + `} 0x20`, false}, // synchronous: HoldfastNotInSync speaks
		{"HoldfastNotInSync", `holdfast_replication_in_sync{` + at + `,target="b",mode="sync"} 0x20`, true},
		{"HoldfastNotInSync", `holdfast_replication_in_sync{` + at + `,target="c",mode="async"} 0x20`, false},
		{"HoldfastVerifyFailed", `holdfast_verify_failed{` + at + `,target="b"} 0 0 1x20`, true},
		{"HoldfastVerifyFailed", `holdfast_verify_failed{` + at + `,target="b"} 1x8 0x12`, false}, // a later one was good
		{"HoldfastServiceDown", `up{job="holdfast",instance="dns"} 1 0x20`, true},
		{"HoldfastServiceDown", `up{job="holdfast",instance="dns"} 1x4 stale`, true}, // its name is gone from the discovery
		{"HoldfastServiceDown", `up{job="holdfast",instance="dns"} 1x20`, false},
		{"HoldfastBreakerOpen", `holdfast_breaker_state{site="a",service="quorum",peer="b"} 2 1 2 1 2 1 2 1 2 1 2 1 2 1 2 1 2`, true}, // tries again and again
		{"HoldfastBreakerOpen", `holdfast_breaker_state{site="a",service="quorum",peer="b"} 2 2 2 2 2 2 0 2 2 2 2 2 2 2 2 2 2`, false},
		{"HoldfastLeaseLost", `holdfast_lease_changes_total{site="a",service="quorum",group="erp",change="lost"} 0x8 1x12`, true},
		{"HoldfastLeaseLost", `holdfast_lease_changes_total{site="a",service="quorum",group="erp",change="lost"} 1x20`, false},
		{"HoldfastRunFailed", `holdfast_runs_total{site="b",service="failover",kind="failover",result="failed"} 0x8 1x12`, true},
		{"HoldfastRunFailed", `holdfast_runs_total{site="b",service="failover",kind="failover",result="done"} 0x8 1x12`, false},
		{"HoldfastClockSkew", `holdfast_clock_skew_seconds{site="a",service="health",peer="b"} -3x20`, true},
		{"HoldfastCertificateEndsSoon", `holdfast_certificate_expiry_seconds{site="a",service="dns"} 5000000x20`, false},
		{"HoldfastCertificateEndsSoon", `holdfast_certificate_expiry_seconds{site="a",service="dns"} 500000x20`, true},
	} {
		if got := evaluate(t, c.alert, c.series); got != c.fires {
			t.Errorf("%s on %s: fires %v, want %v", c.alert, c.series, got, c.fires)
		}
	}
}

// evaluate loads series, a sample every 15 s, and asks an alert's expression after four minutes.
func evaluate(t *testing.T, alert, series string) bool {
	t.Helper()
	storage := promqltest.LoadedStorage(t, "load 15s\n"+indent(series))
	defer storage.Close()
	engine := promqltest.NewTestEngine(t, false, 5*time.Minute, 10000)
	for _, r := range rules(t) {
		if r.Alert != alert {
			continue
		}
		q, err := engine.NewInstantQuery(t.Context(), storage, nil, r.Expr, time.Unix(0, 0).Add(4*time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		defer q.Close()
		res := q.Exec(t.Context())
		if res.Err != nil {
			t.Fatalf("%s: %v", alert, res.Err)
		}
		v, err := res.Vector()
		if err != nil {
			t.Fatal(err)
		}
		return len(v) > 0
	}
	t.Fatalf("no alert %s", alert)
	return false
}

func indent(series string) string {
	var b strings.Builder
	for line := range strings.Lines(series) {
		fmt.Fprintf(&b, "  %s\n", strings.TrimSpace(line))
	}
	return b.String()
}
