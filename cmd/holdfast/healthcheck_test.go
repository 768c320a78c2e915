package main

import (
	"errors"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/telemetry"
)

func TestHealthcheckTellsAWellServiceFromAnUnwellOneAndFromNone(t *testing.T) {
	sample, err := os.ReadFile("../../deploy/examples/site-a.yaml")
	if err != nil {
		t.Fatal(err)
	}
	well := telemetry.NewHealth("a", "quorum")
	well.Check("quorum", "nats", func() error { return nil })
	ill := telemetry.NewHealth("a", "replicator")
	ill.Check("replicator", "journal", func() error { return errors.New("journal of group erp is damaged") })
	other := telemetry.NewHealth("b", "dns")
	other.Check("dns", "nats", func() error { return nil })
	var ports []string
	for name, h := range map[string]*telemetry.Health{"quorum": well, "replicator": ill, "failover": telemetry.NewHealth("a", "failover"), "dns": other} {
		srv := httptest.NewServer(h)
		defer srv.Close()
		ports = append(ports, name+": "+strings.TrimPrefix(srv.URL, "http://"))
	}
	dead := httptest.NewServer(well)
	dead.Close()
	file := filepath.Join(t.TempDir(), "site.yaml")
	text := string(sample) + "\nmetrics:\n  listen: " + strings.TrimPrefix(dead.URL, "http://") + "\n  ports: {" + strings.Join(ports, ", ") + "}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, service, file string
		code                int
		want                string
	}{
		{"well", "quorum", file, 0, "quorum of site a is well"},
		{"unwell", "replicator", file, 1, "journal of group erp is damaged"},
		{"starting", "failover", file, 1, "still starting"},
		{"of another site", "dns", file, 1, "answered by site b"},
		{"not running", "health", file, 1, "is it running?"},
		{"no such service", "replicatr", file, 2, "use quorum"},
		{"no address", "quorum", "../../deploy/examples/site-a.yaml", 2, "metrics.listen is not set"},
		{"no file", "quorum", "none.yaml", 2, "none.yaml"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := holdfast(t.Context(), "healthcheck", c.service, "--config", c.file)
			said := o.stdout
			if o.err != nil {
				said = o.err.Error()
			}
			if o.code != c.code || !strings.Contains(said, c.want) {
				t.Errorf("exit %d, want %d: %s", o.code, c.code, said)
			}
		})
	}
}
