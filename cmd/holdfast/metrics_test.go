package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/telemetry"
)

// metrics is one scrape: value by series as the exposition writes it.
type metrics map[string]float64

func scrape(ctx context.Context, address string) (metrics, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %d: %w: %s", resp.StatusCode, err, body)
	}
	out := metrics{}
	for line := range strings.Lines(string(body)) {
		if series, text, ok := strings.Cut(strings.TrimSpace(line), "} "); ok && !strings.HasPrefix(line, "#") {
			v, err := strconv.ParseFloat(text, 64)
			if err != nil {
				return nil, fmt.Errorf("%q: %w", line, err)
			}
			out[series+"}"] = v
		}
	}
	return out, nil
}

// find is the sum of the series of a name that have every one of these labels, and how many there are.
func (m metrics) find(name string, labels ...string) (sum float64, n int) {
series:
	for series, v := range m {
		if !strings.HasPrefix(series, name+"{") {
			continue
		}
		for _, l := range labels {
			if !strings.Contains(series, l) {
				continue series
			}
		}
		sum += v
		n++
	}
	return sum, n
}

func (m metrics) is(want float64, name string, labels ...string) error {
	if v, n := m.find(name, labels...); n != 1 || v != want {
		return fmt.Errorf("%s%v is %v in %d series, want %v", name, labels, v, n, want)
	}
	return nil
}

func (m metrics) above(limit float64, name string, labels ...string) error {
	if v, n := m.find(name, labels...); n == 0 || v <= limit {
		return fmt.Errorf("%s%v is %v in %d series, want above %v", name, labels, v, n, limit)
	}
	return nil
}

// awaitMetrics scrapes until every check passes.
func awaitMetrics(t *testing.T, address string, checks func(metrics) []error) metrics {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var errs []error
	for tick := time.NewTicker(200 * time.Millisecond); ; {
		m, err := scrape(ctx, address)
		switch {
		case err != nil && ctx.Err() == nil:
			errs = []error{err}
		case err == nil:
			errs = slices.DeleteFunc(checks(m), func(err error) bool { return err == nil })
		}
		if len(errs) == 0 {
			return m
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("metrics of %s: %v", address, errs)
		}
	}
}

