package group

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/natsd"
)

// sealed lays a committed stage into a copy's folder, as a process killed after the marker leaves it. No records: no data
// file at all.
func sealed(t *testing.T, dir string, c api.ResyncCommit, records ...record) {
	t.Helper()
	dir = filepath.Join(dir, "stage")
	m, err := json.Marshal(c)
	if err == nil {
		err = os.MkdirAll(dir, 0o700)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, stageMarker), m, 0o600)
	}
	var data []byte
	for _, r := range records {
		data = r.append(data)
	}
	if err == nil && records != nil {
		err = os.WriteFile(filepath.Join(dir, stageFile), data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// fillRing writes one MiB at the end of the second volume again and again, until the ring lets go of what b lacks.
func fillRing(t *testing.T, n *node, lacks domain.LSN) {
	t.Helper()
	for i := range 24 {
		n.write(1, volumeBytes-(1<<20), bytes.Repeat([]byte{byte(i + 1)}, 1<<20))
	}
	eventually(t, "the ring lets go of what the target lacks", func() bool { return n.g.store.j.State().TailLSN > lacks })
}

func TestAResyncBringsTheVolumesToTheJournalsEndBeforeItIsInstalled(t *testing.T) {
	c := newCluster(t, domain.ModeAsync)
	c.pace.Head = 10 * time.Second // the target hears late what is acknowledged, and so its volumes lag its journal
	c.lines = false                // its NATS server is the link
	c.boot("a", "b")
	c.promote("a", 257)
	c.follows("a", "b")
	a, b := c.nodes["a"], c.nodes["b"]
	a.write(0, 0, block(1))
	c.follows("a", "b")
	if st := b.g.Status(); st.AppliedLSN == st.HeadLSN {
		t.Fatalf("nothing waits to be applied: %+v", st)
	}
	addr := b.srv.Addr()
	b.srv.Stop() // the link is cut; the process lives
	fillRing(t, a, b.g.Status().HeadLSN+1)
	srv, err := natsd.Start(natsd.Config{Site: "b", Listen: addr, StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Stop)
	c.follows("a", "b")
	if !bytes.Equal(b.image(0)[:4096], block(1)) {
		t.Fatal("a change that was in the target's journal alone is lost")
	}
	if !b.facts.has("fenced") || !a.facts.has("resync_completed") {
		t.Fatal("no resync")
	}
}

func TestAStageRedoneAfterAPowerCutGoesOnFromTheJournalsEnd(t *testing.T) {
	c := newCluster(t, domain.ModeAsync)
	c.boot("a", "b")
	c.promote("a", 257)
	c.follows("a", "b")
	b := c.nodes["b"]
	flushed := b.image(0)
	c.nodes["a"].write(0, 0, block(7))
	c.follows("a", "b")
	st := b.g.Status()
	c.kill("b")
	// The power fails: what the volume's file had in memory is gone, the journal is not.
	if err := os.WriteFile(filepath.Join(b.dir, "data.img"), flushed, 0o600); err != nil {
		t.Fatal(err)
	}
	sealed(t, b.dir, api.ResyncCommit{Group: "erp", Epoch: 257, Session: 1, Cut: st.HeadLSN, LSN: st.HeadLSN, Lineage: st.Lineage},
		record{kind: recordData, off: 8192, length: 4096, payload: block(9)})
	c.kill("a")
	c.boot("b")
	img := b.image(0)
	if !bytes.Equal(img[:4096], block(7)) || !bytes.Equal(img[8192:][:4096], block(9)) {
		t.Fatalf("the journal's change is there: %v, the stage's: %v", bytes.Equal(img[:4096], block(7)), bytes.Equal(img[8192:][:4096], block(9)))
	}
	if got := b.g.Status().HeadLSN; got != st.HeadLSN {
		t.Fatalf("LSN %d, want %d", got, st.HeadLSN)
	}
}

func TestAStageThatCouldNotBeSealedLeavesNoMarker(t *testing.T) {
	c := newCluster(t, domain.ModeAsync)
	c.boot("b")
	g := c.nodes["b"].g
	st, err := g.store.beginStage(257, 1, g.store.slots())
	if err != nil {
		t.Fatal(err)
	}
	commit := api.ResyncCommit{Group: "erp", Epoch: 257, Session: 1, LSN: 5}
	sealed(t, c.nodes["b"].dir, commit) // as when the marker was written and its folder could not be flushed
	g.install(st, commit)               // no frames reach LSN 5
	if _, err := os.Stat(g.store.stageDir()); !os.IsNotExist(err) {
		t.Fatalf("the stage is still there: %v", err)
	}
	if st := g.Status(); !st.Consistent || st.Error != "" {
		t.Fatalf("%+v", st)
	}
}

func TestAStageThatWasAppliedLosesItsMarkerBeforeItsData(t *testing.T) {
	c := newCluster(t, domain.ModeAsync)
	c.boot("b")
	b := c.nodes["b"]
	c.kill("b")
	sealed(t, b.dir, api.ResyncCommit{Group: "erp", Epoch: 257, Lineage: []api.LineageEntry{{Epoch: 257, FirstLSN: 1, Site: "a"}}},
		record{kind: recordData, off: 8192, length: 4096, payload: block(9)})
	c.boot("b")
	s := b.g.store
	for _, name := range []string{stageFile, stageMarker} {
		if _, err := os.Stat(filepath.Join(s.stageDir(), name)); !os.IsNotExist(err) {
			t.Fatalf("%s after the redo: %v", name, err)
		}
	}
	commit := api.ResyncCommit{Group: "erp", Epoch: 257, Lineage: b.g.Status().Lineage}
	sealed(t, b.dir, commit, record{kind: recordData, off: 4096, length: 4096, payload: block(8)})
	err := s.applyStage(commit, func(place string) error {
		if place != "stage unmarked" {
			return nil
		}
		if _, err := os.Stat(filepath.Join(s.stageDir(), stageMarker)); !os.IsNotExist(err) {
			t.Errorf("the marker is still there: %v", err)
		}
		return errKilled
	})
	if !errors.Is(err, errKilled) {
		t.Fatalf("want the kill, got %v", err)
	}
	if _, err := os.Stat(filepath.Join(s.stageDir(), stageFile)); err != nil {
		t.Fatalf("the data went before the marker: %v", err)
	}
	c.kill("b")
	c.boot("b") // what is left of the stage means nothing
	if !bytes.Equal(b.image(0)[4096:12288], append(block(8), block(9)...)) {
		t.Fatal("the stages are not on the volume")
	}
}
