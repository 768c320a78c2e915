package group

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/extent"
	"github.com/holdfast-dr/holdfast/services/replicator/hashmap"
)

// takes fails when f takes more memory than most bytes.
func takes(t *testing.T, most uint64, f func()) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > most {
		t.Fatalf("%d bytes of memory", n)
	}
}

// FuzzDirtyMap: the file of a dirty map is read as it was written, or is damaged; nothing panics.
func FuzzDirtyMap(f *testing.F) {
	sizes := []int64{1 << 20, 8192}
	d := &dirtyMap{base: 7, upto: 99, set: extent.New(sizes[:1])}
	f.Add(d.encode())
	d.set.Mark(0, 8192, 4096)
	f.Add(d.encode())
	f.Add(make([]byte, 20)) // a file that lost its content: the sum of nothing is right
	f.Fuzz(func(t *testing.T, b []byte) {
		summed := bytes.Clone(b)
		if n := len(b); n >= 20 {
			binary.LittleEndian.PutUint32(summed[n-4:], crc32.Checksum(summed[16:n-4], castagnoli))
		}
		for _, b := range [][]byte{b, summed} {
			takes(t, 1<<20, func() {
				got, err := decodeDirty(b, sizes)
				if err != nil {
					if !errors.Is(err, extent.ErrDamaged) {
						t.Fatalf("%v is not ErrDamaged", err)
					}
					return
				}
				again, err := decodeDirty(got.encode(), sizes)
				if err != nil || again.base != got.base || again.upto != got.upto || got.upto < got.base ||
					!slices.Equal(slices.Collect(again.set.Runs(0)), slices.Collect(got.set.Runs(0))) {
					t.Fatalf("%+v became %+v (%v)", got, again, err)
				}
			})
		}
	})
}

// FuzzStage: whatever a stage's file holds, what counts of it is whole records, and the image over it is what they say, one after the
// other.
func FuzzStage(f *testing.F) {
	sizes := []int64{64 << 10, 8192 + 512}
	one := record{kind: recordData, off: 4096, length: 8192, payload: bytes.Repeat([]byte("ab"), 4096)}
	short := record{kind: recordData, volume: 1, off: 8192, length: 512, payload: bytes.Repeat([]byte{7}, 512)}
	zero := record{kind: recordZero, off: 8192, length: 16384}
	f.Add(zero.append(one.append(nil)))
	f.Add(one.append(zero.append(short.append(nil))))
	f.Add(record{kind: recordData, off: 0, length: 512, payload: short.payload}.append(one.append(nil)))
	f.Add(record{kind: recordFrame, length: maxRecordBytes}.append(nil))
	path := filepath.Join(f.TempDir(), "stage")
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range [][]byte{b, resummed(b)} {
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			file, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			var left *resumed
			takes(t, 4*maxRecordBytes+uint64(16*len(b)), func() { left, err = leftInStage(file, sizes) })
			if err != nil || left.bytes > int64(len(b)) {
				t.Fatalf("%d bytes of %d, %v", left.bytes, len(b), err)
			}
			checkStaged(t, file, b, left, sizes)
			_ = file.Close()
		}
	})
}

// checkStaged holds the image over a stage against its records, taken one after the other.
func checkStaged(t *testing.T, file *os.File, b []byte, left *resumed, sizes []int64) {
	t.Helper()
	want := [][]byte{make([]byte, sizes[0]), make([]byte, sizes[1])}
	covered := extent.New(sizes)
	for at := b[:left.bytes]; len(at) > 0; {
		_, n, _, err := parseRecordHeader(at)
		if err != nil {
			t.Fatal(err)
		}
		r, err := parseRecord(at[:recordHeader+n], sizes)
		if err != nil || r.kind == recordFrame {
			t.Fatalf("kind %d, %v", r.kind, err)
		}
		clear(want[r.volume][r.off : r.off+r.length])
		copy(want[r.volume][r.off:], r.payload)
		covered.Mark(int(r.volume), r.off, r.length)
		at = at[recordHeader+n:]
	}
	if !slices.Equal(slices.Collect(covered.Runs(0)), slices.Collect(left.set.Runs(0))) {
		t.Fatal("it covers other blocks than its records do")
	}
	for v, size := range sizes {
		got := make([]byte, size)
		if _, err := (stagedImage{nothing{}, file, left.index[v]}).ReadAt(got, 0); err != nil || !bytes.Equal(got, want[v]) {
			t.Fatalf("the image of volume %d is another (%v)", v, err)
		}
	}
}

// resummed gives each record of a stage a right checksum, so that the fuzzer gets behind it.
func resummed(b []byte) []byte {
	b = bytes.Clone(b)
	for at := b; len(at) >= recordHeader; {
		_, n, _, err := parseRecordHeader(at)
		if err != nil || int64(len(at)) < recordHeader+n {
			break
		}
		binary.LittleEndian.PutUint32(at[4:], crc32.Checksum(at[recordHeader:recordHeader+n], castagnoli))
		at = at[recordHeader+n:]
	}
	return b
}

// FuzzHashQuestion: a question for sums is of a stretch that the volume has, or refused.
func FuzzHashQuestion(f *testing.F) {
	sizes := []int64{1 << 20, hashmap.Stretch + 512}
	ask := func(volume uint16, off uint64, q hashmap.Question) []byte {
		b := binary.LittleEndian.AppendUint16(nil, volume)
		return append(binary.LittleEndian.AppendUint64(b, off), q.Encode()...)
	}
	f.Add(ask(0, 0, hashmap.Question{Level: 1, Nodes: []uint32{0, 5, 63}}))
	f.Add(ask(1, hashmap.Stretch, hashmap.Question{Nodes: []uint32{0}}))
	f.Add(ask(2, 1<<63, hashmap.Question{}))
	f.Fuzz(func(t *testing.T, b []byte) {
		takes(t, 1<<20+uint64(16*len(b)), func() {
			at, q, err := parseHashQuestion(b, sizes)
			if err != nil {
				if !errors.Is(err, domain.ErrInvalid) {
					t.Fatalf("%v is not ErrInvalid", err)
				}
				return
			}
			if at.off < 0 || at.length <= 0 || at.length > hashmap.Stretch || at.off+at.length > sizes[at.volume] {
				t.Fatalf("%+v of a volume of %d bytes", at, sizes[at.volume])
			}
			again, p, err := parseHashQuestion(ask(uint16(at.volume), uint64(at.off), q), sizes)
			if err != nil || again != at || p.Level != q.Level || !slices.Equal(p.Nodes, q.Nodes) {
				t.Fatalf("%+v %+v became %+v %+v (%v)", at, q, again, p, err)
			}
		})
	})
}
