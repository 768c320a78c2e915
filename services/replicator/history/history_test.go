package history

import (
	"bytes"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/journal/faultdisk"
	"github.com/holdfast-dr/holdfast/services/replicator/journal/vfs"
)

// bench is a history of one volume on a disk in memory.
type bench struct {
	t    *testing.T
	disk *faultdisk.Disk
	base device
	h    *History
	lost []string
}

func newBench(t *testing.T, keep Keep) *bench {
	t.Helper()
	b := &bench{t: t, disk: faultdisk.New(1)}
	b.open(keep)
	return b
}

func (b *bench) open(keep Keep) {
	b.t.Helper()
	b.base = device{b.disk.Volume("a", oracleBytes)}
	h, err := Open(Config{FS: b.disk, Dir: "h", Base: []Base{b.base}, Sizes: []int64{oracleBytes}, Keep: keep,
		Lost: func(_ int, reason string) { b.lost = append(b.lost, reason) }})
	if err != nil {
		b.t.Fatal(err)
	}
	b.h = h
}

// write overwrites whole blocks, as an applier does.
func (b *bench) write(block int, fill ...byte) {
	b.t.Helper()
	off := int64(block) * BlockSize
	if err := b.h.Record([]Range{{Off: off, Len: int64(len(fill)) * BlockSize}}); err != nil {
		b.t.Fatal(err)
	}
	for i, f := range fill {
		if _, err := b.base.WriteAt(bytes.Repeat([]byte{f}, BlockSize), off+int64(i)*BlockSize); err != nil {
			b.t.Fatal(err)
		}
	}
}

func (b *bench) take(lsn domain.LSN) {
	b.t.Helper()
	if err := b.h.Take(Point{LSN: lsn, Epoch: 1, Time: time.Unix(int64(lsn), 0), Kind: KindCrash}); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) first(lsn domain.LSN) (byte, error) {
	v, err := b.h.View(lsn)
	if err != nil {
		return 0, err
	}
	defer v.Close()
	p := make([]byte, BlockSize)
	_, err = v.ReadAt(0, p, 0)
	return p[0], err
}

var roomy = Keep{Age: time.Hour, Count: 100, Bytes: 1 << 30}

func TestWithoutRoomTheOldestCheckpointsGoAndNothingFails(t *testing.T) {
	b := newBench(t, roomy)
	b.disk.Capacity = oracleBytes + 40*BlockSize
	for i := range 30 {
		b.take(domain.LSN(i + 1))
		b.write(0, byte(i+1), byte(i+1), byte(i+1))
	}
	list := b.h.List()
	if len(list) == 0 || len(list) == 30 || list[len(list)-1].LSN != 30 || len(b.lost) == 0 {
		t.Fatalf("%d checkpoints of 30, told %d times", len(list), len(b.lost))
	}
	for _, p := range list {
		if got, err := b.first(p.LSN); err != nil || got != byte(p.LSN-1) {
			t.Fatalf("checkpoint %d: %d, %v", p.LSN, got, err)
		}
	}
	b.disk.Capacity = 1 // not even the newest has room
	b.write(8, make([]byte, 8)...)
	if len(b.h.List()) != 0 || b.h.Recording() {
		t.Fatalf("%v", b.h.List())
	}
	b.disk.Capacity = 0
	b.take(31)
	b.write(0, 77)
	if got, err := b.first(31); err != nil || got != 30 {
		t.Fatalf("%d, %v", got, err)
	}
}

func TestAFailedWriteOfTheHistoryCostsTheHistoryOnly(t *testing.T) {
	b := newBench(t, roomy)
	b.take(1)
	b.disk.Hook = func(call faultdisk.Call, path string, _ int64, _ int) faultdisk.Fault {
		if call == faultdisk.WriteSync && path != "h/manifest" {
			return faultdisk.Fault{Err: errors.New("EIO")}
		}
		return faultdisk.Fault{}
	}
	b.write(0, 1)
	if b.h.Recording() || len(b.lost) != 1 {
		t.Fatalf("recording, told %v", b.lost)
	}
	b.disk.Hook = nil
	b.disk.Restart(false)
	b.open(roomy)
	if b.h.Recording() {
		t.Fatal("it came back")
	}
}

func TestAHistoryThatCannotBeGivenUpStopsTheCopy(t *testing.T) {
	b := newBench(t, roomy)
	b.take(1)
	b.disk.Hook = func(call faultdisk.Call, _ string, _ int64, _ int) faultdisk.Fault {
		if call == faultdisk.WriteSync {
			return faultdisk.Fault{Err: errors.New("EIO")}
		}
		return faultdisk.Fault{}
	}
	if err := b.h.Record([]Range{{Len: BlockSize}}); err == nil {
		t.Fatal("the base would change, and the checkpoint be listed after a restart")
	}
}

