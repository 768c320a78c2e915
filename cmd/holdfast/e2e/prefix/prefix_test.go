//go:build e2e

package prefix

import (
	"context"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/sitestest"
	"github.com/holdfast-dr/holdfast/pkg/initiator"
)

const (
	inFlight = 16
	rounds   = 4 // of each mode, unless HOLDFAST_PREFIX_ROUNDS says otherwise
)

func roundsOf(t *testing.T) int {
	t.Helper()
	text := os.Getenv("HOLDFAST_PREFIX_ROUNDS")
	if text == "" {
		return rounds
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("HOLDFAST_PREFIX_ROUNDS=%q: want a number above 0", text)
	}
	return n
}

func dial(t *testing.T, urls []string) []*initiator.Session {
	t.Helper()
	var out []*initiator.Session
	for _, url := range urls {
		s, err := initiator.Dial(t.Context(), url, initiator.Options{})
		if err != nil {
			t.Fatalf("dial %s: %v", url, err)
		}
		out = append(out, s)
	}
	return out
}

func hangUp(disks []*initiator.Session) {
	for _, d := range disks {
		_ = d.Close()
	}
}

// write keeps writes in flight until stop ends or a write fails; the function it gives waits for the end.
func write(ctx context.Context, disks []*initiator.Session, h *history) (wait func()) {
	var wg sync.WaitGroup
	for range inFlight {
		wg.Go(func() {
			for ctx.Err() == nil {
				n := h.issue()
				v, off := place(n)
				if disks[v].Write(context.WithoutCancel(ctx), content(n), off, false) != nil {
					return
				}
				h.acknowledge(n)
			}
		})
	}
	return wg.Wait
}

func readImage(t *testing.T, volume int, r io.ReaderAt, im *image) {
	t.Helper()
	data := make([]byte, perVolume*blockSize)
	if _, err := r.ReadAt(data, 0); err != nil {
		t.Fatalf("read volume %d: %v", volume, err)
	}
	if err := im.read(volume, data); err != nil {
		t.Fatal(err)
	}
}

func served(t *testing.T, disks []*initiator.Session) *image {
	t.Helper()
	im := &image{}
	for v, d := range disks {
		readImage(t, v, d, im)
	}
	return im
}

// TestWhateverIsKilledTheOtherSiteHasAPrefix kills the serving site, or its target, in the midst of writes.
func TestWhateverIsKilledTheOtherSiteHasAPrefix(t *testing.T) {
	for _, mode := range []string{"sync", "async"} {
		t.Run(mode, func(t *testing.T) {
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			r := rand.New(rand.NewPCG(seed, 1))
			s := newSites(t, mode)
			at, other := "a", "b"
			writes, lost := begin(1, image{}), 0
			for round := range roundsOf(t) {
				urls := s.Serves(at)
				s.Follows(at, mode == "sync")
				if r.IntN(4) == 0 {
					writes = killTarget(t, s, r, urls, other, writes)
					s.Follows(at, mode == "sync")
				}
				disks := dial(t, urls)
				wait := write(t.Context(), disks, writes)
				began(t, writes, writes.issued()+1+r.Uint64N(3000))
				s.Kill(at)
				wait()
				hangUp(disks)
				at, other = other, at
				disks = dial(t, s.Serves(at))
				im := served(t, disks)
				hangUp(disks)
				gone, err := writes.judge(im, mode == "sync")
				if err != nil {
					t.Fatalf("round %d: %s serves, %s was killed: %v", round, at, other, err)
				}
				lost += gone
				writes = begin(writes.next, *im)
				s.Start(other)
			}
			s.Follows(at, mode == "sync")
			t.Logf("%d writes; acknowledged and lost: %d", writes.next-1, lost)
		})
	}
}

// killTarget kills the target while writes go on and starts it again; no write may fail. It gives the history from there on.
func killTarget(t *testing.T, s *sitestest.Sites, r *rand.Rand, urls []string, target string, h *history) *history {
	t.Helper()
	disks := dial(t, urls)
	defer hangUp(disks)
	ctx, stop := context.WithCancel(t.Context())
	wait := write(ctx, disks, h)
	began(t, h, 1+r.Uint64N(1000))
	s.Kill(target)
	began(t, h, h.issued()+500)
	s.Start(target)
	began(t, h, h.issued()+500)
	stop()
	wait()
	if h.low != h.next {
		t.Fatalf("%s was killed, and write %d failed at the site that serves", target, h.low)
	}
	im := served(t, disks)
	if _, err := h.judge(im, true); err != nil {
		t.Fatalf("%s was killed and started: %v", target, err)
	}
	return begin(h.next, *im)
}

// began waits until so many writes of a history began.
func began(t *testing.T, h *history, n uint64) {
	t.Helper()
	end := time.Now().Add(60 * time.Second)
	for h.issued() < n {
		if time.Now().After(end) {
			t.Fatalf("after a minute %d writes began, want %d", h.issued(), n)
		}
		time.Sleep(time.Millisecond)
	}
}

// TestACopyWithoutACommonMomentFailsTheJudge copies the two volumes' files one after the other while they are written.
func TestACopyWithoutACommonMomentFailsTheJudge(t *testing.T) {
	s := newSites(t, "none")
	disks := dial(t, s.Serves("a"))
	defer hangUp(disks)
	h := begin(1, image{})
	ctx, stop := context.WithCancel(t.Context())
	wait := write(ctx, disks, h)
	defer func() { stop(); wait() }()
	began(t, h, 2*volumes*perVolume)
	im := &image{}
	for v, name := range []string{"log", "data"} { // even writes go to the first disk, data: the second is copied first
		v = volumes - 1 - v
		f, err := os.Open(filepath.Join(s.Dir, "a", "replicator", sitestest.Group, name+".img"))
		if err != nil {
			t.Fatal(err)
		}
		readImage(t, v, f, im)
		_ = f.Close()
		began(t, h, h.issued()+4*inFlight)
	}
	if _, err := h.judge(im, false); err == nil {
		t.Fatal("a copy without a common moment passed: the judge sees nothing")
	}
}
