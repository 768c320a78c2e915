package group

import (
	"bytes"
	"context"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/journal"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

// Writes are answered once the journal has them, and brought to the volumes after that: who is answered must read what it wrote, all
// the same.
func TestWhoIsAnsweredReadsWhatItWrote(t *testing.T) {
	for _, mode := range []domain.Mode{domain.ModeNone, domain.ModeAsync, domain.ModeSync} {
		t.Run(string(mode), func(t *testing.T) {
			c := newCluster(t, mode)
			c.boot("a", "b")
			c.promote("a", 257)
			u := c.nodes["a"].unit(0)
			var writers sync.WaitGroup
			for w := range int64(8) { // each has sixteen pages of its own
				writers.Go(func() {
					r := rand.New(rand.NewPCG(uint64(w), 7))
					for i := range uint64(200) {
						off := (w*16 + r.Int64N(12)) * 4096
						n := 1 + r.IntN(4)
						data := bytes.Repeat(block((i+1)<<8|uint64(w)), n)
						if i%5 == 4 {
							clear(data) // told as zeroes, without payload
						}
						want := bytes.Clone(data)
						if err := <-submit(u, &target.Command{Op: target.OpWrite, Off: off, Len: int64(len(data)), Data: data, Alone: i%3 == 0}); err != nil {
							t.Error(err)
							return
						}
						for j := range data { // it is the initiator's again
							data[j] = 0xee
						}
						got := make([]byte, len(data))
						if err := <-submit(u, &target.Command{Op: target.OpRead, Off: off, Len: int64(len(got)), Data: got}); err != nil || !bytes.Equal(got, want) {
							t.Errorf("writer %d, write %d: read %x, wrote %x: %v", w, i, got[:8], want[:8], err)
							return
						}
						if mapped, _, err := u.(target.Mapper).Extent(off, 4096); i%5 != 4 && (!mapped || err != nil) {
							t.Errorf("writer %d, write %d: told unmapped: %v", w, i, err)
						}
					}
				})
			}
			writers.Wait()
			if mode != domain.ModeNone {
				c.follows("a", "b")
				c.same("a", "b")
			}
		})
	}
}

// Of a page with two changes in flight, one answered and not applied and one in the cache, a reader sees the newer.
func TestACachedReaderSeesWhatWasAnsweredLast(t *testing.T) {
	c := newCluster(t, domain.ModeNone)
	c.def.Durability = domain.DurabilityCached
	c.boot("a", "b")
	c.promote("a", 257)
	u := c.nodes["a"].unit(0)
	got := make([]byte, 4096)
	for i := range uint64(2000) {
		for j := range uint64(2) {
			if err := <-submit(u, &target.Command{Op: target.OpWrite, Len: 4096, Data: block(2*i + j + 1)}); err != nil {
				t.Fatal(err)
			}
			for range i % 40 * 50 * (1 - j) { // the first is at every stage of its way when the second comes
				runtime.Gosched()
			}
		}
		if err := <-submit(u, &target.Command{Op: target.OpRead, Len: 4096, Data: got}); err != nil || !bytes.Equal(got, block(2*i+2)) {
			t.Fatalf("round %d: it read what was there before: %v", i, err)
		}
	}
}

func TestALateFrameIsAppliedAfterTheOneBeforeIt(t *testing.T) {
	for i := range 40000 {
		s := &session{gate: newGate(clock.Now, clock.Now()+clock.Time(time.Hour)), completeWake: make(chan struct{}, 1), required: map[domain.SiteID]bool{}}
		s.ctx, s.cancel = context.WithCancelCause(t.Context())
		late := &batch{frame: journal.Frame{FirstLSN: 2, LastLSN: 2}, late: true}
		s.pending = []*batch{{frame: journal.Frame{FirstLSN: 1, LastLSN: 1}}, late}
		start, done := make(chan struct{}), make(chan struct{})
		go func() {
			<-start
			s.acknowledge()
			close(done)
		}()
		close(start)
		for range i % 200 {
			_ = s.gate.open()
		}
		got := s.nextToApply()
		<-done
		s.cancel(nil)
		if got == late {
			t.Fatalf("round %d: it comes first", i)
		}
	}
}
