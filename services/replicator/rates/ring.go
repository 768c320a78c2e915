package rates

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
)

// Slot is what was recorded of one second or minute.
type Slot struct {
	At int64 // its beginning, in seconds since 1970
	Load
	Seconds uint64 // of it that were recorded
	Peak    uint64 // the frame bytes of its busiest second
	Blocks  uint64 // of a minute that is over: blocks of 4 KiB that were written,
	Unique  uint64 // and about how many different ones
}

// ring is slots of one length, the newest of each place.
type ring struct {
	step  int64
	slots []Slot
}

func newRing(step int64, n int) ring { return ring{step: step, slots: make([]Slot, n)} }

func (r *ring) index(at int64) int64 { return at / r.step % int64(len(r.slots)) }

// at is the slot of a second, emptied when it held an older one.
func (r *ring) at(at int64) *Slot {
	s := &r.slots[r.index(at)]
	if begin := at / r.step * r.step; s.At != begin {
		*s = Slot{At: begin}
	}
	return s
}

// find is the slot of a second, nil when that was not recorded.
func (r *ring) find(at int64) *Slot {
	if s := &r.slots[r.index(at)]; at > 0 && s.At == at/r.step*r.step {
		return s
	}
	return nil
}

// since lists the slots that were recorded from a second on up to another, oldest first.
func (r *ring) since(from, to int64) []Slot {
	var out []Slot
	from = max(from, to-r.step*int64(len(r.slots)-1))
	for at := from / r.step * r.step; at <= to; at += r.step {
		if s := r.find(at); s != nil && s.Seconds > 0 {
			out = append(out, *s)
		}
	}
	return out
}

// The file: a header of 64 bytes, then the slots of seconds, then those of minutes, 64 bytes each.
const (
	slotBytes     = 64
	secondsOffset = slotBytes
	minutesOffset = secondsOffset + SecondsKept*slotBytes
	fileBytes     = minutesOffset + MinutesKept*slotBytes
	fileMagic     = "holdfast write rates 1\n"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (s *Slot) encode(b *[slotBytes]byte) {
	for i, v := range []uint64{uint64(s.At), s.Writes, s.Bytes, s.Frames, s.Peak, s.Blocks, s.Unique} {
		binary.LittleEndian.PutUint64(b[8*i:], v)
	}
	binary.LittleEndian.PutUint32(b[56:], uint32(s.Seconds))
	binary.LittleEndian.PutUint32(b[60:], crc32.Checksum(b[:60], castagnoli))
}

// decode reads a slot; false for one that is torn or was never written.
func decode(b []byte) (s Slot, ok bool) {
	if crc32.Checksum(b[:60], castagnoli) != binary.LittleEndian.Uint32(b[60:]) {
		return s, false
	}
	for i, v := range []*uint64{nil, &s.Writes, &s.Bytes, &s.Frames, &s.Peak, &s.Blocks, &s.Unique} {
		if v != nil {
			*v = binary.LittleEndian.Uint64(b[8*i:])
		}
	}
	s.At, s.Seconds = int64(binary.LittleEndian.Uint64(b)), uint64(binary.LittleEndian.Uint32(b[56:]))
	return s, s.At > 0 && s.Seconds > 0
}

func (r *ring) write(f *os.File, offset, at int64) error {
	s := r.find(at)
	if s == nil {
		return nil
	}
	var b [slotBytes]byte
	s.encode(&b)
	if _, err := f.WriteAt(b[:], offset+r.index(at)*slotBytes); err != nil {
		return fmt.Errorf("record the write rate: %w", err)
	}
	return nil
}

func (r *ring) read(b []byte) {
	for i := range r.slots {
		if s, ok := decode(b[i*slotBytes : (i+1)*slotBytes]); ok && s.At%r.step == 0 && r.index(s.At) == int64(i) {
			r.slots[i] = s
		}
	}
}

// openFile reads what a file has recorded. One that is of something else is begun anew: it is a history, and no data.
func openFile(path string, seconds, minutes *ring) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the record of the write rate: %w", err)
	}
	b := make([]byte, fileBytes)
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, errors.Join(fmt.Errorf("read the record of the write rate %s: %w", path, err), f.Close())
	}
	if n >= len(fileMagic) && string(b[:len(fileMagic)]) == fileMagic {
		seconds.read(b[secondsOffset:minutesOffset])
		minutes.read(b[minutesOffset:])
		return f, nil
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt([]byte(fileMagic), 0)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("begin the record of the write rate %s: %w", path, err), f.Close())
	}
	return f, nil
}