func TestDamageIsNeverReadAsContent(t *testing.T) {
	b := newBench(t, roomy)
	for i := range 3 {
		b.take(domain.LSN(i + 1))
		b.write(0, byte(i+1), byte(i+1), byte(i+1))
	}
	b.h.Close()
	b.disk.Corrupt("h/"+segmentName(2), 2*BlockSize+100, []byte{0xff}) // content of the second's first block
	b.disk.Restart(true)
	b.open(roomy)
	if _, err := b.first(2); !errors.Is(err, ErrDamaged) {
		t.Fatalf("damaged block: %v", err)
	}
	if got, err := b.first(3); err != nil || got != 2 {
		t.Fatalf("a whole one: %d, %v", got, err)
	}
	b.h.Close()
	b.disk.Corrupt("h/"+segmentName(2), BlockSize+70, []byte{0xff, 0xfe, 0xfd}) // the head of its batch
	b.disk.Restart(true)
	b.open(roomy)
	if list := b.h.List(); len(list) != 1 || list[0].LSN != 3 || len(b.lost) != 1 {
		t.Fatalf("%v, told %v", list, b.lost)
	}
	b.h.Close()
	b.disk.Corrupt("h/manifest", 40, []byte("xxx"))
	b.disk.Restart(true)
	b.open(roomy)
	if len(b.h.List()) != 0 || len(b.lost) != 2 {
		t.Fatalf("a damaged list: %v, told %v", b.h.List(), b.lost)
	}
}

func TestDamageInTheMiddleOfTheNewestSegmentIsNoTornEnd(t *testing.T) {
	b := newBench(t, roomy)
	b.take(1)
	b.write(0, 1)
	b.write(1, 1)
	b.write(2, 1)
	b.h.Close()
	b.disk.Corrupt("h/"+segmentName(1), 2*BlockSize, make([]byte, 64)) // the head of its second batch
	b.disk.Restart(true)
	b.open(roomy)
	if len(b.h.List()) != 0 || len(b.lost) != 1 {
		t.Fatalf("%v, told %v", b.h.List(), b.lost)
	}
}

func TestTheNewestAloneMayNotOutgrowItsBound(t *testing.T) {
	b := newBench(t, Keep{Age: time.Hour, Count: 100, Bytes: 8 * BlockSize})
	b.write(0, bytes.Repeat([]byte{9}, 12)...)
	b.take(1)
	b.write(0, 1)
	b.take(2)
	b.write(0, 2, 2, 2, 2)
	if list := b.h.List(); len(list) != 1 || list[0].LSN != 2 {
		t.Fatalf("%v", list)
	}
	b.write(4, 2, 2, 2, 2, 2)
	if len(b.h.List()) != 0 || len(b.lost) != 1 {
		t.Fatalf("%v, told %v", b.h.List(), b.lost)
	}
}

func TestAViewThatIsOpenIsKeptFromThinning(t *testing.T) {
	b := newBench(t, Keep{Age: time.Hour, Count: 3, Bytes: 1 << 30})
	for i := range 4 {
		b.take(domain.LSN(i + 1))
		b.write(0, byte(i+1))
	}
	v, err := b.h.View(2)
	if err != nil {
		t.Fatal(err)
	}
	trim := func() {
		steps := 0
		if err := b.h.Trim(time.Unix(5, 0), func() bool { steps++; return steps < 50 }); err != nil || steps >= 50 {
			t.Fatalf("%d steps, %v", steps, err)
		}
	}
	trim()
	if list := b.h.List(); len(list) != 3 || list[1].LSN != 2 {
		t.Fatalf("%v", list)
	}
	p := make([]byte, 512)
	if _, err := v.ReadAt(0, p, 512); err != nil || p[0] != 1 {
		t.Fatalf("%d, %v", p[0], err)
	}
	v.Close()
	v.Close()
	b.h.SetKeep(Keep{Age: b.h.keep.Load().Age, Count: 2, Bytes: b.h.keep.Load().Bytes})
	trim()
	if list := b.h.List(); len(list) != 2 || list[0].LSN != 1 || list[1].LSN != 4 {
		t.Fatalf("%v", list)
	}
	if got, err := b.first(1); err != nil || got != 0 {
		t.Fatalf("%d, %v", got, err)
	}
}

func TestViewsAreReadWhileTheBaseChangesAndCheckpointsAreThinned(t *testing.T) {
	b := newBench(t, Keep{Age: time.Hour, Count: 4, Bytes: 1 << 30})
	b.write(0, 9, 9, 9, 9)
	b.take(1)
	v, err := b.h.View(1)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		p, want := make([]byte, 4*BlockSize), bytes.Repeat([]byte{9}, 4*BlockSize)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := v.ReadAt(0, p, 0); err != nil || !bytes.Equal(p, want) {
				t.Errorf("the view changed: %v", err)
				return
			}
		}
	})
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := b.h.Trim(time.Unix(1000, 0), func() bool { return true }); err != nil {
				t.Error(err)
			}
		}
	})
	for i := range 60 {
		b.write(i%4, byte(i), byte(i))
		b.take(domain.LSN(i + 2))
	}
	close(stop)
	wg.Wait()
}

