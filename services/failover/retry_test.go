package failover

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// TestWhatGoesOnFailingIsToldOnceForEachReasonAndWhenItIsOver: also what the reason asks for, and never what fails a few times only.
func TestWhatGoesOnFailingIsToldOnceForEachReasonAndWhenItIsOver(t *testing.T) {
	var out bytes.Buffer
	s := &service{log: slog.New(slog.NewTextHandler(&out, nil)), cfg: Config{Timings: Timings{Retry: time.Microsecond, MaxRetry: time.Millisecond}}}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	reasons := []error{fmt.Errorf("no responders: %w", domain.ErrUnavailable), errors.New("maximum bytes exceeded")}
	more := 0 // failures after the reason was told
	done := s.retry(ctx, "announce run 01R", func() error {
		why := reasons[0]
		if strings.Contains(out.String(), why.Error()) {
			more++
		}
		if more == 50 {
			if more, reasons = 0, reasons[1:]; len(reasons) == 0 {
				return nil
			}
		}
		return why
	})
	if !done {
		t.Fatalf("it was never told, or never over:\n%s", &out)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	for i, want := range [][]string{{"WARN", "announce run 01R", "no responders", "NATS server runs"}, {"WARN", "announce run 01R", "maximum bytes exceeded", "room on its disk"}, {"INFO", "announce run 01R", "done at last"}} {
		for _, w := range want {
			if len(lines) != 3 || !strings.Contains(lines[i], w) {
				t.Fatalf("line %d has no %q:\n%s", i, w, &out)
			}
		}
	}
	out.Reset()
	s.cfg.Timings.MaxRetry = time.Hour
	left := 10
	if s.retry(ctx, "make assets", func() error {
		if left--; left > 0 {
			return domain.ErrNotFound
		}
		return nil
	}); out.Len() > 0 {
		t.Errorf("what is there a moment later is told:\n%s", &out)
	}
}
