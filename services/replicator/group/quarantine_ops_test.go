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

// keptItem lets a and b diverge, and gives what a kept aside.
func keptItem(t *testing.T) (*node, api.Quarantined) {
	t.Helper()
	c := newCluster(t, domain.ModeAsync)
	diverge(c)
	c.boot("a")
	c.follows("b", "a")
	items, err := c.nodes["a"].g.Quarantined()
	if err != nil || len(items) != 1 {
		t.Fatalf("%+v, %v", items, err)
	}
	return c.nodes["a"], items[0]
}

func TestADamagedQuarantineIsExportedWithoutAMap(t *testing.T) {
	slow(t)
	_, item := keptItem(t)
	frames, err := os.ReadFile(filepath.Join(item.Path, quarantineFrames))
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string][]byte{
		"flipped": append(append(bytes.Clone(frames[:5000]), frames[5000]^1), frames[5001:]...),
		"cut":     frames[:len(frames)-512],
	} {
		dir := filepath.Join(t.TempDir(), name)
		if _, err := ExportQuarantined(item, bytes.NewReader(bad), bytes.NewReader(nil), dir); err == nil {
			t.Errorf("%s: no error", name)
		}
		if _, err := os.Stat(filepath.Join(dir, ExportMapFile)); !os.IsNotExist(err) {
			t.Errorf("%s: there is a map: %v", name, err)
		}
	}
}

func TestBlocksWhoseOrderIsLostAreExportedBeneathTheFrames(t *testing.T) {
	slow(t)
	_, item := keptItem(t)
	frames, err := os.ReadFile(filepath.Join(item.Path, quarantineFrames))
	if err != nil {
		t.Fatal(err)
	}
	// The last frame's write goes to block 126; the record says something older of it, and something of a block of its own.
	old := record{kind: recordData, off: 126 * 4096, length: 8192, payload: append(block(1), block(2)...)}
	dir := filepath.Join(t.TempDir(), "kept")
	m, err := ExportQuarantined(item, bytes.NewReader(frames), bytes.NewReader(old.append(nil)), dir)
	if err != nil || len(m.Extents) != 65 || m.Extents[0].Kind != "block" || m.Extents[1].Kind != "write" {
		t.Fatalf("%d extents, %v", len(m.Extents), err)
	}
	img, err := os.ReadFile(filepath.Join(dir, "data.img"))
	if err != nil || !bytes.Equal(img[126*4096:][:8192], append(block(1063), block(2)...)) {
		t.Fatalf("the image: %v", err)
	}
}

func TestADiscardThatWasCutShortIsFinishedAtTheNextStart(t *testing.T) {
	n, item := keptItem(t)
	if err := n.g.DiscardQuarantined(t.Context(), "../journal"); !errors.Is(err, domain.ErrNotFound) {
		t.Fatalf("want not found, got %v", err)
	}
	n.cancel() // the process ends between the rename and the removal
	n.g.Close()
	if err := os.Rename(item.Path, item.Path+discardedSuffix); err != nil {
		t.Fatal(err)
	}
	n.mesh.Close()
	n.g = nil
	st, err := openStore(t.Context(), Config{Site: "a", Dir: n.dir}, twoVolumes())
	if err != nil {
		t.Fatal(err)
	}
	defer st.close()
	if left, _ := filepath.Glob(filepath.Join(st.quarantineDir(), "*")); len(left) != 0 {
		t.Fatalf("left: %v", left)
	}
	if items, err := st.quarantined(); err != nil || len(items) != 0 {
		t.Fatalf("%+v, %v", items, err)
	}
}

func twoVolumes() domain.Group {
	return domain.Group{ID: "erp", Home: "a", Targets: []domain.Target{{Site: "b", Mode: domain.ModeAsync}},
		Volumes: []domain.Volume{{ID: "data", SizeBytes: volumeBytes}, {ID: "log", SizeBytes: volumeBytes}}}
}
