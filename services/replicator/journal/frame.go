package journal

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Sizes of the format, in bytes unless named otherwise.
const (
	// PageSize is the unit of the file: frames begin and end on it.
	PageSize = 4096
	// MaxFramePayload bounds the payload area of one frame, and with it the length of one WRITE entry.
	MaxFramePayload = 4 << 20
	// MaxFrameEntries bounds the entries of one frame, so that header and entries fit 2 MiB.
	MaxFrameEntries = (maxHeaderBytes - headerSize) / entrySize
	// MaxFrameBytes bounds an encoded frame: 6 MiB, below the 8 MiB a pipe message may have.
	MaxFrameBytes = maxHeaderBytes + MaxFramePayload

	maxHeaderBytes = 2 << 20
	headerSize     = 128
	entrySize      = 32
	payloadAlign   = 512
	frameMagic     = 0x464a4648 // "HFJF" little-endian
	frameVersion   = 1
)

// Byte offsets in the header. The rest up to headerSize is zero; the group is a length byte and up to 32 bytes.
const (
	offMagic      = 0  // u32
	offVersion    = 4  // u16, then u16 zero
	offCount      = 8  // u32
	offHeaderCRC  = 12 // u32, over the whole header area with this field zero
	offEpoch      = 16 // u64
	offNumber     = 24 // u64
	offFirstLSN   = 32 // u64
	offCommitLSN  = 40 // u64
	offTime       = 48 // i64, ns since 1970
	offPayloadLen = 56 // u64
	offPrevCRC    = 64 // u32
	offGroup      = 68 // u8 length, 32 bytes
	maxGroupLen   = 32
)

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	noCRC      [4]byte // what a checksum field counts as; never written (a local one would escape to the heap)
)

// MaxMarkerBytes bounds what a marker carries.
const MaxMarkerBytes = 256

// Op is the kind of one change.
type Op uint8

// The kinds of change. The zero value is invalid. A compare-and-write is logged as the WRITE it came to.
const (
	// OpWrite carries Len bytes of Data for Off. Len is 1 to MaxFramePayload.
	OpWrite Op = 1
	// OpZero makes [Off, Off+Len) read as zeroes, and keeps it allocated. No payload.
	OpZero Op = 2
	// OpUnmap makes [Off, Off+Len) read as zeroes, and gives its space back. No payload.
	OpUnmap Op = 3
	// OpFlush is a SYNCHRONIZE CACHE of the volume. Off and Len are 0.
	OpFlush Op = 4
	// OpMarker is a point in the group's order. Off is the caller's marker number; it may carry Len bytes of Data, up to
	// MaxMarkerBytes.
	OpMarker Op = 5
)

// String names the op in lower case.
func (o Op) String() string {
	names := [...]string{"invalid", "write", "zero", "unmap", "flush", "marker"}
	if int(o) >= len(names) {
		return names[0]
	}
	return names[o]
}

// Entry is one change. Its LSN is implied: the frame's FirstLSN plus its index.
type Entry struct {
	Volume uint16 // index of the volume within its group
	Op     Op
	Off    int64  // bytes
	Len    int64  // bytes
	Data   []byte // len(Data) == Len for OpWrite and OpMarker, else nil
}

// Frame is a batch of changes made durable by one write.
type Frame struct {
	Group     domain.GroupID
	Epoch     domain.Epoch
	Number    uint64     // 1 for the first frame of an epoch, then +1 each
	FirstLSN  domain.LSN // of Entries[0]
	LastLSN   domain.LSN // of the last entry
	CommitLSN domain.LSN // everything up to here was acknowledged when the frame was made; at most LastLSN
	Time      time.Time  // wall time of the sender, ns; for people and points in time, never for order
	Entries   []Entry    // at least one

	PrevHeaderCRC uint32 // HeaderCRC of the frame before it in the epoch, 0 for the first
	HeaderCRC     uint32 // covers header and entries, and through their checksums the payload
}

// header is the decoded fixed part of a frame.
type header struct {
	count      int
	crc        uint32
	epoch      domain.Epoch
	number     uint64
	first      domain.LSN
	commit     domain.LSN
	timeNS     int64
	payloadLen int64
	prevCRC    uint32
}

