package journal

import (
	"fmt"
	"io"

	"github.com/holdfast-dr/holdfast/services/replicator/journal/vfs"
)

// wipeChunk is how much is overwritten with zeroes at a time.
const wipeChunk = 1 << 20

// ring maps positions, which only grow, to the ring part of a file. A frame that meets the end goes on at the start.
type ring struct {
	file vfs.File
	size int64
}

func (r ring) offset(pos int64) int64 { return ringOffset + pos%r.size }

// split calls do for the one or two pieces of [pos, pos+len(p)).
func (r ring) split(p []byte, pos int64, do func(p []byte, off int64) error) error {
	for len(p) > 0 {
		n := min(int64(len(p)), r.size-pos%r.size)
		if err := do(p[:n], r.offset(pos)); err != nil {
			return err
		}
		p, pos = p[n:], pos+n
	}
	return nil
}

// write makes p durable at pos.
func (r ring) write(p []byte, pos int64) error {
	return r.split(p, pos, func(p []byte, off int64) error { return whole(r.file.WriteSync, p, off, "write") })
}

// writeLoose writes without waiting for the disk: the seam of the mutant that acknowledges too early.
func (r ring) writeLoose(p []byte, pos int64) error {
	return r.split(p, pos, func(p []byte, off int64) error { return whole(r.file.WriteAt, p, off, "write") })
}

func (r ring) read(p []byte, pos int64) error {
	return r.split(p, pos, func(p []byte, off int64) error { return whole(r.file.ReadAt, p, off, "read") })
}

// wipe overwrites [from, to) with zeroes, durably.
func (r ring) wipe(from, to int64) error {
	if from >= to {
		return nil
	}
	zero := vfs.Aligned(int(min(wipeChunk, to-from)))
	for from < to {
		n := min(int64(len(zero)), to-from)
		if err := r.write(zero[:n], from); err != nil {
			return err
		}
		from += n
	}
	return nil
}

// whole makes a short transfer an error, even where the file says none.
func whole(do func([]byte, int64) (int, error), p []byte, off int64, what string) error {
	n, err := do(p, off)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
		if what == "read" {
			err = io.ErrUnexpectedEOF
		}
	}
	if err != nil {
		return fmt.Errorf("%s %d bytes at offset %d: %w", what, len(p), off, err)
	}
	return nil
}

// window reads a ring in large pieces and gives contiguous views of it.
type window struct {
	ring ring
	buf  []byte // aligned
	from int64  // position of buf[0]
	have int64
}

// newWindow is for `length` bytes of the ring; it holds a frame of any size, or all of them when that is less.
func newWindow(r ring, length int64) *window {
	return &window{ring: r, buf: vfs.Aligned(int(min(8<<20, length)))}
}

// at is n bytes from pos on, valid until the next call. limit is the position up to which reading ahead makes sense.
func (w *window) at(pos, n, limit int64) ([]byte, error) {
	if pos >= w.from && pos+n <= w.from+w.have {
		return w.buf[pos-w.from:][:n:n], nil
	}
	want := min(int64(len(w.buf)), max(n, limit-pos))
	if n > want {
		return nil, bad("%d bytes, the ring has %d", n, want)
	}
	w.have = 0
	if err := w.ring.read(w.buf[:want], pos); err != nil {
		return nil, err
	}
	w.from, w.have = pos, want
	return w.buf[:n:n], nil
}
