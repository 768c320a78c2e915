package history

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"runtime"
	"slices"
	"testing"

	"github.com/holdfast-dr/holdfast/services/replicator/journal/faultdisk"
	"github.com/holdfast-dr/holdfast/services/replicator/journal/vfs"
)

// FuzzSegment: whatever a segment's file holds, opening it never panics, takes no more memory than the file, and what counts of it is
// read or damaged. first, head and data are the first page, the head of a batch and its payload; listed is how many pages the
// list says are durable.
func FuzzSegment(f *testing.F) {
	whole := segmentOf(f, []byte{1}, nil, bytes.Repeat([]byte{2}, BlockSize))
	pages := func(from, to int) []byte { return bytes.TrimRight(whole[from*BlockSize:to*BlockSize], "\x00") }
	f.Add(pages(0, 1), pages(1, 2), pages(2, 4), uint16(4), false)
	f.Add(pages(0, 1), pages(1, 2), pages(2, 3), uint16(1), true)
	f.Add(pages(0, 1), pages(1, 2), []byte{}, uint16(0xffff), false)
	f.Add([]byte{}, []byte{}, []byte{}, uint16(0), true)
	f.Fuzz(func(t *testing.T, first, head, data []byte, listed uint16, last bool) {
		for _, summed := range []bool{false, true} {
			b := segmentFile(first, head, data, summed)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			openedAndRead(t, b, int64(listed)*BlockSize, last)
			runtime.ReadMemStats(&after)
			if n := after.TotalAlloc - before.TotalAlloc; n > uint64(8*len(b))+1<<20 {
				t.Fatalf("%d bytes of memory for a file of %d", n, len(b))
			}
		}
		if n := min(len(data), 8*BlockSize); n > 0 {
			writtenAndRead(t, data[:n])
		}
	})
}

// segmentOf is the file of a segment with a batch of blocks 0, 1 and so on; nil content is zeroes.
func segmentOf(t testing.TB, blocks ...[]byte) []byte {
	t.Helper()
	disk, b := faultdisk.New(1), batch{}
	h := &History{cfg: Config{FS: disk, Dir: "h"}}
	s, err := h.createSegment(1, Point{LSN: 1})
	if err != nil {
		t.Fatal(err)
	}
	for i, content := range blocks {
		if content != nil {
			content = append(bytes.Clone(content), make([]byte, BlockSize-len(content))...)
		}
		b.add(blockOf(0, int64(i)*BlockSize), content)
	}
	if _, _, err := s.append(&b); err != nil {
		t.Fatal(err)
	}
	return disk.Bytes(h.path(1))
}

// segmentFile is a file of the parts, each in whole pages; summed: with right checksums, so that the fuzzer gets behind them.
func segmentFile(first, head, data []byte, summed bool) []byte {
	page := func(b []byte) []byte {
		return append(bytes.Clone(b), make([]byte, (BlockSize-len(b)%BlockSize)%BlockSize)...)
	}
	f := append(page(first[:min(len(first), BlockSize)]), page(head)...)
	if summed && len(f) >= 2*BlockSize {
		le := binary.LittleEndian
		le.PutUint32(f, segmentMagic)
		le.PutUint64(f[8:], 1)
		le.PutUint32(f[32:], crc32.Checksum(f[:32], castagnoli))
		b := f[BlockSize:]
		le.PutUint32(b, batchMagic)
		le.PutUint64(b[8:], 1)
		copy(b[16:32], f[16:32])
		if n := batchHead(int(le.Uint32(b[4:]) % (batchBlocks + 1))); int64(len(b)) >= n {
			le.PutUint32(b[36:], headCRC(b[:n]))
		}
	}
	return append(f, page(data)...)
}

// openedAndRead opens a segment and reads all that it has.
func openedAndRead(t *testing.T, b []byte, listedBytes int64, last bool) {
	t.Helper()
	h := &History{cfg: Config{FS: fileOf(t, b), Dir: "h", Sizes: []int64{oracleBytes}}}
	s, err := h.openSegment(listed{Seq: 1, Point: Point{LSN: 1}, Bytes: listedBytes}, last)
	if err != nil {
		if !errors.Is(err, ErrDamaged) && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("%v is not ErrDamaged", err)
		}
		return
	}
	h.segs = []*segment{s}
	if len(s.slots()) > len(b)/entrySize {
		t.Fatalf("%d blocks of a file of %d bytes", len(s.slots()), len(b))
	}
	if err := s.verify(s.slots()); err != nil && !errors.Is(err, ErrDamaged) {
		t.Fatal(err)
	}
	inside := func(volume int, off, length int64) {
		if volume != 0 || off < 0 || length <= 0 || off+length > oracleBytes {
			t.Fatalf("%d bytes at %d of volume %d", length, off, volume)
		}
	}
	if err := h.Changed(1, inside); err != nil {
		t.Fatal(err)
	}
	err = h.Restore(1, func(volume int, off int64, data []byte) error {
		inside(volume, off, int64(max(len(data), 1)))
		return nil
	})
	if err != nil && !errors.Is(err, ErrDamaged) {
		t.Fatal(err)
	}
}

// fileOf is a disk with a segment's file on it.
func fileOf(t *testing.T, b []byte) *faultdisk.Disk {
	t.Helper()
	disk := faultdisk.New(1)
	f, err := disk.Create("h/" + segmentName(1))
	if err == nil && len(b) > 0 {
		p := vfs.Aligned(len(b))
		copy(p, b)
		_, err = f.WriteSync(p, 0)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	return disk
}

// writtenAndRead writes content as blocks, every other one of them zeroes, and reads it again.
func writtenAndRead(t *testing.T, data []byte) {
	t.Helper()
	var blocks [][]byte
	for c := range slices.Chunk(data, BlockSize) {
		blocks = append(blocks, c, nil)
	}
	b := segmentOf(t, blocks...)
	h := &History{cfg: Config{FS: fileOf(t, b), Dir: "h"}}
	s, err := h.openSegment(listed{Seq: 1, Bytes: int64(len(b))}, false)
	if err != nil || len(s.slots()) != len(blocks) {
		t.Fatalf("%d blocks written: %v", len(blocks), err)
	}
	page := vfs.Aligned(BlockSize)
	for i, want := range blocks {
		x, there := s.find(blockOf(0, int64(i)*BlockSize))
		if err := s.load(x, page); err != nil || !there || !bytes.Equal(page[:len(want)], want) || !bytes.Equal(page[len(want):], zeroes[len(want):]) {
			t.Fatalf("block %d is another (%v)", i, err)
		}
	}
}
