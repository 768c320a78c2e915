package iscsi

import "encoding/binary"

// CDB is a command descriptor block in the 16 bytes a SCSI command PDU carries; longer ones use an AHS, which Holdfast
// refuses.
type CDB = [16]byte

// Bits of byte 1 of READ, WRITE and their like.
const (
	BitFUA   byte = 0x08
	BitDPO   byte = 0x10
	BitUnmap byte = 0x08 // of WRITE SAME
	BitNDOB  byte = 0x01 // of WRITE SAME (16)
	BitANC   byte = 0x10 // of WRITE SAME: anchor
)

func cdb16(op, flags byte, lba uint64, blocks uint32) CDB {
	c := CDB{0: op, 1: flags}
	binary.BigEndian.PutUint64(c[2:], lba)
	binary.BigEndian.PutUint32(c[10:], blocks)
	return c
}

// TestUnitReadyCDB asks whether the unit is ready.
func TestUnitReadyCDB() CDB { return CDB{0: TestUnitReady} }

// InquiryCDB asks for standard INQUIRY data.
func InquiryCDB(alloc uint16) CDB { return CDB{0: Inquiry, 3: byte(alloc >> 8), 4: byte(alloc)} }

// InquiryVPDCDB asks for a vital product data page.
func InquiryVPDCDB(page byte, alloc uint16) CDB {
	return CDB{0: Inquiry, 1: 1, 2: page, 3: byte(alloc >> 8), 4: byte(alloc)}
}

// ReportLUNsCDB lists the units.
func ReportLUNsCDB(alloc uint32) CDB {
	c := CDB{0: ReportLUNs}
	binary.BigEndian.PutUint32(c[6:], alloc)
	return c
}

// ReadCapacity16CDB asks for size and block length.
func ReadCapacity16CDB(alloc uint32) CDB {
	c := CDB{0: ServiceActionIn16, 1: ReadCapacity16SA}
	binary.BigEndian.PutUint32(c[10:], alloc)
	return c
}

// Read16CDB reads blocks.
func Read16CDB(lba uint64, blocks uint32) CDB { return cdb16(Read16, 0, lba, blocks) }

// Write16CDB writes blocks; with fua they are durable before GOOD.
func Write16CDB(lba uint64, blocks uint32, fua bool) CDB {
	return cdb16(Write16, flag(fua, BitFUA), lba, blocks)
}

// SyncCache16CDB makes written blocks durable; lba 0 and blocks 0 mean all of the unit.
func SyncCache16CDB(lba uint64, blocks uint32) CDB { return cdb16(SyncCache16, 0, lba, blocks) }

// WriteSame16CDB writes one block over a range, or zeroes without a block (ndob); with unmap it may be deallocated.
func WriteSame16CDB(lba uint64, blocks uint32, unmap, ndob bool) CDB {
	return cdb16(WriteSame16, flag(unmap, BitUnmap)|flag(ndob, BitNDOB), lba, blocks)
}

// CompareAndWriteCDB compares blocks and, when equal, writes blocks (the data is both, one after the other).
func CompareAndWriteCDB(lba uint64, blocks byte) CDB {
	c := CDB{0: CompareAndWrite, 13: blocks}
	binary.BigEndian.PutUint64(c[2:], lba)
	return c
}

// Service actions of PERSISTENT RESERVE IN and OUT (SPC-4 6.15 and 6.16), and a reservation's type.
const (
	ReadReservation           byte = 0x01 // IN
	Reserve                   byte = 0x01 // OUT, like those below
	Preempt                   byte = 0x04
	PreemptAndAbort           byte = 0x05
	RegisterAndIgnoreExisting byte = 0x06
	WriteExclusive            byte = 0x01 // the holder alone may write
)

// PersistentReserveListLen is the length of the parameter list of PERSISTENT RESERVE OUT, but for REGISTER AND MOVE.
const PersistentReserveListLen = 24

// PersistentReserveOutCDB changes a reservation, of the whole unit; its parameter list is PersistentReserveList.
func PersistentReserveOutCDB(action, kind byte) CDB {
	return CDB{0: PersistentReserveOut, 1: action, 2: kind, 8: PersistentReserveListLen}
}

// PersistentReserveList is the parameter list: the key that the nexus is registered with, and the one that the service action is about.
func PersistentReserveList(key, about uint64) []byte {
	b := make([]byte, PersistentReserveListLen)
	binary.BigEndian.PutUint64(b, key)
	binary.BigEndian.PutUint64(b[8:], about)
	return b
}

// PersistentReserveInCDB asks for registrations or the reservation.
func PersistentReserveInCDB(action byte, alloc uint16) CDB {
	return CDB{0: PersistentReserveIn, 1: action, 7: byte(alloc >> 8), 8: byte(alloc)}
}

// UnmapCDB deallocates what its parameter list names, see UnmapList.
func UnmapCDB(listLen uint16) CDB { return CDB{0: Unmap, 7: byte(listLen >> 8), 8: byte(listLen)} }

// Extent is a run of blocks.
type Extent struct {
	LBA    uint64
	Blocks uint32
}

// UnmapList is the parameter list of UNMAP (SBC-4 section 5.32).
func UnmapList(extents []Extent) []byte {
	b := make([]byte, 8+16*len(extents))
	binary.BigEndian.PutUint16(b, uint16(len(b)-2))
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)-8))
	for i, e := range extents {
		binary.BigEndian.PutUint64(b[8+16*i:], e.LBA)
		binary.BigEndian.PutUint32(b[16+16*i:], e.Blocks)
	}
	return b
}

// Range is the block range of a CDB that has one, and whether the opcode is of a form with one: the 6, 10, 12 and
// 16-byte forms by the opcode's group code, COMPARE AND WRITE and WRITE ATOMIC (16) by
// their own. Blocks of READ (6) and WRITE (6) is 256
// where the field holds 0.
func Range(c CDB) (lba uint64, blocks uint32, ok bool) {
	if c[0] == CompareAndWrite {
		return binary.BigEndian.Uint64(c[2:]), uint32(c[13]), true
	}
	if c[0] == WriteAtomic16 {
		return binary.BigEndian.Uint64(c[2:]), uint32(binary.BigEndian.Uint16(c[12:])), true
	}
	switch c[0] >> 5 {
	case 0:
		n := uint32(c[4])
		if n == 0 {
			n = 256
		}
		return uint64(c[1]&0x1f)<<16 | uint64(c[2])<<8 | uint64(c[3]), n, true
	case 1, 2:
		return uint64(binary.BigEndian.Uint32(c[2:])), uint32(binary.BigEndian.Uint16(c[7:])), true
	case 4:
		return binary.BigEndian.Uint64(c[2:]), binary.BigEndian.Uint32(c[10:]), true
	case 5:
		return uint64(binary.BigEndian.Uint32(c[2:])), binary.BigEndian.Uint32(c[6:]), true
	}
	return 0, 0, false
}
