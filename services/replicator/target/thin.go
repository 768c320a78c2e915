package target

import (
	"encoding/binary"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

func prepUnmap(t *task) *iscsi.Sense {
	if !t.lun.info.ThinProvisioned {
		return illegal(iscsi.ASCInvalidOpcode)
	}
	if t.cmd.CDB[1]&1 != 0 { // ANCHOR
		return invalidField(1)
	}
	t.outLen = int(binary.BigEndian.Uint16(t.cmd.CDB[7:]))
	return t.writable()
}

// unmap gives back the extents of its parameter list (SBC-4 section 5.32), after all of them were checked.
func unmap(t *task) {
	b := t.data
	if len(b) == 0 {
		t.finish()
		return
	}
	if len(b) < 8 {
		t.fail(*illegal(iscsi.ASCParameterListLength))
		return
	}
	n := min(int(binary.BigEndian.Uint16(b[2:])), len(b)-8) / 16
	if n > maxUnmapExtents {
		t.fail(*invalidParam(2))
		return
	}
	extents := make([]iscsi.Extent, 0, n)
	total, end := uint64(0), t.lun.blocks.Load()
	for i := range n {
		d := b[8+16*i:]
		e := iscsi.Extent{LBA: binary.BigEndian.Uint64(d), Blocks: binary.BigEndian.Uint32(d[8:])}
		if e.LBA > end || uint64(e.Blocks) > end-e.LBA {
			t.fail(*illegal(iscsi.ASCLBAOutOfRange))
			return
		}
		if total += uint64(e.Blocks); total > maxUnmapBlocks {
			t.fail(*invalidParam(8 + 16*i))
			return
		}
		if e.Blocks > 0 {
			extents = append(extents, e)
		}
	}
	t.unmapAll(extents)
}

func (t *task) unmapAll(extents []iscsi.Extent) {
	if len(extents) == 0 || t.isAborted() {
		t.finish()
		return
	}
	e := extents[0]
	t.submit(Command{Op: OpUnmap, Off: int64(e.LBA) * BlockSize, Len: int64(e.Blocks) * BlockSize}, func(err error) {
		if err != nil {
			t.complete(err)
			return
		}
		t.unmapAll(extents[1:])
	})
}

// prepWriteSame reads the range. A block count of 0, "to the end of the unit", is refused, as the Block Limits page says
// (WSNZ): it mostly asks for more than MAXIMUM WRITE SAME LENGTH, and a count that was forgotten must not cost a disk.
func prepWriteSame(t *task) *iscsi.Sense {
	flags := t.cmd.CDB[1]
	if flags&0xe0 != 0 || flags&iscsi.BitANC != 0 || flags&0x06 != 0 || flags&iscsi.BitUnmap != 0 && !t.lun.info.ThinProvisioned {
		return invalidField(1)
	}
	if t.cmd.CDB[0] == iscsi.WriteSame10 && flags&iscsi.BitNDOB != 0 {
		return invalidField(1)
	}
	if s := prepRange(t); s != nil {
		return s
	}
	if t.blocks == 0 || t.blocks > maxSameBlocks {
		return invalidField(countField(t.cmd.CDB[0]))
	}
	if t.cmd.CDB[0] == iscsi.WriteSame10 || flags&iscsi.BitNDOB == 0 {
		t.outLen = BlockSize
		if t.edtl(t.cmd.Write) != BlockSize {
			return invalidField(10)
		}
	}
	return t.writable()
}

// countField is where a CDB of the 10 or 16-byte form has its NUMBER OF LOGICAL BLOCKS.
func countField(op byte) int {
	if op>>5 == 4 {
		return 10
	}
	return 7
}

// writeSame writes one block over the range. Zeroes are never written out: they are one command to the unit.
func writeSame(t *task) {
	if Differs(t.data, make([]byte, len(t.data))) >= 0 {
		pattern, ok := t.readBuffer(int(min(t.len(), 1<<20)))
		if !ok {
			return
		}
		for at := 0; at < len(pattern); at += BlockSize {
			copy(pattern[at:], t.data)
		}
		t.writePattern(t.off(), t.len(), pattern)
		return
	}
	op := OpZero
	if t.cmd.CDB[1]&iscsi.BitUnmap != 0 {
		op = OpUnmap
	}
	t.submit(Command{Op: op, Off: t.off(), Len: t.len()}, nil)
}

func (t *task) writePattern(off, n int64, pattern []byte) {
	if n == 0 || t.isAborted() {
		t.finish()
		return
	}
	part := pattern[:min(n, int64(len(pattern)))]
	t.submit(Command{Op: OpWrite, Off: off, Len: int64(len(part)), Data: part}, func(err error) {
		if err != nil {
			t.complete(err)
			return
		}
		t.writePattern(off+int64(len(part)), n-int64(len(part)), pattern)
	})
}

func prepLBAStatus(t *task) *iscsi.Sense {
	t.lba = binary.BigEndian.Uint64(t.cmd.CDB[2:])
	if t.lba >= t.lun.blocks.Load() {
		return illegal(iscsi.ASCLBAOutOfRange)
	}
	return nil
}

// lookBytes is how much content one GET LBA STATUS may read: the first blocks are told one by one, what follows by what
// the unit knows without reading.
const lookBytes = 256 << 10

// lbaStatus describes where the unit is allocated (SBC-4 section 5.7); a unit that cannot say is allocated everywhere.
func lbaStatus(t *task) {
	const most = 64
	alloc := int(min(binary.BigEndian.Uint32(t.cmd.CDB[10:]), 8+16*most))
	b := make([]byte, 8, 8+16*most)
	look := int64(lookBytes)
	end := t.lun.blocks.Load()
	for lba := t.lba; lba < end; {
		mapped, n, err := t.lun.extent(lba, look)
		if err != nil {
			t.fail(senseOf(err, OpRead))
			return
		}
		look -= min(look, int64(n)*BlockSize)
		if !addStatus(&b, lba, n, mapped, max(alloc, 24)) {
			break
		}
		lba += n
	}
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	t.answer(b, alloc)
}

// extent says whether a block is mapped, and how many from there on are alike.
func (l *lun) extent(lba uint64, look int64) (mapped bool, n uint64, err error) {
	rest := min(l.blocks.Load()-lba, 0xffffffff)
	if l.mapper == nil || !l.info.ThinProvisioned {
		return true, rest, nil
	}
	mapped, bytes, err := l.mapper.Extent(int64(lba)*BlockSize, look)
	return mapped, min(rest, max(1, uint64(bytes)/BlockSize)), err
}

// addStatus adds blocks to the last LBA status descriptor, when they are of its kind, or as another one; false when the
// list has no room for that.
func addStatus(list *[]byte, lba, n uint64, mapped bool, room int) bool {
	b := *list
	status := byte(1) // deallocated
	if mapped {
		status = 0
	}
	if last := len(b) - 16; last >= 8 && b[last+12] == status {
		if sum := uint64(binary.BigEndian.Uint32(b[last+8:])) + n; sum <= 0xffffffff {
			binary.BigEndian.PutUint32(b[last+8:], uint32(sum))
			return true
		}
	}
	if len(b)+16 > room {
		return false
	}
	b = binary.BigEndian.AppendUint64(b, lba)
	b = binary.BigEndian.AppendUint32(b, uint32(n))
	*list = append(b, status, 0, 0, 0)
	return true
}
