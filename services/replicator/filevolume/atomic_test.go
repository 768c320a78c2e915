package filevolume

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

func atomically(v *Volume, off int64, b []byte) error {
	return do(v, target.Command{Op: target.OpWrite, Off: off, Len: int64(len(b)), Data: b, Atomic: true})
}

func TestReadersSeeAnAtomicWriteAsAWhole(t *testing.T) {
	v := open(t, domain.DurabilityCached)
	const n = 256 << 10
	var stop atomic.Bool
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			b := make([]byte, n)
			for !stop.Load() {
				if err := do(v, target.Command{Op: target.OpRead, Len: n, Data: b}); err != nil {
					t.Error(err)
					return
				}
				if !bytes.Equal(b, bytes.Repeat(b[:1], n)) {
					t.Error("a reader saw a part of an atomic write")
					return
				}
			}
		})
	}
	for i := range 20 {
		if err := atomically(v, 0, bytes.Repeat([]byte{byte(i)}, n)); err != nil {
			t.Fatal(err)
		}
	}
	stop.Store(true)
	readers.Wait()
}

// left is what a loss of power leaves of a volume and of its intent.
type left struct{ volume, intent []byte }

func cut(t *testing.T, path string) left {
	t.Helper()
	volume, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	intent, err := os.ReadFile(path + ".intent")
	if err != nil {
		t.Fatal(err)
	}
	return left{volume, intent}
}

