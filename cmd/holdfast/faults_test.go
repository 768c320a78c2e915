package main

import (
	"context"
	le "encoding/binary"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/netfault"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/initiator"
)

// writer writes blocks that tell their number, one after the other, until it is stopped.
type writer struct {
	stop  chan struct{}
	ended chan error
	acked atomic.Uint64
}

const writerBlocks = replicaBytes / 4096

func startWriter(ctx context.Context, disk *initiator.Session) *writer {
	return startWriterAt(ctx, disk, 0)
}

// startWriterAt waits between two writes.
func startWriterAt(ctx context.Context, disk *initiator.Session, pace time.Duration) *writer {
	w := &writer{stop: make(chan struct{}), ended: make(chan error, 1)}
	now := make(chan time.Time)
	close(now)
	go func() {
		for n := uint64(1); ; n++ {
			turn := (<-chan time.Time)(now)
			if pace > 0 {
				turn = time.After(pace)
			}
			select {
			case <-w.stop:
				w.ended <- nil
				return
			case <-turn:
			}
			if err := disk.Write(ctx, numberedBlock(n), int64(n%writerBlocks)*4096, false); err != nil {
				w.ended <- err
				return
			}
			w.acked.Store(n)
		}
	}()
	return w
}

func numberedBlock(n uint64) []byte {
	b := make([]byte, 4096)
	for i := 0; i < len(b); i += 8 {
		le.LittleEndian.PutUint64(b[i:], n)
	}
	return b
}

// end stops the writer and gives how many writes were acknowledged; none of them may have failed.
func (w *writer) end(t *testing.T) uint64 {
	t.Helper()
	close(w.stop)
	if err := <-w.ended; err != nil {
		t.Fatalf("write %d failed: %v", w.acked.Load()+1, err)
	}
	return w.acked.Load()
}

// checkWritten holds a disk against what a writer wrote last to each block.
func checkWritten(t *testing.T, disk *initiator.Session, last uint64) {
	t.Helper()
	got := make([]byte, replicaBytes)
	if _, err := disk.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	for i := range uint64(writerBlocks) {
		want := uint64(0)
		if last >= i {
			want = last - (last-i)%writerBlocks
		}
		if have := le.LittleEndian.Uint64(got[i*4096:]); have != want {
			t.Fatalf("block %d holds write %d, want %d of %d", i, have, want, last)
		}
	}
}

// flapping is how long the link flaps: HOLDFAST_FLAP, in CI a short time.
func flapping(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("HOLDFAST_FLAP")
	if text == "" {
		return 12 * time.Second
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		t.Fatalf("HOLDFAST_FLAP=%q: want a time such as 5m", text)
	}
	return d
}

// TestAFlappingLinkIsNoErrorToTheWriter cuts and mends the link between two sites every two seconds, as black hole and by
// reset in turn. Asynchronous writes never notice; synchronous ones go on without the target once the register lets go of it,
// or wait for it, as the policy says.
func TestAFlappingLinkIsNoErrorToTheWriter(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: it takes half a minute; task test:full runs it")
	}
	for name, c := range map[string]struct {
		mode   domain.Mode
		onLoss domain.OnTargetLoss
	}{"async": {domain.ModeAsync, domain.TargetLossDegrade}, "sync degrade": {domain.ModeSync, domain.TargetLossDegrade}, "sync suspend": {domain.ModeSync, domain.TargetLossSuspend}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newReplicas(t, c.mode, func(g *domain.Group) { g.OnTargetLoss = c.onLoss })
			link, err := netfault.Listen(t.Context(), "127.0.0.1:0", strings.TrimPrefix(r.urls["b"], "nats://"))
			if err != nil {
				t.Fatal(err)
			}
			r.sees = map[domain.SiteID]map[domain.SiteID]string{"a": {"a": r.urls["a"], "b": "nats://" + link.Addr()}}
			r.start("a")
			r.start("b")
			disk := r.promote("a", 257)
			r.follows("a")
			w := startWriter(t.Context(), disk)
			for end, i := time.Now().Add(flapping(t)), 0; time.Now().Before(end); i++ {
				link.Set(netfault.Cut)
				if i%2 == 1 {
					link.Reset()
				}
				pause(t.Context(), 2*time.Second)
				link.Set(netfault.Pass)
				pause(t.Context(), 2*time.Second)
			}
			last := w.end(t)
			r.follows("a")
			r.publishes("a", "target_stalled", "")
			r.until("its breaks are counted", func() bool {
				m, err := scrape(t.Context(), r.metrics["a"])
				return err == nil && m.above(0, "holdfast_replication_breaks") == nil
			})
			t.Logf("%d writes", last)
			r.stop["a"]()
			checkWritten(t, r.promote("b", 514), last)
		})
	}
}

// pause is a fault's duration.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// A target of a site that cannot be reached is visible wherever one looks.
func TestATargetThatIsGoneIsSeenEverywhere(t *testing.T) {
	r := newReplicas(t, domain.ModeSync, func(g *domain.Group) { g.OnTargetLoss = domain.TargetLossSuspend })
	r.start("a")
	r.start("b")
	disk := r.promote("a", 257)
	r.follows("a")
	r.stop["b"]()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- disk.Write(ctx, numberedBlock(1), 4096, false) }()
	r.until("group show says that writes wait", func() bool { return r.shows("waits for the target since") })
	r.until("a metric does", func() bool { return r.measures("a", 1, "holdfast_group_held", `reason="target"`) })
	r.publishes("a", "held", "target: ")
	r.publishes("a", "target_stalled", "")
	r.start("b")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	r.follows("a")
	r.publishes("a", "resumed", "target: ")
	r.until("nothing is held", func() bool {
		return r.measures("a", 0, "holdfast_group_held", `reason="target"`) && !r.shows("waits for the")
	})
}