// Three real sites: every documented metric exists with a value that fits what the sites do, also while one is lost.
func TestMetricsTellWhatTheSitesDo(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: three sites for some ten seconds; run without -short")
	}
	in := installationOf(t, func(s, net string) string {
		relay := map[string]string{"b": "relay: {listen: \"" + net + ".3:9193\", to: [a, w]}\n"}[s]
		return "\nmetrics: {listen: \"" + net + ".3:919" + map[string]string{"a": "0", "b": "1", "w": "2"}[s] + "\"}\n" + relay
	})
	v := awaitGroup(t, in.files["a"], "a")
	at := func(s string) string { return in.net + ".3:919" + map[string]string{"a": "0", "b": "1", "w": "2"}[s] }
	for _, s := range []string{"a", "b", "w"} {
		if resp, err := http.Get("http://" + at(s) + "/healthz"); err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("health of site %s: %v %v", s, resp, err)
		} else {
			resp.Body.Close()
		}
	}
	if o := holdfast(t.Context(), "verify", "erp", "--config", in.files["a"]); o.code != 0 { // its metrics are told once something was compared
		t.Fatalf("verify: exit %d: %v\n%s", o.code, o.err, o.stderr)
	}
	a := awaitMetrics(t, at("a"), func(m metrics) []error {
		return append(settled(m, v.Desired.Epoch), m.is(0, telemetry.VerifyRunning), m.is(0, telemetry.VerifyDiffer), m.is(0, telemetry.VerifyHealed), m.is(0, telemetry.VerifyFailed), m.above(0, telemetry.VerifyAge))
	})
	b := awaitMetrics(t, at("b"), func(m metrics) []error {
		return []error{m.is(0, telemetry.GroupServing, `group="erp"`), m.is(1, telemetry.GroupRole, `role="target"`), m.is(1, telemetry.GroupConsistent),
			m.is(float64(v.Desired.Epoch), telemetry.LeaseEpoch), m.is(0, telemetry.LeaseHeld), m.above(0, telemetry.Votes, `verdict="granted"`),
			m.is(0, telemetry.TakeoverLossWrites, `group="erp"`), m.above(0, telemetry.TakeoverLossAge, `group="erp"`)}
	})
	w := awaitMetrics(t, at("w"), func(m metrics) []error {
		return []error{m.above(0, telemetry.Votes, `verb="accept"`, `verdict="granted"`), m.is(1, telemetry.QuorumReachable), m.is(1, telemetry.ServiceReady)}
	})
	checkCatalogue(t, a, b, w)

	in.stop["b"]()
	write(t, in.net+".110:8080") // a target is lost when a write cannot reach it
	lost := awaitMetrics(t, at("a"), func(m metrics) []error {
		return []error{m.is(0, telemetry.ReplicationInSync, `target="b"`), m.above(0, telemetry.ReplicationRPO, `target="b"`), m.above(0, telemetry.ReplicationLagBytes, `target="b"`),
			m.is(1, telemetry.ReplicationState, `target="b"`, `state="lost"`), m.is(0, telemetry.BusConnected, `peer="b"`, `service="quorum"`), m.is(0, telemetry.VoterReachable, `voter="b"`),
			m.is(1, telemetry.QuorumReachable), m.is(1, telemetry.ServiceReady), m.is(1, telemetry.HealthAssessment, `peer="b"`, `class="disaster"`),
			m.is(1, telemetry.HealthSuspicion, `peer="b"`, `path="heartbeat"`), m.above(1, telemetry.BreakerState, `peer="b"`, `service="quorum"`)}
	})
	before, _ := lost.find(telemetry.ReplicationRPO)
	awaitMetrics(t, at("a"), func(m metrics) []error { return []error{m.above(before, telemetry.ReplicationRPO, `target="b"`)} })
	in.start("b")
	awaitGroup(t, in.files["a"], "a")
	awaitMetrics(t, at("a"), func(m metrics) []error { return settled(m, v.Desired.Epoch) })
}