// put puts what was left back into the files, which stay the same ones, and opens the volume.
func (l left) put(t *testing.T, path string) (*Volume, error) {
	t.Helper()
	for name, b := range map[string][]byte{path: l.volume, path + ".intent": l.intent} {
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
		if err == nil {
			_, err = f.Write(b)
		}
		if err = errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	return Open(path, int64(len(l.volume)), domain.DurabilityCached)
}

// torn is a volume of which old was overwritten by young at off, atomically, when the power went with the first page written.
func torn(t *testing.T, off int64, old, young []byte) (path string, l left) {
	t.Helper()
	v := open(t, domain.DurabilityCached)
	if err := do(v, target.Command{Op: target.OpWrite, Off: off, Len: int64(len(old)), Data: old}); err != nil {
		t.Fatal(err)
	}
	flushes, flush := 0, v.sync
	v.sync = func() error { // the first is that of what was there
		if flushes++; flushes == 2 {
			l = cut(t, v.path)
		}
		return flush()
	}
	if err := atomically(v, off, young); err != nil {
		t.Fatal(err)
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	copy(l.volume[off+4096:], old[4096:])
	return v.path, l
}

func TestPowerCutInAnAtomicWriteLeavesAllOfIt(t *testing.T) {
	old, young := bytes.Repeat([]byte{1}, 65536), bytes.Repeat([]byte{2}, 65536)
	path, l := torn(t, 4096, old, young)
	v, err := l.put(t, path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(read(t, v, 4096, 65536), young) {
		t.Error("half of the write is there")
	}
	if err := do(v, target.Command{Op: target.OpWrite, Off: 8192, Len: 4096, Data: old[:4096]}); err != nil {
		t.Fatal(err)
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	if v, err = Open(path, size, domain.DurabilityCached); err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	if !bytes.Equal(read(t, v, 8192, 4096), old[:4096]) {
		t.Error("the intent was carried out again, over a write that came later")
	}
}

func TestPowerCutBeforeAnAtomicWriteBeganLeavesNoneOfIt(t *testing.T) {
	old, young := bytes.Repeat([]byte{1}, 8192), bytes.Repeat([]byte{2}, 8192)
	path, l := torn(t, 0, old, young)
	copy(l.volume, old)
	v, err := l.put(t, path)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	if !bytes.Equal(read(t, v, 0, 8192), old) {
		t.Error("a write that was never answered came into a volume without a trace of it")
	}
	if decodeIntention(cut(t, path).intent) != nil {
		t.Error("the intent is still there")
	}
}

// TestAnIntentOfAnotherImageIsNotCarriedOut: what lies beside a volume may be of the image that was there before.
func TestAnIntentOfAnotherImageIsNotCarriedOut(t *testing.T) {
	old, young := bytes.Repeat([]byte{1}, 65536), bytes.Repeat([]byte{2}, 65536)
	for name, c := range map[string]struct {
		change func(t *testing.T, path string, l *left)
		mend   string // empty: it opens, unchanged
	}{
		"an older image, restored in place": {func(_ *testing.T, _ string, l *left) {
			copy(l.volume[4096:], bytes.Repeat([]byte{9}, 65536))
		}, "remove"},
		"an older image that has a sector of the write": {func(_ *testing.T, _ string, l *left) {
			copy(l.volume[4096+512:], bytes.Repeat([]byte{9}, 512))
		}, "remove"},
		"an image from just before the write": {func(_ *testing.T, _ string, l *left) {
			copy(l.volume[4096:], old)
		}, ""},
		"an image from after the write": {func(_ *testing.T, _ string, l *left) {
			copy(l.volume[4096:], young)
		}, ""},
		"a copy of the volume and its intent": {func(t *testing.T, path string, l *left) {
			if err := os.WriteFile(path+".new", l.volume, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(path+".new", path); err != nil { // another file of this name
				t.Fatal(err)
			}
		}, "copy the volume again"},
		"a volume that was made smaller": {func(_ *testing.T, _ string, l *left) {
			l.volume = l.volume[:8192]
		}, "remove"},
	} {
		t.Run(name, func(t *testing.T) {
			path, l := torn(t, 4096, old, young)
			c.change(t, path, &l)
			v, err := l.put(t, path)
			if v != nil {
				defer v.Close()
			}
			switch {
			case c.mend != "" && (!errors.Is(err, domain.ErrConflict) || !strings.Contains(err.Error(), c.mend) || !strings.Contains(err.Error(), path+".intent")):
				t.Errorf("%v", err)
			case c.mend == "" && err != nil:
				t.Error(err)
			}
			if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, l.volume) {
				t.Errorf("the volume was changed, %v", err)
			}
		})
	}
}

func TestAMovedOrGrownVolumeGetsTheRestOfItsAtomicWrite(t *testing.T) {
	old, young := bytes.Repeat([]byte{1}, 8192), bytes.Repeat([]byte{2}, 8192)
	path, l := torn(t, 0, old, young)
	l.volume = append(l.volume, make([]byte, size)...)
	if err := os.Rename(path, path+".moved"); err != nil {
		t.Fatal(err)
	}
	v, err := l.put(t, path+".moved")
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	if !bytes.Equal(read(t, v, 0, 8192), young) {
		t.Error("half of the write is there")
	}
}

func TestATornIntentIsNotCarriedOut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "v.img")
	if err := Create(path, size); err != nil {
		t.Fatal(err)
	}
	id, err := identifyFile(path)
	if err != nil {
		t.Fatal(err)
	}
	what := intention{data: bytes.Repeat([]byte{7}, 8192), id: id, old: sums(bytes.Repeat([]byte{5}, 8192))}
	intact := what.encode()
	for name, b := range map[string][]byte{
		"a sector is missing":         append(bytes.Clone(intact[:8192+512]), append(make([]byte, 512), intact[8192+1024:]...)...),
		"a sum of before is missing":  append(append(bytes.Clone(intact[:4096]), make([]byte, 512)...), intact[4096+512:]...),
		"the end is missing":          intact[:12288],
		"no header":                   append(make([]byte, 4096), intact[4096:]...),
		"of a write that was no such": append([]byte("HFINTENT"), intact[8:]...),
	} {
		if decodeIntention(b) != nil {
			t.Errorf("%s: it is taken", name)
		}
		if err := os.WriteFile(path+".intent", b, 0o600); err != nil {
			t.Fatal(err)
		}
		v, err := Open(path, size, domain.DurabilityCached)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(read(t, v, 0, size), make([]byte, size)) {
			t.Errorf("%s: the volume was changed", name)
		}
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestAnAtomicWriteThatCannotBeFinishedStopsTheVolumeAndIsFinishedAtTheNextOpen(t *testing.T) {
	v := open(t, domain.DurabilityCached)
	flushes, flush := 0, v.sync
	v.sync = func() error {
		if flushes++; flushes == 2 {
			return errors.New("disk gone")
		}
		return flush()
	}
	young := bytes.Repeat([]byte{3}, 4096)
	if err := atomically(v, 0, young); !errors.Is(err, target.ErrMedium) || v.Err() == nil {
		t.Fatalf("%v, volume: %v", err, v.Err())
	}
	l := cut(t, v.path)
	_ = v.Close() // it says again what ended it
	clear(l.volume[:512])
	again, err := l.put(t, v.path)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if !bytes.Equal(read(t, again, 0, 4096), young) {
		t.Error("it was not finished")
	}
}

func TestAnAtomicWriteThatFindsALostFlushChangesNothing(t *testing.T) {
	v := open(t, domain.DurabilityCached)
	v.sync = func() error { return errors.New("disk gone") }
	if err := atomically(v, 0, bytes.Repeat([]byte{3}, 4096)); !errors.Is(err, target.ErrMedium) || v.Err() == nil {
		t.Fatalf("%v, volume: %v", err, v.Err())
	}
	if l := cut(t, v.path); decodeIntention(l.intent) != nil || !bytes.Equal(l.volume, make([]byte, size)) {
		t.Error("the volume was changed, or its intent is still there")
	}
}

// TestOnlyWhatOverlapsAnAtomicWriteWaitsForIt holds an atomic write up in the flush after it was written.
func TestOnlyWhatOverlapsAnAtomicWriteWaitsForIt(t *testing.T) {
	v := open(t, domain.DurabilityCached)
	reached, goOn := make(chan struct{}), make(chan struct{})
	flushes, flush := 0, v.sync
	v.sync = func() error {
		if flushes++; flushes == 2 {
			close(reached)
			<-goOn
		}
		return flush()
	}
	sevens := bytes.Repeat([]byte{7}, 1<<16)
	first := make(chan error, 1)
	go func() { first <- atomically(v, 8192, sevens[:8192]) }()
	<-reached
	for _, c := range []target.Command{ // on either side
		{Op: target.OpWrite, Off: 0, Len: 8192, Data: sevens[:8192]},
		{Op: target.OpWrite, Off: 16384, Len: 8192, Data: sevens[:8192]},
		{Op: target.OpZero, Off: 16384, Len: 512},
		{Op: target.OpUnmap, Off: 20480, Len: 4096},
		{Op: target.OpCompareAndWrite, Off: 512, Len: 512, Compare: sevens[:512], Data: make([]byte, 512)},
	} {
		if err := do(v, c); err != nil {
			t.Fatalf("%v beside it: %v", c.Op, err)
		}
	}
	if got := read(t, v, 8192, 8192); !bytes.Equal(got, sevens[:8192]) {
		t.Error("a read waited, or saw a part")
	}
	ends := make(chan error, 8)
	overlapping := []target.Command{
		{Op: target.OpWrite, Off: 7680, Len: 1024, Data: make([]byte, 1024)},
		{Op: target.OpWrite, Off: 15872, Len: 1024, Data: make([]byte, 1024)},
		{Op: target.OpUnmap, Off: 0, Len: size},
		{Op: target.OpCompareAndWrite, Off: 12288, Len: 512, Compare: sevens[:512], Data: sevens[:512]},
		{Op: target.OpWrite, Off: 8192, Len: 512, Data: sevens[:512], Atomic: true},
	}
	for _, c := range overlapping {
		v.Submit(&c, func(err error) { ends <- err }) // none waits here, in the path of a session's other commands
	}
	select {
	case <-ends:
		t.Error("a change that overlaps did not wait")
	default:
	}
	close(goOn)
	for range overlapping {
		var mis *target.MiscompareError
		if err := <-ends; err != nil && !errors.As(err, &mis) {
			t.Error(err)
		}
	}
	if err := <-first; err != nil {
		t.Error(err)
	}
}

// TestWritesBesideAnAtomicWriteOutliveAPowerCutInIt cuts in the middle of atomic writes, beside which others are answered.
func TestWritesBesideAnAtomicWriteOutliveAPowerCutInIt(t *testing.T) {
	v := open(t, domain.DurabilityCached)
	path := v.path
	old, young, beside := bytes.Repeat([]byte{1}, 8192), bytes.Repeat([]byte{2}, 8192), bytes.Repeat([]byte{3}, 4096)
	if err := do(v, target.Command{Op: target.OpWrite, Off: 4096, Len: 8192, Data: old}); err != nil {
		t.Fatal(err)
	}
	var l left
	flushes, flush := 0, v.sync
	v.sync = func() error {
		if flushes++; flushes == 2 {
			for _, off := range []int64{0, 12288} {
				if err := do(v, target.Command{Op: target.OpWrite, Off: off, Len: 4096, Data: beside}); err != nil {
					t.Error(err)
				}
			}
			defer func() { l = cut(t, path) }()
		}
		return flush()
	}
	if err := atomically(v, 4096, young); err != nil {
		t.Fatal(err)
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	copy(l.volume[8192:], old[:4096]) // the second page of the atomic write was not on the disk yet
	again, err := l.put(t, path)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if want := append(append(bytes.Clone(beside), young...), beside...); !bytes.Equal(read(t, again, 0, len(want)), want) {
		t.Error("the atomic write is not whole, or one beside it is lost")
	}
}
