package health

import (
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/event"
)

// listener feeds nodes with heartbeats of b's quorum by clocks moved by hand.
type listener struct {
	n    *nodes
	at   time.Duration
	wall time.Time
}

func newListener() *listener {
	return &listener{n: newNodes(2*time.Second, api.Version{Major: 1, Minor: 2}), wall: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
}

// hear lets d pass with a beat every half second from a node whose clock is ahead by so much and whose beats are under way for late.
func (l *listener) hear(d, ahead, late time.Duration, version string) []event.Fact {
	var out []event.Fact
	for end := l.at + d; l.at < end; {
		l.at += 500 * time.Millisecond
		l.wall = l.wall.Add(500 * time.Millisecond)
		l.n.beat(instant{at: l.at, wall: l.wall}, api.Heartbeat{Site: "b", Node: "quorum", Kind: "quorum", Version: version, Wall: l.wall.Add(ahead - late)})
		out = append(out, l.n.changes("a")...)
	}
	return out
}

func clockFacts(fs []event.Fact) (out []event.ClockChanged) {
	for _, f := range fs {
		if c, ok := f.(event.ClockChanged); ok {
			out = append(out, c)
		}
	}
	return out
}

func TestAClockThatIsOffIsToldOnceAndItsReturnToo(t *testing.T) {
	for _, ahead := range []time.Duration{7 * time.Second, -7 * time.Second} {
		l := newListener()
		if got := l.hear(time.Minute, 300*time.Millisecond, 0, "1.2"); len(got) != 0 {
			t.Fatalf("clocks that agree: %+v", got)
		}
		got := clockFacts(l.hear(time.Minute, ahead, 0, "1.2"))
		if len(got) != 1 || got[0].Fact != "clock_skewed" || got[0].Site != "b" || got[0].Node != "quorum" {
			t.Fatalf("%v off: %+v", ahead, got)
		}
		for _, part := range []string{"site b", "site a", "7.0 s", "leases do not use this clock", "NTP", "TSIG"} {
			if !strings.Contains(got[0].Text, part) {
				t.Errorf("%q is not in %q", part, got[0].Text)
			}
		}
		st := l.n.status(instant{at: l.at, wall: l.wall})
		if len(st) != 1 || !st[0].ClockSkewed || time.Duration(st[0].ClockOffsetNs) != ahead {
			t.Fatalf("status %+v, want %v", st, ahead)
		}
		if got := clockFacts(l.hear(time.Minute, 1500*time.Millisecond, 0, "1.2")); len(got) != 0 {
			t.Fatalf("between the limits nothing is told: %+v", got)
		}
		if got := clockFacts(l.hear(time.Minute, 0, 0, "1.2")); len(got) != 1 || got[0].Fact != "clock_agreed" {
			t.Fatalf("back: %+v", got)
		}
	}
}

func TestASlowBeatIsNoSkewedClock(t *testing.T) {
	l := newListener()
	for range 20 {
		if got := clockFacts(append(l.hear(2*time.Second, 0, 3*time.Second, "1.2"), l.hear(500*time.Millisecond, 0, 0, "1.2")...)); len(got) != 0 {
			t.Fatalf("%+v", got)
		}
	}
}

func TestANodeOfAnotherMajorVersionIsToldOnce(t *testing.T) {
	l := newListener()
	if got := append(l.hear(time.Second, 0, 0, "1.9"), l.hear(time.Second, 0, 0, "")...); len(got) != 0 {
		t.Fatalf("minor versions work together: %+v", got)
	}
	got := l.hear(10*time.Second, 0, 0, "2.0")
	if len(got) != 1 {
		t.Fatalf("%+v", got)
	}
	f, ok := got[0].(event.VersionChanged)
	if !ok || f.Fact != "version_refused" || f.Theirs != "2.0" || f.Ours != "1.2" || !strings.Contains(f.Text, "upgrade this service") {
		t.Fatalf("%+v", got[0])
	}
	if st := l.n.status(instant{at: l.at, wall: l.wall}); st[0].Refused == "" || st[0].Version != "2.0" {
		t.Fatalf("%+v", st)
	}
	if got := l.hear(time.Second, 0, 0, "1.3"); len(got) != 1 {
		t.Fatalf("upgraded: %+v", got)
	}
}
