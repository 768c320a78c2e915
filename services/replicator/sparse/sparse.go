// Package sparse tells which blocks of a sparse file hold something, for GET LBA STATUS (SBC-4 section 5.7).
//
// A file system knows holes by its own blocks, of 4 KiB mostly; a logical block that was unmapped alone lies zeroed within
// one that stays allocated. Since an unmapped block reads as zeroes, and is told by that alone, the content decides where
// the file system cannot: a block that reads as zeroes is free, any other is mapped. So an answer is never wrong about data.
package sparse

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// BlockSize is the logical block length, in bytes.
const BlockSize = 512

// readBytes is how much is read at once.
const readBytes = 64 << 10

var zeroes [BlockSize]byte

// Extent says whether the block at off holds something, and how many bytes from there on are alike, a multiple of BlockSize.
// At most look bytes of content are read. Data beyond them is told as mapped, all that the file system knows: that may hide
// a free block, never a mapped one. size is the file's, off a multiple of BlockSize below it.
func Extent(f *os.File, size, off, look int64) (mapped bool, length int64, err error) {
	fd := int(f.Fd())
	data, err := unix.Seek(fd, off, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return false, size - off, nil
	}
	if err != nil {
		return false, 0, fmt.Errorf("seek data in %s: %w", f.Name(), err)
	}
	if data = data &^ (BlockSize - 1); data > off {
		return false, min(data, size) - off, nil
	}
	hole, err := unix.Seek(fd, off, unix.SEEK_HOLE)
	if err != nil {
		return false, 0, fmt.Errorf("seek hole in %s: %w", f.Name(), err)
	}
	end := min((hole+BlockSize-1)&^(BlockSize-1), size)
	return Content(f, off, end, min(off+look&^(BlockSize-1), end))
}

// Content is Extent for a stretch from off to end that takes space: it looks at the blocks up to limit.
func Content(f io.ReaderAt, off, end, limit int64) (mapped bool, length int64, err error) {
	if limit <= off {
		return true, end - off, nil
	}
	buf := make([]byte, min(readBytes, limit-off))
	for at := off; at < limit; at += int64(len(buf)) {
		buf = buf[:min(int64(len(buf)), limit-at)]
		if _, err := f.ReadAt(buf, at); err != nil {
			return false, 0, fmt.Errorf("read content at %d: %w", at, err)
		}
		for i := 0; i < len(buf); i += BlockSize {
			holds := !bytes.Equal(buf[i:i+BlockSize], zeroes[:])
			if at == off && i == 0 {
				mapped = holds
			}
			if holds != mapped {
				return mapped, at + int64(i) - off, nil
			}
		}
	}
	if mapped {
		return true, end - off, nil
	}
	return false, limit - off, nil
}
