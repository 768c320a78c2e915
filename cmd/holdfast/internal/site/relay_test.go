package site

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/config"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/relay"
	"github.com/holdfast-dr/holdfast/pkg/telemetry"
)

// TestASiteStartsWithoutAPortForItsRelayAndRelaysOnceItHasOne: what is wrong is in the log and in /healthz, which is good all the same.
func TestASiteStartsWithoutAPortForItsRelayAndRelaysOnceItHasOne(t *testing.T) {
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	cfg, err := config.Load("../../../../deploy/examples/site-w.yaml")
	if err != nil {
		t.Fatal(err)
	}
	cfg.DataDir, cfg.NATS.Listen, cfg.NATS.Local = t.TempDir(), freeAddress(t), ""
	for i := range cfg.Sites { // nobody else is there
		cfg.Sites[i].NATS = "nats://" + freeAddress(t)
		if cfg.Sites[i].ID == cfg.Site {
			cfg.Sites[i].NATS = "nats://" + cfg.NATS.Listen
		}
	}
	cfg.Relay.Listen, cfg.Relay.To = other.Addr().String(), []domain.SiteID{"a"}
	cfg.Metrics.Listen = freeAddress(t)
	log, said := io.Pipe()
	defer said.Close()
	told := make(chan string, 1)
	go func() {
		raw := make([]byte, 4096)
		n, _ := log.Read(raw)
		told <- string(raw[:n])
		_, _ = io.Copy(io.Discard, log)
	}()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- Run(ctx, cfg, Options{Logger: slog.New(slog.NewTextHandler(said, &slog.HandlerOptions{Level: slog.LevelError}))})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	listening := func() telemetry.HealthResult {
		r := awaitHealth(t, cfg.Metrics.Listen, http.StatusOK)
		i := slices.IndexFunc(r.Checks, func(c telemetry.HealthResult) bool { return c.Service == relayProcess })
		if i < 0 {
			t.Fatalf("nothing is said of the relay: %+v", r)
		}
		return r.Checks[i]
	}
	if c := listening(); c.OK || !strings.Contains(c.Reason, cfg.Relay.Listen) || !strings.Contains(c.Reason, "relay.listen") {
		t.Errorf("/healthz says %+v", c)
	}
	if line := <-told; !strings.Contains(line, "relay does not listen") || !strings.Contains(line, cfg.Relay.Listen) || !strings.Contains(line, "free the port") {
		t.Errorf("the log says %q", line)
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); !listening().OK; time.Sleep(20 * time.Millisecond) { // a poll of a condition
		if time.Now().After(end) {
			t.Fatal("it never listens")
		}
	}
	if _, err := (relay.Dialer{To: "b", Relay: cfg.Relay.Listen, Timeout: time.Minute}).Dial("tcp", ""); err == nil || !strings.Contains(err.Error(), "does not relay to site b") {
		t.Errorf("it answers %v", err)
	}
}
