package group

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/slots"
)

// want changes the list of the group's volumes at one site, and for those booted later: as desired state that was not copied yet.
func (c *cluster) want(site domain.SiteID, change func([]domain.Volume) []domain.Volume) {
	c.t.Helper()
	c.def.Volumes = change(slices.Clone(c.def.Volumes))
	c.version++
	if err := c.nodes[site].g.Adopt(c.t.Context(), api.GroupDesired{Group: c.def, Version: c.version}); err != nil {
		c.t.Fatalf("site %s: %v", site, err)
	}
}

func plus(id domain.VolumeID) func([]domain.Volume) []domain.Volume {
	return func(v []domain.Volume) []domain.Volume {
		return append(v, domain.Volume{ID: id, SizeBytes: volumeBytes, Added: true})
	}
}

func minus(id domain.VolumeID) func([]domain.Volume) []domain.Volume {
	return func(v []domain.Volume) []domain.Volume {
		for i := range v {
			v[i].Removed = v[i].Removed || v[i].ID == id
		}
		return v
	}
}

func (n *node) serves(id domain.VolumeID) bool {
	return slices.ContainsFunc(n.g.Status().Disks, func(d api.Disk) bool { return d.Volume == id })
}

// add adds a volume at the primary, and gives its index once it is served.
func (c *cluster) add(site domain.SiteID, id domain.VolumeID) int {
	c.t.Helper()
	c.want(site, plus(id))
	eventually(c.t, "volume "+string(id)+" is served", func() bool { return c.nodes[site].serves(id) })
	return c.nodes[site].g.store.slots().Find(id)
}

func (c *cluster) remove(site domain.SiteID, id domain.VolumeID) {
	c.t.Helper()
	c.want(site, minus(id))
	n := c.nodes[site]
	eventually(c.t, "volume "+string(id)+" is removed", func() bool { t := n.g.store.slots(); return t[t.Find(id)].Gone != 0 })
	if n.serves(id) {
		c.t.Fatalf("volume %s is served", id)
	}
}

// remembers waits until a target follows and has a checkpoint: from then on each mark becomes one.
func (c *cluster) remembers(primary, site domain.SiteID) {
	c.t.Helper()
	c.follows(primary, site)
	eventually(c.t, "the first checkpoint", func() bool { return len(c.nodes[site].checkpoints()) > 0 })
}

// content is what a copy's file of a volume holds.
func (n *node) content(index int) []byte {
	n.t.Helper()
	n.applies()
	s := &store{dir: n.dir}
	t, err := s.loadTable()
	if err != nil {
		n.t.Fatal(err)
	}
	if index >= len(t) {
		return nil
	}
	b, err := os.ReadFile(s.volumePath(t[index]))
	if err != nil {
		n.t.Fatal(err)
	}
	return b
}

// alike waits until two copies have the same table and the same content.
func (c *cluster) alike(a, b domain.SiteID) {
	c.t.Helper()
	x, y := c.nodes[a], c.nodes[b]
	eventually(c.t, "one table of volumes at "+string(a)+" and "+string(b), func() bool { return slices.Equal(x.g.store.slots(), y.g.store.slots()) })
	for i, v := range x.g.store.slots() {
		eventually(c.t, "volume "+string(v.ID)+" alike", func() bool { return bytes.Equal(x.content(i), y.content(i)) })
	}
}

func begins(b []byte, n uint64) bool { return len(b) >= 4096 && bytes.Equal(b[:4096], block(n)) }

