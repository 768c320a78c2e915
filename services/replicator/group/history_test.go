package group

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

// newPast is a cluster whose targets take a checkpoint whenever the last is this old.
func newPast(t *testing.T, every time.Duration, modes ...domain.Mode) *cluster {
	c := newCluster(t, modes...)
	c.def.Checkpoints.Every = every
	return c
}

// images reads both volumes of the primary, and says which change they end with.
func (c *cluster) images(site domain.SiteID) (domain.LSN, [2][]byte) {
	n := c.nodes[site]
	return n.g.Status().AppliedLSN, [2][]byte{n.read(0, 0, volumeBytes), n.read(1, 0, volumeBytes)}
}

// at reads a copy as it was at a checkpoint.
func (n *node) at(lsn domain.LSN) ([2][]byte, error) {
	n.t.Helper()
	out := [2][]byte{make([]byte, volumeBytes), make([]byte, volumeBytes)}
	v, err := n.g.store.hist.View(lsn)
	if err != nil {
		return out, err
	}
	defer v.Close()
	for i := range out {
		if _, err := v.ReadAt(i, out[i], 0); err != nil {
			return out, err
		}
	}
	return out, nil
}

func (n *node) checkpoints() []api.Checkpoint { return n.g.Checkpoints().Checkpoints }

// holds waits for a checkpoint at the very change.
func (n *node) holds(lsn domain.LSN) {
	n.t.Helper()
	eventually(n.t, fmt.Sprintf("site %s has a checkpoint at %d", n.id, lsn), func() bool {
		for _, p := range n.checkpoints() {
			if p.LSN == lsn {
				return true
			}
		}
		return false
	})
}

// story writes in rounds, each of which becomes a checkpoint at b, and gives what the volumes held after each.
func story(c *cluster, rounds int) map[domain.LSN][2][]byte {
	c.t.Helper()
	a, b := c.nodes["a"], c.nodes["b"]
	states := map[domain.LSN][2][]byte{}
	for r := range rounds {
		for i := range uint64(6) {
			a.write(int(i%2), int64((uint64(r)*5+i*3)%64)*4096, block(uint64(r)*100+i+1))
		}
		a.write(0, 512*int64(r+1), bytes.Repeat([]byte{byte(r + 1)}, 512))
		if r%3 == 1 {
			if err := await(c.t, submit(a.unit(1), &target.Command{Op: target.OpUnmap, Off: int64(r) * 4096, Len: 64 << 10})); err != nil {
				c.t.Fatal(err)
			}
		}
		lsn, images := c.images("a")
		b.holds(lsn)
		states[lsn] = images
	}
	return states
}

func (n *node) checkStates(states map[domain.LSN][2][]byte) {
	n.t.Helper()
	for lsn, want := range states {
		got, err := n.at(lsn)
		if err != nil {
			n.t.Fatalf("checkpoint %d: %v", lsn, err)
		}
		for v := range want {
			if !bytes.Equal(got[v], want[v]) {
				n.t.Fatalf("volume %d at checkpoint %d is not what it was", v, lsn)
			}
		}
	}
}

func TestATargetTakesCheckpointsThatStayWhatTheyWere(t *testing.T) {
	c := newPast(t, 30*time.Millisecond, domain.ModeAsync)
	c.boot("a", "b")
	c.promote("a", 257)
	states := story(c, 8)
	b := c.nodes["b"]
	b.checkStates(states)
	c.kill("b") // and what it had not flushed is applied again
	c.boot("b")
	b.checkStates(states)
	c.follows("a", "b")
	c.nodes["a"].write(0, 0, bytes.Repeat([]byte{99}, 64<<10))
	c.follows("a", "b")
	c.same("a", "b")
	b.checkStates(states)
	if len(c.nodes["a"].checkpoints()) != 0 {
		t.Fatal("a primary has checkpoints")
	}
}

func TestAResyncKeepsTheCheckpointsOfTheLine(t *testing.T) {
	c := newPast(t, 30*time.Millisecond, domain.ModeAsync)
	c.boot("a", "b")
	c.promote("a", 257)
	states := story(c, 3)
	a, b := c.nodes["a"], c.nodes["b"]
	lacks := b.g.Status().HeadLSN
	c.kill("b")
	fillRing(t, a, lacks+1)
	c.boot("b")
	c.follows("a", "b")
	c.same("a", "b")
	if !a.facts.has("resync_completed") {
		t.Fatal("no resync")
	}
	b.checkStates(states)
	lsn, images := c.images("a")
	b.holds(lsn)
	b.checkStates(map[domain.LSN][2][]byte{lsn: images})
}

// scribble overwrites a good part of both volumes.
func (n *node) scribble(seed byte) {
	n.t.Helper()
	for i := range 12 {
		n.write(i%2, int64(i*7%64)*4096+512, bytes.Repeat([]byte{seed + byte(i)}, 6<<10))
	}
	if err := await(n.t, submit(n.unit(0), &target.Command{Op: target.OpUnmap, Off: int64(seed) % 8 * 4096, Len: 48 << 10})); err != nil {
		n.t.Fatal(err)
	}
}

