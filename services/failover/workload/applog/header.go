package applog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

const (
	headerMagic   = "HFAPPLOG"
	headerVersion = 1
	headerLen     = 512
	headerStride  = 4096
)

// Header describes a log. It is written again, with the next generation, at each boot of the VM.
type Header struct {
	RecordSize int    // bytes
	Capacity   uint64 // records that fit; a log never wraps
	Generation uint64 // boots so far, from 1
	LogID      [16]byte
	VM         domain.VMID
	Volume     uint16 // index of the volume among the VM's
	CreatedNS  int64  // wall clock at the first boot
}

// Slot is the byte offset that this generation of the header is written to.
func (h Header) Slot() int64 { return int64(h.Generation%2) * headerStride }

// Offset is the byte offset of record seq.
func (h Header) Offset(seq uint64) int64 { return DataOffset + int64(seq-1)*int64(h.RecordSize) }

// CapacityFor is how many records of recordSize bytes fit on a disk of sizeBytes.
func CapacityFor(sizeBytes int64, recordSize int) uint64 {
	if sizeBytes <= DataOffset || recordSize <= 0 {
		return 0
	}
	return uint64(sizeBytes-DataOffset) / uint64(recordSize)
}

// Encode is the header as one 512-byte sector.
func (h Header) Encode() ([]byte, error) {
	if !ValidRecordSize(h.RecordSize) || h.Capacity == 0 || h.Generation == 0 {
		return nil, fmt.Errorf("encode log header: record size %d, capacity %d, generation %d: %w", h.RecordSize, h.Capacity, h.Generation, domain.ErrInvalid)
	}
	b := make([]byte, headerLen)
	le := binary.LittleEndian
	copy(b, headerMagic)
	le.PutUint32(b[8:], headerVersion)
	le.PutUint32(b[12:], uint32(h.RecordSize))
	le.PutUint64(b[16:], h.Capacity)
	le.PutUint64(b[24:], h.Generation)
	copy(b[32:48], h.LogID[:])
	if err := putName(b[48:], string(h.VM)); err != nil {
		return nil, fmt.Errorf("encode log header: %w", err)
	}
	le.PutUint16(b[80:], h.Volume)
	le.PutUint64(b[88:], uint64(h.CreatedNS))
	le.PutUint32(b[headerLen-crcLen:], crc32.Checksum(b[:headerLen-crcLen], castagnoli))
	return b, nil
}

// DecodeHeader reads one header slot. The error wraps ErrCorrupt.
func DecodeHeader(b []byte) (Header, error) {
	le := binary.LittleEndian
	if len(b) < headerLen || string(b[:8]) != headerMagic || le.Uint32(b[8:]) != headerVersion {
		return Header{}, fmt.Errorf("decode log header: magic or version: %w", ErrCorrupt)
	}
	if le.Uint32(b[headerLen-crcLen:]) != crc32.Checksum(b[:headerLen-crcLen], castagnoli) {
		return Header{}, fmt.Errorf("decode log header: checksum: %w", ErrCorrupt)
	}
	h := Header{
		RecordSize: int(le.Uint32(b[12:])), Capacity: le.Uint64(b[16:]), Generation: le.Uint64(b[24:]), LogID: [16]byte(b[32:48]),
		VM: domain.VMID(name(b[48:])), Volume: le.Uint16(b[80:]), CreatedNS: int64(le.Uint64(b[88:])),
	}
	if !ValidRecordSize(h.RecordSize) || h.Capacity == 0 || h.Generation == 0 {
		return Header{}, fmt.Errorf("decode log header: record size %d, capacity %d, generation %d: %w", h.RecordSize, h.Capacity, h.Generation, ErrCorrupt)
	}
	return h, nil
}

// ReadHeader reads the newest valid header. Where nothing was ever written, or only a torn part of the first header, the
// error wraps ErrNotLog (a log may be created here); where there is something else it wraps ErrCorrupt.
func ReadHeader(r io.ReaderAt) (Header, error) {
	var best Header
	var slot [3][]byte // both slots, and where record 1 would begin
	for i, off := range []int64{0, headerStride, DataOffset} {
		b := make([]byte, headerLen)
		n, err := r.ReadAt(b, off)
		if err != nil && !errors.Is(err, io.EOF) {
			return Header{}, fmt.Errorf("read log header: %w", err)
		}
		slot[i] = b[:n]
	}
	for _, b := range slot[:2] {
		if h, err := DecodeHeader(b); err == nil && h.Generation > best.Generation {
			best = h
		}
	}
	// Generation 1 goes to slot 1, so a creation that was cut leaves slot 0 and the records blank.
	switch {
	case best.Generation > 0:
		return best, nil
	case zero(slot[0]) && torn(slot[1]) && zero(slot[2]):
		return Header{}, fmt.Errorf("read log header: %w", ErrNotLog)
	}
	return Header{}, fmt.Errorf("read log header: neither slot is valid: %w", ErrCorrupt)
}

// torn reports whether b can be what a cut write of a header leaves on a blank disk.
func torn(b []byte) bool {
	n := 0
	for n < len(b) && n < len(headerMagic) && b[n] == headerMagic[n] {
		n++
	}
	return n == len(headerMagic) || zero(b[n:])
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
