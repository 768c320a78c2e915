package group

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// served makes b serve with the checkpoints of its time as a target; a is dead.
func served(t *testing.T, mode domain.Mode) (*cluster, map[domain.LSN][2][]byte) {
	t.Helper()
	c := newPast(t, 30*time.Millisecond, mode)
	c.boot("a", "b")
	c.promote("a", 257)
	if mode == domain.ModeSync {
		c.follows("a", "b")
	}
	states := story(c, 4)
	c.follows("a", "b")
	c.kill("a")
	c.promote("b", 514)
	return c, states
}

func TestAFullDiskAtASiteThatServesCostsCheckpointsAndNoWriter(t *testing.T) {
	c, _ := served(t, domain.ModeAsync)
	b := c.nodes["b"]
	full := func(place string) error {
		if place == "volume write" && len(b.g.store.hist.List()) > 1 { // there is room once most of the past has gone
			return syscall.ENOSPC
		}
		return nil
	}
	b.fail.Store(&full)
	for i := range 8 {
		b.write(0, int64(i)*4096, block(uint64(i+900)))
	}
	b.applies()
	if n := len(b.checkpoints()); n != 1 || !b.facts.has("checkpoints_lost") {
		t.Fatalf("%d checkpoints are left, told: %v", n, b.facts.has("checkpoints_lost"))
	}
}

func TestAPromotionAtACheckpointNeedsAnEpochOfItsOwn(t *testing.T) {
	c, states := served(t, domain.ModeAsync)
	b := c.nodes["b"]
	b.write(0, 0, block(7777))
	req := api.PromoteRequest{Group: "erp", Epoch: 514, InSync: c.quo.set(), Checkpoint: slices.Sorted(maps.Keys(states))[1], Decision: "run"}
	if r, err := b.g.Promote(t.Context(), req); !errors.Is(err, domain.ErrStaleEpoch) {
		t.Fatalf("told %+v, %v, and nothing was done", r, err)
	}
	if !bytes.Equal(b.read(0, 0, 4096), block(7777)) {
		t.Fatal("what was refused was done")
	}
}

func TestACheckpointThatWasGoneBackToIsReadAgain(t *testing.T) {
	c, states := served(t, domain.ModeAsync)
	b := c.nodes["b"]
	lsns := slices.Sorted(maps.Keys(states))
	read := func(lsn domain.LSN) error {
		piece, err := b.g.ReadCheckpoint(api.CheckpointReadRequest{Group: "erp", Checkpoint: lsn, Volume: "data", Length: MaxCheckpointRead})
		if err == nil && !bytes.Equal(piece.Data, states[lsn][0][:MaxCheckpointRead]) {
			err = errors.New("not what it was")
		}
		return err
	}
	for _, lsn := range lsns {
		if err := read(lsn); err != nil {
			t.Fatal(err)
		}
	}
	b.scribble(3)
	if _, err := c.promoteAt("b", 770, lsns[1]); err != nil {
		t.Fatal(err)
	}
	b.scribble(4)
	for i, lsn := range lsns {
		if err := read(lsn); (err == nil) != (i <= 1) || err != nil && !errors.Is(err, domain.ErrNotFound) {
			t.Fatalf("checkpoint %d, gone back to was %d: %v", lsn, lsns[1], err)
		}
	}
}

func TestGoingBackInPlaceTakesASynchronousTargetAlong(t *testing.T) {
	slow(t)
	c, states := served(t, domain.ModeSync)
	b := c.nodes["b"]
	c.boot("a")
	c.follows("b", "a")
	a := c.nodes["a"]
	reply, err := b.g.Mark(t.Context(), api.CheckpointCreateRequest{Group: "erp", Label: "wanted"})
	if err != nil {
		t.Fatal(err)
	}
	_, states[reply.LSN] = c.images("b")
	b.scribble(3)
	c.follows("b", "a")
	later, err := b.g.Mark(t.Context(), api.CheckpointCreateRequest{Group: "erp", Label: "later"})
	if err != nil {
		t.Fatal(err)
	}
	a.holds(later.LSN)
	set := c.quo.grant("b", 770)
	if _, err := b.g.Promote(t.Context(), api.PromoteRequest{Group: "erp", Epoch: 770, InSync: set, Checkpoint: reply.LSN, Decision: "run"}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b.read(0, 0, volumeBytes), states[reply.LSN][0]) {
		t.Fatal("not what it was")
	}
	b.scribble(50)
	c.follows("b", "a")
	c.same("a", "b")
	b.checkStates(upTo(states, reply.LSN))
	for _, p := range a.checkpoints() {
		if p.LSN == later.LSN && p.Epoch == 514 {
			t.Fatal("a still lists what is no more of the line")
		}
	}
	c.kill("b")
	c.boot("b")
	b.checkStates(upTo(states, reply.LSN))
}

// An old primary that has a past comes home after 1 MiB diverged, of which its ring does not know any more.
func TestAnOldPrimaryWithAPastIsSentWhatDivergedOnly(t *testing.T) {
	slow(t)
	c, _ := served(t, domain.ModeAsync)
	b := c.nodes["b"]
	c.boot("a")
	c.follows("b", "a")
	for i := range 6 { // a has all of that
		b.write(0, int64(i)<<20, bytes.Repeat([]byte{byte(i + 1)}, 1<<20))
	}
	c.follows("b", "a")
	c.kill("a")
	for i := range 30 {
		b.write(1, 0, bytes.Repeat([]byte{byte(i + 1)}, 1<<20))
	}
	c.kill("b")
	c.boot("a")
	c.promote("a", 770)
	c.boot("b")
	c.follows("a", "b")
	c.same("a", "b")
	items, err := b.g.Quarantined()
	if err != nil || len(items) != 1 {
		t.Fatalf("%+v, %v", items, err)
	}
	blocks, err := os.Stat(filepath.Join(items[0].Path, quarantineBlocks))
	if err != nil {
		t.Fatal(err)
	}
	if sent := c.target("a", "b").ResyncBytes; blocks.Size() > 2<<20 || sent > 2<<20 {
		t.Fatalf("%d bytes are kept aside and %d were sent for 1 MiB that diverged", blocks.Size(), sent)
	}
}
