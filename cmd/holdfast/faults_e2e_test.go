//go:build e2e

package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/initiator"
	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

// smallDisk is a file system with little more room than a journal takes, and a file that takes the rest when it is asked to.
type smallDisk struct {
	t    *testing.T
	path string
}

func newSmallDisk(t *testing.T) smallDisk {
	t.Helper()
	d := smallDisk{t, t.TempDir()}
	if err := unix.Mount("holdfast", d.path, "tmpfs", 0, "size=96m"); err != nil {
		if errors.Is(err, unix.EPERM) && os.Getenv("CI") != "true" {
			t.Skip("SKIPPED: it mounts a small file system: run it as root")
		}
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(d.path, unix.MNT_DETACH) })
	return d
}

// has is how many bytes there is room for.
func (d smallDisk) has() int64 {
	d.t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(d.path, &st); err != nil {
		d.t.Fatal(err)
	}
	return int64(st.Bavail) * st.Bsize
}

// leave takes all the room there is but so many bytes.
func (d smallDisk) leave(n int64) {
	d.t.Helper()
	if err := os.WriteFile(filepath.Join(d.path, "ballast"), make([]byte, d.has()-n), 0o600); err != nil {
		d.t.Fatal(err)
	}
}

// fill takes all the room there is, page by page at the end.
func (d smallDisk) fill() {
	d.t.Helper()
	f, err := os.OpenFile(filepath.Join(d.path, "ballast"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	for _, piece := range []int{1 << 20, 4096} {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, piece))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			d.t.Fatal(err)
		}
	}
}

func (d smallDisk) free() {
	d.t.Helper()
	if err := os.Remove(filepath.Join(d.path, "ballast")); err != nil {
		d.t.Fatal(err)
	}
}

func TestARealDiskThatFillsAtEitherSiteHealsByItself(t *testing.T) {
	for _, site := range []domain.SiteID{"b", "a"} {
		t.Run(string(site), func(t *testing.T) {
			r := newReplicas(t, domain.ModeAsync, func(g *domain.Group) { g.Checkpoints.Every = 1e9 })
			small := newSmallDisk(t)
			r.dirs[site] = small.path
			r.start("a")
			r.start("b")
			disk := r.promote("a", 257)
			r.follows("a")
			small.fill()
			w := startWriter(t.Context(), disk)
			r.until("what is held is shown", func() bool { return r.shows("waits for the disk since") })
			if !r.measures(site, 1, "holdfast_group_held", `reason="disk"`) || !r.measures(site, 0, "holdfast_group_failed") {
				t.Fatal("the metrics say something else")
			}
			r.publishes(site, "held", "disk: ")
			if site == "b" { // it is started anew while there is no room even to recover
				r.stop["b"]()
				r.launch("b")
				r.until("the copy is said not to be open", func() bool {
					st, err := ask1[api.ReplicatorStatus](r, "b", api.VerbStatus, api.GroupRequest{})
					return err == nil && len(st.Groups) == 1 && st.Groups[0].Error != ""
				})
			}
			small.free()
			last := w.end(t)
			r.follows("a")
			r.publishes("a", map[domain.SiteID]string{"a": "resumed", "b": "target_streaming"}[site], "")
			r.until("nothing is held", func() bool {
				return r.measures(site, 0, "holdfast_group_held", `reason="disk"`) && !r.shows("waits for the")
			})
			r.stop["a"]()
			checkWritten(t, r.promote("b", 514), last)
		})
	}
}

// A quarter of the disk, 24 MiB, is kept from what is written to the checkpoint: 16 MiB of it is what the primary then fills of the
// copy's volume, where there was nothing.
func TestAnOpenCheckpointThatIsWrittenToUntilTheDiskTakesNoMoreHoldsNoReplicationUp(t *testing.T) {
	r := newReplicas(t, domain.ModeSync, func(g *domain.Group) { g.Checkpoints.Every = 1e9 })
	small := newSmallDisk(t)
	r.dirs["b"] = small.path
	r.start("a")
	r.start("b")
	disk := r.promote("a", 257)
	r.follows("a")
	var list api.CheckpointList
	r.until("b has a checkpoint", func() (has bool) {
		var err error
		list, err = ask1[api.CheckpointList](r, "b", api.VerbCheckpointList, api.GroupRequest{Group: "erp"})
		return err == nil && len(list.Checkpoints) > 0
	})
	opened, err := ask1[api.CheckpointOpened](r, "b", api.VerbCheckpointOpen, api.CheckpointOpenRequest{Group: "erp", Checkpoint: list.Checkpoints[0].LSN})
	if err != nil {
		t.Fatal(err)
	}
	drill, err := initiator.Dial(t.Context(), opened.Disks[0].URL, initiator.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = drill.Close() }()
	const kept = 24 << 20
	small.leave(kept + 4<<20)
	took := int64(0)
	for block := bytes.Repeat([]byte{7}, 64<<10); took < replicaBytes && err == nil; took += int64(len(block)) {
		err = drill.Write(t.Context(), block, took, false)
	}
	var status initiator.StatusError
	if !errors.As(err, &status) || status.Sense.ASC != iscsi.ASCSpaceAllocFailed || took > 5<<20 {
		t.Fatalf("after %d bytes: %v", took, err)
	}
	if has := small.has(); has < kept-1<<20 {
		t.Fatalf("%d bytes are left, %d should be", has, kept)
	}
	for off := int64(0); off < replicaBytes; off += 64 << 10 {
		if err := disk.Write(t.Context(), bytes.Repeat([]byte{byte(off>>16) | 1}, 64<<10), off, false); err != nil {
			t.Fatal(err)
		}
	}
	if st := r.follows("a"); !st.Targets[0].InSync {
		t.Fatalf("%+v", st.Targets)
	}
	st, err := ask1[api.ReplicatorStatus](r, "b", api.VerbStatus, api.GroupRequest{})
	if err != nil || len(st.Groups) != 1 || len(st.Groups[0].Held) > 0 || st.Groups[0].Error != "" {
		t.Fatalf("%v, %+v", err, st)
	}
}
