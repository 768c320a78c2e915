package sparse

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

const size = 4 << 20

func newFile(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestASingleFreeBlockIsToldBetweenItsNeighbours(t *testing.T) {
	f := newFile(t)
	if _, err := f.WriteAt(bytes.Repeat([]byte{1}, 8192), 65536); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(make([]byte, BlockSize), 65536+3*BlockSize); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		off, look int64
		mapped    bool
		length    int64
	}{
		{0, size, false, 65536},
		{65536, size, true, 3 * BlockSize},
		{65536 + 3*BlockSize, size, false, BlockSize},
		{65536 + 4*BlockSize, size, true, 8192 - 4*BlockSize},
		{65536 + 8192, size, false, size - 65536 - 8192},
		{65536, 0, true, 8192},                 // not looked at: as the file system says
		{65536, 2 * BlockSize, true, 8192},     // the look ended in data
		{65536 + 3*BlockSize, 600, false, 512}, // and in a free block
	} {
		mapped, length, err := Extent(f, size, c.off, c.look)
		if err != nil || mapped != c.mapped || length != c.length {
			t.Errorf("at %d, looking at %d: %v %d %v, want %v %d", c.off, c.look, mapped, length, err, c.mapped, c.length)
		}
	}
}

// TestNoBlockThatHoldsDataIsEverToldFree checks random files block by block, with any look.
func TestNoBlockThatHoldsDataIsEverToldFree(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	for range 20 {
		f := newFile(t)
		image := make([]byte, size)
		for range rnd.IntN(60) {
			off, n := rnd.IntN(size/BlockSize)*BlockSize, (1+rnd.IntN(64))*BlockSize
			n = min(n, size-off)
			part := bytes.Repeat([]byte{byte(rnd.IntN(3))}, n)
			copy(image[off:], part)
			if _, err := f.WriteAt(part, int64(off)); err != nil {
				t.Fatal(err)
			}
		}
		for _, look := range []int64{0, int64(rnd.IntN(size)), size} {
			for off := int64(0); off < size; {
				mapped, n, err := Extent(f, size, off, look)
				if err != nil || n <= 0 || n%BlockSize != 0 || off+n > size {
					t.Fatalf("at %d, looking at %d: %v %d %v", off, look, mapped, n, err)
				}
				for at := off; at < off+n; at += BlockSize {
					holds := !bytes.Equal(image[at:at+BlockSize], make([]byte, BlockSize))
					if holds && !mapped || look == size && holds != mapped {
						t.Fatalf("block at %d is told mapped %v, holds something: %v (look %d)", at, mapped, holds, look)
					}
				}
				off += n
			}
		}
	}
}
