package group

import (
	"bytes"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

func TestSyncWriteIsInTheTargetsJournalBeforeItIsAcknowledged(t *testing.T) {
	c := newCluster(t, domain.ModeSync)
	c.boot("a", "b")
	c.promote("a", 257)
	for i := range uint64(50) {
		c.nodes["a"].write(int(i%2), int64(i)*4096, block(i+1))
		if at, head := c.nodes["b"].g.Status().HeadLSN, c.nodes["a"].g.Status().AppliedLSN; at < head {
			t.Fatalf("acknowledged LSN %d, the target's journal has %d", head, at)
		}
	}
	if got := c.nodes["a"].read(1, 49*4096, 4096); !bytes.Equal(got, block(50)) {
		t.Fatal("a read does not see what was acknowledged")
	}
	c.same("a", "b")
}

func TestAsyncTargetFollows(t *testing.T) {
	c := newCluster(t, domain.ModeAsync)
	c.boot("a")
	c.promote("a", 257)
	for i := range uint64(50) {
		c.nodes["a"].write(int(i%2), int64(i)*4096, block(i+1))
	}
	c.boot("b")
	for i := range uint64(50) {
		c.nodes["a"].write(int(i%2), int64(i)*4096, block(i+101))
	}
	c.follows("a", "b")
	c.same("a", "b")
}

func TestPromotedTargetGoesOnAndTheOldPrimaryComesBackAsTarget(t *testing.T) {
	c := newCluster(t, domain.ModeSync)
	c.boot("a", "b")
	c.promote("a", 257)
	for i := range uint64(20) {
		c.nodes["a"].write(0, int64(i)*4096, block(i+1))
	}
	c.kill("a")
	c.promote("b", 514)
	for i := range uint64(20) {
		if got := c.nodes["b"].read(0, int64(i)*4096, 4096); !bytes.Equal(got, block(i+1)) {
			t.Fatalf("block %d lost", i)
		}
	}
	c.nodes["b"].write(1, 0, block(99))
	c.boot("a")
	c.follows("b", "a")
	c.same("a", "b")
}
