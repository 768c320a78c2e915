package group

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/journal/vfs"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

// failing is what a test wants a place to fail with.
func (n *node) failing(place string) error {
	if f := n.fail.Load(); f != nil {
		return (*f)(place)
	}
	return nil
}

// failingFS is where a site's journal and history are: each write and flush of them is a place that may fail.
type failingFS struct {
	vfs.FS
	n *node
}

type failingFile struct {
	vfs.File
	n    *node
	name string // journal or history
}

func (f failingFS) of(file vfs.File, path string, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	name := "journal"
	if dir := filepath.Base(filepath.Dir(path)); dir == "history" {
		name = dir
	}
	return failingFile{file, f.n, name}, nil
}

func (f failingFS) Create(path string) (vfs.File, error) {
	file, err := f.FS.Create(path)
	return f.of(file, path, err)
}

func (f failingFS) Open(path string) (vfs.File, error) {
	file, err := f.FS.Open(path)
	return f.of(file, path, err)
}

// write leaves the first page of what fails.
func (f failingFile) write(put func([]byte, int64) (int, error), p []byte, off int64) (int, error) {
	if err := f.n.failing(f.name + " write"); err != nil {
		_, _ = put(p[:min(len(p), vfs.PageSize)], off)
		return 0, err
	}
	return put(p, off)
}

func (f failingFile) WriteAt(p []byte, off int64) (int, error) {
	return f.write(f.File.WriteAt, p, off)
}
func (f failingFile) WriteSync(p []byte, off int64) (int, error) {
	return f.write(f.File.WriteSync, p, off)
}
func (f failingFile) Sync() error {
	if err := f.n.failing(f.name + " flush"); err != nil {
		return err
	}
	return f.File.Sync()
}

// failsOnce makes a place of a site's copy fail the first time that it is come to, and counts how often it is.
func (n *node) failsOnce(place string, err error) (times func() int) {
	var count atomic.Int32
	f := func(at string) error {
		if at == place && count.Add(1) == 1 {
			return err
		}
		return nil
	}
	n.fail.Store(&f)
	return func() int { return int(count.Load()) }
}

// stops waits until a site's copy has stopped for good, and has told why.
func (c *cluster) stops(site domain.SiteID, why string) {
	c.t.Helper()
	n := c.nodes[site]
	eventually(c.t, "the copy of "+string(site)+" stops and says why", func() bool {
		st := n.g.Status()
		return strings.Contains(st.Error, why) && !st.Consistent && strings.Contains(n.facts.detail("copy_failed"), why)
	})
	if st := n.g.Status(); st.Role != domain.RoleTarget || st.Serving || n.portal.count() != 0 {
		c.t.Fatalf("site %s serves: %+v", site, st)
	}
}

// failures are those of a disk: of a write, and of a flush; a flush that found no room has lost what it was to make durable.
var failures = []struct {
	place string
	err   syscall.Errno
}{{"volume write", syscall.EIO}, {"volume flush", syscall.EIO}, {"volume flush", syscall.ENOSPC}, {"journal write", syscall.EIO}, {"journal write", syscall.ENOSPC}}

func TestAFailedDiskStopsThePrimaryAndNothingAnsweredIsLost(t *testing.T) {
	for _, x := range failures {
		t.Run(fmt.Sprintf("%s %v", x.place, x.err), func(t *testing.T) {
			c := newCluster(t, domain.ModeAsync)
			c.pace.Checkpoint = time.Hour // flushed when the test says so
			c.boot("a", "b")
			c.promote("a", 257)
			a := c.nodes["a"]
			for i := range uint64(8) {
				a.write(0, int64(i)*4096, block(i+1))
			}
			c.follows("a", "b")
			times := a.failsOnce(x.place, x.err)
			err := await(t, submit(a.unit(0), &target.Command{Op: target.OpWrite, Off: 64 << 10, Len: 4096, Data: block(99)}))
			// What the journal has is answered, unless the volume's failure, which comes after it, ends the session before the answer is out.
			if acked := err == nil; acked != strings.HasPrefix(x.place, "volume") && !(x.place == "volume write" && errors.Is(err, target.ErrFenced)) {
				t.Fatalf("answered %v", err)
			}
			if s := a.g.current(); s != nil && x.place == "volume flush" {
				a.applies()
				poke(s.kickCkpt)
			}
			c.stops("a", x.err.Error())
			if !strings.Contains(a.facts.detail("serving_stopped"), x.err.Error()) {
				t.Errorf("told: %q", a.facts.detail("serving_stopped"))
			}
			set := c.quo.grant("a", 514)
			if _, again := a.g.Promote(t.Context(), api.PromoteRequest{Group: "erp", Epoch: 514, InSync: set}); !errors.Is(again, domain.ErrRefused) || !strings.Contains(again.Error(), x.err.Error()) {
				t.Errorf("promoted again: %v", again)
			}
			if n := times(); n != 1 {
				t.Errorf("it was tried %d times", n)
			}
			c.kill("a")
			a.loses(0, 0, 68<<10)
			c.boot("a")
			c.promote("a", 770)
			for i := range uint64(8) {
				if !bytes.Equal(a.read(0, int64(i)*4096, 4096), block(i+1)) {
					t.Fatalf("block %d is lost", i)
				}
			}
			if got := a.read(0, 64<<10, 4096); !bytes.Equal(got, block(99)) && (err == nil || !allZero(got)) {
				t.Fatalf("the last write, which was answered with %v, is neither there nor not", err)
			}
			c.follows("a", "b")
			c.same("a", "b")
		})
	}
}

