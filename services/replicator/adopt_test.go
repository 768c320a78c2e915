package replicator

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// unwilling adopts at the third attempt, or never.
type unwilling struct {
	asked chan struct{}
	never bool
	n     int
}

func (u *unwilling) Adopt(context.Context, api.GroupDesired) error {
	u.n++
	u.asked <- struct{}{}
	if u.never || u.n < 3 {
		return domain.ErrUnavailable
	}
	return nil
}

func TestAChangedPolicyIsTriedAgainUntilItIsAdoptedOrReplaced(t *testing.T) {
	d := api.GroupDesired{Group: domain.Group{ID: "erp"}, Version: 2}
	s := &service{cfg: Config{Timing: Timing{Retry: time.Millisecond}}, log: slog.New(slog.DiscardHandler), newest: map[domain.GroupID]api.GroupDesired{"erp": d}}
	u := &unwilling{asked: make(chan struct{}, 8)}
	s.adopt(t.Context(), u, d)
	if u.n != 3 {
		t.Fatalf("asked %d times", u.n)
	}
	u = &unwilling{asked: make(chan struct{}), never: true}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.adopt(t.Context(), u, d)
	}()
	<-u.asked
	<-u.asked
	s.mu.Lock()
	s.newest["erp"] = api.GroupDesired{Group: d.Group, Version: 3}
	s.mu.Unlock()
	for {
		select {
		case <-u.asked: // it had begun
		case <-ended:
			return
		}
	}
}
