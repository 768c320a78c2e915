package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"time"
)

func TestFiguresAreOfAllWritesInTheirOrderOfLength(t *testing.T) {
	var s stats
	for i := 100; i > 0; i-- {
		s.note(4096, time.Duration(i)*time.Millisecond)
	}
	f := s.figures(2 * time.Second)
	want := figures{Writes: 100, Bytes: 100 * 4096, Rate: 50, Mean: 50500, P50: 51000, P99: 100_000, Max: 100_000}
	if f != want {
		t.Fatalf("%+v, want %+v", f, want)
	}
	if f := (stats{}).figures(time.Second); f != (figures{}) {
		t.Fatalf("of no writes: %+v", f)
	}
}

func TestWhatIsWrittenTwiceDiffersInEveryBlockAndCountsOnce(t *testing.T) {
	l := newLoad(options{}, nil)
	a, b := l.content(8192, 1), l.content(8192, 2)
	for off := 0; off < len(a); off += 512 {
		if bytes.Equal(a[off:off+512], b[off:off+512]) {
			t.Fatalf("the same at %d", off)
		}
	}
	l.written = []map[int64]struct{}{{}}
	l.note(0, 4096, 8192, time.Millisecond)
	l.note(0, 8192, 8192, time.Millisecond)
	if f := l.figures(false, false); f.Differ != 3*4096 || f.Writes != 2 || f.Bytes != 16384 {
		t.Fatalf("a look: %+v", f)
	}
	if f := l.figures(true, false); f.Writes != 2 {
		t.Fatalf("the slice after the look: %+v", f)
	}
	if f := l.figures(true, true); f.Writes != 0 || f.Differ != 3*4096 {
		t.Fatalf("after the slice: %+v", f)
	}
	if f := l.figures(true, false); f.Differ != 0 {
		t.Fatalf("after they were forgotten: %+v", f)
	}
}

func TestAnEchoAnswersAndItsTimeIsPrinted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, []string{"--echo"}, nil, w) }()
	var addr [64]byte
	n, err := r.Read(addr[:])
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := run(ctx, []string{"--ping", strings.TrimSpace(string(addr[:n])), "--for", "50ms"}, nil, &out); err != nil {
		t.Fatal(err)
	}
	var f figures
	if err := json.Unmarshal(out.Bytes(), &f); err != nil || f.Writes == 0 || f.P50 <= 0 || f.P99 < f.P50 {
		t.Fatalf("%v: %s", err, out.Bytes())
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}
