package group

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

func TestARateLimitIsChangedWhileItHoldsATargetBack(t *testing.T) {
	c := newCluster(t, domain.ModeAsync)
	c.via(domain.Transport{RateLimit: domain.MinRate}) // 4 MiB take four minutes
	c.boot("a", "b")
	c.promote("a", 257)
	c.follows("a", "b")
	before := c.target("a", "b")
	for i := range int64(8) {
		c.nodes["a"].write(0, i<<19, block(uint64(i)))
		c.nodes["a"].write(1, i<<19, randomBytes(512<<10))
	}
	if ts := c.target("a", "b"); ts.RateLimit != domain.MinRate || ts.SentBytes-before.SentBytes > 3<<20 {
		t.Fatalf("%d bytes were sent at %d bytes a second", ts.SentBytes-before.SentBytes, ts.RateLimit)
	}
	c.adopt(func(g *domain.Group) {
		g.Targets[0].Transport = domain.Transport{Compression: domain.CompressionS2}
	})
	c.follows("a", "b")
	c.same("a", "b")
	if ts := c.target("a", "b"); ts.RateLimit != 0 || ts.Breaks != before.Breaks {
		t.Errorf("limit %d, breaks %d: the stream was to go on", ts.RateLimit, ts.Breaks-before.Breaks)
	}
	if !c.nodes["a"].facts.has("policy_adopted") {
		t.Error("nobody was told")
	}
}

// One link of a round trip of 300 ms, a window of 256 KiB, and then the largest: what is on its way at once is counted on the link.
func TestAWindowBoundsWhatIsOnItsWayAndIsChangedLive(t *testing.T) {
	slow(t)
	const (
		latency = 300 * time.Millisecond
		small   = 256 << 10
		each    = 64 << 10
		beside  = 64 << 10 // what else goes to the site in so long: requests, heads, the envelopes of messages
	)
	c := newCluster(t, domain.ModeAsync)
	c.via(domain.Transport{Window: small})
	link := c.farAway("b", latency)
	c.boot("a", "b")
	c.promote("a", 257)
	c.follows("a", "b")
	before := c.target("a", "b")
	if before.Window != small {
		t.Fatalf("a window of %d bytes is in force", before.Window)
	}
	link.forget()
	for i := range int64(96) {
		c.nodes["a"].write(0, i*each, noise(uint64(i), each))
	}
	told := uint64(0)
	eventually(t, "some of it was sent", func() bool {
		ts := c.target("a", "b")
		told = max(told, ts.InFlight)
		return ts.SentBytes-before.SentBytes >= 4*small
	})
	if most := link.most(); most < small/2 || most > small+beside || told == 0 || told > small {
		t.Fatalf("%d bytes were on their way at once, %d were told, of a window of %d", most, told, small)
	}
	link.forget()
	left := 96*each - (c.target("a", "b").SentBytes - before.SentBytes)
	began := time.Now()
	c.adopt(func(g *domain.Group) { g.Targets[0].Transport = domain.Transport{} })
	c.follows("a", "b")
	atBest := time.Duration(float64(left) / small * float64(latency)) // with the small window
	took, most := time.Since(began), link.most()
	if took > atBest || most < 2*small {
		t.Errorf("%d bytes took %s, with the small window %s at best; %d were on their way at once", left, took, atBest, most)
	}
	if ts := c.target("a", "b"); ts.Breaks != before.Breaks || ts.Window <= small {
		t.Errorf("window %d, breaks %d: the stream was to go on", ts.Window, ts.Breaks-before.Breaks)
	}
	c.same("a", "b")
}

// Each frame is larger than the window, and goes alone.
func TestAFrameThatIsLargerThanTheWindowGoesAlone(t *testing.T) {
	c := newCluster(t, domain.ModeAsync)
	c.via(domain.Transport{Window: domain.MinWindow})
	c.boot("a", "b")
	c.promote("a", 257)
	c.follows("a", "b")
	for i := range int64(6) {
		c.nodes["a"].write(0, i<<20, noise(uint64(i), 1<<20))
	}
	c.follows("a", "b")
	c.same("a", "b")
	if ts := c.target("a", "b"); ts.Breaks != 0 {
		t.Errorf("the stream broke %d times", ts.Breaks)
	}
}

func TestAWindowBoundsWhatAResyncHasOnItsWay(t *testing.T) {
	c := newCluster(t, domain.ModeAsync)
	c.via(domain.Transport{Window: domain.MinWindow})
	diverge(c)
	for i := range int64(4) {
		c.nodes["b"].write(0, i<<20, noise(uint64(i), 1<<20))
	}
	var pieces, most atomic.Uint64
	look := func(place string) error {
		if place == "stage data" { // one piece is on its way at least
			pieces.Add(1)
			in := c.target("b", "a").InFlight
			for was := most.Load(); in > was && !most.CompareAndSwap(was, in); was = most.Load() {
			}
		}
		return nil
	}
	c.nodes["a"].fail.Store(&look)
	c.boot("a")
	c.follows("b", "a")
	c.same("a", "b")
	if pieces.Load() < 4<<20/(64<<10) || most.Load() < 64<<10 || most.Load() > uint64(domain.MinWindow) {
		t.Errorf("%d pieces, %d bytes on their way at once", pieces.Load(), most.Load())
	}
}

