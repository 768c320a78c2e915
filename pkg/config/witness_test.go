package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/config"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

const witnessFile = `listen: "0.0.0.0:7443"
data_dir: state
certificate: witness.pem
key: witness.key
clusters:
  - {name: main, ca: main-ca.pem}
  - {name: other, ca: other-ca.pem, quota: {groups: 8, votes_per_second: 100, bytes_per_second: 128KiB, connections: 8}}
`

func TestAWitnessFileIsReadStrictly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "witness.yaml")
	load := func(text string) (config.Witness, error) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return config.LoadWitness(path)
	}
	w, err := load(witnessFile)
	if err != nil {
		t.Fatal(err)
	}
	if q := w.Clusters[1].Quota; q.BytesPerSecond != 128<<10 || w.Clusters[0].CA != filepath.Join(filepath.Dir(path), "main-ca.pem") {
		t.Errorf("%+v", w)
	}
	for want, change := range map[[2]string][2]string{
		{"clusters[1].name", "another name"}:     {"name: other", "name: main"},
		{"clusters[0].ca", "ca.pem"}:             {", ca: main-ca.pem", ""},
		{"clusters[1].quota.groups", "above 0"}:  {"groups: 8", "groups: -8"},
		{"clusters[1].quota.vote", "use one of"}: {"votes_per_second", "vote"},
		{"listen", "host:port"}:                  {"0.0.0.0:7443", "here"},
		{"key", "witness init"}:                  {"key: witness.key\n", ""},
		{"", "witness init"}:                     {witnessFile, ""},
		{"", "syntax"}:                           {"clusters:", "clusters: ["},
	} {
		_, err := load(strings.Replace(witnessFile, change[0], change[1], 1))
		if !errors.Is(err, domain.ErrInvalid) || !strings.Contains(err.Error(), want[0]) || !strings.Contains(err.Error(), want[1]) {
			t.Errorf("%q for %q: %v, want %q", change[1], change[0], err, want)
		}
	}
}
