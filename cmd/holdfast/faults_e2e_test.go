//go:build e2e

package main

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
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