func TestAVolumeIsAddedWhileWritesGoOnAndEveryCopyHasIt(t *testing.T) {
	c := newCluster(t, domain.ModeSync, domain.ModeAsync)
	c.boot("a", "b", "c")
	c.promote("a", 257)
	c.follows("a", "b")
	const limit = 4000
	w := c.nodes["a"].numbered(8, limit)
	x := c.add("a", "x") // only a has it in its definition
	if x != 2 || !c.nodes["a"].facts.has("volume_added") {
		t.Fatalf("index %d", x)
	}
	c.nodes["a"].write(x, 0, block(7))
	w.wg.Wait()
	c.follows("a", "b")
	c.follows("a", "c")
	c.alike("a", "b")
	c.alike("a", "c")

	c.kill("a")
	c.def.Volumes = c.def.Volumes[:2] // desired state had not been copied
	c.promote("b", 514)
	b := c.nodes["b"]
	if !b.serves("x") || !begins(b.read(x, 0, 4096), 7) || b.prefix(limit) != limit {
		t.Fatal("what was acknowledged is not there")
	}
	eventually(t, "b says what its definition lacks", func() bool { return strings.Contains(b.g.Status().PolicyError, "volume x") })
	c.want("b", plus("x")) // the same name and size: it is taken for what it is
	eventually(t, "the definition has it", func() bool { return b.g.Status().PolicyError == "" })
	if y := c.add("b", "y"); y != 3 {
		t.Fatalf("an index was given again: %d", y)
	}
	b.write(3, 4096, block(9))
	c.boot("a")
	c.follows("b", "a")
	c.alike("b", "a")
	c.follows("b", "c")
	c.alike("b", "c")
}

func TestWhatARemovedVolumeHeldIsKeptAndItsCheckpointsShowIt(t *testing.T) {
	slow(t)
	c := newPast(t, time.Hour, domain.ModeSync)
	c.boot("a", "b")
	c.promote("a", 257)
	c.remembers("a", "b")
	a, b := c.nodes["a"], c.nodes["b"]
	before, err := a.g.Mark(t.Context(), api.CheckpointCreateRequest{Group: "erp", Label: "before"})
	if err != nil {
		t.Fatal(err)
	}
	x := c.add("a", "x")
	a.write(x, 0, block(5))
	with, err := a.g.Mark(t.Context(), api.CheckpointCreateRequest{Group: "erp", Label: "with"})
	if err != nil {
		t.Fatal(err)
	}
	a.write(x, 0, block(6))
	c.remove("a", "x")
	if n := a.portal.count(); n != 2 {
		t.Fatalf("%d volumes are reached by initiators", n)
	}
	after, err := a.g.Mark(t.Context(), api.CheckpointCreateRequest{Group: "erp", Label: "after"})
	if err != nil {
		t.Fatal(err)
	}
	c.follows("a", "b")
	c.alike("a", "b")
	for _, n := range []*node{a, b} {
		if !begins(n.content(x), 6) {
			t.Fatalf("site %s does not keep it", n.id)
		}
	}
	eventually(t, "three checkpoints", func() bool {
		return len(slices.DeleteFunc(b.checkpoints(), func(p api.Checkpoint) bool { return p.Label == "" })) == 3
	})
	for _, p := range []struct {
		at    domain.LSN
		disks string
	}{{before.LSN, "data log"}, {with.LSN, "data log x"}, {after.LSN, "data log"}} {
		o, err := b.g.OpenCheckpoint(t.Context(), api.CheckpointOpenRequest{Group: "erp", Checkpoint: p.at})
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, d := range o.Disks {
			names = append(names, string(d.Volume))
		}
		if got := strings.Join(names, " "); got != p.disks {
			t.Errorf("checkpoint %d has %s, want %s", p.at, got, p.disks)
		}
	}
	piece, err := b.g.ReadCheckpoint(api.CheckpointReadRequest{Group: "erp", Checkpoint: with.LSN, Volume: "x", Length: 4096})
	if err != nil || !begins(piece.Data, 5) {
		t.Fatalf("the volume as it was: %v", err)
	}
	if _, err := b.g.ReadCheckpoint(api.CheckpointReadRequest{Group: "erp", Checkpoint: before.LSN, Volume: "x", Length: 4096}); !errors.Is(err, domain.ErrNotFound) {
		t.Fatalf("a volume from before it was: %v", err)
	}
	c.kill("a")
	c.promote("b", 514)
	if b.serves("x") {
		t.Fatal("a removed volume is served after a failover")
	}
}

