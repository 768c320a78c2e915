package group

import (
	"bytes"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

// fills makes the named places of a site's copy find no room until what it gives is called.
func (n *node) fills(places ...string) (freed func()) {
	var full atomic.Bool
	full.Store(true)
	f := func(place string) error {
		if full.Load() && slices.Contains(places, place) {
			return syscall.ENOSPC
		}
		return nil
	}
	n.fail.Store(&f)
	return func() { full.Store(false) }
}

// detail is what the newest fact of a name says; empty when there is none.
func (f *facts) detail(name string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, x := range slices.Backward(f.all) {
		if r, ok := x.(event.ReplicaChanged); ok && r.Fact == name {
			return r.Detail
		}
	}
	return ""
}

// said reports whether a fact of a name says something that begins so.
func (f *facts) said(name, begins string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.ContainsFunc(f.all, func(x event.Fact) bool {
		r, ok := x.(event.ReplicaChanged)
		return ok && r.Fact == name && strings.HasPrefix(r.Detail, begins)
	})
}

// heldFor reports whether a site's copy says that it waits for a reason.
func (c *cluster) heldFor(site domain.SiteID, reason string) bool {
	return slices.ContainsFunc(c.nodes[site].g.Status().Held, func(h api.Held) bool { return h.Reason == reason })
}

// told waits until a site's copy waits for a reason, and has told it.
func (c *cluster) told(site domain.SiteID, reason string) {
	c.t.Helper()
	eventually(c.t, "site "+string(site)+" waits for the "+reason, func() bool {
		return c.heldFor(site, reason) && c.nodes[site].facts.said("held", reason+": ")
	})
}

// over waits until nothing waits any more at a site, and that was told.
func (c *cluster) over(site domain.SiteID, reason string) {
	c.t.Helper()
	eventually(c.t, "site "+string(site)+" goes on", func() bool {
		return len(c.nodes[site].g.Status().Held) == 0 && c.nodes[site].facts.said("resumed", reason+": ")
	})
}

func TestAFullDiskAtATargetCostsTheWriterNothingAndHealsByItself(t *testing.T) {
	slow(t)
	c := newPast(t, 30*time.Millisecond, domain.ModeAsync)
	c.boot("a", "b")
	c.promote("a", 257)
	states := story(c, 3)
	a, b := c.nodes["a"], c.nodes["b"]
	freed := b.fills("volume write")
	for i := range 160 { // 40 MiB through rings of 16, over and over the same 4
		a.chunk(0, int64(i%16), byte(i))
	}
	c.told("b", api.HeldByDisk)
	eventually(t, "a tells that the ring let go of what b lacks", func() bool { return a.facts.has("target_overflowed") })
	b.checkStates(states) // what was half written is in none of them
	if st := b.g.Status(); st.Error != "" || !st.Consistent {
		t.Fatalf("the copy is given up: %+v", st)
	}
	freed()
	c.follows("a", "b")
	c.over("b", api.HeldByDisk)
	c.same("a", "b")
	lsn, images := c.images("a")
	b.holds(lsn)
	b.checkStates(map[domain.LSN][2][]byte{lsn: images})
}

// A disk that fills in the middle of a change leaves a part of it, which must be in no checkpoint.
func TestNoCheckpointIsTakenOfAChangeThatTheDiskHadNoRoomFor(t *testing.T) {
	c := newPast(t, 20*time.Millisecond, domain.ModeAsync)
	c.boot("a", "b")
	c.promote("a", 257)
	a, b := c.nodes["a"], c.nodes["b"]
	story(c, 2)
	before := b.checkpoints()
	freed := b.fills("volume write")
	a.write(0, 0, bytes.Repeat([]byte{0xcc}, 64<<10))
	c.told("b", api.HeldByDisk)
	if !bytes.Equal(b.image(0)[:4096], bytes.Repeat([]byte{0xcc}, 4096)) {
		t.Fatal("the fault did not leave a part of the change")
	}
	if err := b.g.store.tickHistory(); err != nil {
		t.Fatal(err)
	}
	if now := b.checkpoints(); now[len(now)-1].LSN != before[len(before)-1].LSN {
		t.Fatalf("a checkpoint at %d of a volume that is at no LSN", now[len(now)-1].LSN)
	}
	freed()
	lsn, images := c.images("a")
	b.holds(lsn)
	b.checkStates(map[domain.LSN][2][]byte{lsn: images})
}

func TestATargetWhoseDiskIsFullIsPromotedWhenItHasRoom(t *testing.T) {
	c := newCluster(t, domain.ModeSync)
	c.boot("a", "b")
	c.promote("a", 257)
	b := c.nodes["b"]
	freed := b.fills("volume write")
	c.nodes["a"].write(0, 0, block(7)) // it is in b's journal
	c.told("b", api.HeldByDisk)
	c.kill("a")
	set := c.quo.grant("b", 514)
	req := api.PromoteRequest{Group: "erp", Epoch: 514, InSync: set}
	if _, err := b.g.Promote(t.Context(), req); err == nil || !strings.Contains(err.Error(), "free some space") || domain.Code(err) != domain.Code(domain.ErrUnavailable) {
		t.Fatalf("want a refusal that says what to do, got %v", err)
	}
	freed()
	if _, err := b.g.Promote(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b.read(0, 0, 4096), block(7)) {
		t.Fatal("the write is lost")
	}
}

func TestAFullDiskAtThePrimaryHoldsWritesAndIsNoError(t *testing.T) {
	c := newCluster(t, domain.ModeAsync)
	c.boot("a", "b")
	c.promote("a", 257)
	a := c.nodes["a"]
	a.write(0, 0, block(1))
	a.applies()
	freed := a.fills("volume write")
	for i := range unappliedMost { // the journal has them
		a.write(0, 4096, block(uint64(i)))
	}
	done := submit(a.unit(0), &target.Command{Op: target.OpWrite, Off: 4096, Len: 4096, Data: block(2)})
	shown := make([]byte, 4096)
	read := submit(a.unit(0), &target.Command{Op: target.OpRead, Off: 4096, Len: 4096, Data: shown})
	c.told("a", api.HeldByDisk)
	if answered(done) || answered(read) {
		t.Fatal("answered before there was room")
	}
	if !bytes.Equal(a.read(0, 0, 4096), block(1)) {
		t.Fatal("what was there is not read")
	}
	freed()
	if err := await(t, read); err != nil || !bytes.Equal(shown, block(unappliedMost-1)) && !bytes.Equal(shown, block(2)) {
		t.Fatalf("a read of what was answered and not applied: %v", err)
	}
	if err := await(t, done); err != nil {
		t.Fatal(err)
	}
	c.over("a", api.HeldByDisk)
	c.follows("a", "b")
	c.same("a", "b")
}

// Where there is no room even for a bitmap, nobody knows what the target lacks: it is compared, and only what differs is sent.
func TestWithoutRoomForABitmapTheRingLetsGoAllTheSame(t *testing.T) {
	slow(t)
	c := newCluster(t, domain.ModeAsync)
	c.boot("a", "b")
	c.promote("a", 257)
	a := c.nodes["a"]
	fill(a)
	c.follows("a", "b")
	c.kill("b")
	freed := a.fills("dirty-b.map: temporary file written")
	for i := range 160 {
		a.chunk(0, int64(i%4), byte(i))
	}
	if d := a.facts.detail("target_overflowed"); !strings.Contains(d, "noted") {
		t.Fatalf("told: %q", d)
	}
	if d, err := a.g.store.loadBitmap("b"); err != nil || d != nil {
		t.Fatalf("a bitmap that says less than is owed: %v, %v", d, err)
	}
	freed()
	c.boot("b")
	c.follows("a", "b")
	c.same("a", "b")
	if ts := c.target("a", "b"); ts.Resync == nil || ts.Resync.CompareTotal != ts.VolumeBytes || ts.ResyncBytes > 1<<20*11/10 {
		t.Fatalf("%d bytes were sent, 1 MiB differs: %+v", ts.ResyncBytes, ts.Resync)
	}
}

func TestAStageThatFindsNoRoomIsSentAgain(t *testing.T) {
	slow(t)
	for _, place := range []string{"stage data", "stage record"} {
		t.Run(place, func(t *testing.T) {
			c := newCluster(t, domain.ModeAsync)
			diverge(c)
			a := c.nodes["a"]
			freed := a.fills(place)
			c.boot("a")
			if place == "stage record" { // installing: the copy waits
				c.told("a", api.HeldByDisk)
			} else {
				eventually(t, "b says why", func() bool { return strings.Contains(c.target("b", "a").Error, "no space left") })
			}
			freed()
			c.follows("b", "a")
			c.same("a", "b")
		})
	}
}

// takesNothing makes a target hold every frame that comes until free is called.
func (n *node) takesNothing() (free func()) {
	held := make(chan struct{})
	stop := func(place string) error {
		if place == "take" {
			<-held
		}
		return nil
	}
	n.fail.Store(&stop)
	free = sync.OnceFunc(func() { close(held) })
	n.t.Cleanup(free)
	return free
}

func TestAPipeThatIsFullIsNoLoss(t *testing.T) {
	slow(t)
	c := newCluster(t, domain.ModeAsync)
	c.pipe = 1 << 20 // less than what is on its way at most
	c.boot("a", "b")
	c.promote("a", 257)
	c.follows("a", "b")
	a := c.nodes["a"]
	free := c.nodes["b"].takesNothing()
	for i := range 24 { // 6 MiB, that the pipe of 1 does not hold
		a.chunk(0, int64(i), byte(i))
	}
	eventually(t, "the target does not stream", func() bool { return c.target("a", "b").State != api.TargetStreaming && c.target("a", "b").Breaks > 0 })
	eventually(t, "that is told", func() bool { return a.facts.has("target_stalled") })
	free()
	c.follows("a", "b")
	c.same("a", "b")
}

// Each site's server in turn, while writes go on: memory of pipes, and whatever was on its way, is lost.
func TestARestartOfAnyNATSServerIsNoErrorToTheWriter(t *testing.T) {
	slow(t)
	for _, mode := range []domain.Mode{domain.ModeAsync, domain.ModeSync} {
		for _, site := range []domain.SiteID{"a", "b"} {
			t.Run(string(mode)+" "+string(site), func(t *testing.T) {
				c := newCluster(t, mode)
				c.def.OnTargetLoss = domain.TargetLossSuspend
				c.boot("a", "b")
				c.promote("a", 257)
				c.follows("a", "b")
				const writes = 600
				w := c.nodes["a"].numbered(4, writes)
				eventually(t, "some writes", func() bool { return w.acked.Load() > 50 })
				c.nodes[site].restartNATS()
				w.wg.Wait()
				if got := w.acked.Load(); got != writes || w.bad.Load() {
					t.Fatalf("%d of %d writes, out of order: %v", got, writes, w.bad.Load())
				}
				c.follows("a", "b")
				c.same("a", "b")
				if k := c.nodes["b"].prefix(writes); k != writes {
					t.Fatalf("b has %d writes", k)
				}
			})
		}
	}
}

func TestWritesThatWaitForASuspendedTargetAreTold(t *testing.T) {
	c := newCluster(t, domain.ModeSync)
	c.def.OnTargetLoss = domain.TargetLossSuspend
	c.boot("a", "b")
	c.promote("a", 257)
	c.follows("a", "b")
	c.kill("b")
	done := submit(c.nodes["a"].unit(0), &target.Command{Op: target.OpWrite, Off: 0, Len: 4096, Data: block(1)})
	c.told("a", api.HeldByTarget)
	c.boot("b")
	if err := await(t, done); err != nil {
		t.Fatal(err)
	}
	c.over("a", api.HeldByTarget)
}

func TestAFullRingIsTold(t *testing.T) {
	slow(t)
	c := newCluster(t, domain.ModeAsync)
	c.def.Congestion = domain.CongestionThrottle
	c.pace.TargetTimeout = 5 * time.Second
	c.boot("a", "b")
	c.promote("a", 257)
	c.follows("a", "b")
	a := c.nodes["a"]
	free := c.nodes["b"].takesNothing()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for i := range 100 { // 25 MiB into a ring of 16, with a target that takes nothing
			a.chunk(0, int64(i%16), byte(i))
		}
	}()
	c.told("a", api.HeldByJournal)
	free()
	<-ended
	c.over("a", api.HeldByJournal)
	c.follows("a", "b")
	c.same("a", "b")
}

// A target of before the sums, or credentials of before them: the resync goes on without.
func TestATargetThatTellsNoSumsIsSentEverything(t *testing.T) {
	slow(t)
	c := newCluster(t, domain.ModeAsync)
	c.mute = "b"
	c.boot("a", "b")
	c.promote("a", 257)
	a := c.nodes["a"]
	fill(a)
	c.follows("a", "b")
	c.kill("b")
	a.fills("dirty-b.map: temporary file written") // so that nothing tells what b lacks
	for i := range 96 {
		a.chunk(0, int64(i%4), byte(i))
	}
	c.boot("b")
	c.follows("a", "b")
	c.same("a", "b")
	if d := a.facts.detail("resync_progressed"); !strings.Contains(d, "tells no sums") {
		t.Fatalf("told: %q", d)
	}
}
