package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// The file: slot A, slot B, ring. A slot has room for lineage and meta; only the pages in use are written.
const (
	slotSize   = 16 << 10
	ringOffset = 2 * slotSize

	superMagic   = 0x534a4648 // "HFJS"
	superVersion = 1
	superFixed   = 208
	lineageSize  = 56
)

// Flags of a superblock.
const (
	flagTailAny = 1 << iota // the frame at the tail may have any number and previous header (after Reset)
	flagSealed              // only a higher epoch goes on (Truncate cut inside a frame, or below the epoch)
)

// superblock is what recovery begins with. Positions are bytes written to the ring since Create, modulo nothing:
// position p is at byte ringOffset + p%ringSize of the file.
type superblock struct {
	gen      uint64
	fileSize int64
	group    domain.GroupID

	tail     tailRecord
	epoch    domain.Epoch // the lowest epoch accepted; frames from epochPos on carry exactly this one
	epochPos int64
	head     int64      // everything before it was durable when this was written
	last     domain.LSN // the LSN that ends at head
	released domain.LSN
	commit   domain.LSN // the highest commit LSN seen: the frame that said so may be forgotten since
	cut      domain.LSN // with sealed: the last LSN that counts
	sealed   bool
	wipeFrom int64 // [wipeFrom, wipeTo) must be overwritten with zeroes before anything else
	wipeTo   int64
	lineage  []LineageEntry
	meta     []byte
}

// tailRecord is the frame expected at the tail.
type tailRecord struct {
	pos     int64
	epoch   domain.Epoch
	number  uint64
	first   domain.LSN
	prevCRC uint32
	any     bool
}

func (s *superblock) clone() superblock {
	c := *s
	c.lineage = slices.Clone(s.lineage)
	c.meta = slices.Clone(s.meta)
	return c
}

// origin is the index of the epoch that change lsn belongs to, -1 when the lineage does not reach back to it.
func (s *superblock) origin(lsn domain.LSN) int {
	for i := len(s.lineage) - 1; i >= 0; i-- {
		if s.lineage[i].First <= lsn {
			return i
		}
	}
	return -1
}

// limit is the last LSN that counts of the epoch at index i of the lineage.
func (s *superblock) limit(i int) domain.LSN {
	l := domain.LSN(1<<64 - 1)
	if i+1 < len(s.lineage) {
		l = s.lineage[i+1].First - 1
	}
	if s.sealed {
		l = min(l, s.cut)
	}
	return l
}

// fields are the fixed numbers in file order, from byte 16; encode and decode share it, so they cannot disagree.
func (s *superblock) fields(flags *uint64) []any {
	return []any{&s.gen, &s.fileSize, &s.tail.pos, &s.tail.epoch, &s.tail.number, &s.tail.first, &s.tail.prevCRC,
		&s.epoch, &s.epochPos, &s.head, &s.last, &s.released, &s.commit, &s.cut, &s.wipeFrom, &s.wipeTo, flags}
}

const (
	offSuperFields  = 16
	offSuperGroup   = offSuperFields + 17*8
	offSuperLineage = offSuperGroup + 1 + maxGroupLen // u16 count
	offSuperMeta    = offSuperLineage + 2             // u16 length
)

// encode writes the superblock into buf, a slot, and gives the pages in use.
func (s *superblock) encode(buf []byte) []byte {
	n := superFixed + len(s.lineage)*lineageSize + len(s.meta)
	out := buf[:alignUp(int64(n), PageSize)]
	clear(out)
	le := binary.LittleEndian
	le.PutUint32(out, superMagic)
	le.PutUint32(out[4:], superVersion)
	le.PutUint32(out[8:], uint32(n))
	var flags uint64
	if s.tail.any {
		flags |= flagTailAny
	}
	if s.sealed {
		flags |= flagSealed
	}
	for i, f := range s.fields(&flags) {
		le.PutUint64(out[offSuperFields+8*i:], load(f))
	}
	putToken(out[offSuperGroup:], string(s.group))
	le.PutUint16(out[offSuperLineage:], uint16(len(s.lineage)))
	le.PutUint16(out[offSuperMeta:], uint16(len(s.meta)))
	at := out[superFixed:]
	for _, e := range s.lineage {
		le.PutUint64(at, uint64(e.Epoch))
		le.PutUint64(at[8:], uint64(e.First))
		putToken(at[16:], string(e.Site))
		at = at[lineageSize:]
	}
	copy(at, s.meta)
	le.PutUint32(out[12:], superCRC(out[:n]))
	return out
}

