package group

import (
	"errors"
	"sync/atomic"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

// suspended is a group whose writes wait for b, whatever becomes of it.
func suspended(t *testing.T) *cluster {
	t.Helper()
	c := newCluster(t, domain.ModeSync)
	c.def.OnTargetLoss = domain.TargetLossSuspend
	c.boot("a", "b")
	return c
}

func (n *node) arrived() domain.LSN {
	n.g.mu.Lock()
	defer n.g.mu.Unlock()
	if n.g.receiver == nil {
		return 0
	}
	return domain.LSN(n.g.receiver.arrived.Load())
}

func TestFramesThatWritesWaitForGoPastThePipe(t *testing.T) {
	c := suspended(t)
	c.promote("a", 257)
	c.follows("a", "b")
	c.nodes["a"].write(0, 0, block(1))
	if got, want := c.nodes["b"].arrived(), c.nodes["a"].g.store.last(); got != want {
		t.Errorf("what came past the pipe goes up to %d, written is up to %d", got, want)
	}
	c.adopt(func(g *domain.Group) { g.Targets[0].Mode = domain.ModeAsync })
	c.nodes["a"].write(0, 4096, block(2))
	c.same("a", "b")
	if got, last := c.nodes["b"].arrived(), c.nodes["a"].g.store.last(); got >= last {
		t.Errorf("an asynchronous frame came past the pipe: %d of %d", got, last)
	}
}

func TestAFrameLostOnItsWayIsSentAgain(t *testing.T) {
	for _, place := range []string{"arrive", "take"} { // before anybody saw it, and while it was taken
		t.Run(place, func(t *testing.T) {
			c := suspended(t)
			c.promote("a", 257)
			c.follows("a", "b")
			var lost atomic.Int32
			stop := func(at string) error {
				if at == place && lost.Add(1) == 3 {
					return errors.New("lost")
				}
				return nil
			}
			c.nodes["b"].fail.Store(&stop)
			for i := range int64(6) {
				c.nodes["a"].write(int(i%2), i*4096, block(uint64(i)))
			}
			if lost.Load() < 3 {
				t.Error("nothing was lost")
			}
			c.same("a", "b")
			if c.nodes["a"].g.current().senders.get("b").deaf {
				t.Error("one frame was lost, and the way is given up")
			}
		})
	}
}

func TestWhereNothingArrivesPastThePipeThePipeIsUsed(t *testing.T) {
	c := suspended(t)
	stop := func(at string) error {
		if at == "arrive" {
			return errors.New("lost")
		}
		return nil
	}
	c.nodes["b"].fail.Store(&stop)
	c.promote("a", 257)
	c.follows("a", "b")
	for i := range int64(6) {
		if err := await(t, submit(c.nodes["a"].unit(0), &target.Command{Op: target.OpWrite, Off: i * 4096, Len: 4096, Data: block(uint64(i))})); err != nil {
			t.Fatal(err)
		}
	}
	c.same("a", "b")
	if got := c.nodes["b"].arrived(); got != 0 {
		t.Errorf("up to %d came past the pipe", got)
	}
}
