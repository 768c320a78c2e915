package layer

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"sync/atomic"
	"unsafe"
)

const (
	// BlockSize is what is copied, in bytes.
	BlockSize = 4096
	// pageSize is what is written of a map at once; wordsPerPage 64-bit words fit.
	pageSize     = 4096
	wordsPerPage = pageSize / 8
	blocksPerMap = pageSize * 8 // of one page
)

// MapSize is the length of the map of a layer of size bytes, in bytes.
func MapSize(size int64) int64 {
	blocks := (size + BlockSize - 1) / BlockSize
	return (blocks + blocksPerMap - 1) / blocksPerMap * pageSize
}

// Shadow is where a map's bits are kept so that the death of the process alone does not lose them: memory of the machine.
// Without it a process that is killed forgets which blocks its last writes reached, as a power cut does.
type Shadow interface {
	// Bits is n bytes at an address that is a multiple of 8, the same memory each time, with zeroes behind what it held
	// before. kept says that it holds what this map's last process left there; otherwise it is zeroes.
	Bits(n int64) (bits []byte, kept bool, err error)
}

// bitmap is which blocks a layer has. Bits are set concurrently, without a lock.
type bitmap struct {
	medium Medium
	shadow Shadow // nil: none
	all    atomic.Pointer[mapPages]
}

type mapPages struct {
	words []atomic.Uint64
	dirty []atomic.Bool // one a page: set after its bits, cleared before they are copied
}

func (b *bitmap) pages(n int64) (p *mapPages, kept bool, err error) {
	p = &mapPages{dirty: make([]atomic.Bool, n/pageSize)}
	if b.shadow == nil {
		p.words = make([]atomic.Uint64, n/8)
		return p, false, nil
	}
	raw, kept, err := b.shadow.Bits(n)
	if err != nil {
		return nil, false, fmt.Errorf("keep the map in memory: %w", err)
	}
	p.words = unsafe.Slice((*atomic.Uint64)(unsafe.Pointer(unsafe.SliceData(raw))), n/8)
	return p, kept, nil
}

// readBitmap takes the bits of the medium, and those that a process that was killed set and did not make durable.
func readBitmap(m Medium, size int64, sh Shadow) (*bitmap, error) {
	raw := make([]byte, MapSize(size))
	if _, err := m.ReadAt(raw, 0); err != nil {
		return nil, fmt.Errorf("read the map: %w", err)
	}
	b := &bitmap{medium: m, shadow: sh}
	p, kept, err := b.pages(int64(len(raw)))
	if err != nil {
		return nil, err
	}
	for i := range p.words {
		durable := binary.LittleEndian.Uint64(raw[8*i:])
		// What the killed process wrote of the map is read here, durable or not: only another flush tells.
		if p.words[i].Or(durable); kept && p.words[i].Load() != 0 {
			p.dirty[i/wordsPerPage].Store(true)
		}
	}
	b.all.Store(p)
	return b, nil
}

// grow makes room for a larger layer. Nobody may set bits meanwhile; reading them is fine.
func (b *bitmap) grow(size int64) error {
	old := b.all.Load()
	n := MapSize(size)
	if n <= int64(len(old.words))*8 {
		return nil
	}
	p, _, err := b.pages(n)
	if err != nil {
		return err
	}
	for i := range old.words {
		p.words[i].Store(old.words[i].Load())
	}
	for i := len(old.words); i < len(p.words); i++ {
		p.words[i].Store(0) // a longer life of the layer may have left something in the shadow
	}
	for i := range old.dirty {
		p.dirty[i].Store(old.dirty[i].Load())
	}
	b.all.Store(p)
	return nil
}

// cut forgets the blocks behind the end of a layer that became shorter.
func (b *bitmap) cut(size int64) {
	p := b.all.Load()
	for at := (size + BlockSize - 1) / BlockSize; at < int64(len(p.words))*64; at += 64 - at%64 {
		p.words[at/64].And(^(^uint64(0) << (at % 64)))
		p.dirty[at/64/wordsPerPage].Store(true)
	}
}

// again makes the next flush write every page: what earlier ones took may not have come to the medium.
func (b *bitmap) again() {
	p := b.all.Load()
	for i := range p.dirty {
		p.dirty[i].Store(true)
	}
}

func (b *bitmap) has(block int64) bool {
	return b.all.Load().words[block/64].Load()>>(block%64)&1 == 1
}

// count is how many blocks are here.
func (b *bitmap) count() int64 {
	n := 0
	words := b.all.Load().words
	for i := range words {
		n += bits.OnesCount64(words[i].Load())
	}
	return int64(n)
}

// run tells whether the block of byte off is here, and for how many bytes from off on, at most n, the answer is the same.
func (b *bitmap) run(off, n int64) (here bool, same int64) {
	first, end := off/BlockSize, (off+n+BlockSize-1)/BlockSize
	words := b.all.Load().words
	here = words[first/64].Load()>>(first%64)&1 == 1
	at := first
	for at < end {
		w := words[at/64].Load()
		if here {
			w = ^w
		}
		w >>= at % 64
		if w != 0 {
			at += int64(bits.TrailingZeros64(w))
			break
		}
		at += 64 - at%64
	}
	return here, min(n, at*BlockSize-off)
}

// set notes that the blocks [first, end) are here.
func (b *bitmap) set(first, end int64) {
	p := b.all.Load()
	for at := first; at < end; {
		next := min(end, at-at%64+64)
		mask := ^uint64(0) << (at % 64)
		if next%64 != 0 {
			mask &= ^uint64(0) >> (64 - next%64)
		}
		if w := &p.words[at/64]; w.Load()&mask != mask {
			w.Or(mask)
			if d := &p.dirty[at/64/wordsPerPage]; !d.Load() {
				d.Store(true)
			}
		}
		at = next
	}
}

// copied is one page of the map as it was before the data was flushed.
type copied struct {
	page  int
	bytes []byte
}

// take copies the pages that changed since the last call.
func (b *bitmap) take() []copied {
	p := b.all.Load()
	var out []copied
	for i := range p.dirty {
		if !p.dirty[i].Swap(false) {
			continue
		}
		c := copied{page: i, bytes: make([]byte, pageSize)}
		for w := range wordsPerPage {
			binary.LittleEndian.PutUint64(c.bytes[8*w:], p.words[i*wordsPerPage+w].Load())
		}
		out = append(out, c)
	}
	return out
}

// put makes pages durable.
func (b *bitmap) put(pages []copied) error {
	for _, c := range pages {
		if _, err := b.medium.WriteAt(c.bytes, int64(c.page)*pageSize); err != nil {
			return fmt.Errorf("write the map: %w", err)
		}
	}
	if err := b.medium.Sync(); err != nil {
		return fmt.Errorf("flush the map: %w", err)
	}
	return nil
}
