package group

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

func cachedCluster(t *testing.T, modes ...domain.Mode) *cluster {
	t.Helper()
	c := newCluster(t, modes...)
	c.def.Durability = domain.DurabilityCached
	return c
}

func answered(done <-chan error) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// cut makes every write of a suspended group wait: its target is gone.
func cutTarget(t *testing.T) (*cluster, target.Unit) {
	t.Helper()
	c := cachedCluster(t, domain.ModeSync)
	c.def.OnTargetLoss = domain.TargetLossSuspend
	c.boot("a", "b")
	c.promote("a", 257)
	c.follows("a", "b")
	c.kill("b")
	return c, c.nodes["a"].unit(0)
}

func TestACachedWriteIsAnsweredBeforeItIsDurableAndAFlushWhenItIs(t *testing.T) {
	c, u := cutTarget(t)
	if !u.Info().WriteCache {
		t.Error("the unit declares no write cache")
	}
	data := block(7)
	if err := await(t, submit(u, &target.Command{Op: target.OpWrite, Len: 4096, Data: data})); err != nil {
		t.Fatal(err)
	}
	clear(data) // it is the initiator's again
	waiting := map[string]<-chan error{
		"flush":             submit(u, &target.Command{Op: target.OpFlush}),
		"write with FUA":    submit(u, &target.Command{Op: target.OpWrite, Off: 4096, Len: 4096, Data: block(8), FUA: true}),
		"atomic write":      submit(u, &target.Command{Op: target.OpWrite, Off: 8192, Len: 4096, Data: block(9), Atomic: true}),
		"compare and write": submit(u, &target.Command{Op: target.OpCompareAndWrite, Off: 12288, Len: 4096, Compare: make([]byte, 4096), Data: block(10)}),
	}
	shown := make([]byte, 4096)
	waiting["read of what was acknowledged"] = submit(u, &target.Command{Op: target.OpRead, Len: 4096, Data: shown})
	if err := await(t, submit(u, &target.Command{Op: target.OpRead, Off: 1 << 20, Len: 4096, Data: make([]byte, 4096)})); err != nil {
		t.Fatalf("a read elsewhere: %v", err)
	}
	for what, done := range waiting {
		if answered(done) {
			t.Errorf("%s was answered without b", what)
		}
	}
	c.boot("b")
	for what, done := range waiting {
		if err := await(t, done); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	if !bytes.Equal(shown, block(7)) {
		t.Error("a read does not show what was acknowledged before it")
	}
	c.same("a", "b")
}

func TestWhatWasAcknowledgedAndIsNotAppliedIsToldMapped(t *testing.T) {
	_, u := cutTarget(t)
	m := u.(target.Mapper)
	if err := await(t, submit(u, &target.Command{Op: target.OpWrite, Off: 64 << 10, Len: 4096, Data: block(7)})); err != nil {
		t.Fatal(err)
	}
	if mapped, n, err := m.Extent(0, 1<<20); mapped || n != 64<<10 || err != nil {
		t.Errorf("before it: %v %d %v", mapped, n, err)
	}
	if mapped, n, err := m.Extent(64<<10+512, 1<<20); !mapped || n != 4096-512 || err != nil {
		t.Errorf("in it: %v %d %v", mapped, n, err)
	}
	if mapped, n, err := m.Extent(68<<10, 1<<20); mapped || n != volumeBytes-68<<10 || err != nil {
		t.Errorf("after it: %v %d %v", mapped, n, err)
	}
}

func TestAFullCacheHoldsItsWritersBack(t *testing.T) {
	c, u := cutTarget(t)
	data := bytes.Repeat(block(3), 256)
	var done []<-chan error
	for range cacheBytes/len(data) + 4 {
		done = append(done, submit(u, &target.Command{Op: target.OpWrite, Len: int64(len(data)), Data: data}))
	}
	early := 0
	for _, d := range done {
		if answered(d) {
			early++
		}
	}
	if early == 0 || early > cacheBytes/len(data) {
		t.Errorf("%d MiB acknowledged ahead, room is for %d", early, cacheBytes>>20)
	}
	c.boot("b")
	flush := submit(u, &target.Command{Op: target.OpFlush})
	if err := await(t, flush); err != nil {
		t.Fatal(err)
	}
	s := c.nodes["a"].g.current()
	eventually(t, "nothing is left in the cache", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.cache.used == 0 && len(s.cache.pages) == 0 && len(s.cache.readers) == 0
	})
	c.same("a", "b")
}

