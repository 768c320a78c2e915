package group

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

// flip changes one bit of a copy's volume file behind everybody's back.
func (n *node) flip(volume int, off int64) {
	n.t.Helper()
	f, err := os.OpenFile(filepath.Join(n.dir, []string{"data.img", "log.img"}[volume]), os.O_RDWR, 0)
	if err != nil {
		n.t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], off); err != nil {
		n.t.Fatal(err)
	}
	b[0] ^= 4
	if _, err := f.WriteAt(b[:], off); err != nil {
		n.t.Fatal(err)
	}
}

// patient lets a machine under load take its time: a target that is let go of takes no part in a comparison.
func patient(c *cluster) *cluster {
	c.pace.TargetTimeout, c.pace.LinkTimeout = 10*time.Second, 10*time.Second
	return c
}

// verified runs a comparison to its end.
func (c *cluster) verified(primary, site domain.SiteID, heal bool) api.VerifyStatus {
	c.t.Helper()
	g := c.nodes[primary].g
	eventually(c.t, "the target takes part", func() bool {
		_, err := g.Verify(c.t.Context(), api.VerifyRequest{Group: "erp", Target: site, Heal: heal, Why: "a test"})
		if err != nil && !errors.Is(err, domain.ErrUnavailable) {
			c.t.Fatal(err)
		}
		return err == nil
	})
	g.mu.Lock()
	v := g.verifies[site]
	g.mu.Unlock()
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(2 * time.Millisecond) {
		st := v.status()
		if !st.Running {
			return st
		}
		if time.Now().After(end) {
			c.t.Fatalf("the comparison does not end: %+v", st)
		}
	}
}

// hammer writes to a few blocks as fast as it can, some of them again and again, until stop.
func (n *node) hammer() (stop func()) {
	var wg sync.WaitGroup
	end := make(chan struct{})
	for v := range 2 {
		u := n.unit(v)
		wg.Go(func() {
			for i := uint64(1); ; i++ {
				select {
				case <-end:
					return
				default:
				}
				done := make(chan error, 1)
				off := int64(i%5)*4096 + int64(i%3)*512 // over the edges of blocks, too
				u.Submit(&target.Command{Op: target.OpWrite, Off: off, Len: 4096, Data: block(i)}, func(err error) { done <- err })
				if <-done != nil {
					return
				}
			}
		})
	}
	return func() { close(end); wg.Wait() }
}

func TestVerifyFindsNoFalseMismatchWhileBlocksAreWrittenOverAndOver(t *testing.T) {
	slow(t)
	for _, mode := range []domain.Mode{domain.ModeSync, domain.ModeAsync} {
		t.Run(string(mode), func(t *testing.T) {
			c := patient(newCluster(t, mode))
			c.boot("a", "b")
			c.promote("a", 257)
			fill(c.nodes["a"])
			c.follows("a", "b")
			stop := c.nodes["a"].hammer()
			defer stop()
			for range 5 {
				if st := c.verified("a", "b", false); st.Differ != 0 || st.Undecided != 0 || st.Error != "" || st.Bytes != 2*volumeBytes {
					t.Fatalf("%+v", st)
				}
			}
		})
	}
}

func TestAFlippedBitAtATargetIsFoundNamedAndHealed(t *testing.T) {
	for _, busy := range []bool{false, true} {
		t.Run(map[bool]string{false: "quiet", true: "busy"}[busy], func(t *testing.T) {
			c := patient(newCluster(t, domain.ModeSync))
			c.boot("a", "b")
			c.promote("a", 257)
			a, b := c.nodes["a"], c.nodes["b"]
			fill(a)
			c.follows("a", "b")
			c.same("a", "b")
			stop := func() {}
			if busy {
				stop = a.hammer()
			}
			before := a.image(1)
			b.flip(1, 1<<20+5000) // in content
			b.flip(0, 7<<20)      // where there are zeroes
			b.flip(0, 7<<20+4096)
			st := c.verified("a", "b", false)
			if st.Differ != 3*4096 || st.Healed != 0 || st.Undecided != 0 || st.Error != "" || len(st.Extents) != 2 ||
				st.Extents[0].Volume != "data" || st.Extents[0].Offset != 7<<20 || st.Extents[0].Length != 8192 ||
				st.Extents[1].Volume != "log" || st.Extents[1].Offset != 1<<20+4096 || st.Extents[1].LSN == 0 {
				t.Fatalf("%+v", st)
			}
			told(t, a, event.CopyVerified{Fact: "verify_mismatch", Volume: "log", Offset: 1<<20 + 4096, Length: 4096, Target: "b"})
			st = c.verified("a", "b", true)
			if st.Differ != 3*4096 || st.Healed != st.Differ || st.Error != "" || !st.Extents[0].Healed {
				t.Fatalf("healing: %+v", st)
			}
			told(t, a, event.CopyVerified{Fact: "verify_healed", Volume: "data", Offset: 7 << 20, Length: 8192, Target: "b"})
			if st = c.verified("a", "b", false); st.Differ != 0 || st.Error != "" {
				t.Fatalf("after healing: %+v", st)
			}
			stop()
			if !busy && !bytes.Equal(before, a.image(1)) {
				t.Fatal("the primary's image was changed")
			}
			c.same("a", "b")
		})
	}
}

