package group

import (
	"bytes"
	"fmt"
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

func TestServingEndsTheHistory(t *testing.T) {
	c := newPast(t, 30*time.Millisecond, domain.ModeAsync)
	c.boot("a", "b")
	c.promote("a", 257)
	story(c, 2)
	c.kill("a")
	c.promote("b", 514)
	b := c.nodes["b"]
	if got := b.checkpoints(); len(got) != 0 || !b.facts.has("checkpoints_ended") {
		t.Fatalf("checkpoints %v, told: %v", got, b.facts.has("checkpoints_ended"))
	}
	c.boot("a")
	c.follows("b", "a")
	b.write(0, 0, block(5))
	b, c.nodes["b"] = c.nodes["a"], b
	eventually(t, "the other site has checkpoints", func() bool { return len(b.checkpoints()) > 0 })
}
