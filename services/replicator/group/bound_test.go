package group

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/initiator"
	scsi "github.com/holdfast-dr/holdfast/pkg/iscsi"
	"github.com/holdfast-dr/holdfast/services/replicator/blockfile"
	"github.com/holdfast-dr/holdfast/services/replicator/journal/vfs"
	"github.com/holdfast-dr/holdfast/services/replicator/layer"
)

// opened is a checkpoint of b that hosts write to, beside what its volumes should show them.
type opened struct {
	t     *testing.T
	c     *cluster
	req   api.CheckpointOpenRequest
	disks []*initiator.Session
	want  [2][]byte
}

func openCheckpoint(t *testing.T, limit int64) *opened {
	t.Helper()
	c := newPast(t, 30*time.Millisecond, domain.ModeSync)
	c.boot("a", "b")
	c.nodes["b"].g.cfg.Portal = newISCSI(t)
	c.promote("a", 257)
	states := story(c, 3)
	lsn := slices.Min(slices.Collect(maps.Keys(states)))
	o := &opened{t: t, c: c, req: api.CheckpointOpenRequest{Group: "erp", Checkpoint: lsn, LimitBytes: limit}, want: states[lsn]}
	o.open()
	return o
}

func (o *opened) open() {
	o.t.Helper()
	got, err := o.c.nodes["b"].g.OpenCheckpoint(o.t.Context(), o.req)
	if err != nil || got.LimitBytes != o.req.LimitBytes {
		o.t.Fatalf("%+v, %v", got, err)
	}
	o.disks = nil
	for _, d := range got.Disks {
		o.disks = append(o.disks, attach(o.t, d))
	}
}

// write writes n bytes, which have to be taken.
func (o *opened) write(volume int, off int64, n int) {
	o.t.Helper()
	p := noise(uint64(off)+1, n)
	if _, err := o.disks[volume].WriteAt(p, off); err != nil {
		o.t.Fatalf("write %d bytes at %d of volume %d: %v", n, off, volume, err)
	}
	copy(o.want[volume][off:], p)
}

// refused writes n bytes, for which there must be no room.
func (o *opened) refused(volume int, off int64, n int) {
	o.t.Helper()
	_, err := o.disks[volume].WriteAt(noise(uint64(off)+2, n), off)
	var status initiator.StatusError
	if !errors.As(err, &status) || status.Sense.Key != scsi.SenseDataProtect || status.Sense.ASC != scsi.ASCSpaceAllocFailed {
		o.t.Fatalf("write %d bytes at %d of volume %d: %v", n, off, volume, err)
	}
}

// shows checks what is read, and that the copy below follows its primary.
func (o *opened) shows() {
	o.t.Helper()
	for v, d := range o.disks {
		if !bytes.Equal(allOf(o.t, d), o.want[v]) {
			o.t.Fatalf("volume %d of the checkpoint is not what it was with what was written to it", v)
		}
	}
	o.c.nodes["a"].write(0, 0, noise(uint64(time.Now().UnixNano()), 256<<10))
	o.c.follows("a", "b")
	o.c.same("a", "b")
}

func (o *opened) listed() api.Checkpoint {
	o.t.Helper()
	for _, p := range o.c.nodes["b"].checkpoints() {
		if p.LSN == o.req.Checkpoint {
			return p
		}
	}
	o.t.Fatal("it is not listed")
	return api.Checkpoint{}
}

func TestAnOpenCheckpointTakesNoMoreThanItsLimit(t *testing.T) {
	o := openCheckpoint(t, 64<<10)
	const far = 1 << 20
	o.write(0, far, 40<<10)
	o.write(1, 512, 512) // a block, of both volumes together
	o.refused(1, far, 24<<10)
	o.write(1, far, 20<<10)
	o.refused(0, 0, 512)
	o.refused(1, far+16<<10, 8<<10) // half of it has room, and nothing is written
	o.write(0, far+4096, 32<<10)    // what takes room already is written again
	o.write(1, 1024, 512)
	if p := o.listed(); p.WrittenBytes != 64<<10 || p.LimitBytes != 64<<10 || !strings.Contains(p.Refuses, "its limit is 64.0 KiB") {
		t.Fatalf("%+v", p)
	}
	o.shows()
	if err := o.disks[0].Unmap(t.Context(), far, 8<<10); err != nil { // a guest gives room back
		t.Fatal(err)
	}
	clear(o.want[0][far:][:8<<10])
	o.write(1, 2*far, 4<<10)
	o.write(0, far, 4<<10) // what was freed takes room anew
	o.refused(0, far+4096, 4<<10)
	o.req.LimitBytes = 72 << 10
	o.open() // the same, with more
	o.write(0, far+4096, 8<<10)
	o.refused(1, 3*far, 8<<10)
	o.shows()
	if err := o.c.nodes["b"].g.CloseCheckpoint(t.Context(), o.req.Checkpoint); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(o.c.nodes["b"].dir, "overlays", "*")); len(left) > 0 {
		t.Fatalf("left over: %v", left)
	}
	if p := o.listed(); p.WrittenBytes != 0 || p.LimitBytes != 0 || p.Refuses != "" {
		t.Fatalf("closed: %+v", p)
	}
	o.req.LimitBytes = 0
	o.open() // empty again, and without a limit
	o.disks[0].Close()
	if _, err := o.c.nodes["b"].g.OpenCheckpoint(t.Context(), api.CheckpointOpenRequest{Checkpoint: o.req.Checkpoint, LimitBytes: -1}); !errors.Is(err, domain.ErrInvalid) {
		t.Fatalf("a limit below nothing: %v", err)
	}
	if p := o.listed(); p.WrittenBytes != 0 || p.Refuses != "" {
		t.Fatalf("opened anew: %+v", p)
	}
}

