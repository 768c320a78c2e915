package blockfile

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

func TestZeroFallsBackToWriting(t *testing.T) {
	const size = 1 << 20
	path := filepath.Join(t.TempDir(), "v.img")
	if err := os.WriteFile(path, bytes.Repeat([]byte{1}, size), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path, size, Cached)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.clear(0x8000, 512, size-1024); err != nil { // a mode no file system has
		t.Fatal(err)
	}
	got := make([]byte, size)
	if _, err := f.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	if got[0] != 1 || got[size-1] != 1 || !bytes.Equal(got[512:size-512], make([]byte, size-1024)) {
		t.Fatal("the range is not zero, or more than it")
	}
}

func TestAHoleTakesNoSpace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "v.img")
	if err := os.WriteFile(path, bytes.Repeat([]byte{1}, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path, 0, Cached)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Unmap(0, 1<<20-65536); err != nil {
		t.Fatal(err)
	}
	if mapped, n, err := f.Extent(0); err != nil || mapped || n != 1<<20-65536 {
		t.Errorf("%v %d %v", mapped, n, err)
	}
	if n, err := f.Allocated(); err != nil || n > 1<<18 {
		t.Errorf("%d bytes allocated, %v", n, err)
	}
}

func TestAShadowOutlivesItsProcessAndNotItsBoot(t *testing.T) {
	path := filepath.Join(t.TempDir(), "v.live")
	bits := func(n int64) ([]byte, bool) {
		t.Helper()
		s, err := OpenShadow(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		b, kept, err := s.Bits(n)
		if err != nil {
			t.Fatal(err)
		}
		return b, kept
	}
	b, kept := bits(4096)
	if kept {
		t.Error("a new one has bits")
	}
	b[7] = 1
	if b, kept = bits(8192); !kept || b[7] != 1 || b[4096] != 0 {
		t.Errorf("kept %v, bit %d", kept, b[7])
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("x"), 3); err != nil { // the name of another boot
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if b, kept = bits(4096); kept || b[7] != 0 {
		t.Errorf("another boot's bits are taken: %v %d", kept, b[7])
	}
}

func TestDirectTransfersAgreeWithCachedOnes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "v.img")
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path, 0, Direct)
	if errors.Is(err, domain.ErrInvalid) {
		t.Skipf("SKIPPED: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	want := make([]byte, 1<<20)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 400 {
		at, n := rng.IntN(2000), 1+rng.IntN(40)
		if i%2 == 0 {
			at, n = at/8*8, (n+7)/8*8
		}
		memory := make([]byte, 512*n+8)[8*(i%3/2):] // aligned or not
		data := memory[:512*n]
		for j := range data {
			data[j] = byte(i + j)
		}
		if at*512+len(data) > len(want) {
			continue
		}
		if _, err := f.WriteAt(data, int64(at)*512); err != nil {
			t.Fatal(err)
		}
		copy(want[at*512:], data)
		if got := make([]byte, len(data)); i%5 == 0 {
			if _, err := f.ReadAt(got, int64(at)*512); err != nil || !bytes.Equal(got, data) {
				t.Fatalf("read %d: %v", i, err)
			}
		}
	}
	got := aligned(1 << 20)
	if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("direct: %v", err)
	}
	if cached, err := os.ReadFile(path); err != nil || !bytes.Equal(cached, want) {
		t.Errorf("cached: %v", err)
	}
}
