package site

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/config"
)

// onMessage calls a function at the first log message with a text.
type onMessage struct {
	slog.Handler
	text string
	call func()
}

func (h *onMessage) Enabled(context.Context, slog.Level) bool { return true }
func (h *onMessage) WithAttrs([]slog.Attr) slog.Handler       { return h }
func (h *onMessage) WithGroup(string) slog.Handler            { return h }
func (h *onMessage) Handle(_ context.Context, r slog.Record) error {
	found := strings.Contains(r.Message, h.text)
	r.Attrs(func(a slog.Attr) bool {
		found = found || strings.Contains(a.Value.String(), h.text)
		return true
	})
	if found {
		h.call()
	}
	return nil
}

// A plain file stands where the server wants the folder of its streams, until the server has stumbled over it.
func TestSiteStartsThoughItsServerCouldNotMakeAStreamAtFirst(t *testing.T) {
	cfg, err := config.Load("../../../../deploy/examples/site-w.yaml")
	if err != nil {
		t.Fatal(err)
	}
	cfg.DataDir, cfg.NATS.Listen = t.TempDir(), freeAddress(t)
	cfg.NATS.Local = "nats://" + cfg.NATS.Listen
	streams := filepath.Join(cfg.DataDir, "nats", "jetstream", "$G", "streams")
	var stumbled atomic.Bool
	o := Options{Logger: slog.New(&onMessage{text: "Stream create failed", call: sync.OnceFunc(func() {
		stumbled.Store(true)
		// A server that is just opening the account may have taken it away by itself, and stumbled over that.
		if err := os.Remove(streams); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
	})})}
	srv, err := startNATS(cfg, o)
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Stop()
	if err := os.MkdirAll(filepath.Dir(streams), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(streams, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := prepare(t.Context(), cfg, o); err != nil {
		t.Fatal(err)
	}
	if !stumbled.Load() {
		t.Error("the server never failed: nothing was tested")
	}
}
