package group

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

func TestASeededTargetGetsOnlyWhatDiffers(t *testing.T) {
	c := newCluster(t, domain.ModeAsync)
	c.boot("a")
	c.promote("a", 257)
	a, b := c.nodes["a"], c.nodes["b"]
	for off := int64(0); off < 6<<20; off += 1 << 20 {
		a.write(0, off, noise(uint64(off)+1, 1<<20))
	}
	image := filepath.Join(t.TempDir(), "carried.img")
	if err := os.WriteFile(image, a.image(0), 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range int64(16) { // what happened while it was carried
		a.write(0, i*(256<<10), noise(uint64(500+i), 4096))
	}
	var told []int64
	if err := PlaceSeed(t.Context(), b.dir, c.def, "data", image, func(done, size int64) { told = append(told, done, size) }); err != nil {
		t.Fatal(err)
	}
	if n := len(told); n < 2*6 || told[0] != 1<<20 || told[1] != volumeBytes || told[n-2] > volumeBytes {
		t.Fatalf("how far it is was told as %v", told)
	}
	c.boot("b")
	if st := b.g.Status(); st.Consistent {
		t.Fatalf("a seed passes for a copy: %+v", st)
	}
	c.follows("a", "b")
	c.same("a", "b")
	ts := c.target("a", "b")
	if sent := ts.ResyncBytes + ts.Resync.HashBytes; sent > 16*4096*11/10+16<<10 {
		t.Fatalf("%d bytes sent, 64 KiB differ", sent)
	}
	if st := b.g.Status(); !st.Consistent {
		t.Fatalf("%+v", st)
	}
	c.kill("b")
	if err := PlaceSeed(t.Context(), b.dir, c.def, "data", image, nil); !errors.Is(err, domain.ErrRefused) {
		t.Fatalf("a seed over a copy: %v", err)
	}
	c.boot("b")
	c.follows("a", "b")
	if b.g.store.seeded() {
		t.Fatal("it is still marked as seeded")
	}
}

func TestASeedIsNeverPromoted(t *testing.T) {
	c := newCluster(t, domain.ModeAsync)
	b := c.nodes["b"]
	image := filepath.Join(t.TempDir(), "carried.img")
	if err := os.WriteFile(image, bytes.Repeat([]byte{7}, volumeBytes), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := PlaceSeed(t.Context(), b.dir, c.def, "none", image, nil); !errors.Is(err, domain.ErrInvalid) {
		t.Fatalf("no such volume: %v", err)
	}
	if err := PlaceSeed(t.Context(), b.dir, c.def, "log", image, nil); err != nil {
		t.Fatal(err)
	}
	c.boot("b")
	if err := PlaceSeed(t.Context(), b.dir, c.def, "data", image, nil); !errors.Is(err, domain.ErrConflict) {
		t.Fatalf("a seed into an open group: %v", err)
	}
	for range 2 { // a start later, too
		if _, err := b.g.Promote(t.Context(), api.PromoteRequest{Group: "erp", Epoch: 514}); !errors.Is(err, domain.ErrRefused) {
			t.Fatalf("promote: %v", err)
		}
		c.kill("b")
		c.boot("b")
	}
	if err := os.Truncate(image, 4096); err != nil {
		t.Fatal(err)
	}
	c.kill("b")
	if err := PlaceSeed(t.Context(), b.dir, c.def, "data", image, nil); !errors.Is(err, domain.ErrInvalid) {
		t.Fatalf("another size: %v", err)
	}
	c.boot("a", "b") // an empty primary: the seed's content goes
	c.promote("a", 257)
	c.follows("a", "b")
	c.same("a", "b")
}