// told looks for an event that names the extent.
func told(t *testing.T, n *node, want event.CopyVerified) {
	t.Helper()
	n.facts.mu.Lock()
	defer n.facts.mu.Unlock()
	for _, f := range n.facts.all {
		if v, ok := f.(event.CopyVerified); ok && v.Fact == want.Fact && v.Volume == want.Volume && v.Offset == want.Offset && v.Length == want.Length &&
			v.Target == want.Target && v.Group == "erp" {
			return
		}
	}
	t.Fatalf("no event says %+v", want)
}

func TestHealingNeverUndoesAWriteMadeMeanwhile(t *testing.T) {
	c := patient(newCluster(t, domain.ModeSync))
	c.boot("a", "b")
	c.promote("a", 257)
	c.follows("a", "b")
	a, b := c.nodes["a"], c.nodes["b"]
	stop := a.hammer()
	for range 5 {
		for i := range int64(5) {
			b.flip(0, i*4096+100) // most are overwritten before they are looked at
		}
		if st := c.verified("a", "b", true); st.Error != "" || st.Differ != st.Healed {
			t.Fatalf("%+v", st)
		}
	}
	last := a.unit(0)
	stop()
	for i := range uint64(5) {
		if err := await(t, submit(last, &target.Command{Op: target.OpWrite, Off: int64(i) * 8192, Len: 4096, Data: block(1e6 + i)})); err != nil {
			t.Fatal(err)
		}
		if got := a.read(0, int64(i)*8192, 4096); !bytes.Equal(got, block(1e6+i)) {
			t.Fatal("a write is gone")
		}
	}
	c.follows("a", "b")
	if st := c.verified("a", "b", false); st.Differ != 0 || st.Error != "" {
		t.Fatalf("%+v", st)
	}
}

func TestCopiesAreComparedAsOftenAsConfigured(t *testing.T) {
	c := patient(newCluster(t, domain.ModeSync))
	c.scrub = 50 * time.Millisecond
	c.boot("a", "b")
	c.promote("a", 257)
	fill(c.nodes["a"])
	c.follows("a", "b")
	c.same("a", "b") // what is still to be applied would write over the flipped bit
	c.nodes["b"].flip(0, 4097)
	eventually(t, "the schedule finds it", func() bool { return c.nodes["a"].facts.has("verify_mismatch") })
	if st := c.nodes["a"].g.verifyStatus()[0]; !st.Scheduled || st.Heal {
		t.Fatalf("%+v", st)
	}
	eventually(t, "and goes on to its end", func() bool { return c.nodes["a"].facts.has("verify_completed") })
}

// A scrub that could not compare everything counts as none: it is tried again, and what is told of the last good one stays.
func TestAScrubThatFailsIsTriedAgainUntilOneIsGood(t *testing.T) {
	c := patient(newCluster(t, domain.ModeSync))
	c.scrub = 50 * time.Millisecond
	c.boot("a", "b")
	a, b := c.nodes["a"], c.nodes["b"]
	failing := func(place string) error {
		if strings.HasPrefix(place, "verify_hash") {
			return domain.ErrRefused
		}
		return nil
	}
	b.fail.Store(&failing)
	c.promote("a", 257)
	c.follows("a", "b")
	kept := filepath.Join(a.dir, "scrubbed-b")
	last := func() (st api.VerifyStatus) {
		if all := a.g.verifyStatus(); len(all) > 0 {
			st = all[0]
		}
		return st
	}
	eventually(t, "one has failed, and is to be tried again", func() bool { return !last().Again.IsZero() })
	first := last()
	if _, err := os.Stat(kept); !errors.Is(err, os.ErrNotExist) || !first.LastGood.IsZero() || first.FailedSince.IsZero() || first.Error == "" || !first.Scheduled {
		t.Fatalf("it counts as done (%v): %+v", err, first)
	}
	eventually(t, "the next has failed, too", func() bool { st := last(); return st.Started.After(first.Started) && !st.Again.IsZero() })
	if st := last(); !st.FailedSince.Equal(first.FailedSince) || !st.LastGood.IsZero() {
		t.Fatalf("the next: %+v, the first: %+v", st, first)
	}
	b.fail.Store(nil)
	eventually(t, "one is good", func() bool { st := last(); return !st.LastGood.IsZero() && st.FailedSince.IsZero() })
	good, err := os.Stat(kept)
	if err != nil {
		t.Fatal(err)
	}
	b.fail.Store(&failing)
	eventually(t, "one fails again", func() bool { st := last(); return !st.Running && st.Error != "" })
	if st := last(); st.LastGood.Before(good.ModTime()) || st.FailedSince.Before(st.LastGood) {
		t.Fatalf("the last good one was at %s: %+v", good.ModTime(), st)
	}
}

