//go:build e2e

package prefix

import (
	"encoding/binary"
	"fmt"
	"sync"
)

const (
	volumes   = 2
	perVolume = 256 // blocks that are written
	blockSize = 4096
)

// place is where write n goes: volumes take turns.
func place(n uint64) (volume int, off int64) {
	return int(n % volumes), int64(n/volumes%perVolume) * blockSize
}

// content is a block that tells the number of its write everywhere.
func content(n uint64) []byte {
	b := make([]byte, blockSize)
	for i := 0; i < len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], n)
	}
	return b
}

// image is what a copy holds: the number of the write that each block shows.
type image [volumes][perVolume]uint64

// read takes an image from blocks; a block of more than one write is an error, since no write is torn.
func (im *image) read(volume int, data []byte) error {
	for i := range perVolume {
		b := data[i*blockSize : (i+1)*blockSize]
		n := binary.LittleEndian.Uint64(b)
		for at := 8; at < len(b); at += 8 {
			if other := binary.LittleEndian.Uint64(b[at:]); other != n {
				return fmt.Errorf("volume %d, block %d: holds write %d and, at byte %d, write %d", volume, i, n, at, other)
			}
		}
		if v, off := place(n); n != 0 && (v != volume || off != int64(i)*blockSize) {
			return fmt.Errorf("volume %d, block %d: holds write %d, which went to volume %d at %d", volume, i, n, v, off)
		}
		im[volume][i] = n
	}
	return nil
}

// history is what a writer did.
type history struct {
	mu     sync.Mutex
	base   image  // what the copy held before the first write
	first  uint64 // the number of that
	next   uint64
	low    uint64            // every write below was acknowledged
	done   map[uint64]bool   // acknowledged, at low or above
	before map[uint64]uint64 // by write: every write below was acknowledged before it began
}

// begin is the history of writes from first on, over a copy that holds base.
func begin(first uint64, base image) *history {
	return &history{base: base, first: first, next: first, low: first, done: map[uint64]bool{}, before: map[uint64]uint64{}}
}

func (h *history) issue() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := h.next
	h.next++
	h.before[n] = h.low
	return n
}

func (h *history) acknowledge(n uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.done[n] = true
	for h.done[h.low] {
		delete(h.done, h.low)
		h.low++
	}
}

// issued is how many writes began.
func (h *history) issued() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.next - h.first
}

// missing lists the acknowledged writes below limit that an image shows neither itself nor written over by a newer.
func (h *history) missing(im *image, limit uint64) (out []uint64) {
	for m := max(h.first, limit-min(limit, volumes*perVolume)); m < limit; m++ { // older ones were written over in any case
		v, off := place(m)
		if (m < h.low || h.done[m]) && im[v][off/blockSize] < m {
			out = append(out, m)
		}
	}
	return out
}

// judge holds an image to the history: a prefix of it and, when all is asked, one with every acknowledged write. It gives the
// number of those that are missing.
func (h *history) judge(im *image, all bool) (lost int, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var latest, least uint64 // every write below least must show
	for v := range im {
		for i, n := range im[v] {
			if n >= h.next || n < h.base[v][i] {
				return 0, fmt.Errorf("volume %d, block %d: shows write %d, after %d, of writes up to %d", v, i, n, h.base[v][i], h.next-1)
			}
			if b := h.before[n]; b > least {
				latest, least = n, b
			}
		}
	}
	if gap := h.missing(im, least); len(gap) > 0 {
		return 0, fmt.Errorf("write %d is there, and write %d, acknowledged before that began, is not", latest, gap[0])
	}
	gone := h.missing(im, h.next)
	if all && len(gone) > 0 {
		return 0, fmt.Errorf("write %d was acknowledged and is missing", gone[0])
	}
	return len(gone), nil
}