func TestACachedGroupMadeStrictAnswersNothingEarlyFromThenOn(t *testing.T) {
	c, u := cutTarget(t)
	write := func(i int64) <-chan error {
		return submit(u, &target.Command{Op: target.OpWrite, Off: i << 12, Len: 4096, Data: block(uint64(i))})
	}
	if err := await(t, write(1)); err != nil {
		t.Fatal(err)
	}
	class := func(d domain.Durability) {
		c.adopt(func(g *domain.Group) { g.Durability = d })
		if got := c.nodes["a"].g.Status().Durability; got != d {
			t.Fatalf("class %s in force, want %s", got, d)
		}
	}
	class(domain.DurabilityStrict)
	strict := write(2)
	flush := submit(u, &target.Command{Op: target.OpFlush}) // of what was answered early before
	class(domain.DurabilityCached)
	if err := await(t, write(3)); err != nil {
		t.Fatal(err)
	}
	if answered(strict) || answered(flush) {
		t.Error("a strict write, or a flush, was answered without b")
	}
	c.boot("b")
	for what, done := range map[string]<-chan error{"write": strict, "flush": flush} {
		if err := await(t, done); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	c.same("a", "b")
}

func TestAStrictGroupMadeCachedIsSoOnceAnotherSiteServes(t *testing.T) {
	slow(t)
	c := newCluster(t, domain.ModeSync)
	c.boot("a", "b")
	c.promote("a", 257)
	c.follows("a", "b")
	has := func(site domain.SiteID, want domain.Durability) {
		t.Helper()
		n := c.nodes[site]
		if got := n.g.Status().Durability; got != want || n.unit(0).Info().WriteCache != (want == domain.DurabilityCached) {
			t.Fatalf("site %s serves as %s, want %s", site, got, want)
		}
	}
	c.adopt(func(g *domain.Group) { g.Durability = domain.DurabilityCached })
	has("a", domain.DurabilityStrict)
	c.kill("a")
	c.boot("a")
	c.promote("a", 513) // the guests of site a may never have been down
	has("a", domain.DurabilityStrict)
	c.follows("a", "b")
	c.kill("a")
	c.promote("b", 770)
	has("b", domain.DurabilityCached)
	c.boot("a")
	c.follows("b", "a")
	c.kill("b")
	c.promote("a", 1025)
	has("a", domain.DurabilityCached)
}

func TestATargetTakesCheckpointsAsOftenAsThePolicySaysByNow(t *testing.T) {
	c := newCluster(t, domain.ModeAsync)
	c.def.Checkpoints = domain.Checkpoints{Every: time.Hour}
	c.boot("a", "b")
	c.promote("a", 257)
	c.follows("a", "b")
	b := c.nodes["b"]
	eventually(t, "the first checkpoint", func() bool { return len(b.checkpoints()) == 1 })
	c.adopt(func(g *domain.Group) { g.Checkpoints.Every = 20 * time.Millisecond })
	eventually(t, "five more", func() bool {
		c.nodes["a"].write(0, 0, block(1))
		return len(b.checkpoints()) > 5
	})
	c.adopt(func(g *domain.Group) {
		g.Checkpoints = domain.Checkpoints{Every: time.Hour, Keep: domain.Keep{Count: 2}}
	})
	eventually(t, "only two are kept", func() bool { return len(b.checkpoints()) == 2 })
}

func TestASurveyIsToldOfTheGroupAsThePolicySaysByNow(t *testing.T) {
	c := newCluster(t, domain.ModeSync)
	c.boot("a", "b")
	c.promote("a", 257)
	c.follows("a", "b")
	if n := c.nodes["a"].g.Need("b"); n.Mode != domain.ModeSync || n.RPO != 0 || n.Transport.RateLimit != 0 {
		t.Fatalf("%+v", n)
	}
	c.adopt(func(g *domain.Group) {
		g.RPO = time.Minute
		g.Targets[0] = domain.Target{Site: "b", Mode: domain.ModeAsync, Transport: domain.Transport{RateLimit: 1 << 20}}
	})
	if n := c.nodes["a"].g.Need("b"); n.Mode != domain.ModeAsync || n.RPO != time.Minute || n.Transport.RateLimit != 1<<20 {
		t.Errorf("%+v", n)
	}
}