func TestAnOpenCheckpointLeavesTheDiskWhatReplicationNeeds(t *testing.T) {
	o := openCheckpoint(t, 0)
	b := o.c.nodes["b"]
	const far = 1 << 20
	b.free.Store(reserveBytes + 64<<10)
	o.write(0, far, 8<<10)
	b.free.Store(reserveBytes + 4095)
	o.refused(0, 2*far, 16<<10)
	o.refused(1, far, 4<<10)
	o.write(0, far, 8<<10)
	if p := o.listed(); p.WrittenBytes != 8<<10 || p.LimitBytes != 0 || !strings.Contains(p.Refuses, "1.0 MiB are kept for replication") {
		t.Fatalf("%+v", p)
	}
	o.shows()
	b.free.Store(0) // what it has
	eventually(t, "writes are taken again by themselves", func() bool {
		_, err := o.disks[1].WriteAt(block(7), far)
		return err == nil
	})
	copy(o.want[1][far:], block(7))
	if p := o.listed(); p.Refuses != "" || p.WrittenBytes != 12<<10 {
		t.Fatalf("%+v", p)
	}
	o.shows()
}

// What a resync was told that it takes is kept for it beside the reserve, less what it has staged; and while it is installed.
func TestTheRoomOfAResyncIsKeptFromOpenCheckpoints(t *testing.T) {
	o := openCheckpoint(t, 0)
	g := o.c.nodes["b"].g
	st, err := g.store.beginStage(257, 1, g.store.slots())
	if err != nil {
		t.Fatal(err)
	}
	st.wants.Store(1 << 20)
	g.mu.Lock()
	g.stage = st
	g.mu.Unlock()
	if got := g.Owed(); got != 1<<20 {
		t.Fatalf("%d bytes are owed, 1 MiB is wanted", got)
	}
	sent := record{kind: recordData, off: 2 << 20, payload: noise(1, 256<<10), length: 256 << 10}
	if err := st.add(sent.append(nil), sent); err != nil {
		t.Fatal(err)
	}
	if got := g.Owed(); got != 768<<10 {
		t.Fatalf("%d bytes are owed after 256 KiB of 1 MiB", got)
	}
	o.c.nodes["b"].free.Store(reserveBytes + 512<<10)
	o.refused(0, 1<<20, 4096)
	g.dropStage()
	g.setStaging(true, 256<<10)
	eventually(t, "there is room beside what the installation takes", func() bool {
		_, err := o.disks[0].WriteAt(block(7), 1<<20)
		return err == nil
	})
	if hold := g.openHold(); !strings.Contains(hold, "4.0 KiB") || !strings.Contains(hold, "holdfast checkpoint close") {
		t.Fatalf("whoever lacks room is told %q", hold)
	}
	if got := g.Owed(); got != 256<<10 {
		t.Fatalf("%d bytes are owed while a resync is installed", got)
	}
	g.cfg.Owed = func() int64 { return 512 << 10 } // of other groups, too
	if err := g.CloseCheckpoint(t.Context(), o.req.Checkpoint); err != nil {
		t.Fatal(err)
	}
	o.open()
	o.refused(0, 1<<20, 4096)
	g.setStaging(false, 0)
	if got := g.Owed(); got != 0 {
		t.Fatalf("%d bytes are owed to nobody", got)
	}
}

// logged counts what is logged, by message.
type logged struct {
	mu sync.Mutex
	n  map[string]int
}

func (l *logged) Enabled(context.Context, slog.Level) bool { return true }
func (l *logged) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *logged) WithGroup(string) slog.Handler            { return l }
func (l *logged) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.n[r.Message]++
	return nil
}

