package group

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

func TestEveryTargetsLossIsToldInWritesAndBytes(t *testing.T) {
	c := newCluster(t, domain.ModeSync, domain.ModeAsync)
	c.boot("a", "b", "c")
	c.promote("a", 257)
	c.follows("a", "b")
	c.follows("a", "c")
	block := bytes.Repeat([]byte{7}, 4096)
	c.nodes["a"].write(0, 0, block)
	eventually(t, "c has it", func() bool { return c.target("a", "c").Loss.Text == "nothing" })
	c.kill("c")
	for i := range int64(5) {
		c.nodes["a"].write(int(i%2), 4096*i, block)
	}
	there, gone := c.target("a", "b").Loss, c.target("a", "c").Loss
	if !there.Known || there.Writes != 0 || there.Bytes != 0 {
		t.Errorf("a target in sync loses nothing: %+v", there)
	}
	if !gone.Known || gone.Writes != 5 || gone.Bytes != 5*4096 || gone.Seconds <= 0 || gone.AtLeast {
		t.Errorf("a target that lacks 5 writes of 4 KiB: %+v", gone)
	}
	c.boot("c")
	eventually(t, "c has caught up", func() bool { l := c.target("a", "c").Loss; return l.Known && l.Writes == 0 })
}

func TestALossThatCannotBeKnownIsNotToldAsNone(t *testing.T) {
	c := newCluster(t, domain.ModeAsync)
	c.boot("a")
	c.promote("a", 257)
	c.nodes["a"].write(0, 0, bytes.Repeat([]byte{7}, 4096))
	if l := c.target("a", "b").Loss; l.Known || l.Text == "nothing" {
		t.Errorf("nothing was ever heard of b: %+v", l)
	}
}

// heard is the last head that a target heard of.
func (n *node) heard() (p api.Position) {
	n.g.mu.Lock()
	defer n.g.mu.Unlock()
	if len(n.g.heads) > 0 {
		p = n.g.heads[len(n.g.heads)-1]
	}
	return p
}

// The link is cut and the primary writes on: an hour later its target does not tell what it heard then as if it were so now.
func TestATargetThatHearsNothingSaysAsOfWhenAndThatMoreMayBeLost(t *testing.T) {
	c := newCluster(t, domain.ModeAsync)
	c.boot("a", "b")
	c.promote("a", 257)
	a, b := c.nodes["a"], c.nodes["b"]
	a.write(0, 0, block(1))
	c.follows("a", "b")
	eventually(t, "b has heard of the write", func() bool {
		e := b.g.Estimate()
		return e.Known && !e.AtLeast && e.Writes == 0 && b.heard().LSN >= a.g.Status().HeadLSN
	})
	address := strings.TrimPrefix(b.srv.URL(), "nats://")
	b.srv.Stop() // the link is cut; the process lives
	for i := range uint64(5) {
		a.write(0, 4096*int64(i), block(2+i))
	}
	eventually(t, "b misses the heads", func() bool { return b.g.Estimate().AtLeast })
	b.skew.Add(int64(time.Hour))
	e := b.g.Estimate()
	if !e.Known || !e.AtLeast || e.Silent < 3600 || e.Seconds < 3600 || !e.AsOf.Equal(b.heard().Time) ||
		!strings.HasPrefix(e.Text, "at least 0 writes, 0 B, as of ") || !strings.Contains(e.Text, "nothing was heard from site a since, for 1h0m") {
		t.Errorf("after an hour of silence: %+v", e)
	}
	b.serveNATS(address)
	c.follows("a", "b")
	eventually(t, "b hears of the primary again", func() bool {
		e := b.g.Estimate()
		return e.Known && !e.AtLeast && e.Writes == 0 && e.Silent < 3600 && e.Seconds < 3600 && b.heard().LSN >= a.g.Status().HeadLSN
	})
}

func TestASynchronousTargetThatHearsNothingNamesWhatDecides(t *testing.T) {
	c := newCluster(t, domain.ModeSync)
	c.boot("a", "b")
	c.promote("a", 257)
	c.follows("a", "b")
	b := c.nodes["b"]
	eventually(t, "b has heard of the primary", func() bool { return b.g.Estimate().Known })
	c.kill("a")
	eventually(t, "b misses the heads", func() bool { return b.g.Estimate().AtLeast })
	if e := b.g.Estimate(); !strings.HasPrefix(e.Text, "nothing where the quorum has this copy in sync, else at least 0 writes") {
		t.Errorf("%+v", e)
	}
}

func TestAPrimaryThatWasDemotedLeavesNoLossThatGrows(t *testing.T) {
	c := newCluster(t, domain.ModeSync)
	c.boot("a", "b")
	c.promote("a", 257)
	a, b := c.nodes["a"], c.nodes["b"]
	a.write(0, 0, block(1))
	c.follows("a", "b")
	if _, err := a.g.Demote(t.Context(), api.DemoteRequest{Group: "erp", Epoch: 257, Successor: "b"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "b has heard that it ended", func() bool { return b.heard().Ended })
	b.skew.Add(int64(time.Hour))
	if e := b.g.Estimate(); !e.Known || e.AtLeast || e.Writes != 0 || e.Seconds != 0 {
		t.Errorf("an hour after a move: %+v", e)
	}
}
