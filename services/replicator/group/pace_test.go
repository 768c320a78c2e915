package group

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

func TestAPaceLetsNoMoreThroughThanItSays(t *testing.T) {
	p := NewPace(1 << 20)
	if err := p.wait(t.Context(), 1<<20); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := p.wait(ctx, 1<<20); err == nil {
		t.Fatal("a second's worth passed in a tenth of one")
	}
	if err := NewPace(0).wait(t.Context(), 1<<40); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := p.wait(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

func TestAPacedResyncTellsItsRateAndTheTimeLeft(t *testing.T) {
	slow(t)
	c := newCluster(t, domain.ModeAsync)
	c.rate, c.pace.Progress = 128<<10, 10*time.Millisecond
	diverge(c)
	c.boot("a")
	eventually(t, "it says how long it takes", func() bool {
		ts := c.target("b", "a")
		return ts.Resync != nil && ts.Resync.Phase == api.ResyncSending && ts.Resync.RateBytes > 0 && ts.Resync.LeftSeconds > 0 && ts.ResyncBytes < ts.ResyncTotal
	})
	eventually(t, "and tells so", func() bool { return c.nodes["b"].facts.has("resync_progressed") })
	c.follows("b", "a")
	c.same("a", "b")
}