func TestATargetThatWasAwayWhileVolumesCameAndWentIsBroughtUp(t *testing.T) {
	slow(t)
	for name, fill := range map[string]bool{"by frames": false, "by a resync": true} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, domain.ModeAsync)
			c.boot("a", "b")
			c.promote("a", 257)
			a := c.nodes["a"]
			a.write(0, 0, block(1))
			c.follows("a", "b")
			c.kill("b")
			x := c.add("a", "x")
			a.write(x, 0, block(2))
			c.remove("a", "x")
			y := c.add("a", "y")
			a.write(y, 8192, block(3))
			if fill {
				big := noise(3, 1<<20)
				for i := range 40 { // more than the ring holds
					a.write(1, int64(i%8)<<20, big)
					a.write(y, int64(i%8)<<20, big)
				}
			}
			c.remove("a", "log")
			z := c.add("a", "z")
			a.write(z, 0, block(4))
			c.boot("b")
			c.follows("a", "b")
			c.alike("a", "b")
			a.write(z, 4096, block(5))
			c.kill("a")
			c.promote("b", 514)
			if b := c.nodes["b"]; !begins(b.read(z, 0, 4096), 4) || b.serves("x") || b.serves("log") || !b.serves("y") {
				t.Fatalf("%+v", b.g.Status().Disks)
			}
		})
	}
}

func TestAFreshTargetGetsTheVolumesOfTheGroupAsItIs(t *testing.T) {
	c := newCluster(t, domain.ModeAsync)
	c.boot("a")
	c.promote("a", 257)
	x := c.add("a", "x")
	c.nodes["a"].write(x, 0, block(2))
	c.remove("a", "data")
	c.boot("b") // its definition has them already
	c.follows("a", "b")
	c.alike("a", "b")
}

func TestVolumesThatTwoSitesAddedApartNeverMix(t *testing.T) {
	slow(t)
	for name, same := range map[string]bool{"of two names": false, "of one name": true} {
		t.Run(name, func(t *testing.T) {
			c := newPast(t, time.Hour, domain.ModeAsync)
			c.boot("a", "b")
			c.promote("a", 257)
			a := c.nodes["a"]
			a.write(0, 0, block(1))
			c.follows("a", "b")
			c.kill("b")
			x := c.add("a", "x")
			a.write(x, 0, block(2))
			a.write(x, 4096*9, block(3))
			c.kill("a")

			c.def.Volumes = c.def.Volumes[:2]
			c.boot("b")
			c.promote("b", 514)
			b := c.nodes["b"]
			other := domain.VolumeID("y")
			if same {
				other = "x"
			}
			y := c.add("b", other)
			if y != x {
				t.Fatalf("the test does not test: index %d", y)
			}
			b.write(y, 4096, block(8))
			c.boot("a")
			c.follows("b", "a")
			c.alike("b", "a")
			got := c.nodes["a"].content(y)
			if want := append(make([]byte, 4096), block(8)...); !bytes.Equal(got[:8192], want) || !allZero(got[8192:]) {
				t.Fatal("one volume has another's content")
			}
			items := c.nodes["a"].g.Status().Quarantined
			if len(items) != 1 {
				t.Fatalf("%d items are kept aside", len(items))
			}
			exportsBlock(t, items[0], "x", 2)
		})
	}
}

// exportsBlock looks for a block at the beginning of a volume that was kept aside.
func exportsBlock(t *testing.T, item api.Quarantined, id domain.VolumeID, n uint64) {
	t.Helper()
	whole, err := readQuarantine(item.Path)
	if err != nil {
		t.Fatal(err)
	}
	open := func(name string) io.ReadCloser {
		f, err := os.Open(filepath.Join(item.Path, name))
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	frames, blocks := open(quarantineFrames), open(quarantineBlocks)
	defer frames.Close()
	defer blocks.Close()
	dir := filepath.Join(t.TempDir(), "out")
	if _, err := ExportQuarantined(*whole, frames, blocks, dir); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, string(id)+".img"))
	if err != nil || !begins(b, n) {
		t.Fatalf("volume %s kept aside: %v", id, err)
	}
}