func TestACopyThatServesKeepsItsCheckpoints(t *testing.T) {
	slow(t)
	c := newPast(t, 30*time.Millisecond, domain.ModeAsync)
	c.boot("a", "b")
	c.promote("a", 257)
	states := story(c, 4)
	a, b := c.nodes["a"], c.nodes["b"]
	c.follows("a", "b")
	c.kill("a")
	c.promote("b", 514)
	b.checkStates(states)
	b.scribble(100)
	b.checkStates(states)
	had := len(b.checkpoints())
	reply, err := b.g.Mark(t.Context(), api.CheckpointCreateRequest{Group: "erp", Label: "by hand"})
	if err != nil {
		t.Fatal(err)
	}
	_, states[reply.LSN] = c.images("b")
	if n := len(b.checkpoints()); n != had+1 {
		t.Fatalf("%d checkpoints after a mark, %d before: none comes by itself", n, had)
	}
	opened, err := b.g.OpenCheckpoint(t.Context(), api.CheckpointOpenRequest{Group: "erp", Checkpoint: reply.LSN})
	if err != nil || len(opened.Disks) != 2 {
		t.Fatalf("%+v, %v", opened, err)
	}
	b.scribble(150)
	b.checkStates(states)
	piece, err := b.g.ReadCheckpoint(api.CheckpointReadRequest{Group: "erp", Checkpoint: reply.LSN, Volume: "data", Length: MaxCheckpointRead})
	if err != nil || !bytes.Equal(piece.Data, states[reply.LSN][0][:MaxCheckpointRead]) {
		t.Fatalf("a checkpoint of the site that serves reads as something else, or not: %v", err)
	}
	c.kill("b") // what it had not flushed is applied again
	c.boot("b")
	b.checkStates(states)
	c.promote("b", 770)
	b.scribble(200)
	b.checkStates(states)
	c.boot("a")
	c.follows("b", "a")
	if _, err := b.g.Demote(t.Context(), api.DemoteRequest{Group: "erp", Epoch: 770, Successor: "a", TimeoutNs: int64(3 * time.Second)}); err != nil {
		t.Fatal(err)
	}
	c.promote("a", 1025)
	c.follows("a", "b")
	a.scribble(30) // and it goes on as one that follows
	lsn, images := c.images("a")
	b.holds(lsn)
	states[lsn] = images
	b.checkStates(states)
	c.same("a", "b")
	c.kill("a")
	last := domain.LSN(0)
	for i, at := range slices.Backward(slices.Sorted(maps.Keys(upTo(states, reply.LSN)))) { // and further back, again and again
		head := b.g.Status().HeadLSN
		reply, err := c.promoteAt("b", domain.Epoch(1282+256*(len(states)-i)), at)
		if err != nil {
			t.Fatal(err)
		}
		if e := reply.Estimate; !e.Known || e.Writes != uint64(head-at) || e.Bytes == 0 || !strings.Contains(e.Text, "back to checkpoint") {
			t.Fatalf("back from %d to %d: %+v", head, at, e)
		}
		if !bytes.Equal(b.read(0, 0, volumeBytes), states[at][0]) {
			t.Fatalf("not what it was at %d", at)
		}
		b.checkStates(upTo(states, at))
		b.scribble(byte(at))
		b.checkStates(upTo(states, at))
		last = at
	}
	set := c.quo.grant("b", 5122) // the same one again, by another decision
	if _, err := b.g.Promote(t.Context(), api.PromoteRequest{Group: "erp", Epoch: 5122, InSync: set, Checkpoint: last, Decision: "another"}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b.read(0, 0, volumeBytes), states[last][0]) {
		t.Fatalf("not what it was at %d", last)
	}
	if b.facts.has("checkpoints_ended") || b.facts.has("checkpoints_lost") {
		t.Fatal("its checkpoints are told to be gone")
	}
}

func TestThePastOfACopyThatServesEndsWithItsAge(t *testing.T) {
	c := newPast(t, 30*time.Millisecond, domain.ModeAsync)
	c.boot("a", "b")
	c.promote("a", 257)
	story(c, 2)
	b := c.nodes["b"]
	c.kill("a")
	c.promote("b", 514)
	b.write(0, 0, block(1))
	if len(b.checkpoints()) == 0 {
		t.Fatal("gone before their time")
	}
	b.g.store.keepPast(domain.Checkpoints{Keep: domain.Keep{Age: time.Nanosecond}})
	b.write(0, 0, block(2))
	eventually(t, "they end", func() bool { return len(b.checkpoints()) == 0 && b.facts.has("checkpoints_ended") })
	b.write(0, 0, block(3))
	if b.g.store.hist.Recording() {
		t.Fatal("it keeps what is overwritten, for nobody")
	}
}