func TestWhatGoesNext(t *testing.T) {
	now := time.Unix(10000, 0)
	held := func(ages ...int) (out []Held) {
		for i, a := range ages {
			out = append(out, Held{Point: Point{LSN: domain.LSN(i + 1), Time: now.Add(-time.Duration(a) * time.Second), Kind: KindCrash}})
		}
		return out
	}
	keep := Keep{Age: time.Hour, Count: 4, Bytes: 100}
	labelled := held(50, 40, 30, 20, 10)
	for i := 1; i < 4; i++ {
		labelled[i].Label = "x"
	}
	app := held(60, 50, 40, 30, 20, 10)
	for i := 1; i < 4; i++ {
		app[i].Kind = KindApp
	}
	allApp := held(50, 40, 30, 20, 10)
	for i := range allApp {
		allApp[i].Kind = KindApp
	}
	opened := held(4000, 40)
	opened[0].Open = true
	for name, x := range map[string]struct {
		held  []Held
		total int64
		want  int
	}{
		"the newest stays":              {held(9000), 1000, -1},
		"too old":                       {held(4000, 40), 1, 0},
		"too old but open":              {opened, 1, -1},
		"too many bytes, open or not":   {opened, 101, 0},
		"few enough":                    {held(40, 30, 20, 10), 1, -1},
		"crowded for its age":           {held(400, 390, 200, 20, 10), 1, 1},
		"evenly spaced: an older one":   {held(50, 40, 30, 20, 10), 1, 1},
		"labelled ones are not thinned": {labelled, 1, 0},
		"crash-consistent ones first":   {app, 1, 4},
		"then application-consistent":   {allApp, 1, 1},
	} {
		if got := surplus(x.held, x.total, keep, now); got != x.want {
			t.Errorf("%s: %d, want %d", name, got, x.want)
		}
	}
}

func TestThePastGrowsCoarserWithAge(t *testing.T) {
	b := newBench(t, Keep{Age: time.Hour, Count: 12, Bytes: 1 << 30})
	for i := range 400 {
		b.take(domain.LSN(i + 1))
		b.write(i%8, byte(i))
		if err := b.h.Trim(time.Unix(int64(i+1), 0), func() bool { return true }); err != nil {
			t.Fatal(err)
		}
	}
	list := b.h.List()
	if len(list) != 12 || list[11].LSN != 400 || list[10].LSN < 396 || list[0].LSN != 1 {
		t.Fatalf("%v", list)
	}
	for i := 2; i < len(list)-1; i++ {
		if before, after := list[i].LSN-list[i-1].LSN, list[i+1].LSN-list[i].LSN; after > 2*before+2 {
			t.Errorf("%d, %d, %d", list[i-1].LSN, list[i].LSN, list[i+1].LSN)
		}
	}
}

func TestOnTheRealFileSystem(t *testing.T) {
	dir := t.TempDir()
	disk := faultdisk.New(1)
	base := device{disk.Volume("a", oracleBytes)}
	cfg := Config{FS: vfs.OS(), Dir: dir, Base: []Base{base}, Sizes: []int64{oracleBytes}, Keep: roomy}
	h, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, disk: disk, base: base, h: h}
	for i := range 3 {
		b.take(domain.LSN(i + 1))
		b.write(0, byte(i+1), byte(i+1))
	}
	h.Close()
	if b.h, err = Open(cfg); err != nil {
		t.Fatal(err)
	}
	defer b.h.Close()
	for i := range 3 {
		if got, err := b.first(domain.LSN(i + 1)); err != nil || got != byte(i) {
			t.Fatalf("checkpoint %d: %d, %v", i+1, got, err)
		}
	}
}

// A resync takes checkpoints off the list; one of the same change may be made after it.
func TestACheckpointThatWasTakenOffTheListIsTakenAgain(t *testing.T) {
	b := newBench(t, roomy)
	b.take(1)
	b.write(0, 1)
	b.take(2)
	if err := b.h.Forget(func(p Point) bool { return p.LSN == 1 }); err != nil {
		t.Fatal(err)
	}
	b.write(0, 2)
	b.take(2)
	b.write(0, 3)
	for lsn, want := range map[domain.LSN]byte{1: 0, 2: 2} {
		if got, err := b.first(lsn); err != nil || got != want {
			t.Fatalf("checkpoint %d shows %d, want %d: %v", lsn, got, want, err)
		}
	}
}
