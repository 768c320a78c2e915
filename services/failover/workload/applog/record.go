package applog

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

const (
	// DataOffset is where record 1 begins, in bytes.
	DataOffset = 8192
	// MinRecordSize is the smallest record size, in bytes: one sector.
	MinRecordSize = 512
	// MaxRecordSize is the largest record size, in bytes: one page.
	MaxRecordSize = 4096

	recordMagic    = "HFRC"
	recordVersion  = 1
	recordOverhead = payloadAt + crcLen
	payloadAt      = 188
	crcLen         = 4
	nameLen        = 32
)

var (
	// ErrNotLog means that there is no header: the disk is blank or holds something else.
	ErrNotLog = errors.New("no append log here")
	// ErrCorrupt means that bytes which should be a header or record fail their checks.
	ErrCorrupt = errors.New("corrupt")

	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// Hash is the SHA-256 of a whole encoded record.
type Hash [sha256.Size]byte

// String is the first 16 hexadecimal digits, enough to tell records apart in a report.
func (h Hash) String() string { return hex.EncodeToString(h[:8]) }

// Record is one entry of the log.
type Record struct {
	Seq      uint64        // 1, 2, 3, ...
	Prev     Hash          // of record Seq-1 on this volume, zero for record 1
	Epoch    domain.Epoch  // the epoch the VM was started under
	Site     domain.SiteID // where it was written
	VM       domain.VMID
	Instance string // of the VM's boot that wrote it, at most 32 bytes
	LogID    [16]byte
	Volume   uint16 // index of the volume among the VM's
	Repaired bool   // written at boot, to complete an append that a crash cut between two volumes
	WallNS   int64  // wall clock, nanoseconds since 1970
	BootNS   int64  // CLOCK_BOOTTIME of the machine, nanoseconds
	Payload  []byte // at most MaxPayload(record size)
}

// MaxPayload is the largest payload of a record of the given size, in bytes.
func MaxPayload(recordSize int) int { return recordSize - recordOverhead }

// ValidRecordSize reports whether size is a power of two in MinRecordSize..MaxRecordSize.
func ValidRecordSize(size int) bool {
	return size >= MinRecordSize && size <= MaxRecordSize && size&(size-1) == 0
}

// Encode writes the record into size bytes and returns them with their hash. It fails on an invalid size, a name longer
// than 32 bytes or a payload longer than MaxPayload(size).
func (r Record) Encode(size int) ([]byte, Hash, error) {
	if !ValidRecordSize(size) {
		return nil, Hash{}, fmt.Errorf("encode record %d: record size %d: want a power of two in %d..%d", r.Seq, size, MinRecordSize, MaxRecordSize)
	}
	if len(r.Payload) > MaxPayload(size) {
		return nil, Hash{}, fmt.Errorf("encode record %d: payload of %d bytes is larger than %d", r.Seq, len(r.Payload), MaxPayload(size))
	}
	if r.Seq == 0 {
		return nil, Hash{}, errors.New("encode record: sequence 0")
	}
	b := make([]byte, size)
	copy(b, recordMagic)
	b[4] = recordVersion
	if r.Repaired {
		b[5] = 1
	}
	le := binary.LittleEndian
	le.PutUint16(b[6:], r.Volume)
	le.PutUint64(b[8:], r.Seq)
	le.PutUint64(b[16:], uint64(r.Epoch))
	le.PutUint64(b[24:], uint64(r.WallNS))
	le.PutUint64(b[32:], uint64(r.BootNS))
	copy(b[40:72], r.Prev[:])
	for i, s := range []string{string(r.Site), string(r.VM), r.Instance} {
		if err := putName(b[72+i*nameLen:], s); err != nil {
			return nil, Hash{}, fmt.Errorf("encode record %d: %w", r.Seq, err)
		}
	}
	copy(b[168:184], r.LogID[:])
	le.PutUint32(b[184:], uint32(len(r.Payload)))
	copy(b[payloadAt:], r.Payload)
	le.PutUint32(b[size-crcLen:], crc32.Checksum(b[:size-crcLen], castagnoli))
	return b, sha256.Sum256(b), nil
}

// DecodeRecord reads one record from b, whose length is the record size, with its hash. The error wraps ErrCorrupt.
func DecodeRecord(b []byte) (Record, Hash, error) {
	if !ValidRecordSize(len(b)) {
		return Record{}, Hash{}, fmt.Errorf("decode record: %d bytes: %w", len(b), ErrCorrupt)
	}
	le := binary.LittleEndian
	if string(b[:4]) != recordMagic || b[4] != recordVersion {
		return Record{}, Hash{}, fmt.Errorf("decode record: magic or version: %w", ErrCorrupt)
	}
	if le.Uint32(b[len(b)-crcLen:]) != crc32.Checksum(b[:len(b)-crcLen], castagnoli) {
		return Record{}, Hash{}, fmt.Errorf("decode record: checksum: %w", ErrCorrupt)
	}
	n := int(le.Uint32(b[184:]))
	if n < 0 || n > MaxPayload(len(b)) {
		return Record{}, Hash{}, fmt.Errorf("decode record: payload length %d: %w", n, ErrCorrupt)
	}
	r := Record{
		Seq: le.Uint64(b[8:]), Epoch: domain.Epoch(le.Uint64(b[16:])), WallNS: int64(le.Uint64(b[24:])), BootNS: int64(le.Uint64(b[32:])),
		Prev: Hash(b[40:72]), Site: domain.SiteID(name(b[72:])), VM: domain.VMID(name(b[104:])), Instance: name(b[136:]),
		LogID: [16]byte(b[168:184]), Volume: le.Uint16(b[6:]), Repaired: b[5]&1 != 0,
	}
	if n > 0 {
		r.Payload = bytes.Clone(b[payloadAt : payloadAt+n])
	}
	return r, sha256.Sum256(b), nil
}

// putName writes s into the first nameLen bytes of b, padded with zeroes.
func putName(b []byte, s string) error {
	if len(s) > nameLen || bytes.IndexByte([]byte(s), 0) >= 0 {
		return fmt.Errorf("name %q: want at most %d bytes without NUL", s, nameLen)
	}
	copy(b[:nameLen], s)
	return nil
}

func name(b []byte) string { return string(bytes.TrimRight(b[:nameLen], "\x00")) }
