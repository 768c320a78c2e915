package group

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/initiator"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

// iscsi is a Portal that is one.
type iscsi struct {
	srv  *target.Server
	addr string
}

func newISCSI(t *testing.T) *iscsi {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	p := &iscsi{srv: target.New(target.Config{Portal: ln.Addr().String()}), addr: ln.Addr().String()}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = p.srv.Serve(ctx, ln)
	}()
	t.Cleanup(func() { cancel(); <-ended })
	return p
}

func (p *iscsi) Add(iqn string, u target.Unit) error {
	return p.srv.AddGuarded(iqn, map[int]target.Unit{0: u}, nil)
}
func (p *iscsi) Remove(iqn string) error { return p.srv.RemoveTarget(iqn) }
func (p *iscsi) URL(iqn string) string   { return "iscsi://" + p.addr + "/" + iqn + "/0" }

// attach is a host that uses a disk.
func attach(t *testing.T, d api.Disk) *initiator.Session {
	t.Helper()
	s, err := initiator.Dial(t.Context(), d.URL, initiator.Options{Name: "iqn.2026-11.test:host"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func allOf(t *testing.T, s *initiator.Session) []byte {
	t.Helper()
	p := make([]byte, volumeBytes)
	if _, err := s.ReadAt(p, 0); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestAnOpenCheckpointIsServedAndWrittenToWhileReplicationGoesOn(t *testing.T) {
	c := newPast(t, 30*time.Millisecond, domain.ModeAsync)
	c.boot("a", "b")
	b := c.nodes["b"]
	b.g.cfg.Portal = newISCSI(t)
	c.promote("a", 257)
	states := story(c, 4)
	lsn := slices.Sorted(maps.Keys(states))[1]
	req := api.CheckpointOpenRequest{Group: "erp", Checkpoint: lsn}
	opened, err := b.g.OpenCheckpoint(t.Context(), req)
	if err != nil || len(opened.Disks) != 2 {
		t.Fatalf("%+v, %v", opened, err)
	}
	if again, err := b.g.OpenCheckpoint(t.Context(), req); err != nil || !slices.Equal(again.Disks, opened.Disks) {
		t.Fatalf("a repeat: %+v, %v", again, err)
	}
	live := (&unit{s: c.nodes["a"].g.current()}).Info()
	for v, d := range opened.Disks {
		disk := attach(t, d)
		if !strings.Contains(d.URL, ".test.c") || disk.Serial() == live.Serial {
			t.Fatalf("%s has serial %s as the volume that is served has", d.URL, disk.Serial())
		}
		if !bytes.Equal(allOf(t, disk), states[lsn][v]) {
			t.Fatalf("volume %d is not what it was at %d", v, lsn)
		}
		if _, err := disk.WriteAt(bytes.Repeat([]byte{0xee}, 6000), 1024*int64(v)); err == nil {
			t.Fatal("a write of half a block was taken")
		}
		if _, err := disk.WriteAt(bytes.Repeat([]byte{0xee}, 6144), 1024*int64(v)); err != nil {
			t.Fatal(err)
		}
	}
	c.nodes["a"].write(0, 0, bytes.Repeat([]byte{0x77}, 256<<10))
	c.follows("a", "b")
	c.same("a", "b") // what was written to the overlay is not in the copy
	for v, d := range opened.Disks {
		want := bytes.Clone(states[lsn][v])
		copy(want[1024*v:], bytes.Repeat([]byte{0xee}, 6144))
		if !bytes.Equal(allOf(t, attach(t, d)), want) {
			t.Fatalf("volume %d of the overlay changed with the replication", v)
		}
	}
	if err := b.g.CloseCheckpoint(t.Context(), lsn); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(b.dir, "overlays", "*")); len(left) > 0 {
		t.Fatalf("left over: %v", left)
	}
	b.checkStates(states)
	if _, err := b.g.OpenCheckpoint(t.Context(), api.CheckpointOpenRequest{Checkpoint: 1 << 40}); !errors.Is(err, domain.ErrNotFound) || !strings.Contains(err.Error(), "holdfast checkpoint list") {
		t.Fatalf("a checkpoint that is not there: %v", err)
	}
}

func TestAMarkIsACheckpointAtEveryTargetAtExactlyItsChange(t *testing.T) {
	c := newPast(t, time.Hour, domain.ModeSync, domain.ModeAsync)
	c.boot("a", "b", "c")
	c.promote("a", 257)
	a := c.nodes["a"]
	a.write(0, 0, block(1))
	c.follows("a", "b")
	c.follows("a", "c")
	for _, site := range []domain.SiteID{"b", "c"} {
		n := c.nodes[site]
		eventually(t, "history begins", func() bool { return len(n.checkpoints()) > 0 })
	}
	states := map[domain.LSN][2][]byte{}
	for i := range uint64(3) {
		a.write(1, int64(i)*4096, block(i+10))
		p, err := a.g.Mark(t.Context(), api.CheckpointCreateRequest{Group: "erp", Label: "before upgrade"})
		if err != nil {
			t.Fatal(err)
		}
		_, states[p.LSN] = c.images("a")
		a.write(1, int64(i)*4096, block(i+20))
	}
	c.follows("a", "b")
	c.follows("a", "c")
	for lsn := range states {
		c.nodes["b"].holds(lsn)
		c.nodes["c"].holds(lsn)
	}
	c.kill("b")
	c.boot("b")
	for _, site := range []domain.SiteID{"b", "c"} {
		c.nodes[site].checkStates(states)
		for _, p := range c.nodes[site].checkpoints() {
			if states[p.LSN][0] != nil && (p.Label != "before upgrade" || p.Kind != api.CheckpointCrash) {
				t.Errorf("%+v", p)
			}
		}
	}
	if _, err := c.nodes["b"].g.Mark(t.Context(), api.CheckpointCreateRequest{}); !errors.Is(err, domain.ErrRefused) {
		t.Fatalf("a mark at a target: %v", err)
	}
}

func TestAVolumeIsReadAsItWasPieceByPiece(t *testing.T) {
	c := newPast(t, 30*time.Millisecond, domain.ModeAsync)
	c.boot("a", "b")
	c.promote("a", 257)
	states := story(c, 3)
	b := c.nodes["b"]
	lsn := slices.Min(slices.Collect(maps.Keys(states)))
	var got []byte
	for off := int64(0); off < volumeBytes; off += MaxCheckpointRead {
		p, err := b.g.ReadCheckpoint(api.CheckpointReadRequest{Checkpoint: lsn, Volume: "log", Offset: off, Length: MaxCheckpointRead})
		if err != nil || p.SizeBytes != volumeBytes {
			t.Fatalf("%v, %+v", err, p)
		}
		if p.Data == nil {
			p.Data = make([]byte, MaxCheckpointRead)
		}
		got = append(got, p.Data...)
	}
	if !bytes.Equal(got, states[lsn][1]) {
		t.Fatal("not what it was")
	}
	if !b.checkpoints()[slices.IndexFunc(b.checkpoints(), func(p api.Checkpoint) bool { return p.LSN == lsn })].Open {
		t.Fatal("it may go while it is being read")
	}
	b.g.unread(lsn)
	for _, bad := range []api.CheckpointReadRequest{{Checkpoint: lsn, Volume: "x", Length: 1}, {Checkpoint: lsn, Volume: "log", Offset: volumeBytes, Length: 1},
		{Checkpoint: lsn, Volume: "log", Length: 2 << 20}, {Checkpoint: 9999999, Volume: "log", Length: 1}} {
		if _, err := b.g.ReadCheckpoint(bad); err == nil {
			t.Errorf("%+v was read", bad)
		}
	}
}

// promoteAt is promote at a checkpoint.
func (c *cluster) promoteAt(site domain.SiteID, epoch domain.Epoch, lsn domain.LSN) (api.PromoteReply, error) {
	set := c.quo.grant(site, epoch)
	return c.nodes[site].g.Promote(c.t.Context(), api.PromoteRequest{Group: "erp", Epoch: epoch, InSync: set, Checkpoint: lsn})
}

// upTo are the states up to a change.
func upTo(states map[domain.LSN][2][]byte, lsn domain.LSN) map[domain.LSN][2][]byte {
	out := maps.Clone(states)
	maps.DeleteFunc(out, func(at domain.LSN, _ [2][]byte) bool { return at > lsn })
	return out
}

func TestACopyIsPromotedAtAnyOfItsCheckpoints(t *testing.T) {
	slow(t)
	const rounds = 10
	for pick := range rounds {
		c := newPast(t, 20*time.Millisecond, domain.ModeAsync)
		c.boot("a", "b")
		c.promote("a", 257)
		states := story(c, rounds)
		a, b := c.nodes["a"], c.nodes["b"]
		a.write(0, 0, block(7777))
		c.follows("a", "b")
		c.kill("a")
		if _, err := c.promoteAt("b", 514, 1<<40); !errors.Is(err, domain.ErrNotFound) {
			t.Fatalf("a checkpoint that is not there: %v", err)
		}
		lsn := slices.Sorted(maps.Keys(states))[pick]
		reply, err := c.promoteAt("b", 770, lsn)
		if err != nil || reply.FirstLSN != lsn+1 {
			t.Fatalf("%+v, %v", reply, err)
		}
		for v := range 2 {
			if !bytes.Equal(b.read(v, 0, volumeBytes), states[lsn][v]) {
				t.Fatalf("volume %d is not what it was at %d", v, lsn)
			}
		}
		items, err := b.g.Quarantined()
		if err != nil || len(items) != 1 || items[0].FirstLSN != lsn+1 || items[0].Writes == 0 || items[0].Bytes == 0 {
			t.Fatalf("kept aside: %+v, %v", items, err)
		}
		b.write(0, 8192, block(4242))
		c.kill("b") // a run that did not see the answer asks again, under another epoch
		c.boot("b")
		if _, err := c.promoteAt("b", 1026, lsn); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(b.read(0, 8192, 4096), block(4242)) {
			t.Fatal("a repeat threw away what was written since")
		}
		b.checkStates(upTo(states, lsn))
		c.boot("a")
		c.follows("b", "a")
		c.same("b", "a")
		c.kill("a")
		c.kill("b")
	}
}

func TestAPromotionAtACheckpointThatIsKilledAnywhereIsFinished(t *testing.T) {
	slow(t)
	for _, place := range []string{"rollback begins", "rollback block", "rollback applied", "rollback reset", "rollback remembered", "rollback history rewound"} {
		c := newPast(t, 20*time.Millisecond, domain.ModeAsync)
		c.boot("a", "b")
		c.promote("a", 257)
		states := story(c, 4)
		b := c.nodes["b"]
		c.follows("a", "b")
		c.kill("a")
		lsn := slices.Sorted(maps.Keys(states))[1]
		last := b.image(0)
		killed := errors.New("killed")
		var blocks atomic.Int32
		stop := func(at string) error {
			if at == place && (at != "rollback block" || blocks.Add(1) > 3) {
				return killed
			}
			return nil
		}
		b.fail.Store(&stop)
		if _, err := c.promoteAt("b", 514, lsn); !errors.Is(err, killed) {
			t.Fatalf("%s: %v", place, err)
		}
		c.kill("b")
		b.fail.Store(nil)
		c.boot("b")
		if place == "rollback begins" {
			if !bytes.Equal(b.image(0), last) || len(b.checkpoints()) == 0 {
				t.Fatal("the copy changed before the point of no return")
			}
		} else if got := b.g.Status().HeadLSN; got != lsn {
			t.Fatalf("%s: after the restart the copy is at %d, want %d", place, got, lsn)
		}
		kept := upTo(states, lsn)
		if place == "rollback begins" {
			kept = states
		}
		b.checkStates(kept)
		if _, err := os.Stat(b.g.store.rollbackPath()); !os.IsNotExist(err) {
			t.Fatalf("%s: the intent is still there: %v", place, err)
		}
		if _, err := c.promoteAt("b", 770, lsn); err != nil {
			t.Fatalf("%s: %v", place, err)
		}
		for v := range 2 {
			if !bytes.Equal(b.read(v, 0, volumeBytes), states[lsn][v]) {
				t.Fatalf("%s: volume %d is not what it was at %d", place, v, lsn)
			}
		}
		b.scribble(100)
		b.checkStates(upTo(states, lsn))
		if list := b.checkpoints(); list[len(list)-1].LSN != lsn {
			t.Fatalf("%s: a checkpoint after %d is left: %v", place, lsn, list)
		}
		c.kill("b")
	}
}

func TestATargetWhoseRingDoesNotReachBackKnowsFromItsPastWhatDiffers(t *testing.T) {
	slow(t)
	c := newPast(t, 20*time.Millisecond, domain.ModeAsync, domain.ModeAsync)
	c.boot("a", "b", "c")
	c.promote("a", 257)
	a := c.nodes["a"]
	for i := range 6 { // what a resync of everything would send
		a.write(0, int64(i)<<20, bytes.Repeat([]byte{byte(i + 1)}, 1<<20))
	}
	a.write(1, 0, block(1))
	lsn, images := c.images("a")
	c.nodes["b"].holds(lsn)
	c.nodes["c"].holds(lsn)
	fillRing(t, a, lsn+1)
	c.follows("a", "b")
	c.follows("a", "c")
	eventually(t, "c's ring does not reach back", func() bool { return c.nodes["c"].g.store.j.State().TailLSN > lsn+1 })
	c.kill("a")
	if _, err := c.promoteAt("b", 514, lsn); err != nil {
		t.Fatal(err)
	}
	c.follows("b", "c")
	c.same("b", "c")
	if !bytes.Equal(c.nodes["c"].image(0), images[0]) {
		t.Fatal("not what it was")
	}
	if ts := c.target("b", "c"); ts.ResyncBytes > 2<<20 {
		t.Fatalf("the resync sent %d bytes for 1 MiB that differs", ts.ResyncBytes)
	}
}
