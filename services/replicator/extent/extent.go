// Package extent holds sets of blocks of a group's volumes: what was written since some point, and so what must be sent.
// One bit stands for one block of 4 KiB. It is pure; the group package keeps sets on disk.
package extent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"iter"
	"math/bits"
	"slices"
)

// Block is the size of one bit's block, in bytes.
const Block = 4096

// Set is a set of blocks over the volumes of a group, each by its index. Not safe for concurrent use.
type Set struct {
	sizes []int64 // bytes
	bits  [][]uint64
}

// New makes an empty set over volumes of the given sizes in bytes.
func New(sizes []int64) *Set {
	s := &Set{sizes: slices.Clone(sizes), bits: make([][]uint64, len(sizes))}
	for i, n := range sizes {
		s.bits[i] = make([]uint64, (blocks(n)+63)/64)
	}
	return s
}

func blocks(size int64) int64 { return (size + Block - 1) / Block }

// Mark adds every block that [off, off+length) of a volume touches. What lies outside the volume is ignored.
func (s *Set) Mark(volume int, off, length int64) {
	if volume < 0 || volume >= len(s.bits) || length <= 0 || off < 0 {
		return
	}
	first, last := off/Block, min((off+length-1)/Block, blocks(s.sizes[volume])-1)
	b := s.bits[volume]
	for i := first; i <= last; {
		w, from := i/64, uint(i%64)
		n := min(64-int64(from), last-i+1)
		b[w] |= (^uint64(0) >> (64 - uint(n))) << from
		i += n
	}
}

// MarkAll adds every block of every volume.
func (s *Set) MarkAll() {
	for i, n := range s.sizes {
		s.Mark(i, 0, n)
	}
}

// Grow makes the set one over more volumes, of which it has nothing: sizes begins with those it is over.
func (s *Set) Grow(sizes []int64) {
	for _, n := range sizes[min(len(s.sizes), len(sizes)):] {
		s.sizes = append(s.sizes, n)
		s.bits = append(s.bits, make([]uint64, (blocks(n)+63)/64))
	}
}

// First is the part of the set that lies in the first n volumes.
func (s *Set) First(n int) *Set {
	c := New(s.sizes[:min(n, len(s.sizes))])
	for v := range c.bits {
		copy(c.bits[v], s.bits[v])
	}
	return c
}

// Drop takes every block of a volume out of the set.
func (s *Set) Drop(volume int) {
	if volume < len(s.bits) {
		clear(s.bits[volume])
	}
}

// Union adds the blocks of o, which must be over the same volumes as far as both go.
func (s *Set) Union(o *Set) {
	s.Grow(o.sizes)
	for v := range o.bits {
		for i, w := range o.bits[v] {
			s.bits[v][i] |= w
		}
	}
}

// Clone copies the set.
func (s *Set) Clone() *Set {
	c := New(s.sizes)
	c.Union(s)
	return c
}

// Has reports whether the block that holds byte off of a volume is in the set.
func (s *Set) Has(volume int, off int64) bool {
	return s.bits[volume][off/Block/64]>>(off/Block%64)&1 == 1
}

// Bytes is the size of the blocks in the set.
func (s *Set) Bytes() int64 {
	var n int64
	for v := range s.bits {
		var c int64
		for _, w := range s.bits[v] {
			c += int64(bits.OnesCount64(w))
		}
		n += c * Block
		if size := s.sizes[v]; c > 0 && size%Block != 0 && s.Has(v, size-1) {
			n -= Block - size%Block
		}
	}
	return n
}

// Run is a stretch of one volume, in bytes.
type Run struct {
	Volume   int
	Off, Len int64
}

// Runs gives the stretches of the set in order, none longer than maxLen bytes (a multiple of Block; 0 sets no limit).
func (s *Set) Runs(maxLen int64) iter.Seq[Run] {
	return func(yield func(Run) bool) {
		for v := range s.bits {
			total := blocks(s.sizes[v])
			for i := s.next(v, 0, total, 1); i < total; {
				end := s.next(v, i, total, 0)
				if maxLen > 0 {
					end = min(end, i+maxLen/Block)
				}
				if !yield(Run{v, i * Block, min(end*Block, s.sizes[v]) - i*Block}) {
					return
				}
				i = s.next(v, end, total, 1)
			}
		}
	}
}

// next is the first block at or after i whose bit is want.
func (s *Set) next(v int, i, total int64, want uint64) int64 {
	for i < total {
		w := s.bits[v][i/64]
		if want == 0 {
			w = ^w
		}
		if w >>= uint(i % 64); w != 0 {
			return min(i+int64(bits.TrailingZeros64(w)), total)
		}
		i = (i/64 + 1) * 64
	}
	return total
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrDamaged means that bytes are not an encoded set over the expected volumes.
var ErrDamaged = errors.New("damaged extent set")

// Encode makes the set's wire and file form: per volume its size and its runs as varints, then a CRC32C.
func (s *Set) Encode() []byte {
	out := binary.AppendUvarint(nil, uint64(len(s.sizes)))
	for v, size := range s.sizes {
		out = binary.AppendUvarint(out, uint64(size))
		total, at := blocks(size), int64(0)
		for i := s.next(v, 0, total, 1); i < total; {
			end := s.next(v, i, total, 0)
			out = binary.AppendUvarint(out, uint64(i-at)+1)
			out = binary.AppendUvarint(out, uint64(end-i))
			at, i = end, s.next(v, end, total, 1)
		}
		out = append(out, 0) // no further run: a gap is coded plus one
	}
	return binary.LittleEndian.AppendUint32(out, crc32.Checksum(out, castagnoli))
}

// Decode reads what Encode made over the first volumes of the given sizes, or all of them: volumes may have been added since. Any
// other bytes are ErrDamaged.
func Decode(b []byte, sizes []int64) (*Set, error) {
	if len(b) < 4 || binary.LittleEndian.Uint32(b[len(b)-4:]) != crc32.Checksum(b[:len(b)-4], castagnoli) {
		return nil, fmt.Errorf("%w: checksum", ErrDamaged)
	}
	r := reader{b: b[:len(b)-4]}
	over := r.uvarint()
	if r.bad || over > uint64(len(sizes)) { // a checksum of nothing is right, too: four zeroes are no set
		return nil, fmt.Errorf("%w: of %d volumes, want %d", ErrDamaged, over, len(sizes))
	}
	s := New(sizes)
	for v, size := range sizes[:over] {
		if n := r.uvarint(); n != uint64(size) {
			return nil, fmt.Errorf("%w: volume %d of %d bytes, want %d", ErrDamaged, v, n, size)
		}
		at := uint64(0)
		for {
			gap := r.uvarint()
			if r.bad {
				return nil, fmt.Errorf("%w: cut short", ErrDamaged)
			}
			if gap == 0 {
				break
			}
			n := r.uvarint()
			total := uint64(blocks(size))
			if r.bad || n == 0 || gap-1 > total-at || n > total-at-(gap-1) {
				return nil, fmt.Errorf("%w: run out of volume %d", ErrDamaged, v)
			}
			s.Mark(v, int64(at+gap-1)*Block, int64(n)*Block)
			at += gap - 1 + n
		}
	}
	if len(r.b) != 0 {
		return nil, fmt.Errorf("%w: %d bytes too many", ErrDamaged, len(r.b))
	}
	return s, nil
}

type reader struct {
	b   []byte
	bad bool
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}