func TestBlocksLeftUndecidedMakeAScrubNotDone(t *testing.T) {
	c := patient(newCluster(t, domain.ModeSync))
	c.boot("a", "b")
	c.promote("a", 257)
	c.follows("a", "b")
	a := c.nodes["a"]
	s := a.g.current()
	for _, undecided := range []uint64{4096, 0} {
		v := &verify{s: s, t: s.senders.get("b"), ended: make(chan struct{}), retryIn: time.Minute, st: api.VerifyStatus{Target: "b", Running: true, Undecided: undecided}}
		v.end(t.Context(), nil)
		_, err := os.Stat(filepath.Join(a.dir, "scrubbed-b"))
		if good := undecided == 0; v.done != good || (err == nil) != good || v.st.LastGood.IsZero() == good || v.st.FailedSince.IsZero() != good || v.st.Again.IsZero() != good {
			t.Errorf("with %d bytes undecided: %v, %+v", undecided, err, v.st)
		}
	}
}

func TestAScrubWaitsTwiceAsLongEachTimeAndNeverLongerThanItsPeriod(t *testing.T) {
	for _, c := range []struct {
		every  time.Duration
		failed int
		want   time.Duration
	}{
		{168 * time.Hour, 1, time.Minute}, {168 * time.Hour, 2, 2 * time.Minute}, {168 * time.Hour, 6, 32 * time.Minute}, {168 * time.Hour, 7, time.Hour}, {168 * time.Hour, 500, time.Hour},
		{time.Minute, 1, 6*time.Second + time.Millisecond}, {time.Minute, 9, time.Minute},
	} {
		if got := scrubWait(c.every, c.failed); got != c.want {
			t.Errorf("every %s, %d failed: %s, want %s", c.every, c.failed, got, c.want)
		}
	}
}

func TestTheScheduleHealsWhereItIsToldToAndSaysSo(t *testing.T) {
	c := patient(newCluster(t, domain.ModeSync))
	told := make(chan domain.SiteID, 16)
	c.scrub, c.heal, c.heals = 50*time.Millisecond, true, func(target domain.SiteID) { told <- target }
	c.boot("a", "b")
	a, b := c.nodes["a"], c.nodes["b"]
	c.promote("a", 257)
	fill(a)
	c.follows("a", "b")
	c.same("a", "b") // what is still to be applied would write over the flipped bits
	eventually(t, "nothing differs, and nothing is told", func() bool { return a.facts.has("verify_completed") })
	if len(told) != 0 {
		t.Fatal("it tells of healing where nothing differs")
	}
	b.flip(0, 4097)
	b.flip(1, 1<<20)
	eventually(t, "it is healed", func() bool { return a.facts.has("verify_healed") })
	c.same("a", "b")
	if target := <-told; target != "b" {
		t.Errorf("told of %q", target)
	}
	if st := a.g.verifyStatus()[0]; !st.Scheduled || !st.Heal {
		t.Errorf("%+v", st)
	}
}

func TestADamagedFrameOfThePrimarysJournalFailsTheVerification(t *testing.T) {
	c := patient(newCluster(t, domain.ModeSync))
	c.boot("a", "b")
	c.promote("a", 257)
	a := c.nodes["a"]
	a.write(0, 0, block(0x1122334455667788))
	c.follows("a", "b")
	path := filepath.Join(a.dir, "journal")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(raw, block(0x1122334455667788))
	if at < 0 {
		t.Fatal("the write is not in the journal")
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{0xff}, int64(at)+9); err != nil {
		t.Fatal(err)
	}
	if st := c.verified("a", "b", false); st.Error == "" || st.Differ != 0 {
		t.Fatalf("%+v", st)
	}
}
