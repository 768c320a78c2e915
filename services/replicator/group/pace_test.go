package group

import (
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/transport"
)

func TestWhatIsSentToASiteGoesOverItsLinkAndASyncTargetNeverWaitsForIt(t *testing.T) {
	slow(t)
	for name, mode := range map[string]domain.Mode{"sync": domain.ModeSync, "async": domain.ModeAsync} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, mode)
			c.links = map[domain.SiteID]*transport.Link{"b": transport.NewLink(domain.Transport{RateLimit: 64 << 10})}
			c.boot("a", "b")
			c.promote("a", 257)
			c.follows("a", "b")
			was := c.links["b"].Sent()
			// More than the link takes while a write may wait for a synchronous target; with async it follows in its own time.
			n := 8
			if mode == domain.ModeSync {
				n = 64
			}
			for i := range n {
				c.nodes["a"].write(0, int64(i)*16384, noise(uint64(i), 16384))
			}
			c.follows("a", "b")
			if sent := c.links["b"].Sent() - was; sent < uint64(n)*16384 {
				t.Fatalf("%d bytes went over the link", sent)
			}
			if mode == domain.ModeSync && !c.target("a", "b").InSync {
				t.Fatal("the target was lost for the link's sake")
			}
			c.same("a", "b")
		})
	}
}

func TestAPacedResyncTellsItsRateAndTheTimeLeft(t *testing.T) {
	slow(t)
	c := newCluster(t, domain.ModeAsync)
	c.rate, c.pace.Progress = 128<<10, 10*time.Millisecond
	diverge(c)
	c.boot("a")
	eventually(t, "it says how long it takes", func() bool {
		ts := c.target("b", "a")
		return ts.Resync != nil && ts.Resync.Phase == api.ResyncSending && ts.Resync.RateBytes > 0 && ts.Resync.LeftSeconds > 0 && ts.ResyncBytes < ts.ResyncTotal
	})
	eventually(t, "and tells so", func() bool { return c.nodes["b"].facts.has("resync_progressed") })
	c.follows("b", "a")
	c.same("a", "b")
}