// write has the VM write to its disk.
func write(t *testing.T, vm string) {
	t.Helper()
	resp, err := http.Post("http://"+vm+"/append", "text/plain", strings.NewReader("a line"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("append: %s", resp.Status)
	}
}

// settled is what site a tells when group erp runs there in sync with b.
func settled(m metrics, epoch domain.Epoch) []error {
	e := float64(epoch)
	skew, _ := m.find(telemetry.ClockSkew, `peer="b"`)
	errs := []error{m.is(e, telemetry.GroupEpoch, `group="erp"`, `service="replicator"`, `site="a"`), m.is(e, telemetry.LeaseEpoch, `group="erp"`),
		m.is(1, telemetry.GroupServing), m.is(1, telemetry.GroupRole, `role="primary"`), m.is(0, telemetry.GroupRole, `role="target"`), m.is(0, telemetry.GroupFailed), m.is(0, telemetry.GroupQuarantined),
		m.is(0, telemetry.ReplicationRPO, `group="erp"`, `target="b"`), m.is(0, telemetry.ReplicationRPOTarget), m.is(0, telemetry.ReplicationLagSeconds),
		m.is(0, telemetry.ReplicationLagBytes), m.is(1, telemetry.ReplicationInSync, `mode="sync"`), m.is(1, telemetry.ReplicationState, `state="streaming"`),
		m.above(15<<20, telemetry.JournalSize), m.above(0, telemetry.JournalUsed), m.above(0, telemetry.JournalFill),
		m.is(1, telemetry.ISCSISessions, `volume="data"`), m.above(0, telemetry.ISCSICommands, `op="write"`, `status="good"`), m.above(0, telemetry.ISCSIBytes, `op="write"`),
		m.above(0, telemetry.ISCSIDuration+"_count", `op="write"`), m.above(0, telemetry.ISCSIDuration+"_sum", `op="read"`),
		m.is(1, telemetry.LeaseHeld), m.above(0, telemetry.LeaseRemaining), m.above(0, telemetry.LeaseChanges, `change="granted"`),
		m.is(1, telemetry.QuorumReachable), votersReached(m, 3), m.is(0, telemetry.HealthMissed, `peer="b"`, `path="heartbeat"`), m.is(0, telemetry.HealthSick),
		m.is(1, telemetry.HealthAssessment, `peer="b"`, `class="none"`), m.above(0, telemetry.HealthObjects, `kind="site"`, `state="alive"`),
		m.above(0, telemetry.Runs, `kind="start"`, `result="done"`), m.is(0, telemetry.RunsActive), m.above(0, telemetry.RunLastRTO, `kind="start"`),
		m.above(0, telemetry.RunStepDuration+"_count", `step="promote"`), m.above(0, telemetry.RunDuration+"_count"), m.above(0, telemetry.DNSChanges),
		m.above(0, telemetry.HostVMs, `state="running"`), m.above(0, telemetry.BuildInfo), m.is(1, telemetry.ServiceReady)}
	if skew < -1 || skew > 1 {
		errs = append(errs, fmt.Errorf("clock skew %v s within one machine", skew))
	}
	return errs
}

func votersReached(m metrics, want int) error {
	if sum, n := m.find(telemetry.VoterReachable); int(sum) != want || n != want {
		return fmt.Errorf("%v of %d voters are reached, want %d", sum, n, want)
	}
	return nil
}

// checkCatalogue wants every metric of the catalogue at one of the sites, and nothing of the product beyond it.
func checkCatalogue(t *testing.T, sites ...metrics) {
	t.Helper()
	known := map[string]bool{}
	for _, d := range telemetry.Catalogue() {
		name := d.Name
		if d.Kind == telemetry.KindHistogram {
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				known[d.Name+suffix] = true
			}
			name += "_count"
		}
		known[name] = true
		n := 0
		for _, m := range sites {
			_, found := m.find(name)
			n += found
		}
		// No certificates here, no name moved, no site is lost and none drained.
		if n == 0 && !slices.Contains([]string{telemetry.CertificateExpiry, telemetry.DNSDuration, telemetry.Declarations, telemetry.DrainGroups}, d.Name) {
			t.Errorf("%s: no site tells it", d.Name)
		}
	}
	for _, m := range sites {
		for series := range maps.Keys(m) {
			if name, _, _ := strings.Cut(series, "{"); strings.HasPrefix(name, "holdfast_") && !known[name] {
				t.Errorf("%s is not in the catalogue", name)
			}
			if strings.Contains(series, "iqn.") || strings.Contains(series, "run=") {
				t.Errorf("%s has a label without bound", series)
			}
		}
	}
}

// The table of docs/operations/metrics.md is the catalogue. HOLDFAST_UPDATE=1 writes it anew.
func TestDocumentedMetricsAreTheCatalogue(t *testing.T) {
	const path, begin, end = "../../docs/operations/metrics.md", "<!-- metrics -->\n", "<!-- /metrics -->\n"
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(raw), begin)
	have, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no table between %q and %q", path, begin, end)
	}
	var b strings.Builder
	b.WriteString("| metric | kind | told by | labels | meaning |\n|---|---|---|---|---|\n")
	for _, d := range telemetry.Catalogue() {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", d.Name, d.Kind, d.Service, strings.Join(d.Labels, ", "), d.Help)
	}
	if have == b.String() {
		return
	}
	if os.Getenv("HOLDFAST_UPDATE") == "" {
		t.Fatalf("the table in %s is not the catalogue: run HOLDFAST_UPDATE=1 go test -run TestDocumentedMetrics ./cmd/holdfast", path)
	}
	if err := os.WriteFile(path, []byte(before+begin+b.String()+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}
