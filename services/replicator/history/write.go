package history

import (
	"bytes"
	"fmt"
	"io"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/journal/vfs"
)

// Range is a stretch of a volume that is about to change.
type Range struct {
	Volume   int
	Off, Len int64
	// Data is what it will hold, Zero says zeroes. Neither: that is not known.
	Data []byte
	Zero bool
}

var zeroes [BlockSize]byte

const readBytes = 256 << 10

// Record keeps what the ranges hold now, where the newest checkpoint needs it: durable on return. Then, and only then, they
// may be overwritten. An error is one that must stop the copy, as Take's.
func (h *History) Record(ranges []Range) error {
	r := recorder{h: h, s: h.newest(), seen: map[uint64]bool{}}
	if r.s == nil {
		return nil
	}
	var err error
	for _, x := range ranges {
		if err = r.add(x); err != nil {
			break
		}
	}
	if err == nil {
		err = r.flush()
	}
	if err == nil && h.Bytes() <= h.keep.Load().Bytes {
		return nil
	}
	h.change.Lock()
	defer h.change.Unlock()
	if err == nil {
		err = h.limitBytes()
	}
	if err == nil {
		return nil
	}
	return h.abandon(fmt.Errorf("record what is to be overwritten: %w", err))
}

// recorder gathers the blocks of one Record.
type recorder struct {
	h    *History
	s    *segment // the open one; only this goroutine changes its index
	b    batch
	seen map[uint64]bool
	buf  []byte
}

func (r *recorder) add(x Range) error {
	size := r.h.cfg.Sizes[x.Volume]
	end := min(x.Off+x.Len, size)
	for at := x.Off / BlockSize * BlockSize; at < end; {
		if r.has(blockOf(x.Volume, at)) {
			at += BlockSize
			continue
		}
		n := int64(BlockSize)
		for at+n < end && n < readBytes && !r.has(blockOf(x.Volume, at+n)) {
			n += BlockSize
		}
		if x.Zero {
			skip, err := r.hole(x.Volume, at, end)
			if err != nil {
				return err
			}
			if skip > 0 {
				at += skip
				continue
			}
		}
		if err := r.blocks(x, at, n); err != nil {
			return err
		}
		at += n
	}
	return nil
}

func (r *recorder) has(block uint64) bool {
	_, ok := r.s.open[block]
	return ok || r.seen[block]
}

// hole is how many bytes from at on, whole blocks, take no space: zeroes over them change nothing.
func (r *recorder) hole(volume int, at, end int64) (int64, error) {
	mapped, n, err := r.h.cfg.Base[volume].Extent(at)
	if err != nil || mapped {
		return 0, err
	}
	if at+n >= end {
		return end - at + BlockSize - 1, nil
	}
	return n / BlockSize * BlockSize, nil
}

// blocks takes those of a stretch, none of which is there yet, that will not be what they are.
func (r *recorder) blocks(x Range, at, n int64) error {
	size := r.h.cfg.Sizes[x.Volume]
	if r.buf == nil {
		r.buf = make([]byte, readBytes)
	}
	buf := r.buf[:n]
	have := min(n, size-at)
	if m, err := r.h.cfg.Base[x.Volume].ReadAt(buf[:have], at); int64(m) < have {
		if err == nil {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("read %d bytes at %d of volume %d: %w", have, at, x.Volume, err)
	}
	clear(buf[have:])
	for i := int64(0); i < n; i += BlockSize {
		old := buf[i : i+BlockSize]
		if x.keeps(old, at+i) {
			continue
		}
		block := blockOf(x.Volume, at+i)
		r.seen[block] = true
		if bytes.Equal(old, zeroes[:]) {
			old = nil
		}
		r.b.add(block, old)
		if len(r.b.slots) == batchBlocks {
			if err := r.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// keeps reports whether the change leaves the block at `at`, which holds old, as it is.
func (x Range) keeps(old []byte, at int64) bool {
	from, to := max(x.Off, at), min(x.Off+x.Len, at+BlockSize)
	part := old[from-at : to-at]
	switch {
	case x.Zero:
		return bytes.Equal(part, zeroes[:len(part)])
	case x.Data != nil:
		return bytes.Equal(part, x.Data[from-x.Off:to-x.Off])
	}
	return false
}

// flush makes the batch durable, and then known.
func (r *recorder) flush() error {
	if len(r.b.slots) == 0 {
		return nil
	}
	slots, n, err := r.s.append(&r.b)
	if vfs.IsFull(err) {
		r.h.change.Lock()
		err = r.h.withRoom(func() (err error) {
			slots, n, err = r.s.append(&r.b)
			return err
		})
		r.h.change.Unlock()
	}
	if err != nil {
		return err
	}
	r.h.mu.Lock()
	for _, x := range slots {
		r.s.open[x.block] = x
	}
	r.s.size += n
	r.s.number++
	r.h.bytes += n
	r.h.mu.Unlock()
	r.b.slots, r.b.data = r.b.slots[:0], r.b.data[:0]
	clear(r.seen)
	return nil
}

// limitBytes drops the oldest checkpoints until the history is as small as it should be; an error says that the newest
// alone is larger. Call it under change.
func (h *History) limitBytes() error {
	for h.Bytes() > h.keep.Load().Bytes {
		if !h.dropOldest("") {
			return fmt.Errorf("more than %d bytes changed since the newest checkpoint: %w", h.keep.Load().Bytes, domain.ErrRefused)
		}
	}
	return nil
}

// newest is the open segment, nil when there is none.
func (h *History) newest() *segment {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if len(h.segs) == 0 {
		return nil
	}
	return h.segs[len(h.segs)-1]
}
