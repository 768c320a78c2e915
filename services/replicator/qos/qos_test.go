package qos

import (
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

// bench is a limiter whose clock the test moves, and what it passed on by session.
type bench struct {
	l   *Limiter
	now time.Duration
	got map[uint64]int
}

func newBench() *bench {
	b := &bench{got: map[uint64]int{}}
	b.l = New(func(c *target.Command, done func(error)) {
		b.got[c.Session]++
		done(nil)
	}, func() time.Duration { return b.now })
	b.l.arm = func(time.Duration) {} // run does what the timer would
	return b
}

func (b *bench) submit(session uint64, n, bytes int) {
	for range n {
		b.l.Submit(&target.Command{Op: target.OpWrite, Session: session, Data: make([]byte, bytes)}, func(error) {})
	}
}

// run moves the clock in small steps, and begins what may begin.
func (b *bench) run(d time.Duration) {
	for end := b.now + d; b.now < end; {
		b.now += time.Millisecond
		b.l.drain()
	}
}

func near(got, want int) bool { return got >= want-2 && got <= want+2 }

func TestLimitsHold(t *testing.T) {
	for name, c := range map[string]struct {
		iops, bandwidth     int64
		bytes               int
		burst, afterASecond int
	}{
		"operations":             {100, 0, 4096, 25, 125},
		"bandwidth":              {0, 1 << 20, 64 << 10, 4, 20},
		"both":                   {10, 1 << 20, 64 << 10, 3, 13},
		"larger than the bucket": {0, 1 << 20, 1 << 20, 1, 2},
	} {
		b := newBench()
		b.now = time.Hour
		b.l.Set(c.iops, c.bandwidth)
		b.submit(1, 200, c.bytes)
		if !near(b.got[1], c.burst) {
			t.Errorf("%s: %d at once, want %d", name, b.got[1], c.burst)
		}
		b.run(time.Second)
		if !near(b.got[1], c.afterASecond) {
			t.Errorf("%s: %d after a second, want %d", name, b.got[1], c.afterASecond)
		}
		b.l.Set(0, 0)
		b.run(time.Millisecond)
		if b.got[1] != 200 || len(b.l.queues) > 0 {
			t.Errorf("%s: %d after the limits were taken away", name, b.got[1])
		}
	}
}

func TestSessionsShareALimitWhateverTheyQueue(t *testing.T) {
	b := newBench()
	b.l.Set(100, 0)
	b.submit(9, 30, 512) // empties the bucket
	b.run(time.Second)
	clear(b.got)
	b.submit(1, 500, 512)
	b.run(100 * time.Millisecond)
	b.submit(2, 60, 512)
	b.run(time.Second)
	if one, two := b.got[1], b.got[2]; two < 45 || one < 45 {
		t.Errorf("the sessions got %d and %d", one, two)
	}
	b = newBench()
	b.l.Set(0, 10<<20)
	b.submit(1, 100, 1<<20)
	b.submit(2, 4000, 4096)
	b.run(4 * time.Second)
	if large, small := b.got[1]<<20, b.got[2]*4096; large < 12<<20 || small < 12<<20 {
		t.Errorf("large writes got %d bytes, small ones %d", large, small)
	}
}

func TestFlushesAreNotHeldUp(t *testing.T) {
	b := newBench()
	b.l.Set(1, 0)
	b.submit(1, 10, 512)
	before := b.got[1]
	b.l.Submit(&target.Command{Op: target.OpFlush, Session: 1}, func(error) {})
	if b.got[1] != before+1 {
		t.Error("a flush waits behind the limit")
	}
}

func TestEverythingEndsOnceUnderChangingLimits(t *testing.T) {
	began := time.Now()
	l := New(func(_ *target.Command, done func(error)) { done(nil) }, func() time.Duration { return time.Since(began) })
	var wg, ended sync.WaitGroup
	for s := range uint64(4) {
		wg.Go(func() {
			for range 500 {
				ended.Add(1)
				l.Submit(&target.Command{Op: target.OpWrite, Session: s, Data: make([]byte, 512)}, func(error) { ended.Done() })
			}
		})
	}
	wg.Go(func() {
		for i := range int64(50) {
			l.Set(1+i*1000, 1<<30)
		}
		l.Set(0, 0)
	})
	wg.Wait()
	ended.Wait()
}

func BenchmarkUnlimited(b *testing.B) {
	l := New(func(_ *target.Command, done func(error)) { done(nil) }, func() time.Duration { return 0 })
	c, done := &target.Command{Op: target.OpWrite}, func(error) {}
	b.ReportAllocs()
	for b.Loop() {
		l.Submit(c, done)
	}
}
