package filevolume

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
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

// cut is what a loss of power leaves: copies of the volume and of its intent as they are now.
func cut(t *testing.T, path string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "v.img")
	for _, suffix := range []string{"", ".intent"} {
		b, err := os.ReadFile(path + suffix)
		if err == nil {
			err = os.WriteFile(to+suffix, b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return to
}

func TestPowerCutInAnAtomicWriteLeavesAllOfIt(t *testing.T) {
	v := open(t, domain.DurabilityCached)
	old, young := bytes.Repeat([]byte{1}, 65536), bytes.Repeat([]byte{2}, 65536)
	if err := do(v, target.Command{Op: target.OpWrite, Off: 4096, Len: 65536, Data: old, FUA: true}); err != nil {
		t.Fatal(err)
	}
	var torn string
	flush := v.sync
	v.sync = func() error { // the intent is durable, the volume written: a cut leaves any part of that
		if torn == "" {
			torn = cut(t, v.path)
		}
		return flush()
	}
	if err := atomically(v, 4096, young); err != nil {
		t.Fatal(err)
	}
	after := cut(t, v.path)
	for name, path := range map[string]string{"before the volume is durable": torn, "after the write": after} {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(old[:4096], 8192); err != nil { // a page that was not written, or another write afterwards
			t.Fatal(err)
		}
		f.Close()
		again, err := Open(path, size, domain.DurabilityCached)
		if err != nil {
			t.Fatal(err)
		}
		want := bytes.Clone(young)
		if path == after {
			copy(want[4096:], old[:4096]) // a write that came later stays
		}
		if !bytes.Equal(read(t, again, 4096, 65536), want) {
			t.Errorf("%s: content differs", name)
		}
		if err := again.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestATornIntentIsNotCarriedOut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "v.img")
	if err := Create(path, size); err != nil {
		t.Fatal(err)
	}
	intact := encodeIntent(0, bytes.Repeat([]byte{7}, 8192))
	for name, b := range map[string][]byte{
		"a sector is missing": append(bytes.Clone(intact[:4096+512]), append(make([]byte, 512), intact[4096+1024:]...)...),
		"the end is missing":  intact[:8192],
		"no header":           append(make([]byte, 4096), intact[4096:]...),
		"of a larger volume":  encodeIntent(size, bytes.Repeat([]byte{7}, 8192)),
	} {
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
	v.sync = func() error { return errors.New("disk gone") }
	young := bytes.Repeat([]byte{3}, 4096)
	if err := atomically(v, 0, young); !errors.Is(err, target.ErrMedium) || v.Err() == nil {
		t.Fatalf("%v, volume: %v", err, v.Err())
	}
	again, err := Open(cut(t, v.path), size, domain.DurabilityCached)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if !bytes.Equal(read(t, again, 0, 4096), young) {
		t.Error("it was not finished")
	}
}
