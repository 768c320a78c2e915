package aware_test

import (
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/services/health/aware"
)

const ms = time.Millisecond

func params() aware.Params {
	return aware.Params{Tick: 100 * ms, Pause: time.Second, Listen: 3 * time.Second}
}

// ticks lets so many ticks come, each so late.
func ticks(s *aware.Self, now time.Duration, n int, late time.Duration) (time.Duration, time.Duration) {
	var excused time.Duration
	for range n {
		now += 100*ms + late
		s.Woke(now)
		excused += s.Tick(now)
	}
	return now, excused
}

func want(t *testing.T, s *aware.Self, now time.Duration, doubt string) {
	t.Helper()
	got := strings.Join(s.Doubts(now), "; ")
	if doubt == "" && got != "" || !strings.Contains(got, doubt) {
		t.Fatalf("doubts %q, want %q", got, doubt)
	}
	if c := s.Confidence(now); (doubt != "") != (c == aware.Low) {
		t.Fatalf("confidence %.2f with doubts %q", c, got)
	}
}

func TestAnObserverOnTimeDoesNotDoubtItself(t *testing.T) {
	s := aware.New(params(), 0)
	now, excused := ticks(s, 0, 1000, 50*ms)
	if want(t, s, now, ""); excused != 0 || s.Confidence(now) != 1 {
		t.Fatalf("excused %v, confidence %v", excused, s.Confidence(now))
	}
}

func TestAPauseIsDoubtedForAsLongAsALossTakesToShow(t *testing.T) {
	s := aware.New(params(), 0)
	now, _ := ticks(s, 0, 10, 0)
	if now += 20 * time.Second; !s.Woke(now) || s.Woke(now) {
		t.Fatal("a pause is to be forgiven, once")
	}
	want(t, s, now, "paused for 20s")
	now, _ = ticks(s, now, 29, 0)
	want(t, s, now, "paused")
	now, _ = ticks(s, now, 1, 0)
	want(t, s, now, "")
}

func TestAStarvedObserverDoubtsItselfUntilItHasRunOnTime(t *testing.T) {
	s := aware.New(params(), 0)
	now, excused := ticks(s, 0, 3, 500*ms)
	if want(t, s, now, ""); excused != 1500*ms {
		t.Fatalf("excused %v, want 1.5 s", excused)
	}
	if c := s.Confidence(now); c >= 1 || c <= 0.5 {
		t.Fatalf("confidence %v after 1.5 s of lateness", c)
	}
	now, _ = ticks(s, now, 4, 500*ms)
	want(t, s, now, "starved")
	now, _ = ticks(s, now, 30, 0)
	want(t, s, now, "starved")
	now, _ = ticks(s, now, 60, 0)
	want(t, s, now, "")
}

func TestADeafObserverDoubtsItselfAndForgivesWhenItHears(t *testing.T) {
	s := aware.New(params(), 0)
	now, _ := ticks(s, 0, 10, 0)
	if s.Hears(now, "its own server is out of reach") {
		t.Fatal("nothing is to be forgiven yet")
	}
	now, _ = ticks(s, now, 100, 0)
	want(t, s, now, "out of reach")
	if !s.Hears(now, "") || s.Hears(now, "") {
		t.Fatal("it hears again: to be forgiven, once")
	}
	want(t, s, now, "until just now")
	now, _ = ticks(s, now, 30, 0)
	want(t, s, now, "")
}