func TestAnEndedLeaseAcknowledgesNothingIntoTheCache(t *testing.T) {
	c := cachedCluster(t)
	c.boot("a")
	c.promote("a", 257)
	u := c.nodes["a"].unit(0)
	c.nodes["a"].skew.Store(int64(time.Hour))
	for _, cmd := range []*target.Command{{Op: target.OpWrite, Len: 4096, Data: block(1)}, {Op: target.OpFlush}, {Op: target.OpRead, Len: 4096, Data: make([]byte, 4096)}} {
		if err := await(t, submit(u, cmd)); err != target.ErrFenced { //nolint:errorlint // the very one
			t.Errorf("%s after the lease: %v", cmd.Op, err)
		}
	}
}

// writeOrder is what two volumes hold of writes 1, 2, 3 ... each to the next of their slots in turn.
type writeOrder struct {
	slots   int
	written uint64
	flushed uint64
}

func (n *writeOrder) place(i uint64) (volume int, off int64) {
	k := int(i) % (2 * n.slots)
	return k % 2, int64(k/2) * 4096
}

// prefix is up to which write a copy goes; it fails the test when that is no prefix.
func (n *writeOrder) prefix(t *testing.T, read func(volume int, off int64) uint64) uint64 {
	t.Helper()
	held, newest := map[uint64]bool{}, uint64(0)
	for k := range uint64(2 * n.slots) {
		if got := read(n.place(k)); got != 0 {
			held[got], newest = true, max(newest, got)
		}
	}
	for i := newest; i > 0 && i+uint64(2*n.slots) > newest; i-- {
		if !held[i] {
			t.Errorf("write %d is there and %d is not", newest, i)
		}
	}
	return newest
}

func TestACachedGroupsCopiesArePrefixesThatHoldEveryFlush(t *testing.T) {
	seeds := 6
	if testing.Short() {
		seeds = 2
	}
	if n, err := strconv.Atoi(os.Getenv("HOLDFAST_SEEDS")); err == nil {
		seeds = n
	}
	for seed := range uint64(seeds) {
		t.Run(strconv.Itoa(int(seed)), func(t *testing.T) { cachedLife(t, rand.New(rand.NewPCG(seed, 11))) })
	}
}

func cachedLife(t *testing.T, r *rand.Rand) {
	c := cachedCluster(t, domain.ModeSync)
	c.boot("a", "b")
	primary, epoch := domain.SiteID("a"), domain.Epoch(257)
	c.promote("a", epoch)
	n := &writeOrder{slots: 40}
	for range 4 {
		c.follows(primary, other(primary))
		lost := n.flushed + uint64(20+r.IntN(300))
		killed := make(chan struct{})
		n.run(t, c.nodes[primary], r, func(i uint64) bool {
			if i == lost {
				go func() {
					defer close(killed)
					c.kill(primary)
				}()
			}
			return true
		})
		<-killed
		c.boot(primary)
		if set := c.quo.set(); r.IntN(2) == 0 && len(set) == 2 {
			primary = other(primary)
		}
		epoch = epoch.Next(int(primary[0]-'a') + 1)
		c.promote(primary, epoch)
		node := c.nodes[primary]
		got := n.prefix(t, func(v int, off int64) uint64 { return binary.LittleEndian.Uint64(node.read(v, off, 8)) })
		if got < n.flushed || got > n.written {
			t.Errorf("site %s goes up to write %d; %d were flushed, %d written", primary, got, n.flushed, n.written)
		}
		n.written, n.flushed = got, got
	}
	c.follows(primary, other(primary))
	c.same("a", "b")
}

// run writes and sometimes flushes, without waiting for flushes, until more says no or the site is gone.
func (n *writeOrder) run(t *testing.T, node *node, r *rand.Rand, more func(i uint64) bool) {
	t.Helper()
	units := []target.Unit{node.unit(0), node.unit(1)}
	buffer := make([]byte, 4096)
	var mu sync.Mutex
	var flushes sync.WaitGroup
	for i := n.written + 1; more(i); i++ {
		v, off := n.place(i)
		for k := 0; k < len(buffer); k += 8 {
			binary.LittleEndian.PutUint64(buffer[k:], i)
		}
		fua := r.IntN(50) == 0
		done := submit(units[v], &target.Command{Op: target.OpWrite, Off: off, Len: 4096, Data: buffer, FUA: fua})
		n.written = i // perhaps
		if err := await(t, done); err != nil {
			break
		}
		if fua {
			mu.Lock()
			n.flushed = i
			mu.Unlock()
		}
		if r.IntN(40) == 0 {
			flushes.Add(1)
			units[r.IntN(2)].Submit(&target.Command{Op: target.OpFlush}, func(err error) {
				defer flushes.Done()
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					n.flushed = max(n.flushed, i)
				}
			})
		}
	}
	flushes.Wait()
}
