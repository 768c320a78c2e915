package group

import (
	"bytes"
	"testing"

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
