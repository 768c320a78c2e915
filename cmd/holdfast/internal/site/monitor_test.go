package site

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/config"
	"github.com/holdfast-dr/holdfast/pkg/natsd"
	"github.com/holdfast-dr/holdfast/pkg/telemetry"
)

// A service of the witness, whose peers do not exist at all.
func TestHealthOfAServiceIsThatOfItsOwnSite(t *testing.T) {
	cfg, err := config.Load("../../../../deploy/examples/site-w.yaml")
	if err != nil {
		t.Fatal(err)
	}
	cfg.DataDir, cfg.NATS.Listen = t.TempDir(), ""
	cfg.NATS.Local = "nats://" + freeAddress(t)
	cfg.Metrics.Ports = map[string]string{api.ServiceQuorum: freeAddress(t)}
	address := cfg.Metrics.Ports[api.ServiceQuorum]
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- RunService(ctx, cfg, api.ServiceQuorum, Options{Logger: slog.New(slog.DiscardHandler)})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil && !strings.Contains(err.Error(), "context canceled") {
			t.Error(err)
		}
	})
	awaitHealth(t, address, http.StatusServiceUnavailable)

	local := natsd.Config{Site: cfg.Site, Listen: strings.TrimPrefix(cfg.NATS.Local, "nats://"), StoreDir: filepath.Join(cfg.DataDir, "nats")}
	srv, err := natsd.Start(local)
	if err != nil {
		t.Fatal(err)
	}
	r := awaitHealth(t, address, http.StatusOK)
	if r.Site != "w" || r.Service != api.ServiceQuorum {
		t.Errorf("report %+v", r)
	}
	srv.Stop()
	r = awaitHealth(t, address, http.StatusServiceUnavailable)
	if !strings.Contains(r.Checks[0].Reason+r.Checks[len(r.Checks)-1].Reason, "nats.local") {
		t.Errorf("no reason that names the server: %+v", r)
	}
	if srv, err = natsd.Start(local); err != nil {
		t.Fatal(err)
	}
	defer srv.Stop()
	awaitHealth(t, address, http.StatusOK)
}

func freeAddress(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// awaitHealth asks until /healthz answers with a status.
func awaitHealth(t *testing.T, address string, want int) (r telemetry.HealthReport) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for tick := time.NewTicker(50 * time.Millisecond); ; {
		if resp, err := http.Get("http://" + address + "/healthz"); err == nil {
			err = json.NewDecoder(resp.Body).Decode(&r)
			resp.Body.Close()
			if err == nil && resp.StatusCode == want {
				return r
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("health at %s is not %d: %+v", address, want, r)
		}
	}
}
