package layer

import (
	"slices"
	"sync"
	"sync/atomic"
)

// Chain is a volume's layers, the writable one first; it is a filevolume.Store. Its changes are called by one volume, which
// lets those that need to be Alone be so, and makes no change while Push runs.
type Chain struct {
	mu     sync.RWMutex // held by who uses a layer, against its being taken out
	layers atomic.Pointer[[]*Layer]
	closes func() error
}

// NewChain is a chain of layers, the top first; closes, when not nil, is called by Close: layers are shared.
func NewChain(layers []*Layer, closes func() error) *Chain {
	c := &Chain{closes: closes}
	c.put(slices.Clone(layers))
	return c
}

func (c *Chain) put(layers []*Layer) { c.layers.Store(&layers) }

// Push puts a new top on, to which all is written from now on. The old one must be durable.
func (c *Chain) Push(top *Layer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.put(append([]*Layer{top}, *c.layers.Load()...))
}

// Drop takes out a layer that was merged into the one below it. It returns when nobody reads it any more.
func (c *Chain) Drop(l *Layer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.put(slices.DeleteFunc(slices.Clone(*c.layers.Load()), func(x *Layer) bool { return x == l }))
}

// where is the layer that has the block at off, nil where nobody has it, and for how many bytes from there on that holds.
func (c *Chain) where(off, n int64) (*Layer, int64) {
	for _, l := range *c.layers.Load() {
		if l.blocks == nil {
			return l, n
		}
		here, run := l.blocks.run(off, n)
		if here {
			return l, run
		}
		n = run
		limit := l.Limit()
		if off >= limit {
			return nil, n
		}
		n = min(n, limit-off)
	}
	return nil, n
}

// ReadAt reads len(p) bytes, each from the layer that has it.
func (c *Chain) ReadAt(p []byte, off int64) (int, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.readAt(p, off)
}

func (c *Chain) readAt(p []byte, off int64) (int, error) {
	for at := 0; at < len(p); {
		l, run := c.where(off+int64(at), int64(len(p)-at))
		part := p[at : at+int(run)]
		if l == nil {
			clear(part)
		} else if n, err := l.data.ReadAt(part, off+int64(at)); err != nil {
			return at + n, err
		}
		at += int(run)
	}
	return len(p), nil
}

// TryRead fills p when that takes no disk.
func (c *Chain) TryRead(p []byte, off int64) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for at := 0; at < len(p); {
		l, run := c.where(off+int64(at), int64(len(p)-at))
		part := p[at : at+int(run)]
		if l == nil {
			clear(part)
		} else if !l.data.TryRead(part, off+int64(at)) {
			return false
		}
		at += int(run)
	}
	return true
}

func (c *Chain) top() *Layer { return (*c.layers.Load())[0] }

// Alone reports whether a change of this range covers a part of a block that the top does not have: then no other change
// may run beside it.
func (c *Chain) Alone(off, n int64) bool {
	t := c.top()
	if t.blocks == nil {
		return false
	}
	end := off + n
	return off%BlockSize != 0 && !t.blocks.has(off/BlockSize) || end%BlockSize != 0 && !t.blocks.has(end/BlockSize)
}

// WriteAt writes to the top. Blocks of which only a part is written are filled from below.
func (c *Chain) WriteAt(p []byte, off int64) (int, error) {
	t := c.top()
	if t.blocks == nil {
		return t.data.WriteAt(p, off)
	}
	data, at := p, off
	if c.Alone(off, int64(len(p))) {
		at = off / BlockSize * BlockSize
		data = make([]byte, (off+int64(len(p))+BlockSize-1)/BlockSize*BlockSize-at)
		for _, edge := range []int64{0, int64(len(data)) - BlockSize} {
			if _, err := c.ReadAt(data[edge:edge+BlockSize], at+edge); err != nil {
				return 0, err
			}
		}
		copy(data[off-at:], p)
	}
	if _, err := t.data.WriteAt(data, at); err != nil {
		return 0, err
	}
	t.mark(at, int64(len(data)))
	return len(p), nil
}

// Zero makes a range of the top read as zeroes.
func (c *Chain) Zero(off, n int64) error { return c.clear(off, n, Medium.Zero) }

// Unmap makes a range of the top read as zeroes, and take no space in it.
func (c *Chain) Unmap(off, n int64) error { return c.clear(off, n, Medium.Unmap) }

func (c *Chain) clear(off, n int64, how func(m Medium, off, n int64) error) error {
	t := c.top()
	if t.blocks == nil {
		return how(t.data, off, n)
	}
	from, to := (off+BlockSize-1)/BlockSize*BlockSize, (off+n)/BlockSize*BlockSize
	if from >= to { // within a block or two
		_, err := c.WriteAt(make([]byte, n), off)
		return err
	}
	// A block that is not in the top yet takes no space there: there is nothing to keep allocated.
	if err := t.data.Unmap(from, to-from); err != nil {
		return err
	}
	t.mark(from, to-from)
	for _, edge := range [][2]int64{{off, from}, {to, off + n}} {
		if edge[0] < edge[1] {
			if _, err := c.WriteAt(make([]byte, edge[1]-edge[0]), edge[0]); err != nil {
				return err
			}
		}
	}
	return nil
}

// Extent tells whether off takes space in any layer that shows it, and for how many bytes from there on that holds.
func (c *Chain) Extent(off int64) (mapped bool, length int64, err error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	l, run := c.where(off, c.top().Size()-off)
	if l == nil {
		return false, run, nil
	}
	mapped, length, err = l.data.Extent(off)
	return mapped, min(run, length), err
}

// Sync makes everything durable; what is below the top is.
func (c *Chain) Sync() error {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.top().Sync()
}

// Close lets go of the layers.
func (c *Chain) Close() error {
	if c.closes == nil {
		return nil
	}
	return c.closes()
}