// boundedDisk is a file with a bound, on a disk that has no more than what it is given.
func boundedDisk(t *testing.T, size int64, b *bound) (*boundFile, *blockfile.File) {
	t.Helper()
	f, err := scratch(filepath.Join(t.TempDir(), "data"), size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return newBoundFile(f, size, b), f
}

func TestTheRoomOnTheDiskIsLookedAtSeldomAndNeverOverdrawn(t *testing.T) {
	const size, has = 64 << 20, 40 << 20
	looks, log := 0, &logged{n: map[string]int{}}
	b := &bound{log: slog.New(log), calm: time.Hour}
	b.look = func() (int64, string) {
		looks++
		return has - b.held, "nothing left"
	}
	f, _ := boundedDisk(t, size, b)
	for off := int64(0); off < has; off += 4096 {
		if _, err := f.WriteAt(block(1), off); err != nil {
			t.Fatalf("at %d: %v", off, err)
		}
	}
	if most := 150; looks > most {
		t.Errorf("%d looks for %d writes", looks, has/4096)
	}
	looks = 0
	for range 100 {
		if _, err := f.WriteAt(block(1), has); !vfs.IsFull(err) {
			t.Fatalf("beyond what there is: %v", err)
		}
		if _, err := f.WriteAt(block(2), 0); err != nil { // which is no news
			t.Fatal(err)
		}
	}
	if looks > 20 {
		t.Errorf("%d looks for 100 writes that are refused", looks)
	}
	if b.held != has || log.n["writes to an open checkpoint are refused"] != 1 || log.n["writes to an open checkpoint are taken again"] != 0 {
		t.Errorf("%d bytes are held, told is %v", b.held, log.n)
	}
	for range 3 { // a guest that frees and writes in turn
		if err := f.Unmap(0, 4096); err != nil {
			t.Fatal(err)
		}
		eventually(t, "what was freed is written", func() bool { _, err := f.WriteAt(block(3), 0); return err == nil })
		if _, err := f.WriteAt(block(1), has); !vfs.IsFull(err) {
			t.Fatalf("beyond what there is: %v", err)
		}
	}
	if log.n["writes to an open checkpoint are refused"] != 1 || log.n["writes to an open checkpoint are taken again"] != 1 {
		t.Errorf("told is %v", log.n)
	}
}

// yielding lets others go first between what is counted of a write, or a hole, and what the file does.
type yielding struct{ layer.Medium }

func (s yielding) WriteAt(p []byte, off int64) (int, error) {
	runtime.Gosched()
	return s.Medium.WriteAt(p, off)
}

func (s yielding) Unmap(off, n int64) error {
	err := s.Medium.Unmap(off, n)
	runtime.Gosched()
	return err
}

// Writes and unmaps of any sizes, at once and on top of each other: what is counted is what the file takes.
func TestWhatIsCountedOfAnOpenCheckpointIsWhatItTakes(t *testing.T) {
	const size, limit = 512 << 10, 256 << 10
	b := &bound{limit: limit, log: slog.New(slog.DiscardHandler), look: func() (int64, string) { return 1 << 40, "" }}
	f, file := boundedDisk(t, size, b)
	f.Medium = yielding{f.Medium}
	var all sync.WaitGroup
	for w := range uint64(4) {
		all.Go(func() {
			r := rand.New(rand.NewPCG(w, 7))
			for range 1000 {
				n := 512 * (1 + r.Int64N(64))
				off := 512 * r.Int64N((size-n)/512)
				var err error
				if r.IntN(3) > 0 {
					_, err = f.WriteAt(noise(w, int(n)), off)
				} else {
					err = f.Unmap(off, n)
				}
				if err != nil && !vfs.IsFull(err) {
					t.Errorf("%d bytes at %d: %v", n, off, err)
				}
			}
		})
	}
	all.Wait()
	var takes int64
	for off := int64(0); off < size; {
		mapped, n, err := file.Extent(off)
		if err != nil {
			t.Fatal(err)
		}
		if mapped {
			takes += n
		}
		off += n
	}
	if b.held != takes || takes > limit || takes == 0 {
		t.Fatalf("%d bytes are counted, the file takes %d of %d", b.held, takes, limit)
	}
	if err := f.Unmap(0, size); err != nil || b.held != 0 {
		t.Fatalf("%d bytes are counted of nothing, %v", b.held, err)
	}
}

func TestTheDefaultReserveFitsTheDisk(t *testing.T) {
	for total, want := range map[uint64]int64{64 << 20: 16 << 20, 2 << 30: 512 << 20, 4 << 30: 1 << 30, 20 << 30: 1 << 30, 1 << 40: 1 << 40 / 20} {
		if got := defaultReserve(total); got != want {
			t.Errorf("%s of %s are kept free, want %s", sizeText(got), sizeText(int64(total)), sizeText(want))
		}
	}
	if _, known := fileSystem(t.TempDir()); !known {
		t.Error("the size of this file system is not known")
	}
}

var _ layer.Medium = (*boundFile)(nil)
