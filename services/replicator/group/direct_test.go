package group

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

// suspended is a group whose writes wait for b, whatever becomes of it.
func suspended(t *testing.T) *cluster {
	t.Helper()
	c := newCluster(t, domain.ModeSync)
	c.lines = false
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

// The target is heard all the while, and tells of no frame: not because it takes none past the pipe, but because none left.
func TestALineThatCarriesNothingForthIsNoTargetThatTakesNothingPastThePipe(t *testing.T) {
	c := newCluster(t, domain.ModeSync)
	c.def.OnTargetLoss = domain.TargetLossSuspend
	line := c.farAway("b", 0)
	t.Cleanup(func() { line.deafen(false) })
	c.boot("a", "b")
	c.promote("a", 257)
	c.nodes["a"].write(0, 0, block(1))
	c.follows("a", "b")
	c.kill("b") // what it heard past the pipe before is forgotten
	c.boot("b")
	eventually(t, "b follows anew", func() bool {
		g := c.nodes["b"].g
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.receiver != nil
	})
	c.follows("a", "b")
	to, breaks := c.nodes["a"].g.current().senders.get("b"), c.target("a", "b").Breaks
	line.deafen(true)
	done := submit(c.nodes["a"].unit(0), &target.Command{Op: target.OpWrite, Off: 4096, Len: 4096, Data: block(2)})
	eventually(t, "the stream breaks off", func() bool { return c.target("a", "b").Breaks > breaks || !to.goesDirect() })
	line.deafen(false)
	if err := await(t, done); err != nil {
		t.Fatal(err)
	}
	c.nodes["a"].write(0, 8192, block(3))
	c.same("a", "b")
	if got, want := c.nodes["b"].arrived(), c.nodes["a"].g.store.last(); !to.goesDirect() || got != want {
		t.Errorf("up to %d came past the pipe, written is up to %d", got, want)
	}
}

// Frames arrive in order: one that waits behind others, at a target whose disk takes its time, is not lost.
func TestASyncTargetThatCatchesUpSlowlyIsSentEachFrameOnce(t *testing.T) {
	c := newCluster(t, domain.ModeSync)
	c.boot("a", "b")
	c.promote("a", 257)
	c.follows("a", "b")
	c.kill("b")
	a, b := c.nodes["a"], c.nodes["b"]
	before, sent := a.g.Status().WrittenFrameBytes, c.target("a", "b").SentFrameBytes
	for i := range int64(100) {
		a.write(int(i%2), i/2*4096, block(uint64(i)))
	}
	slowDisk := func(place string) error {
		if place == "take" {
			time.Sleep(20 * time.Millisecond)
		}
		return nil
	}
	b.fail.Store(&slowDisk)
	c.boot("b")
	c.follows("a", "b")
	eventually(t, "b is in sync again", c.inSync)
	c.same("a", "b")
	// What was on its way when b was killed comes twice.
	if got, want := c.target("a", "b").SentFrameBytes-sent, a.g.Status().WrittenFrameBytes-before; got > want+want/10 {
		t.Errorf("%d bytes of frames were sent for %d that were written", got, want)
	}
}
