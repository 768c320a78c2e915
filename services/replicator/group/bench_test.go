package group

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/journal"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

// TestWriteRates prints 4 KiB write rates per mode and depth. It asserts nothing: figures are for paired comparison on a
// quiet machine. Run with -run WriteRates -v.
func TestWriteRates(t *testing.T) {
	if !testing.Verbose() || testing.Short() {
		t.Skip("SKIPPED: figures only, run with -v")
	}
	for _, modes := range [][]domain.Mode{{}, {domain.ModeAsync}, {domain.ModeSync}} {
		c := newCluster(t, modes...)
		c.boot("a")
		if len(modes) > 0 {
			c.boot("b")
		}
		c.promote("a", 257)
		if len(modes) > 0 {
			c.follows("a", "b")
		}
		for _, depth := range []int{1, 8, 32} {
			n, p50 := rate(c.nodes["a"].unit(0), depth, 1500*time.Millisecond)
			t.Logf("%v depth %d: %.0f/s, p50 %s", modes, depth, n, p50)
		}
	}
}

func rate(u target.Unit, depth int, d time.Duration) (perSecond float64, p50 time.Duration) {
	var mu sync.Mutex
	var took []time.Duration
	var wg sync.WaitGroup
	start := time.Now()
	for w := range depth {
		wg.Go(func() {
			data := block(uint64(w + 1))
			done := make(chan error, 1)
			for i := 0; time.Since(start) < d; i++ {
				t0 := time.Now()
				u.Submit(&target.Command{Op: target.OpWrite, Off: int64((w*61+i*7)%2000) * 4096, Len: 4096, Data: data}, func(err error) { done <- err })
				<-done
				mu.Lock()
				took = append(took, time.Since(t0))
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	slices.Sort(took)
	return float64(len(took)) / time.Since(start).Seconds(), took[len(took)/2]
}

// TestPipeAgainstRequest prints the time from sending a frame to knowing that the other side has it, through the pipe with
// a position back and by core request/reply, without a journal in either.
func TestPipeAgainstRequest(t *testing.T) {
	if !testing.Verbose() || testing.Short() {
		t.Skip("SKIPPED: figures only, run with -v")
	}
	c := newCluster(t, domain.ModeSync)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	a, b := c.dial(ctx, "a", "bench"), c.dial(ctx, "b", "bench")
	cb, _ := a.Conn("b")
	if err := cb.AwaitConnected(ctx); err != nil {
		t.Fatal(err)
	}
	back := make(chan struct{}, 1)
	_ = cb.Subscribe(ctx, api.PositionSubject("erp", "b"), func(context.Context, bus.Message) { back <- struct{}{} })
	_ = b.Local().Handle(ctx, "bench", func(_ context.Context, d []byte) ([]byte, error) {
		_, err := journal.Decode(d)
		return []byte("{}"), err
	})
	if err := b.Local().CreatePipe(ctx, "erp", 257, 64<<20); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = b.Local().ReadPipe(ctx, "erp", 257, func(d []byte) error {
			if _, err := journal.Decode(d); err != nil {
				return err
			}
			return b.Local().PublishJSON(ctx, api.PositionSubject("erp", "b"), api.Position{Group: "erp", Site: "b", LSN: 7})
		})
	}()
	w, err := cb.OpenPipe(ctx, "erp", 257)
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{4 << 10, 64 << 10} {
		data := make([]byte, size)
		data[0] = 1
		frame, err := journal.Encode(&journal.Frame{Group: "erp", Epoch: 257, Number: 1, FirstLSN: 1, Entries: []journal.Entry{{Op: journal.OpWrite, Len: int64(size), Data: data}}})
		if err != nil {
			t.Fatal(err)
		}
		pipe := median(1000, func() {
			r, err := w.Send(ctx, slices.Clone(frame))
			if err != nil {
				t.Fatal(err)
			}
			<-back
			<-r
		})
		req := median(1000, func() {
			if _, err := cb.Request(ctx, "bench", frame); err != nil {
				t.Fatal(err)
			}
		})
		t.Logf("%d KiB: pipe %s, request %s", size>>10, pipe, req)
	}
}

func median(n int, f func()) time.Duration {
	took := make([]time.Duration, n)
	for i := range took {
		t0 := time.Now()
		f()
		took[i] = time.Since(t0)
	}
	slices.Sort(took)
	return took[n/2]
}
