package extent_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"github.com/holdfast-dr/holdfast/services/replicator/extent"
)

func TestSetAgreesWithAPlainModel(t *testing.T) {
	for seed := range uint64(400) {
		r := rand.New(rand.NewPCG(seed, 2))
		sizes := []int64{int64(r.IntN(300)+1) * extent.Block, int64(r.IntN(5)+1)*extent.Block + 512}
		s := extent.New(sizes)
		model := map[[2]int64]bool{}
		for range r.IntN(30) {
			v := r.IntN(2)
			off := r.Int64N(sizes[v])
			n := r.Int64N(sizes[v]/2 + 1)
			s.Mark(v, off, n)
			for b := off / extent.Block; n > 0 && b <= (off+n-1)/extent.Block && b*extent.Block < sizes[v]; b++ {
				model[[2]int64{int64(v), b}] = true
			}
		}
		back, err := extent.Decode(s.Encode(), sizes)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for _, set := range []*extent.Set{s, back, s.Clone()} {
			check(t, seed, set, model, sizes)
		}
	}
}

func check(t *testing.T, seed uint64, s *extent.Set, model map[[2]int64]bool, sizes []int64) {
	t.Helper()
	var bytes int64
	seen := 0
	for run := range s.Runs(16 * extent.Block) {
		if run.Len > 16*extent.Block || run.Off+run.Len > sizes[run.Volume] {
			t.Fatalf("seed %d: run %+v", seed, run)
		}
		bytes += run.Len
		for off := run.Off; off < run.Off+run.Len; off += extent.Block {
			seen++
			if !model[[2]int64{int64(run.Volume), off / extent.Block}] {
				t.Fatalf("seed %d: block %d of volume %d was never marked", seed, off/extent.Block, run.Volume)
			}
		}
	}
	if seen != len(model) || bytes != s.Bytes() {
		t.Fatalf("seed %d: %d blocks of %d, %d bytes of %d", seed, seen, len(model), bytes, s.Bytes())
	}
}

func TestDamagedSetsAreRefused(t *testing.T) {
	sizes := []int64{1 << 20}
	s := extent.New(sizes)
	s.Mark(0, 8192, 4096)
	b := s.Encode()
	for i := range b {
		c := append([]byte(nil), b...)
		c[i] ^= 0x41
		if _, err := extent.Decode(c, sizes); !errors.Is(err, extent.ErrDamaged) {
			t.Fatalf("byte %d flipped: %v", i, err)
		}
	}
	if _, err := extent.Decode(b, []int64{2 << 20}); !errors.Is(err, extent.ErrDamaged) {
		t.Fatalf("other geometry: %v", err)
	}
}

func TestBytesThatSayNothingAreNoSet(t *testing.T) {
	for n := range 64 {
		if _, err := extent.Decode(make([]byte, n), []int64{1 << 20}); !errors.Is(err, extent.ErrDamaged) {
			t.Fatalf("%d zeroes: %v", n, err)
		}
	}
}

// FuzzDecode: never panics, takes no more memory than the volumes' maps, and what it takes is read again from what Encode makes of it.
func FuzzDecode(f *testing.F) {
	sizes := []int64{1 << 20, 512<<10 + 512}
	s := extent.New(sizes[:1])
	f.Add(s.Encode())
	s.Mark(0, 8192, 40960)
	f.Add(s.Encode())
	s.Grow(sizes)
	s.Mark(1, 512<<10, 512)
	f.Add(s.Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range [][]byte{b, resummed(b)} {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			got, err := extent.Decode(b, sizes)
			runtime.ReadMemStats(&after)
			if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
				t.Fatalf("%d bytes of memory for %d", n, len(b))
			}
			if err != nil {
				if !errors.Is(err, extent.ErrDamaged) {
					t.Fatalf("%v is not ErrDamaged", err)
				}
				continue
			}
			if got.Bytes() > sizes[0]+sizes[1] {
				t.Fatal("more bytes than the volumes have")
			}
			again, err := extent.Decode(got.Encode(), sizes)
			if err != nil || !slices.Equal(slices.Collect(again.Runs(0)), slices.Collect(got.Runs(0))) {
				t.Fatalf("what was read is another set when it was written again: %v", err)
			}
		}
	})
}

// resummed gives b a right checksum, so that the fuzzer gets behind it.
func resummed(b []byte) []byte {
	return binary.LittleEndian.AppendUint32(bytes.Clone(b), crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
}