func TestACopyBroughtBackToACheckpointHasTheVolumesOfThen(t *testing.T) {
	c := newPast(t, time.Hour, domain.ModeSync)
	c.boot("a", "b")
	c.promote("a", 257)
	c.remembers("a", "b")
	a, b := c.nodes["a"], c.nodes["b"]
	a.write(1, 0, block(1))
	p, err := a.g.Mark(t.Context(), api.CheckpointCreateRequest{Group: "erp", Label: "then"})
	if err != nil {
		t.Fatal(err)
	}
	x := c.add("a", "x")
	a.write(x, 0, block(2))
	c.remove("a", "log")
	c.follows("a", "b")
	c.alike("a", "b")
	c.kill("a")
	c.def.Volumes = []domain.Volume{{ID: "data", SizeBytes: volumeBytes}, {ID: "log", SizeBytes: volumeBytes}}
	if _, err := c.promoteAt("b", 514, p.LSN); err != nil {
		t.Fatal(err)
	}
	if b.serves("x") || !b.serves("log") || !begins(b.read(1, 0, 4096), 1) || len(b.g.store.slots()) != 2 {
		t.Fatalf("%+v", b.g.store.slots())
	}
	items := b.g.Status().Quarantined
	if len(items) != 1 {
		t.Fatalf("%d items are kept aside", len(items))
	}
	exportsBlock(t, items[0], "x", 2)
	if y := c.add("b", "y"); y != 2 || !allZero(b.content(2)) {
		t.Fatalf("a new volume at index %d is not empty", y)
	}
	b.write(2, 0, block(3))
	c.boot("a")
	c.follows("b", "a")
	c.alike("b", "a")
}

func TestKilledInAnyStepOfAChangeOfItsVolumesAGroupComesToIt(t *testing.T) {
	slow(t)
	for _, place := range []string{"volume table", "volume file", "volume added", "volume taken away"} {
		for _, site := range []domain.SiteID{"a", "b"} {
			if site == "b" && (place == "volume added" || place == "volume taken away") {
				continue // steps of a primary
			}
			t.Run(place+" at "+string(site), func(t *testing.T) {
				c := newCluster(t, domain.ModeSync)
				c.boot("a", "b")
				c.promote("a", 257)
				c.follows("a", "b")
				n := c.nodes[site]
				var hit atomic.Bool
				stop := func(at string) error {
					if at != place {
						return nil
					}
					hit.Store(true)
					n.cancel()
					return context.Canceled
				}
				n.fail.Store(&stop)
				c.want("a", plus("x"))
				c.want("a", minus("log"))
				eventually(t, "killed", hit.Load)
				c.kill(site)
				n.fail.Store(nil)
				c.boot(site)
				if site == "a" {
					c.promote("a", 514)
				}
				a := c.nodes["a"]
				eventually(t, "x is served, and log is not", func() bool { return a.serves("x") && !a.serves("log") && a.g.Status().PolicyError == "" })
				a.write(2, 0, block(4))
				c.follows("a", "b")
				c.alike("a", "b")
			})
		}
	}
}

func TestATargetOfAnOlderVersionKeepsTheVolumesAsTheyAre(t *testing.T) {
	c := newCluster(t, domain.ModeAsync)
	c.boot("a", "b")
	c.promote("a", 257)
	c.follows("a", "b")
	s := c.nodes["a"].g.current()
	s.senders.get("b").can(api.RejoinReply{}) // as one answers that does not know
	c.want("a", plus("x"))
	eventually(t, "it says who cannot follow", func() bool {
		return strings.Contains(c.nodes["a"].g.Status().PolicyError, "site b is of a version that cannot follow: update it")
	})
	if c.nodes["a"].serves("x") || len(c.nodes["a"].g.store.slots()) != 2 {
		t.Fatal("the volume was added")
	}
}

