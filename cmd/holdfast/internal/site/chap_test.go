package site

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/config"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// A host whose CHAP secret is spoiled would start no VM: it says so when it starts, not when it is needed.
func TestHostAndReplicatorDoNotStartWithASpoiledCHAPSecret(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := errors.Join(os.WriteFile(secret, []byte("a long enough secret\n"), 0o600), os.Chmod(secret, 0o644)); err != nil {
		t.Fatal(err)
	}
	cfg := config.Default()
	cfg.Site, cfg.DataDir = "a", t.TempDir()
	cfg.Sites = []config.Site{{ID: "a", Index: 1, Role: domain.SiteData, NATS: "nats://127.0.0.1:1"}}
	cfg.Hosts = []config.Host{{ID: "a-h1", Driver: "embedded", Probe: "127.0.0.1:0", Separate: true}}
	cfg.ISCSI = config.ISCSI{Listen: "127.0.0.1:0", CHAP: config.CHAP{User: "main-a", SecretFile: secret}}
	o := Options{Logger: slog.New(slog.DiscardHandler)}
	for name, err := range map[string]error{
		"host":       RunHost(t.Context(), cfg, "a-h1", o),
		"replicator": RunService(t.Context(), cfg, "replicator", o),
	} {
		if !errors.Is(err, domain.ErrInvalid) || !strings.Contains(err.Error(), "iscsi.chap") || !strings.Contains(err.Error(), "chmod 600 "+secret) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
