package bus_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/access"
	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/natsd"
)

// TestARefusalIsNoSignOfLifeOnceTheServerIsGone: a server that forbade a question proved that it lives. The same question asked
// of it after its death is answered by nobody, and whoever takes a refusal for life must not hear of one.
func TestARefusalIsNoSignOfLifeOnceTheServerIsGone(t *testing.T) {
	l := secured(t, "a")
	conf := l.dirs["b"] + "/nats.conf"
	s, err := natsd.Start(natsd.Config{Site: "b", Listen: "127.0.0.1:0", Conf: conf, Logger: slog.New(slog.DiscardHandler)})
	l.must(err)
	t.Cleanup(s.Stop)
	l.urls["b"] = s.URL()
	m := l.mesh(access.Principal{Site: "a", Service: api.ServiceDNS}, nil, nil)
	b, err := m.Conn("b")
	l.must(err)
	ask := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		_, err := bus.Call[api.View](ctx, b, api.ServiceHealth, api.VerbView, api.Empty{})
		return err
	}
	if err := ask(); !errors.Is(err, domain.ErrRefused) {
		t.Fatalf("forbidden by a server that lives: %v", err)
	}
	s.Stop()
	for b.Connected() {
		_ = ask()
	}
	if err := ask(); !errors.Is(err, domain.ErrUnavailable) || errors.Is(err, domain.ErrRefused) {
		t.Fatalf("asked of a server that is gone: %v", err)
	}
}
