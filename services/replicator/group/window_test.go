package group

import (
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

func TestLagCountsFromTheOldestFrameThatIsMissing(t *testing.T) {
	began := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	at := func(s int) time.Time { return began.Add(time.Duration(s) * time.Second) }
	fill := func(frames, size int) *window {
		w := newWindow(new(Memory))
		w.began = began
		for i := range frames {
			lsn := domain.LSN(10 * (i + 1))
			w.push(windowFrame{first: lsn, last: lsn + 9, raw: make([]byte, size), at: at(i + 1)})
		}
		return w
	}
	whole := fill(5, 100)
	short := fill(5, windowBytes/2) // only frames 4 and 5 are still in memory
	for _, c := range []struct {
		name  string
		w     *window
		acked domain.LSN
		heard time.Time
		want  time.Time
	}{
		{"behind by one frame, an hour after the last", whole, 49, at(-3600), at(5)},
		{"within a frame", whole, 44, at(3), at(4)},
		{"behind by all", whole, 9, at(-5), at(1)},
		{"never heard of in this epoch", whole, 0, time.Time{}, at(1)},
		{"farther behind than memory", short, 9, at(-5), at(-5)},
		{"farther behind than memory, never heard of", short, 0, time.Time{}, began},
		{"within memory", short, 39, at(-5), at(4)},
	} {
		if got := c.w.since(c.acked, c.heard); !got.Equal(c.want) {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestPayloadThatATargetLacks(t *testing.T) {
	fill := func(frames, size int) *window {
		w := newWindow(new(Memory))
		for i := range frames {
			lsn := domain.LSN(10 * (i + 10))
			w.push(windowFrame{first: lsn, last: lsn + 9, raw: make([]byte, size), payload: 7})
		}
		return w
	}
	whole := fill(5, 100)           // LSN 100 to 149
	short := fill(5, windowBytes/2) // only 130 to 149 are still in memory; a mark a frame
	none := newWindow(new(Memory))  // nothing was written yet
	for _, c := range []struct {
		name        string
		w           *window
		acked, head domain.LSN
		want        uint64
		atLeast     bool
	}{
		{"all of it there", whole, 149, 149, 0, false},
		{"one frame", whole, 139, 149, 7, false},
		{"what is not acknowledged is not lost", whole, 119, 139, 14, false},
		{"all of this session", whole, 99, 149, 35, false},
		{"more than this session", whole, 50, 149, 35, true},
		{"beyond memory", short, 109, 149, 28, false},
		{"beyond memory, the newest not acknowledged", short, 109, 139, 21, false},
		{"beyond memory and before", short, 50, 149, 35, true},
		{"nothing written", none, 50, 99, 0, true},
	} {
		if got, atLeast := c.w.payloadBetween(c.acked, c.head); got != c.want || atLeast != c.atLeast {
			t.Errorf("%s: %d, at least %v; want %d, %v", c.name, got, atLeast, c.want, c.atLeast)
		}
	}
}

func TestGroupsThatAreServedShareTheMemoryOfTheirWindows(t *testing.T) {
	m := new(Memory)
	var all []*window
	for range 100 {
		w := newWindow(m)
		w.open()
		all = append(all, w)
	}
	total := 0
	for _, w := range all {
		for n := range domain.LSN(64) {
			w.push(windowFrame{first: n + 1, last: n + 1, raw: make([]byte, 256<<10)})
		}
		total += w.bytes
	}
	if total > windowsBytes {
		t.Fatalf("%d bytes are kept", total)
	}
	for _, w := range all[1:] {
		w.close()
	}
	w := all[0]
	for n := range domain.LSN(256) {
		w.push(windowFrame{first: n + 65, last: n + 65, raw: make([]byte, 256<<10)})
	}
	if w.bytes < windowBytes/2 || w.bytes > windowBytes {
		t.Fatalf("%d bytes are kept of the only group that is served", w.bytes)
	}
}
