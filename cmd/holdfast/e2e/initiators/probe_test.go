//go:build e2e

package initiators

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// probed is what holdfast health probe says of one probe.
type probed struct {
	Of, Kind string
	Error    string
}

// probes carries probes out, YAML lists of a site's health.probes, as an operator who tries them does.
func probes(t *testing.T, list ...string) (out []probed) {
	t.Helper()
	sample, err := os.ReadFile("../../../../deploy/examples/site-a.yaml")
	if err != nil {
		t.Fatal(err)
	}
	section := regexp.MustCompile(`(?m)^health:.*\n(?:  .*\n)+`)
	if !section.Match(sample) {
		t.Fatal("the sample has no section health")
	}
	file := filepath.Join(t.TempDir(), "site.yaml")
	text := section.ReplaceAllLiteralString(string(sample), "health:\n  probes:\n    - "+strings.Join(list, "\n    - ")+"\n")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	raw, err := exec.Command(holdfast(t), "health", "probe", "--config", file, "-o", "json").Output()
	var answer struct{ Probes []probed }
	if json.Unmarshal(raw, &answer) != nil || len(answer.Probes) != len(list) {
		t.Fatalf("health probe: %v\n%s", err, raw)
	}
	failed := false
	for _, p := range answer.Probes {
		failed = failed || p.Error != ""
	}
	if failed != (err != nil) {
		t.Errorf("the command ended with %v, and said %+v", err, answer.Probes)
	}
	return answer.Probes
}

// well checks which of the probes found their object well: in order, "" for well, else a word of the reason.
func well(t *testing.T, got []probed, reasons ...string) {
	t.Helper()
	for i, why := range reasons {
		if (got[i].Error == "") != (why == "") || !strings.Contains(strings.ToLower(got[i].Error), why) {
			t.Errorf("probe %d, %s of %s: %q, want %q", i, got[i].Kind, got[i].Of, got[i].Error, why)
		}
	}
}

// TestAProbeLogsIn probes a volume that asks for CHAP.
func TestAProbeLogsIn(t *testing.T) {
	s := serve(t, "1MiB", withCHAP(t)...)
	secret := func(text string) string {
		file := filepath.Join(t.TempDir(), "secret")
		if err := os.WriteFile(file, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	probe := `{of: storage/array, kind: iscsi, timeout: 10s, target: "` + s.url()
	well(t, probes(t,
		probe+`", chap: {user: `+chapUser+`, secret_file: `+secret(chapSecret)+`}}`,
		probe+`", chap: {user: `+chapUser+`, secret_file: `+secret("certainly not the secret")+`}}`,
		probe+`"}`,
		strings.TrimSuffix(probe, "/0")+`/7", chap: {user: `+chapUser+`, secret_file: `+secret(chapSecret)+`}}`,
	), "", "credentials", "credentials", "asc/ascq 0x25/0x00") // logical unit not supported
	s.stop()
	well(t, probes(t, probe+`"}`), "refused")
}
