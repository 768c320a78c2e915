package diskvoter

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"
)

// A swap waited for one whose write was not answered. That write may land under any reservation of the same session.
func TestNoSwapFollowsAnUnansweredWriteInItsSession(t *testing.T) {
	u := newUnit(nil, time.Second, new(atomic.Bool))
	u.spoiled.Store(true)
	if _, err := u.take(t.Context()); !errors.Is(err, errSpoiled) {
		t.Errorf("take: %v", err)
	}
	select {
	case u.turn <- struct{}{}:
	default:
		t.Error("the turn is not given back")
	}
}
