package layer

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
)

// Medium is what a layer's data, or its map, is kept in: a blockfile.File.
type Medium interface {
	ReadAt(p []byte, off int64) (int, error)
	TryRead(p []byte, off int64) bool
	WriteAt(p []byte, off int64) (int, error)
	Zero(off, n int64) error
	Unmap(off, n int64) error
	Extent(off int64) (mapped bool, length int64, err error)
	Sync() error
	Close() error
}

// Layer is one layer of a chain.
type Layer struct {
	data   Medium
	blocks *bitmap // nil: every block is here
	limit  atomic.Int64
	size   atomic.Int64

	syncing sync.Mutex
	flush   func(l *Layer) error // Sync; a mutant's in tests
}

// Base is a layer that has every block.
func Base(data Medium, size int64) *Layer {
	l := &Layer{data: data, flush: flushInOrder}
	l.size.Store(size)
	return l
}

// Delta is a layer over another, of whose size bytes limit show through where this one has no block. blocks is its map, of
// MapSize(size) bytes; zeroes in a new one. shadow may be nil.
func Delta(data, blocks Medium, shadow Shadow, size, limit int64) (*Layer, error) {
	b, err := readBitmap(blocks, size, shadow)
	if err != nil {
		return nil, err
	}
	l := &Layer{data: data, blocks: b, flush: flushInOrder}
	l.size.Store(size)
	l.limit.Store(limit)
	return l, nil
}

// Size is the layer's length in bytes.
func (l *Layer) Size() int64 { return l.size.Load() }

// Limit is how many bytes of its parent show through.
func (l *Layer) Limit() int64 { return l.limit.Load() }

// Held is how many bytes of blocks the layer has.
func (l *Layer) Held() int64 {
	if l.blocks == nil {
		return l.Size()
	}
	return l.blocks.count() * BlockSize
}

// Grow makes the layer longer; its files are already. Nobody may write to it meanwhile.
func (l *Layer) Grow(size int64) error {
	if l.blocks != nil {
		if err := l.blocks.grow(size); err != nil {
			return err
		}
	}
	l.size.Store(max(size, l.size.Load()))
	return nil
}

// Cut notes, after a Merge, that the layer ends at size; its data is cut off by the caller.
func (l *Layer) Cut(size int64) {
	if l.blocks != nil {
		l.blocks.cut(size)
	}
	l.size.Store(size)
	l.limit.Store(min(l.limit.Load(), size))
}

// Sync makes everything durable that was written before, in the order that the package promises.
func (l *Layer) Sync() error {
	l.syncing.Lock()
	defer l.syncing.Unlock()
	return l.flush(l)
}

func flushInOrder(l *Layer) error {
	var pages []copied
	if l.blocks != nil {
		pages = l.blocks.take()
	}
	err := l.data.Sync()
	if err == nil && len(pages) > 0 {
		err = l.blocks.put(pages)
	}
	if err != nil && l.blocks != nil {
		l.blocks.again()
	}
	return err
}

// Close lets go of the layer's files; it makes nothing durable.
func (l *Layer) Close() error {
	err := l.data.Close()
	if l.blocks != nil {
		err = errors.Join(err, l.blocks.medium.Close())
	}
	return err
}

// mark notes the blocks that a range covers as here.
func (l *Layer) mark(off, n int64) {
	if l.blocks != nil {
		l.blocks.set(off/BlockSize, (off+n+BlockSize-1)/BlockSize)
	}
}

// Merge copies what l has, and the zeroes beyond its limit, into parent, and makes that durable. l must be frozen, parent as
// long at least, and read by nobody but through l. More says, before each piece, whether to go on; it may be done again
// after an error or a stop.
func Merge(l, parent *Layer, more func() error) error {
	if l.blocks == nil {
		return errors.New("merge a layer that has no parent")
	}
	for off := int64(0); off < l.Size(); {
		if err := more(); err != nil {
			return fmt.Errorf("merge a layer: %w", err)
		}
		here, run := l.blocks.run(off, min(l.Size()-off, mergePiece))
		var err error
		switch {
		case here:
			run, err = l.copyDown(parent, off, run)
		case off >= l.Limit():
			if err = parent.data.Unmap(off, run); err == nil {
				parent.mark(off, run)
			}
		default:
			run = min(run, l.Limit()-off)
		}
		if err != nil {
			return fmt.Errorf("merge a layer at %d: %w", off, err)
		}
		off += run
	}
	if parent.blocks != nil {
		parent.blocks.again() // an attempt before this one may have failed after its bits were taken
	}
	return parent.Sync()
}

const mergePiece = 1 << 20

// copyDown copies one stretch of data or hole of n bytes at most, and says how long it was.
func (l *Layer) copyDown(parent *Layer, off, n int64) (int64, error) {
	mapped, run, err := l.data.Extent(off)
	if err != nil {
		return 0, err
	}
	run = min(n, run)
	if run%BlockSize != 0 && run < n { // a file system with smaller blocks
		run, mapped = min(n, run/BlockSize*BlockSize+BlockSize), true
	}
	if !mapped {
		err = parent.data.Unmap(off, run)
	} else {
		buf := make([]byte, run)
		if _, err = l.data.ReadAt(buf, off); err == nil {
			_, err = parent.data.WriteAt(buf, off)
		}
	}
	if err == nil {
		parent.mark(off, run)
	}
	return run, err
}
