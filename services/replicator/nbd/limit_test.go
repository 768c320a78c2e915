package nbd

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

// TestPastItsDepthAConnectionIsNotReadFrom holds the unit: what was asked beyond the depth waits, and is answered in the end.
func TestPastItsDepthAConnectionIsNotReadFrom(t *testing.T) {
	b := newBench(t, Config{QueueDepth: 4})
	c := b.open(false)
	b.unit.set(func(u *memUnit) { u.holding = true })
	for range 10 {
		c.ask(cmdRead, 0, 0, 512, nil)
	}
	for range 4 {
		<-b.unit.arrived
	}
	select {
	case <-b.unit.arrived:
		t.Fatal("a fifth request is in flight")
	case <-time.After(20 * time.Millisecond):
	}
	b.unit.release()
	for range 10 {
		c.answered(512).want(t, 0)
	}
}

// TestMemoryIsBoundedAndShared has one client ask for far more memory than there is; another is still served.
func TestMemoryIsBoundedAndShared(t *testing.T) {
	b := newBenchOn(t, Config{MaxBufferedBytes: 64 << 20}, newMemUnit(32<<20))
	greedy, modest := b.open(false), b.open(false)
	b.unit.set(func(u *memUnit) { u.holding = true })
	for range 4 {
		greedy.ask(cmdRead, 0, 0, 24<<20, nil)
	}
	<-b.unit.arrived
	modest.ask(cmdRead, 0, 0, 24<<20, nil)
	<-b.unit.arrived
	select {
	case <-b.unit.arrived:
		t.Fatal("the greedy connection has more than its half")
	case <-time.After(20 * time.Millisecond):
	}
	b.unit.release()
	modest.answered(24<<20).want(t, 0)
	for range 4 {
		greedy.answered(24<<20).want(t, 0)
	}
}

func TestBudgetServesInOrder(t *testing.T) {
	b := budget{free: 10}
	if !b.try(8) || b.try(4) {
		t.Fatal("wrong")
	}
	quit := make(chan struct{})
	first, second := make(chan bool), make(chan bool)
	go func() { first <- b.take(6, quit) }()
	waits := func(n int) func() bool {
		return func() bool { b.mu.Lock(); defer b.mu.Unlock(); return len(b.waiting) == n }
	}
	eventually(t, "nobody waits", waits(1))
	if b.try(1) {
		t.Error("the queue was jumped")
	}
	go func() { second <- b.take(2, nil) }()
	eventually(t, "only one waits", waits(2))
	close(quit)
	if <-first || !<-second {
		t.Error("who gave up was served, or who could be was not")
	}
	b.give(10)
	if b.free != 10 {
		t.Errorf("%d left", b.free)
	}
}

// TestAnAnswerThatIsNotTakenEndsTheConnection fills the network with answers that nobody reads.
func TestAnAnswerThatIsNotTakenEndsTheConnection(t *testing.T) {
	b := newBenchOn(t, Config{WriteTimeout: 50 * time.Millisecond}, newMemUnit(32<<20))
	c := b.open(false)
	c.ask(cmdRead, 0, 0, 32<<20, nil)
	eventually(t, "the connection lives on", func() bool {
		b.srv.mu.Lock()
		defer b.srv.mu.Unlock()
		return len(b.srv.conns) == 0
	})
}

// TestManyConnectionsReadBackWhatTheyWrote loads the server from several connections with a unit that completes inline or
// from other goroutines, in any order.
func TestManyConnectionsReadBackWhatTheyWrote(t *testing.T) {
	const conns, each = 6, 1 << 20
	rounds := 40
	if testing.Short() {
		rounds = 3
	}
	b := newBenchOn(t, Config{QueueDepth: 16}, newMemUnit(conns*each))
	for _, async := range []bool{false, true} {
		b.unit.set(func(u *memUnit) { u.async = async })
		var wg sync.WaitGroup
		for i := range conns {
			c := b.open(i%2 == 0)
			wg.Go(func() { load(c, uint64(i*each), rounds, rand.New(rand.NewPCG(uint64(i), 1))) })
		}
		wg.Wait()
		b.unit.asked()
	}
}

// load writes 16 places at once and reads them at once, in a region of its own.
func load(c *client, base uint64, rounds int, rnd *rand.Rand) {
	for range rounds {
		const step = 64 << 10
		var want [16][]byte
		cookies := map[uint64]int{}
		for i := range want {
			want[i] = pattern(byte(rnd.Uint32()), 512*(1+rnd.IntN(128)))
			cookies[c.ask(cmdWrite, uint16(rnd.IntN(2)), base+uint64(i)*step, uint32(len(want[i])), want[i])] = i
		}
		for range want {
			if a := c.answered(0); a.err != 0 {
				c.t.Errorf("write: %d", a.err)
			}
		}
		c.ask(cmdFlush, 0, 0, 0, nil)
		c.answered(0)
		for i := range want { // one at a time where the answer does not say its length
			a := c.do(cmdRead, 0, base+uint64(i)*step, uint32(len(want[i])), nil)
			if a.err != 0 || !bytes.Equal(a.data, want[i]) {
				c.t.Errorf("read: error %d, or other data", a.err)
			}
		}
	}
}

// meter counts.
type meter struct {
	mu   sync.Mutex
	seen map[[2]byte]int
}

func (m *meter) Observe(class target.Class, outcome target.Outcome, bytes int, took time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seen[[2]byte{byte(class), byte(outcome)}] += 1 + bytes
}

type metered struct {
	*memUnit
	m *meter
}

func (m metered) Meter() target.Meter { return m.m }

func TestRequestsAreMeasured(t *testing.T) {
	b := newBench(t, Config{})
	m := &meter{seen: map[[2]byte]int{}}
	if err := b.srv.AddExport("measured", metered{b.unit, m}); err != nil {
		t.Fatal(err)
	}
	c := b.dial()
	c.put(uint32(3))
	c.option(optGo, goData("measured"))
	c.do(cmdRead, 0, 0, 4096, nil)
	c.do(cmdWrite, 0, 0, 512, make([]byte, 512))
	c.do(cmdFlush, 0, 0, 0, nil)
	c.do(cmdRead, 0, 1, 512, nil)
	c.ask(cmdDisc, 0, 0, 0, nil)
	c.gone()
	want := map[[2]byte]int{{byte(target.ClassRead), 0}: 4097, {byte(target.ClassWrite), 0}: 513, {byte(target.ClassFlush), 0}: 1, {byte(target.ClassRead), 1}: 1}
	m.mu.Lock()
	defer m.mu.Unlock()
	for k, n := range want {
		if m.seen[k] != n {
			t.Errorf("class %d, outcome %d: %d, want %d", k[0], k[1], m.seen[k], n)
		}
	}
}
