package journal

import (
	"encoding/binary"
	"hash/crc32"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/journal/vfs"
)

// Builder makes one encoded frame at a time in a page-aligned buffer of its own: each payload is copied once, its CRC
// computed as it is added. In the steady state it does not allocate. Take two and swap them: one fills while the
// other is being written. Not safe for concurrent use.
//
// The payload begins at a fixed place of the buffer; when the number of entries is known, Finish puts the header area
// right before it. The buffer is 6 MiB of address space, of which only touched pages take memory.
type Builder struct {
	buf     []byte // page-aligned
	lead    int64  // where the payload begins in buf
	entries []byte // count * entrySize
	group   domain.GroupID
	epoch   domain.Epoch
	number  uint64
	first   domain.LSN
	next    int64 // where the next payload begins in the payload area
}

// NewBuilder allocates a builder's buffer.
func NewBuilder() *Builder { return newBuilder(maxHeaderBytes, MaxFramePayload, 128) }

// newBuilder has room for a header area and a payload area of the given sizes, both whole pages.
func newBuilder(lead, payload int64, entries int) *Builder {
	return &Builder{buf: vfs.Aligned(int(lead + payload)), lead: lead, entries: make([]byte, 0, entries*entrySize)}
}

// Reset begins a frame. number is 1 for the first frame of an epoch, and +1 for each after it.
func (b *Builder) Reset(group domain.GroupID, epoch domain.Epoch, number uint64, firstLSN domain.LSN) {
	b.group, b.epoch, b.number, b.first = group, epoch, number, firstLSN
	b.entries, b.next = b.entries[:0], 0
}

// Add appends one change, with data copied for OpWrite and OpMarker (length is then len(data)); its LSN is the builder's first LSN
// plus Len() before the call. false means that it does not fit this frame (finish it and add to the next), or that it
// never fits any: a write of 0 or more than MaxFramePayload bytes, an unknown op, a range that overflows.
func (b *Builder) Add(volume uint16, op Op, off, length int64, data []byte) bool {
	if headerLen(b.Len()+1) > b.lead || off < 0 || length < 0 {
		return false
	}
	e := rawEntry{volume: volume, op: op, off: uint64(off), len: uint64(length)}
	if e.carries() {
		if int64(len(data)) != length || length > MaxFramePayload || b.next+length > b.room() {
			return false
		}
		e.payload = uint64(b.next)
	}
	if e.check(b.next) != nil {
		return false
	}
	if e.carries() {
		at := b.buf[b.lead+b.next:]
		copy(at, data)
		e.crc = crc32.Checksum(at[:length], castagnoli)
		end := b.next + length
		b.next = alignUp(end, payloadAlign)
		clear(b.buf[b.lead+end : b.lead+b.next])
	}
	n := len(b.entries)
	if n+entrySize > cap(b.entries) {
		b.entries = append(b.entries, make([]byte, entrySize)...)
	} else {
		b.entries = b.entries[:n+entrySize]
	}
	putEntry(b.entries[n:], e)
	return true
}

// Payload is the content of the i-th entry in encoded, which is what the last Finish gave, or a copy of it.
func (b *Builder) Payload(encoded []byte, i int) []byte {
	e := parseEntry(b.entries[i*entrySize:])
	at := headerLen(b.Len()) + int64(e.payload)
	return encoded[at : at+int64(e.len)]
}

// room is the size of the payload area.
func (b *Builder) room() int64 { return int64(len(b.buf)) - b.lead }

// Len is the number of entries added since Reset.
func (b *Builder) Len() int { return len(b.entries) / entrySize }

// PayloadBytes is the size of the payload area so far.
func (b *Builder) PayloadBytes() int64 { return b.next }

// Full reports that the frame has no room for another write of one page.
func (b *Builder) Full() bool {
	return headerLen(b.Len()+1) > b.lead || b.next+PageSize > b.room()
}

// Finish writes the header and gives the encoded frame: page-aligned, whole pages, valid until the next Reset or Add.
// commitLSN is lowered to the frame's last LSN when above it. prevHeaderCRC is the HeaderCRC of the frame before in
// the same epoch, 0 when number is 1 (Journal.Next tells it). It may be called again with other arguments.
// It panics without entries: the committer never cuts an empty frame.
func (b *Builder) Finish(commitLSN domain.LSN, prevHeaderCRC uint32, now time.Time) []byte {
	count := b.Len()
	if count == 0 || len(b.group) > maxGroupLen {
		panic("journal: Finish of a frame without entries, or with an impossible group")
	}
	end := alignUp(b.next, PageSize)
	clear(b.buf[b.lead+b.next : b.lead+end])
	start := b.lead - headerLen(count)
	out := b.buf[start : b.lead+end : b.lead+end]
	clear(out[:headerSize])
	le := binary.LittleEndian
	le.PutUint32(out[offMagic:], frameMagic)
	le.PutUint16(out[offVersion:], frameVersion)
	le.PutUint32(out[offCount:], uint32(count))
	le.PutUint64(out[offEpoch:], uint64(b.epoch))
	le.PutUint64(out[offNumber:], b.number)
	le.PutUint64(out[offFirstLSN:], uint64(b.first))
	le.PutUint64(out[offCommitLSN:], uint64(min(commitLSN, b.first+domain.LSN(count)-1)))
	le.PutUint64(out[offTime:], uint64(now.UnixNano()))
	le.PutUint64(out[offPayloadLen:], uint64(end))
	le.PutUint32(out[offPrevCRC:], prevHeaderCRC)
	out[offGroup] = byte(len(b.group))
	copy(out[offGroup+1:], b.group)
	n := copy(out[headerSize:], b.entries)
	clear(out[headerSize+n : headerLen(count)])
	le.PutUint32(out[offHeaderCRC:], headerCRC(out[:headerLen(count)]))
	return out
}
