package health

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/event"
)

func TestRefusedConnectionsAreToldAtOnceAndThenOnceAMinute(t *testing.T) {
	var told []event.LinkRefused
	r := &refusals{site: "a", boot: "x", log: slog.New(slog.DiscardHandler), seen: map[refusalKey]*refusalCount{},
		tell: func(_ context.Context, _ string, f event.Fact) { told = append(told, f.(event.LinkRefused)) }}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	bad := bus.Refusal{Address: "192.0.2.66", Reason: "TLS Handshake Failure", At: at}
	r.take(t.Context(), at, []bus.Refusal{bad})
	for i := range 20 {
		r.take(t.Context(), at.Add(time.Duration(i)*time.Second), []bus.Refusal{bad})
	}
	if len(told) != 1 || told[0].Count != 1 || told[0].Address != "192.0.2.66" {
		t.Fatalf("told %+v", told)
	}
	r.take(t.Context(), at.Add(time.Second), []bus.Refusal{{Address: "192.0.2.66", Reason: "Authentication Failure", At: at}})
	if len(told) != 2 {
		t.Fatalf("another reason is told at once: %+v", told)
	}
	r.take(t.Context(), at.Add(61*time.Second), nil)
	if len(told) != 3 || told[2].Count != 20 {
		t.Fatalf("repeats: %+v", told)
	}
	r.take(t.Context(), at.Add(10*time.Minute), nil)
	if len(told) != 3 || len(r.seen) != 0 {
		t.Fatalf("nothing new: %+v, %d remembered", told, len(r.seen))
	}
}