func (h *header) last() domain.LSN { return h.first + domain.LSN(h.count) - 1 }

// headerLen is the size of the header area: header and entries, rounded up to whole pages.
func headerLen(count int) int64 { return alignUp(int64(headerSize)+int64(count)*entrySize, PageSize) }

func (h *header) size() int64 { return headerLen(h.count) + h.payloadLen }

// HeaderPadding is where in an encoded frame the zeroes lie that fill its header area to whole pages; 0, 0 for what is no frame.
func HeaderPadding(b []byte) (from, to int) {
	if len(b) < headerSize || binary.LittleEndian.Uint32(b[offMagic:]) != frameMagic {
		return 0, 0
	}
	h, err := parseFixed(b)
	at, end := headerSize+h.count*entrySize, int(headerLen(h.count))
	if err != nil || at == end || len(b) < end || !allZero(b[at:end]) {
		return 0, 0
	}
	return at, end
}

// FrameSize reads from the first page of an encoded frame how many bytes the frame has. ErrBadFrame else.
func FrameSize(b []byte) (int64, error) {
	if len(b) < headerSize {
		return 0, bad("%d bytes", len(b))
	}
	h, err := parseFixed(b)
	return h.size(), err
}

func alignUp(n, to int64) int64 { return (n + to - 1) / to * to }

// groupOf is the group's bytes in a header; ok is false when the length byte is impossible.
func groupOf(b []byte) (group []byte, ok bool) {
	n := int(b[offGroup])
	if n == 0 || n > maxGroupLen {
		return nil, false
	}
	return b[offGroup+1 : offGroup+1+n], true
}

func bad(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrBadFrame, fmt.Sprintf(format, args...))
}

// parseFixed reads the fixed header from b, which holds at least headerSize bytes, and checks its ranges, so that
// the sizes it gives can be trusted not to overflow. It does not check any CRC.
func parseFixed(b []byte) (header, error) {
	le := binary.LittleEndian
	if m := le.Uint32(b[offMagic:]); m != frameMagic {
		return header{}, bad("magic %#x", m)
	}
	if v := le.Uint32(b[offVersion:]); v != frameVersion {
		return header{}, bad("version %d, want %d", v, frameVersion)
	}
	count, epoch, plen := le.Uint32(b[offCount:]), le.Uint64(b[offEpoch:]), le.Uint64(b[offPayloadLen:])
	switch {
	case count == 0 || count > MaxFrameEntries:
		return header{}, bad("%d entries, want 1 to %d", count, MaxFrameEntries)
	case plen > MaxFramePayload || plen%PageSize != 0:
		return header{}, bad("payload of %d bytes, want whole pages up to %d", plen, MaxFramePayload)
	case epoch == 0 || epoch > 1<<63-1:
		return header{}, bad("epoch %d", epoch)
	}
	h := header{
		count: int(count), crc: le.Uint32(b[offHeaderCRC:]), epoch: domain.Epoch(epoch), number: le.Uint64(b[offNumber:]),
		first: domain.LSN(le.Uint64(b[offFirstLSN:])), commit: domain.LSN(le.Uint64(b[offCommitLSN:])),
		timeNS: int64(le.Uint64(b[offTime:])), payloadLen: int64(plen), prevCRC: le.Uint32(b[offPrevCRC:]),
	}
	switch {
	case h.number == 0 || h.number == 1<<64-1:
		return header{}, bad("frame number %d", h.number)
	case h.first == 0 || h.first > 1<<63:
		return header{}, bad("first LSN %d", h.first)
	case h.commit > h.last():
		return header{}, bad("commit LSN %d after the last LSN %d", h.commit, h.last())
	}
	return h, nil
}

