package group

import (
	"errors"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// needs is how many MiB a text says that a copy needs; 0 when it says nothing of that.
func needs(text string) float64 {
	m := regexp.MustCompile(`needs ([0-9.]+) MiB on the disk of`).FindStringSubmatch(text)
	if m == nil {
		return 0
	}
	n, _ := strconv.ParseFloat(m[1], 64)
	return n
}

// Of 4.25 MiB that are sent 2 MiB are of blocks that take no room at a yet: 6.25 MiB in all, staged and installed.
func TestAResyncThatDoesNotFitWaitsForRoomAndBothSitesSaySo(t *testing.T) {
	slow(t)
	c := newCluster(t, domain.ModeAsync)
	diverge(c)
	a, b := c.nodes["a"], c.nodes["b"]
	for i := range int64(4) {
		b.write(0, i<<20, noise(uint64(i), 1<<20))
	}
	var pieces atomic.Int32
	count := func(place string) error {
		if place == "stage data" {
			pieces.Add(1)
		}
		return nil
	}
	a.fail.Store(&count)
	a.free.Store(1 << 20)
	c.boot("a")
	c.told("a", api.HeldByDisk)
	ts := c.target("b", "a")
	for what, text := range map[string]string{"the target's status": ts.Error, "target_stalled": b.facts.detail("target_stalled"), "held": a.facts.detail("held")} {
		if n := needs(text); n < 6 || n > 6.5 || !strings.Contains(text, "1.0 MiB are free: free 5.") || !strings.Contains(text, a.dir) {
			t.Errorf("%s: %q", what, text)
		}
	}
	if ts.State != api.TargetResync || pieces.Load() != 0 || !a.g.Status().Consistent {
		t.Fatalf("state %s, %d pieces were sent: %+v", ts.State, pieces.Load(), a.g.Status())
	}
	a.free.Store(0)
	c.follows("b", "a")
	c.over("a", api.HeldByDisk)
	c.same("a", "b")
	if ts := c.target("b", "a"); ts.Error != "" {
		t.Errorf("it still says %q", ts.Error)
	}
}

func TestAHoldForRoomEndsWithThePrimaryThatAskedForIt(t *testing.T) {
	slow(t)
	c := newCluster(t, domain.ModeAsync)
	diverge(c)
	c.nodes["a"].free.Store(4096)
	c.boot("a")
	c.told("a", api.HeldByDisk)
	c.kill("b")
	c.nodes["a"].g.dropStage() // as the next rejoin does, or the end of holdLasts
	c.over("a", api.HeldByDisk)
}

// A first copy is written into the volumes: 7 MiB fit where there is no room for them twice. Killed in the middle it is no copy, and
// the next attempt sends the rest.
func TestAFirstCopyNeedsNoRoomTwiceAndIsNoneUntilItIsWhole(t *testing.T) {
	slow(t)
	c := newCluster(t, domain.ModeAsync)
	c.boot("a")
	c.promote("a", 257)
	a, b := c.nodes["a"], c.nodes["b"]
	for i := range int64(6) {
		a.write(0, i<<20, noise(uint64(i)+1, 1<<20))
	}
	fillRing(t, a, 1)
	hit := b.killedAtPiece(8)
	b.free.Store(8 << 20)
	c.boot("b")
	<-hit
	c.kill("a")
	staged, err := os.Stat(b.g.store.stagePath())
	if err != nil || staged.Size() != 0 {
		t.Fatalf("blocks are staged: %+v, %v", staged, err)
	}
	c.kill("b")
	b.fail.Store(nil)
	c.boot("b")
	if _, err := b.g.Promote(t.Context(), api.PromoteRequest{Group: "erp", Epoch: 514}); !errors.Is(err, domain.ErrRefused) || b.g.Status().Consistent {
		t.Fatalf("half a copy passes for one: %v", err)
	}
	c.boot("a")
	c.promote("a", 513)
	c.follows("a", "b")
	c.same("a", "b")
	if ts := c.target("a", "b"); ts.ResyncBytes == 0 || ts.ResyncBytes > 6<<20 {
		t.Errorf("%d bytes were sent again", ts.ResyncBytes)
	}
	if st := b.g.Status(); !st.Consistent {
		t.Fatalf("%+v", st)
	}
}
