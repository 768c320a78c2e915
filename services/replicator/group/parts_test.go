package group

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/extent"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
	"github.com/holdfast-dr/holdfast/services/replicator/transport"
)

func TestGateIsNeverExtendedAfterItsDeadline(t *testing.T) {
	now := clock.Time(100)
	g := newGate(func() clock.Time { return now }, 200)
	if !g.open() || !g.extend(300) {
		t.Fatal("before the deadline")
	}
	now = 300
	if g.open() || g.extend(1000) {
		t.Fatal("at the deadline")
	}
	now = 250 // no clock goes back, but if one did
	if g.open() {
		t.Fatal("a gate that shut stays shut")
	}
	if d := leaseDeadline(1000, 101, 0.01); d != 1000+99 {
		t.Fatalf("deadline %d", d)
	}
}

func FuzzResyncData(f *testing.F) {
	sizes := []int64{1 << 20}
	good := record{kind: recordData, off: 4096, length: 4096, payload: block(1)}
	f.Add(append([]byte{3, 'e', 'r', 'p', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, good.append(nil)...))
	good.packed = transport.Deflate(good.payload, domain.CompressionS2)
	f.Add(append([]byte{3, 'e', 'r', 'p', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, good.append(nil)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _, _, raw, err := parseResync(b)
		if err != nil {
			return
		}
		packed := len(raw) > 1 && raw[1] == packedS2
		if raw, err = unpackRecord(raw); err != nil {
			return
		}
		r, err := parseRecord(raw, sizes)
		if packed && len(raw) > recordHeader+maxRecordBytes {
			t.Fatalf("%d bytes out of a record", len(raw))
		}
		if err == nil && !bytes.Equal(r.append(nil), append([]byte{raw[0], 0}, raw[2:]...)) {
			t.Fatal("a record is not what was parsed")
		}
	})
}

func TestAVolumeFileOfAnotherSizeOrAFolderInUseIsNamed(t *testing.T) {
	c := newCluster(t)
	c.boot("a")
	n := c.nodes["a"]
	_, err := openStore(t.Context(), Config{Site: "a", Dir: n.dir, JournalBytes: 16 << 20}, c.def)
	if !errors.Is(err, domain.ErrConflict) || !strings.Contains(err.Error(), n.dir) {
		t.Fatalf("folder in use: %v", err)
	}
	c.kill("a")
	img := filepath.Join(n.dir, "data.img")
	if err := os.Truncate(img, 4096); err != nil {
		t.Fatal(err)
	}
	_, err = openStore(t.Context(), Config{Site: "a", Dir: n.dir}, c.def)
	if !errors.Is(err, domain.ErrInvalid) || !strings.Contains(err.Error(), img) {
		t.Fatalf("volume of another size: %v", err)
	}
}

func TestAVolumeMadeAndNotYetSizedIsSizedWhileTheJournalIsNew(t *testing.T) {
	c := newCluster(t)
	c.boot("a")
	n := c.nodes["a"]
	c.kill("a")
	img := filepath.Join(n.dir, "log.img")
	if err := os.Truncate(img, 0); err != nil {
		t.Fatal(err)
	}
	c.boot("a")
	c.promote("a", 257)
	n.write(1, volumeBytes-4096, block(7))
	c.kill("a")
	if err := os.Truncate(img, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := openStore(t.Context(), Config{Site: "a", Dir: n.dir}, c.def); !errors.Is(err, domain.ErrInvalid) {
		t.Fatalf("a volume that lost its content: %v", err)
	}
}

func TestVolumesWithoutTheirJournalAreRefused(t *testing.T) {
	c := newCluster(t)
	c.boot("a")
	c.promote("a", 257)
	n := c.nodes["a"]
	n.write(0, 0, block(7))
	c.kill("a")
	if err := os.Remove(filepath.Join(n.dir, "journal")); err != nil {
		t.Fatal(err)
	}
	_, err := openStore(t.Context(), Config{Site: "a", Dir: n.dir, JournalBytes: 16 << 20}, c.def)
	if !errors.Is(err, domain.ErrRefused) || !strings.Contains(err.Error(), "whole folder "+n.dir) {
		t.Fatalf("want a refusal that names the folder, got %v", err)
	}
	if _, err := os.Stat(filepath.Join(n.dir, "journal")); !os.IsNotExist(err) {
		t.Fatalf("a journal was made: %v", err)
	}
}

func TestAGroupWithoutTargetsServesAlone(t *testing.T) {
	c := newCluster(t)
	c.boot("a")
	c.promote("a", 257)
	fill(c.nodes["a"])
	data := make([]byte, 1<<20)
	for i := range 40 { // more than the ring holds
		data[0] = byte(i + 1)
		c.nodes["a"].write(0, 0, data)
	}
	c.kill("a")
	c.boot("a")
	c.promote("a", 513)
	if got := c.nodes["a"].read(0, 0, 1); got[0] != 40 {
		t.Fatalf("read %d", got[0])
	}
}

func TestSuspendWaitsForItsTargetAndNeverAsksForASmallerSet(t *testing.T) {
	c := newCluster(t, domain.ModeSync)
	c.def.OnTargetLoss = domain.TargetLossSuspend
	c.boot("a", "b")
	c.promote("a", 257)
	c.follows("a", "b")
	c.kill("b")
	done := submit(c.nodes["a"].unit(0), &target.Command{Op: target.OpWrite, Off: 0, Len: 4096, Data: block(1)})
	eventually(t, "b is lost", func() bool { return c.target("a", "b").State == api.TargetLost })
	select {
	case err := <-done:
		t.Fatalf("answered (%v) without b", err)
	default:
	}
	if c.quo.asked != 0 {
		t.Fatal("the register was asked")
	}
	c.boot("b")
	if err := await(t, done); err != nil {
		t.Fatal(err)
	}
	c.same("a", "b")
}

func TestAPrimaryCutOffInItsProcessKeepsItsAsyncWritesAsideWhenItIsFollowedUp(t *testing.T) {
	c := newCluster(t, domain.ModeAsync)
	c.boot("a", "b")
	c.promote("a", 257)
	fill(c.nodes["a"])
	c.follows("a", "b")
	c.kill("b")
	for i := range uint64(8) {
		c.nodes["a"].write(0, int64(i)*4096, block(1000+i))
	}
	c.nodes["a"].skew.Store(int64(time.Hour)) // a's lease ends before it sees b again; its process lives
	eventually(t, "a stopped", func() bool { return c.nodes["a"].facts.has("serving_stopped") })
	c.boot("b")
	c.promote("b", 514)
	c.nodes["b"].write(1, 0, block(2000))
	c.follows("b", "a")
	c.same("a", "b")
	checkQuarantine(t, c.nodes["a"], 8)
}

func TestDivergedBlocksWhoseFramesLeftTheRingAreKeptToo(t *testing.T) {
	c := newCluster(t, domain.ModeAsync)
	c.boot("a", "b")
	c.promote("a", 257)
	fill(c.nodes["a"])
	c.follows("a", "b")
	c.kill("b")
	data := bytes.Repeat(block(77), 256)
	for range 30 {
		c.nodes["a"].write(0, 0, data)
	}
	c.kill("a")
	c.boot("b")
	c.promote("b", 514)
	c.boot("a")
	c.follows("b", "a")
	c.same("a", "b")
	items, err := c.nodes["a"].g.Quarantined()
	if err != nil || len(items) != 1 {
		t.Fatalf("%+v, %v", items, err)
	}
	blocks, err := os.ReadFile(filepath.Join(items[0].Path, quarantineBlocks))
	if err != nil || !bytes.Contains(blocks, data) {
		t.Fatalf("%d bytes of blocks, %v", len(blocks), err)
	}
	if ts := c.target("b", "a"); ts.ResyncBytes > 2<<20 {
		t.Fatalf("resync sent %d bytes for 1 MiB that differs", ts.ResyncBytes)
	}
}

func TestBitmapsSurviveAndDamageIsTold(t *testing.T) {
	s := &store{dir: t.TempDir()}
	s.tab.Store(&table{sizes: []int64{1 << 20}})
	d := &dirtyMap{base: 7, upto: 99, set: extent.New(s.sizes())}
	d.set.Mark(0, 8192, 4096)
	if err := s.saveBitmap("b", d); err != nil {
		t.Fatal(err)
	}
	got, err := s.loadBitmap("b")
	if err != nil || got.base != 7 || got.upto != 99 || !got.set.Has(0, 8192) || got.set.Bytes() != 4096 {
		t.Fatalf("%+v, %v", got, err)
	}
	if err := os.WriteFile(s.bitmapPath("b"), make([]byte, 40), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.loadBitmap("b"); !errors.Is(err, extent.ErrDamaged) {
		t.Fatalf("damage: %v", err)
	}
	if got, err := s.usableBitmap("b"); got != nil || err != nil {
		t.Fatalf("a damaged bitmap is one that is not there: %+v, %v", got, err)
	}
	if _, err := os.Stat(s.bitmapPath("b")); !os.IsNotExist(err) {
		t.Fatalf("still there: %v", err)
	}
	if err := s.saveBitmap("b", d); err != nil {
		t.Fatal(err)
	}
	if err := s.dropAllBitmaps(); err != nil {
		t.Fatal(err)
	}
	if got, err := s.loadBitmap("b"); got != nil || err != nil {
		t.Fatal("still there")
	}
}

func TestTheTargetKnowsWhatItMisses(t *testing.T) {
	now := clock.Time(time.Hour)
	g := &Group{cfg: Config{Site: "b", Now: func() clock.Time { return now }}.withDefaults(), heardAt: now}
	at := time.Unix(100, 0)
	g.heads = []api.Position{{LSN: 10, Bytes: 1000, Time: time.Unix(100, 0)}, {LSN: 30, Bytes: 9000, Time: time.Unix(103, 0)}}
	e := g.estimate(10, at, "")
	if !e.Known || e.Writes != 20 || e.Bytes != 8000 || e.Seconds != 3 {
		t.Fatalf("%+v", e)
	}
	if e := g.estimate(30, at, ""); e.Writes != 0 || e.Bytes != 0 || !e.Known {
		t.Fatalf("%+v", e)
	}
	for _, c := range []struct {
		silent  time.Duration
		atLeast bool
		seconds float64
		text    string
	}{
		{silentHeads * 250 * time.Millisecond, false, 3, "3.0 s, 0.0 MB, 20 writes, from there"},
		{time.Hour, true, 3603, "at least 20 writes, 8.0 kB, as of 1970-01-01T00:01:43Z: nothing was heard from site a since, for 1h0m0s; up to 1h0m3s of work, from there"},
	} {
		g.heads[1].Site, g.heardAt = "a", now
		now += clock.Time(c.silent)
		e := g.estimate(10, at, ", from there")
		if !e.Known || e.AtLeast != c.atLeast || e.Writes != 20 || e.Bytes != 8000 || e.Seconds != c.seconds || e.Silent != c.silent.Seconds() ||
			!e.AsOf.Equal(time.Unix(103, 0)) || e.Text != c.text {
			t.Errorf("%s of silence: %+v", c.silent, e)
		}
	}
	if e := g.estimate(30, at, ""); !e.AtLeast || e.Writes != 0 || e.Seconds != 3600 {
		t.Errorf("a copy that had everything an hour ago: %+v", e)
	}
	g.heads[1].Ended = true
	if e := g.estimate(30, at, ""); e.AtLeast || e.Writes != 0 || e.Seconds != 0 {
		t.Errorf("a primary that was demoted an hour ago: %+v", e)
	}
}

func TestTheLossToAPrimaryThatNeverComparedIsUnknown(t *testing.T) {
	c := newCluster(t)
	c.boot("a")
	g := c.nodes["a"].g
	g.heads = []api.Position{{Epoch: 514, LSN: 10, Bytes: 1000, Time: time.Unix(100, 0)}}
	if e := g.Estimate(); e.Known {
		t.Fatalf("%+v", e)
	}
	g.related(relation{epoch: 514})
	if e := g.Estimate(); !e.Known || e.Writes != 10 {
		t.Fatalf("%+v", e)
	}
}
