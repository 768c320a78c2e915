package group

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

// chunk writes 256 KiB, so that what a frame adds hardly counts.
func (n *node) chunk(volume int, at int64, seed byte) {
	n.t.Helper()
	data := make([]byte, 256<<10)
	for i := range data {
		data[i] = seed ^ byte(i>>9) | 1
	}
	n.write(volume, at<<18, data)
}

// The near site keeps, or notes durably, what the far one lacks, so that after the primary's loss the far one needs no more
// than that and what is new.
func TestTheFarSiteFollowsTheNearOneWithoutAFullCopy(t *testing.T) {
	slow(t)
	for name, lacks := range map[string]int{"the ring holds what it lacks": 8, "the ring let go of what it lacks": 96} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, domain.ModeSync, domain.ModeAsync)
			c.pace.TargetTimeout = 2 * time.Second // a slow machine makes nobody begin again
			c.boot("a", "b", "c")
			c.promote("a", 257)
			a, b := c.nodes["a"], c.nodes["b"]
			fill(a)
			for i := range 48 { // three quarters of the ring, with c
				a.chunk(1, int64(i%8), byte(i))
			}
			c.follows("a", "b")
			c.follows("a", "c")
			head, _ := a.g.current().head()
			eventually(t, "b has heard that the far site has all", func() bool {
				b.g.mu.Lock()
				defer b.g.mu.Unlock()
				return b.g.peersAt["c"].LSN >= head
			})
			c.kill("c")
			for i := range lacks { // over and over the same 1 MiB
				a.chunk(0, int64(i%4), byte(i+100))
			}
			c.follows("a", "b")
			c.kill("a")
			c.promote("b", 514)
			for i := range 8 {
				b.chunk(1, int64(i), byte(i+200))
			}
			began := time.Now()
			c.boot("c")
			c.follows("b", "c")
			took := time.Since(began)
			c.same("b", "c")
			const owed, fresh = 4 << 18, 8 << 18
			need := uint64(fresh + min(lacks<<18, 12<<18)) // frames as they were made while there were few; else the blocks
			if lacks > 8 {
				need = owed + fresh
			}
			ts := c.target("b", "c")
			sent := ts.SentBytes + ts.ResyncBytes
			if sent > need*11/10 {
				t.Fatalf("%d bytes were sent to the far site (%d as blocks), it lacked %d", sent, ts.ResyncBytes, need)
			}
			t.Logf("%d bytes sent, %d were lacking, %s", sent, need, took)
			homeAgain(c)
		})
	}
}

// homeAgain brings the first site back as a target and then makes it primary in order, with nothing lost anywhere.
func homeAgain(c *cluster) {
	c.t.Helper()
	c.boot("a")
	c.follows("b", "a")
	eventually(c.t, "a is in sync", func() bool { return c.target("b", "a").InSync })
	c.nodes["b"].chunk(0, 9, 77)
	if _, err := c.nodes["b"].g.Demote(c.t.Context(), api.DemoteRequest{Group: "erp", Epoch: 514, Successor: "a", TimeoutNs: int64(10 * time.Second)}); err != nil {
		c.t.Fatal(err)
	}
	c.promote("a", 769)
	c.nodes["a"].chunk(0, 10, 78)
	c.follows("a", "b")
	c.follows("a", "c")
	c.same("a", "b")
	c.same("a", "c")
	for _, site := range []domain.SiteID{"b", "c"} {
		if ts := c.target("a", site); ts.ResyncBytes != 0 {
			c.t.Fatalf("%d bytes of blocks were sent to %s for a planned move", ts.ResyncBytes, site)
		}
	}
}

// What the near site knew of the far one outlives its restart, so that no more is noted than the far one lacks.
func TestARestartOfTheNearSiteDoesNotForgetWhatTheFarOneHas(t *testing.T) {
	slow(t)
	c := newCluster(t, domain.ModeSync, domain.ModeAsync)
	c.boot("a", "b", "c")
	c.promote("a", 257)
	a, b := c.nodes["a"], c.nodes["b"]
	for i := range 20 { // a good part of the ring, all of which c has
		a.chunk(1, int64(i), byte(i))
	}
	c.follows("a", "b")
	c.follows("a", "c")
	has := c.nodes["c"].g.Status().HeadLSN
	eventually(t, "b has noted what c has", func() bool {
		raw, err := os.ReadFile(filepath.Join(b.dir, "peers.json"))
		var kept keptPeers
		return err == nil && json.Unmarshal(raw, &kept) == nil && kept.Epoch == 257 && kept.LSN["c"] == has
	})
	c.kill("c")
	c.kill("b")
	c.boot("b")
	c.follows("a", "b")
	for i := range 96 { // over and over the same 1 MiB
		a.chunk(0, int64(i%4), byte(i+100))
	}
	c.follows("a", "b")
	c.kill("a")
	c.promote("b", 514)
	c.boot("c")
	c.follows("b", "c")
	c.same("b", "c")
	if ts := c.target("b", "c"); float64(ts.SentBytes+ts.ResyncBytes) > 1.1*(1<<20) {
		t.Fatalf("%d bytes were sent to the far site, it lacked 1 MiB", ts.SentBytes+ts.ResyncBytes)
	}
}

func TestATargetForgetsWhatTheOtherLackedOnceItHasIt(t *testing.T) {
	c := newCluster(t, domain.ModeSync, domain.ModeAsync)
	c.def.OnTargetLoss = domain.TargetLossSuspend // on a busy machine b is not to be left behind
	c.boot("a", "b", "c")
	c.promote("a", 257)
	c.follows("a", "b")
	c.follows("a", "c")
	c.kill("c")
	for i := range 96 {
		c.nodes["a"].chunk(0, int64(i%4), byte(i))
	}
	has := func() bool {
		d, err := c.nodes["b"].g.store.loadBitmap("c")
		return err == nil && d != nil
	}
	eventually(t, "b notes what c lacks", has)
	c.boot("c")
	c.follows("a", "c")
	eventually(t, "b forgets it", func() bool { return !has() })
}

func TestUnderThrottleTheWriterWaitsForATargetThatIsThere(t *testing.T) {
	slow(t)
	c := newCluster(t, domain.ModeAsync)
	c.def.Congestion = domain.CongestionThrottle
	c.pace.TargetTimeout = time.Second
	c.boot("a", "b")
	c.promote("a", 257)
	c.follows("a", "b")
	a := c.nodes["a"]
	slow := func(place string) error {
		if place == "take" {
			time.Sleep(10 * time.Millisecond) // a slow link
		}
		return nil
	}
	c.nodes["b"].fail.Store(&slow)
	for i := range 160 { // 40 MiB through a ring of 16
		a.chunk(0, int64(i%16), byte(i))
	}
	if d, err := a.g.store.loadBitmap("b"); err != nil || d != nil {
		t.Fatalf("the ring let go of what b lacks: %v", err)
	}
	c.nodes["b"].fail.Store(nil)
	c.follows("a", "b")
	c.same("a", "b")
	if ts := c.target("a", "b"); ts.ResyncBytes != 0 {
		t.Fatalf("%d bytes of blocks were sent", ts.ResyncBytes)
	}
	c.kill("b") // nobody waits for the lost
	for i := range 160 {
		a.chunk(0, int64(i%16), byte(i+1))
	}
	if err := await(t, submit(a.unit(0), &target.Command{Op: target.OpWrite, Off: 0, Len: 4096, Data: block(1)})); err != nil {
		t.Fatal(err)
	}
}