// parseHeader reads and verifies the whole header area (header and entries, not payload) at the start of b, which
// may be longer.
func parseHeader(b []byte) (header, error) {
	if len(b) < headerSize {
		return header{}, bad("%d bytes", len(b))
	}
	h, err := parseFixed(b)
	if err != nil {
		return header{}, err
	}
	n := headerLen(h.count)
	if int64(len(b)) < n {
		return header{}, bad("%d bytes, header needs %d", len(b), n)
	}
	if got := headerCRC(b[:n]); got != h.crc {
		return header{}, bad("header CRC %#x, want %#x", got, h.crc)
	}
	group, ok := groupOf(b)
	if !ok {
		return header{}, bad("group of %d bytes", b[offGroup])
	}
	if !allZero(b[offGroup+1+len(group):headerSize]) || !allZero(b[headerSize+h.count*entrySize:n]) {
		return header{}, bad("padding of the header is not zero")
	}
	return h, nil
}

// headerCRC is the CRC32C of a header area with its own field taken as zero.
func headerCRC(b []byte) uint32 {
	c := crc32.Update(0, castagnoli, b[:offHeaderCRC])
	c = crc32.Update(c, castagnoli, noCRC[:])
	return crc32.Update(c, castagnoli, b[offHeaderCRC+4:])
}

