package iscsi

import "sync"

// bufferClasses are the sizes a Pool keeps; a request beyond the last is allocated and left to the collector.
var bufferClasses = [...]int{4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20}

// Pool hands out byte buffers by size class. The zero value works; one pool serves any number of connections.
type Pool struct {
	classes [len(bufferClasses)]sync.Pool
}

// Buffer is memory from a Pool, used by one owner at a time.
type Buffer struct {
	mem  []byte
	home *sync.Pool
}

// Get returns a buffer of at least n bytes; its content is whatever it last held. The caller has checked n against its
// own limit.
func (p *Pool) Get(n int) *Buffer {
	for i, size := range bufferClasses {
		if n > size {
			continue
		}
		if b, ok := p.classes[i].Get().(*Buffer); ok {
			return b
		}
		return &Buffer{mem: make([]byte, size), home: &p.classes[i]}
	}
	return &Buffer{mem: make([]byte, n)}
}

// Bytes is the first n bytes of b.
func (b *Buffer) Bytes(n int) []byte { return b.mem[:n] }

// Release gives b back. It is used no more after that. Release of nil does nothing.
func (b *Buffer) Release() {
	if b != nil && b.home != nil {
		b.home.Put(b)
	}
}