var errNoSuper = errors.New("no superblock")

// decodeSuper reads what encode wrote; b is a slot. It verifies the checksum and every range.
func decodeSuper(b []byte) (superblock, error) {
	var s superblock
	le := binary.LittleEndian
	if le.Uint32(b) != superMagic {
		return s, errNoSuper
	}
	n := int(le.Uint32(b[8:]))
	if n < superFixed || n > len(b) || superCRC(b[:n]) != le.Uint32(b[12:]) {
		return s, errors.New("superblock checksum")
	}
	if v := le.Uint32(b[4:]); v != superVersion {
		return s, fmt.Errorf("%w: journal version %d, this program reads %d", ErrMismatch, v, superVersion)
	}
	var flags uint64
	for i, f := range s.fields(&flags) {
		if !store(f, le.Uint64(b[offSuperFields+8*i:])) {
			return s, fmt.Errorf("superblock field %d out of range", i)
		}
	}
	s.tail.any, s.sealed = flags&flagTailAny != 0, flags&flagSealed != 0
	group, ok := token(b[offSuperGroup:])
	nl, nm := int(le.Uint16(b[offSuperLineage:])), int(le.Uint16(b[offSuperMeta:]))
	if !ok || nl > MaxLineage || nm > MaxMeta || n != superFixed+nl*lineageSize+nm {
		return s, errors.New("superblock sizes")
	}
	s.group = domain.GroupID(group)
	at := b[superFixed:n]
	for range nl {
		site, ok := token(at[16:])
		if !ok {
			return s, errors.New("superblock lineage")
		}
		s.lineage = append(s.lineage, LineageEntry{Epoch: domain.Epoch(le.Uint64(at)), First: domain.LSN(le.Uint64(at[8:])),
			Site: domain.SiteID(site)})
		at = at[lineageSize:]
	}
	s.meta = slices.Clone(at[:nm])
	return s, nil
}

func superCRC(b []byte) uint32 {
	c := crc32.Update(0, castagnoli, b[:12])
	c = crc32.Update(c, castagnoli, noCRC[:])
	return crc32.Update(c, castagnoli, b[16:])
}

// load and store move one fixed field; store is false for a value the field cannot have.
func load(f any) uint64 {
	switch f := f.(type) {
	case *uint64:
		return *f
	case *uint32:
		return uint64(*f)
	case *int64:
		return uint64(*f)
	case *domain.LSN:
		return uint64(*f)
	case *domain.Epoch:
		return uint64(*f)
	}
	panic("journal: superblock field of unknown type")
}

func store(f any, v uint64) bool {
	switch f := f.(type) {
	case *uint64:
		*f = v
		return true
	case *uint32:
		*f = uint32(v)
		return v <= 1<<32-1
	case *int64:
		*f = int64(v)
		return v <= 1<<63-1
	case *domain.LSN:
		*f = domain.LSN(v)
		return true
	case *domain.Epoch:
		*f = domain.Epoch(v)
		return v <= 1<<63-1
	}
	panic("journal: superblock field of unknown type")
}

// putToken writes an identifier: a length byte and its bytes.
func putToken(b []byte, s string) {
	b[0] = byte(len(s))
	copy(b[1:1+maxGroupLen], s)
}

func token(b []byte) (string, bool) {
	n := int(b[0])
	if n > maxGroupLen {
		return "", false
	}
	return string(b[1 : 1+n]), true
}
