package rates

import (
	"math"
	"math/bits"
	"sync/atomic"
)

const (
	blockBytes  = 4096
	sketchBits  = 11
	sketchSlots = 1 << sketchBits // an error of about 1.04/sqrt(2048), 2.3 %
)

// sketch counts different blocks in 8 KiB, whatever their number (HyperLogLog; Flajolet, Fusy, Gandouet and Meunier 2007, with
// their correction for small numbers). One goroutine touches; another may take it over while that is at its last frame, and
// then misses at most that one.
type sketch struct {
	blocks atomic.Uint64
	ranks  [sketchSlots]atomic.Uint32
}

// touch marks the blocks of a range of a volume.
func (s *sketch) touch(volume uint16, off, length int64) {
	if length <= 0 {
		return
	}
	first, last := off/blockBytes, (off+length-1)/blockBytes
	for b := first; b <= last; b++ {
		h := mix(uint64(volume)<<48 ^ uint64(b))
		rank := uint32(bits.LeadingZeros64(h<<sketchBits|1<<(sketchBits-1))) + 1
		if slot := &s.ranks[h>>(64-sketchBits)]; rank > slot.Load() {
			slot.Store(rank)
		}
	}
	s.blocks.Add(uint64(last - first + 1))
}

// mix is the finalizer of splitmix64 (Steele, Lea and Flood 2014): every bit of the result depends on every bit of x.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// count is how many blocks were written, and about how many different ones.
func (s *sketch) count() (blocks, unique uint64) {
	blocks = s.blocks.Load()
	sum, empty := 0.0, 0
	for i := range s.ranks {
		rank := s.ranks[i].Load()
		sum += math.Ldexp(1, -int(rank))
		if rank == 0 {
			empty++
		}
	}
	const m = float64(sketchSlots)
	estimate := 0.7213 / (1 + 1.079/m) * m * m / sum
	if estimate <= 2.5*m && empty > 0 {
		estimate = m * math.Log(m/float64(empty))
	}
	return blocks, min(uint64(estimate+0.5), blocks)
}

func (s *sketch) reset() {
	s.blocks.Store(0)
	for i := range s.ranks {
		s.ranks[i].Store(0)
	}
}
