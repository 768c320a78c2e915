package group

import (
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
