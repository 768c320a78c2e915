package group

import (
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// asks counts what a target is asked of each volume; while refuses is set, of the second it says nothing but that error.
type asks struct {
	first, second atomic.Int64
	refuses       atomic.Pointer[error]
}

func (a *asks) of(n *node) *asks {
	f := func(place string) error {
		switch place {
		case "verify_hash 0":
			a.first.Add(1)
		case "verify_hash 1":
			a.second.Add(1)
			if err := a.refuses.Load(); err != nil {
				return *err
			}
		}
		return nil
	}
	n.fail.Store(&f)
	return a
}

func (a *asks) refuse(err error) *asks {
	a.refuses.Store(&err)
	return a
}

// comparison is a cluster of a and b, in which a keeps at once how far a comparison with b is.
func comparison(t *testing.T) (c *cluster, a *node, asked *asks, kept string) {
	t.Helper()
	c = patient(newCluster(t, domain.ModeSync))
	c.pace.Progress = time.Millisecond
	c.boot("a", "b")
	c.promote("a", 257)
	a = c.nodes["a"]
	fill(a)
	c.follows("a", "b")
	c.same("a", "b") // what is still to be applied would write over flipped bits
	return c, a, new(asks).of(c.nodes["b"]), filepath.Join(a.dir, "verify-b")
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func TestAComparisonGoesOnByItselfAfterThePrimaryDied(t *testing.T) {
	c, a, asked, kept := comparison(t)
	c.nodes["b"].flip(0, 4097)
	asked.refuse(domain.ErrUnavailable) // it is tried for a while
	began, err := a.g.Verify(t.Context(), api.VerifyRequest{Group: "erp", Target: "b"})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the first volume is compared, and the second asked for", func() bool { return exists(kept) && asked.second.Load() > 0 })
	left, err := os.ReadFile(kept)
	if err != nil {
		t.Fatal(err)
	}
	c.kill("a")
	if err := os.WriteFile(kept, left, 0o600); err != nil { // as a SIGKILL leaves it
		t.Fatal(err)
	}
	asked.first.Store(0)
	asked.refuses.Store(nil)
	c.boot("a")
	c.promote("a", 513)
	var st api.VerifyStatus
	eventually(t, "it has gone on to its end", func() bool {
		all := a.g.verifyStatus()
		if len(all) > 0 {
			st = all[0]
		}
		return !st.Started.IsZero() && !st.Running
	})
	if !st.Started.Equal(began.Started) || st.Resumed != volumeBytes || st.Bytes != 2*volumeBytes || st.Differ != 4096 || len(st.Extents) != 1 || st.Error != "" || st.Scheduled {
		t.Errorf("%+v", st)
	}
	if n := asked.first.Load(); n != 0 {
		t.Errorf("the first volume was compared once more: %d questions", n)
	}
	if exists(kept) {
		t.Error("it is kept after its end")
	}
}

func TestAComparisonThatFailedGoesOnWhenTheSameIsAskedForAgain(t *testing.T) {
	c, a, asked, kept := comparison(t)
	asked.refuse(domain.ErrRefused)
	if st := c.verified("a", "b", false); st.Error == "" || st.Bytes != volumeBytes || st.Resumed != 0 || !exists(kept) {
		t.Fatalf("%+v", st)
	}
	asked.first.Store(0)
	if st := c.verified("a", "b", true); st.Error == "" || st.Resumed != 0 || asked.first.Load() == 0 {
		t.Fatalf("one that heals goes on from one that did not: %+v", st)
	}
	asked.first.Store(0)
	asked.refuses.Store(nil)
	st := c.verified("a", "b", true)
	if st.Error != "" || st.Resumed != volumeBytes || st.Bytes != 2*volumeBytes || asked.first.Load() != 0 || exists(kept) {
		t.Fatalf("%+v", st)
	}
	if st = c.verified("a", "b", true); st.Resumed != 0 || st.Bytes != 2*volumeBytes {
		t.Errorf("the next begins anew: %+v", st)
	}
	if _, err := os.Stat(filepath.Join(a.dir, "scrubbed-b")); err != nil {
		t.Errorf("a good one is noted: %v", err)
	}
}

func TestNoComparisonGoesOnWithAnotherCopyOrAfterAnotherPrimary(t *testing.T) {
	slow(t)
	c, a, asked, kept := comparison(t)
	asked.refuse(domain.ErrRefused)
	if st := c.verified("a", "b", false); st.Error == "" || !exists(kept) {
		t.Fatalf("%+v", st)
	}
	if _, ok := a.g.store.keptVerify("b", "a"); !ok {
		t.Fatal("it may go on")
	}
	if _, ok := a.g.store.keptVerify("b", "z"); ok {
		t.Error("it goes on at a site that was not primary since")
	}
	if err := a.g.rejoined("b", a.g.store.last(), false); err != nil || !exists(kept) {
		t.Fatalf("a target that joins again with the same copy: %v", err)
	}
	long := time.Now().Add(-verifyKeeps - time.Minute)
	if err := os.Chtimes(kept, long, long); err != nil {
		t.Fatal(err)
	}
	if _, ok := a.g.store.keptVerify("b", "a"); ok {
		t.Error("it goes on after more than a day")
	}
	if err := os.WriteFile(kept, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, ok := a.g.store.keptVerify("b", "a"); ok {
		t.Error("it goes on from what is damaged")
	}
	if st := c.verified("a", "b", false); st.Error == "" || st.Resumed != 0 || !exists(kept) {
		t.Fatalf("%+v", st)
	}
	if err := a.g.rejoined("b", a.g.store.last(), true); err != nil || exists(kept) {
		t.Fatalf("a target that is sent blocks: %v", err)
	}
	if st := c.verified("a", "b", false); st.Error == "" || st.Resumed != 0 || !exists(kept) {
		t.Fatalf("%+v", st)
	}
	c.kill("b")
	if err := errors.Join(os.RemoveAll(c.nodes["b"].dir), os.MkdirAll(c.nodes["b"].dir, 0o700)); err != nil {
		t.Fatal(err)
	}
	asked.refuses.Store(nil)
	c.boot("b")
	eventually(t, "what was compared of the copy before is forgotten", func() bool { return !exists(kept) })
	c.follows("a", "b")
	if st := c.verified("a", "b", false); st.Error != "" || st.Resumed != 0 || st.Differ != 0 || st.Bytes != 2*volumeBytes {
		t.Errorf("%+v", st)
	}
}