// loses takes from a volume's file what no flush made durable, as a failed one leaves it.
func (n *node) loses(volume int, off int64, length int) {
	n.t.Helper()
	f, err := os.OpenFile(filepath.Join(n.dir, []string{"data.img", "log.img"}[volume]), os.O_WRONLY, 0)
	if err != nil {
		n.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(make([]byte, length), off); err != nil {
		n.t.Fatal(err)
	}
}

func TestAFailedDiskAtATargetIsALostTargetUntilItIsStartedAgain(t *testing.T) {
	slow(t)
	for _, x := range failures {
		for _, onLoss := range []domain.OnTargetLoss{domain.TargetLossDegrade, domain.TargetLossSuspend} {
			t.Run(fmt.Sprintf("%s %v %s", x.place, x.err, onLoss), func(t *testing.T) {
				c := newCluster(t, domain.ModeSync)
				c.def.OnTargetLoss = onLoss
				c.boot("a", "b")
				c.promote("a", 257)
				c.follows("a", "b")
				a, b := c.nodes["a"], c.nodes["b"]
				a.write(0, 0, block(1))
				times := b.failsOnce(x.place, x.err)
				first := submit(a.unit(0), &target.Command{Op: target.OpWrite, Off: 4096, Len: 4096, Data: block(2)})
				c.stops("b", x.err.Error())
				second := submit(a.unit(0), &target.Command{Op: target.OpWrite, Off: 8192, Len: 4096, Data: block(3)})
				if onLoss == domain.TargetLossDegrade {
					if err := errors.Join(await(t, first), await(t, second)); err != nil || c.inSync() {
						t.Fatalf("answered %v, in sync: %v", err, c.inSync())
					}
				} else {
					c.told("a", api.HeldByTarget)
					if len(second) != 0 || x.place == "journal write" && len(first) != 0 {
						t.Fatal("a write was answered that b does not have")
					}
				}
				eventually(t, "a says what b has", func() bool { return strings.Contains(c.target("a", "b").Error, x.err.Error()) })
				if n := times(); n != 1 {
					t.Errorf("it was tried %d times", n)
				}
				c.kill("b")
				b.loses(0, 4096, 4096)
				c.boot("b")
				if onLoss == domain.TargetLossSuspend {
					if err := errors.Join(await(t, first), await(t, second)); err != nil {
						t.Fatal(err)
					}
				}
				c.follows("a", "b")
				eventually(t, "b is in sync again", c.inSync)
				c.same("a", "b")
				for i := range 3 {
					if !bytes.Equal(b.image(0)[i*4096:][:4096], block(uint64(i)+1)) {
						t.Fatalf("block %d is lost", i)
					}
				}
			})
		}
	}
}

// What a copy keeps of its past gives way, whatever fails there.
func TestAFailedWriteOfTheHistoryCostsCheckpointsAndNotTheCopy(t *testing.T) {
	slow(t)
	for _, place := range []string{"history write", "history flush"} {
		for _, why := range []syscall.Errno{syscall.EIO, syscall.ENOSPC} {
			t.Run(fmt.Sprintf("%s %v", place, why), func(t *testing.T) {
				c := newPast(t, 20*time.Millisecond, domain.ModeAsync)
				c.boot("a", "b")
				c.promote("a", 257)
				a, b := c.nodes["a"], c.nodes["b"]
				story(c, 2)
				times := b.failsOnce(place, why)
				for i := uint64(0); times() == 0; i++ {
					a.write(0, int64(i%64)*4096, block(i+1000))
					c.follows("a", "b")
					if i > 500 {
						t.Fatalf("the history came to no %s", place)
					}
				}
				lsn, images := c.images("a")
				b.holds(lsn) // it goes on
				b.checkStates(map[domain.LSN][2][]byte{lsn: images})
				if why == syscall.EIO && !b.facts.has("checkpoints_lost") {
					t.Error("that checkpoints were lost was not told")
				}
				if st := b.g.Status(); st.Error != "" || !st.Consistent {
					t.Fatalf("the copy is given up: %+v", st)
				}
				c.same("a", "b")
			})
		}
	}
}

const noRoom = ": temporary file written"

func TestNoRoomForTheTableOfVolumesIsNoErrorToTheWriter(t *testing.T) {
	for _, site := range []domain.SiteID{"a", "b"} {
		t.Run(string(site), func(t *testing.T) {
			c := newCluster(t, domain.ModeAsync)
			c.boot("a", "b")
			c.promote("a", 257)
			c.follows("a", "b")
			freed := c.nodes[site].fills(tableFile + noRoom)
			c.want("a", plus("new"))
			c.told(site, api.HeldByDisk)
			freed()
			c.over(site, api.HeldByDisk)
			eventually(t, "the volume is served", func() bool { return c.nodes["a"].serves("new") })
			c.nodes["a"].write(2, 0, block(7))
			c.follows("a", "b")
			c.alike("a", "b")
		})
	}
}

// counted has a site's places fail for want of room until freed is called, and counts.
func (n *node) counted(places ...string) (times func() int, freed func()) {
	var count atomic.Int32
	var full atomic.Bool
	full.Store(true)
	f := func(place string) error {
		if full.Load() && slices.Contains(places, place) {
			count.Add(1)
			return syscall.ENOSPC
		}
		return nil
	}
	n.fail.Store(&f)
	return func() int { return int(count.Load()) }, func() { full.Store(false) }
}

func TestNoRoomForWhatAResyncKeepsIsTriedAgainUntilThereIs(t *testing.T) {
	slow(t)
	for _, place := range []string{stageTable + noRoom, "stage flush", stageMarker + noRoom, stageMarker + ": renamed"} {
		t.Run(place, func(t *testing.T) {
			c := newCluster(t, domain.ModeAsync)
			diverge(c)
			a := c.nodes["a"]
			before := [2][]byte{a.image(0), a.image(1)}
			times, freed := a.counted(place)
			c.boot("a")
			eventually(t, "it was tried twice", func() bool { return times() > 1 })
			if !bytes.Equal(a.image(0), before[0]) || !bytes.Equal(a.image(1), before[1]) || a.g.Status().Error != "" {
				t.Fatalf("the copy is not what it was: %q", a.g.Status().Error)
			}
			freed()
			c.follows("b", "a")
			c.same("a", "b")
		})
	}
}

func TestNothingIsOverwrittenBeforeThereIsRoomForTheQuarantine(t *testing.T) {
	slow(t)
	for _, place := range []string{quarantineFrames, quarantineBlocks, quarantineMap + noRoom} {
		t.Run(place, func(t *testing.T) {
			c := newCluster(t, domain.ModeAsync)
			diverge(c)
			a := c.nodes["a"]
			before := [2][]byte{a.image(0), a.image(1)}
			times, freed := a.counted(place)
			c.boot("a")
			eventually(t, "b says why", func() bool { return times() > 1 && strings.Contains(c.target("b", "a").Error, "no space left") })
			if !bytes.Equal(a.image(0), before[0]) || !bytes.Equal(a.image(1), before[1]) {
				t.Fatal("the volumes changed")
			}
			if st := a.g.Status(); len(st.Quarantined) != 0 || st.Error != "" {
				t.Fatalf("half of it is told as kept: %+v", st)
			}
			freed()
			c.follows("b", "a")
			c.same("a", "b")
			if items, err := a.g.Quarantined(); err != nil || len(items) != 1 || items[0].Writes != 64 {
				t.Fatalf("%+v, %v", items, err)
			}
		})
	}
}

func TestNoRoomForTheIntentToRollBackLeavesTheCopyAsItIs(t *testing.T) {
	for _, step := range []string{noRoom, ": renamed"} {
		t.Run(step, func(t *testing.T) {
			c := newPast(t, 20*time.Millisecond, domain.ModeAsync)
			c.boot("a", "b")
			c.promote("a", 257)
			states := story(c, 3)
			b := c.nodes["b"]
			c.follows("a", "b")
			c.kill("a")
			at := slices.Sorted(maps.Keys(states))[0]
			freed := b.fills("rollback.json" + step)
			if _, err := c.promoteAt("b", 514, at); err == nil || !strings.Contains(err.Error(), "free some space") || domain.Code(err) != domain.Code(domain.ErrUnavailable) {
				t.Fatalf("want a refusal that says what to do, got %v", err)
			}
			if _, err := os.Lstat(b.g.store.rollbackPath()); !errors.Is(err, os.ErrNotExist) {
				t.Fatalf("an intent is there that a start would carry out: %v", err)
			}
			freed()
			if _, err := c.promoteAt("b", 770, at); err != nil {
				t.Fatal(err)
			}
			for v := range 2 {
				if !bytes.Equal(b.read(v, 0, volumeBytes), states[at][v]) {
					t.Fatalf("volume %d is not what it was at %d", v, at)
				}
			}
		})
	}
}