func allZero(b []byte) bool {
	for len(b) >= 8 {
		if binary.LittleEndian.Uint64(b) != 0 {
			return false
		}
		b = b[8:]
	}
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// rawEntry is one 32-byte entry: volume u16, op u8, flags u8, CRC32C u32, offset u64, length u64, payload offset u64.
type rawEntry struct {
	volume   uint16
	op       Op
	flags    uint8
	crc      uint32
	off, len uint64
	payload  uint64
}

func parseEntry(b []byte) rawEntry {
	le := binary.LittleEndian
	return rawEntry{volume: le.Uint16(b), op: Op(b[2]), flags: b[3], crc: le.Uint32(b[4:]), off: le.Uint64(b[8:]),
		len: le.Uint64(b[16:]), payload: le.Uint64(b[24:])}
}

func putEntry(b []byte, e rawEntry) {
	le := binary.LittleEndian
	le.PutUint16(b, e.volume)
	b[2], b[3] = byte(e.op), e.flags
	le.PutUint32(b[4:], e.crc)
	le.PutUint64(b[8:], e.off)
	le.PutUint64(b[16:], e.len)
	le.PutUint64(b[24:], e.payload)
}

// carries reports whether the entry has a payload.
func (e rawEntry) carries() bool { return e.op == OpWrite || e.op == OpMarker && e.len > 0 }

// check holds an entry's ranges. next is where the payload of a WRITE must begin.
func (e rawEntry) check(next int64) error {
	const top = 1<<63 - 1
	if e.flags != 0 {
		return bad("flags %#x", e.flags)
	}
	if e.op == OpMarker && e.len > 0 {
		if e.len > MaxMarkerBytes || e.off > top || e.payload != uint64(next) {
			return bad("marker %d with %d bytes, payload at %d, want %d", e.off, e.len, e.payload, next)
		}
		return nil
	}
	if e.op == OpWrite {
		if e.len == 0 || e.len > MaxFramePayload || e.off > top-e.len || e.payload != uint64(next) {
			return bad("write of %d bytes at %d, payload at %d, want %d", e.len, e.off, e.payload, next)
		}
		return nil
	}
	if e.crc != 0 || e.payload != 0 {
		return bad("%s with a payload", e.op)
	}
	switch e.op {
	case OpZero, OpUnmap:
		if e.len == 0 || e.len > top || e.off > top-e.len {
			return bad("%s of %d bytes at %d", e.op, e.len, e.off)
		}
	case OpFlush:
		if e.off != 0 || e.len != 0 {
			return bad("flush with a range")
		}
	case OpMarker:
		if e.off > top {
			return bad("marker %d", e.off)
		}
	default:
		return bad("op %d", e.op)
	}
	return nil
}

// walk verifies every entry and payload of the frame in b, whose header h was verified, and calls visit, if any, for
// each. Without sums the payload's CRCs are not checked (the seam of one mutant).
func walk(b []byte, h *header, sums bool, visit func(e Entry)) error {
	hl := headerLen(h.count)
	if int64(len(b)) != hl+h.payloadLen {
		return bad("%d bytes, want %d", len(b), hl+h.payloadLen)
	}
	payload, next := b[hl:], int64(0)
	for i := range h.count {
		e := parseEntry(b[headerSize+i*entrySize:])
		if err := e.check(next); err != nil {
			return fmt.Errorf("entry %d: %w", i, err)
		}
		var data []byte
		if e.carries() {
			end := next + int64(e.len)
			if end > h.payloadLen {
				return bad("entry %d ends at %d of %d payload bytes", i, end, h.payloadLen)
			}
			data = payload[next:end:end]
			next = alignUp(end, payloadAlign)
			if sums && crc32.Checksum(data, castagnoli) != e.crc {
				return bad("entry %d: payload CRC", i)
			}
			if sums && !allZero(payload[end:min(next, h.payloadLen)]) {
				return bad("entry %d: padding is not zero", i)
			}
		}
		if visit != nil {
			visit(Entry{Volume: e.volume, Op: e.op, Off: int64(e.off), Len: int64(e.len), Data: data})
		}
	}
	if alignUp(next, PageSize) != h.payloadLen || sums && !allZero(payload[next:]) {
		return bad("%d payload bytes, the entries have %d", h.payloadLen, next)
	}
	return nil
}

// Decode reads one encoded frame and verifies everything: ranges, header CRC, payload CRCs, zero padding. b must be
// exactly one frame. The entries' Data are slices of b, not copies. What it accepts, Encode makes again byte for byte.
// Every failure wraps ErrBadFrame.
func Decode(b []byte) (*Frame, error) { return decode(b, true) }

func decode(b []byte, sums bool) (*Frame, error) {
	h, err := parseHeader(b)
	if err != nil {
		return nil, err
	}
	group, _ := groupOf(b)
	if !domain.ValidToken(string(group)) {
		return nil, bad("group %q", group)
	}
	f := &Frame{
		Group: domain.GroupID(group), Epoch: h.epoch, Number: h.number, FirstLSN: h.first, LastLSN: h.last(),
		CommitLSN: h.commit, Time: time.Unix(0, h.timeNS), Entries: make([]Entry, 0, h.count),
		PrevHeaderCRC: h.prevCRC, HeaderCRC: h.crc,
	}
	if err := walk(b, &h, sums, func(e Entry) { f.Entries = append(f.Entries, e) }); err != nil {
		return nil, err
	}
	return f, nil
}

// Encode makes the bytes of f, with f.PrevHeaderCRC; f.LastLSN and f.HeaderCRC are ignored. It is for tests and rare
// paths: the write path uses a Builder. The error wraps ErrBadFrame when f breaks a limit of the format.
func Encode(f *Frame) ([]byte, error) {
	var payload int64
	for _, e := range f.Entries {
		payload += alignUp(int64(len(e.Data)), payloadAlign)
	}
	if len(f.Entries) > MaxFrameEntries || payload > MaxFramePayload || len(f.Group) > maxGroupLen {
		return nil, bad("%d entries, %d bytes of payload, group %q", len(f.Entries), payload, f.Group)
	}
	b := newBuilder(headerLen(len(f.Entries)), alignUp(payload, PageSize), len(f.Entries))
	b.Reset(f.Group, f.Epoch, f.Number, f.FirstLSN)
	for i, e := range f.Entries {
		if !b.Add(e.Volume, e.Op, e.Off, e.Len, e.Data) {
			return nil, bad("entry %d (%s of %d bytes at %d) does not fit", i, e.Op, e.Len, e.Off)
		}
	}
	if b.Len() == 0 {
		return nil, bad("no entries")
	}
	out := b.Finish(f.CommitLSN, f.PrevHeaderCRC, f.Time)
	if h, err := parseHeader(out); err != nil {
		return nil, err
	} else if err := walk(out, &h, false, nil); err != nil {
		return nil, err
	}
	return out, nil
}

// HeaderCRC is the header checksum of an encoded frame, which the next frame of the epoch carries. 0 when b is too
// short to be a frame.
func HeaderCRC(b []byte) uint32 {
	if len(b) < headerSize {
		return 0
	}
	return binary.LittleEndian.Uint32(b[offHeaderCRC:])
}