func TestACopyIsNotOpenedWithVolumesOfAnotherSize(t *testing.T) {
	c := newCluster(t)
	c.boot("a")
	c.kill("a")
	c.def.Volumes = []domain.Volume{{ID: "data", SizeBytes: 2 * volumeBytes}, {ID: "log", SizeBytes: volumeBytes}}
	if _, err := openStore(t.Context(), Config{Site: "a", Dir: c.nodes["a"].dir}, c.def); !errors.Is(err, domain.ErrInvalid) || !strings.Contains(err.Error(), "volume data") {
		t.Fatal(err)
	}
	if got := slots.Of(append(c.def.Volumes, domain.Volume{ID: "x", Added: true})); len(got) != 2 {
		t.Fatalf("a group begins with %v", got)
	}
}

func TestARemovedVolumeIsDeletedAtASiteOnCommandOnly(t *testing.T) {
	slow(t)
	c := newPast(t, time.Hour, domain.ModeAsync)
	c.boot("a", "b")
	c.promote("a", 257)
	c.remembers("a", "b")
	a, b := c.nodes["a"], c.nodes["b"]
	x := c.add("a", "x")
	a.write(x, 0, block(5))
	if _, err := a.g.DiscardVolume(t.Context(), "x"); !errors.Is(err, domain.ErrRefused) {
		t.Fatalf("a volume of the group was deleted: %v", err)
	}
	p, err := a.g.Mark(t.Context(), api.CheckpointCreateRequest{Group: "erp", Label: "with x"})
	if err != nil {
		t.Fatal(err)
	}
	c.remove("a", "x")
	c.follows("a", "b")
	c.alike("a", "b")
	eventually(t, "the checkpoint", func() bool {
		return slices.ContainsFunc(b.checkpoints(), func(q api.Checkpoint) bool { return q.LSN == p.LSN })
	})
	if _, err := b.g.DiscardVolume(t.Context(), "x"); !errors.Is(err, domain.ErrRefused) || !strings.Contains(err.Error(), "checkpoint") {
		t.Fatalf("what a checkpoint shows was deleted: %v", err)
	}
	stop := func(at string) error {
		if at == "volume emptied" {
			return context.Canceled
		}
		return nil
	}
	a.fail.Store(&stop) // killed in the middle of it
	if _, err := a.g.DiscardVolume(t.Context(), "x"); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	a.fail.Store(nil)
	c.kill("a")
	c.boot("a")
	if got := a.content(x); !allZero(got) || len(got) != volumeBytes {
		t.Fatal("it is not deleted after a start")
	}

	// A copy of everything from a leaves at b what b keeps of it.
	c.promote("a", 514)
	c.kill("b")
	big := noise(1, 1<<20)
	for i := range 40 { // more than the ring holds
		a.write(1, int64(i%8)<<20, big)
	}
	if err := a.g.current().st.dropBitmap("b"); err != nil {
		t.Fatal(err)
	}
	c.boot("b")
	c.follows("a", "b")
	if !begins(b.content(x), 5) {
		t.Fatal("what was deleted at one site is gone at the other")
	}

	// Brought back to before it was removed, the group has it again, from the site that kept it.
	c.kill("a")
	c.want("b", func(v []domain.Volume) []domain.Volume { // and its definition too
		v[2].Removed = false
		return v
	})
	if _, err := c.promoteAt("b", 771, p.LSN); err != nil {
		t.Fatal(err)
	}
	if !begins(b.read(x, 0, 4096), 5) {
		t.Fatal("the checkpoint has lost it")
	}
	c.boot("a")
	c.follows("b", "a")
	eventually(t, "a has it again", func() bool { return begins(a.content(x), 5) })
	if v := a.g.store.slots()[x]; v.Emptied || v.Gone != 0 {
		t.Fatalf("%+v", v)
	}
}
