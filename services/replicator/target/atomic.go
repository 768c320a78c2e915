package target

import (
	"encoding/binary"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

// prepWriteAtomic checks WRITE ATOMIC (16) (SBC-4, of that name). No atomic boundary is offered: a write that may be split
// there is no use to anyone where a whole one is as cheap.
func prepWriteAtomic(t *task) *iscsi.Sense {
	cdb := &t.cmd.CDB
	if cdb[1]&0xe0 != 0 {
		return invalidField(1)
	}
	if s := prepRange(t); s != nil {
		return s
	}
	if binary.BigEndian.Uint16(cdb[10:]) != 0 {
		return invalidField(10)
	}
	t.outLen = int(t.blocks) * BlockSize
	if int64(t.outLen) > t.lun.info.MaxAtomicBytes || t.edtl(t.cmd.Write) < t.outLen { // a part of it would not be it
		return invalidField(12)
	}
	return t.writable()
}

func writeAtomic(t *task) {
	if len(t.data) == 0 {
		t.finish()
		return
	}
	t.submit(Command{Op: OpWrite, Off: t.off(), Len: t.len(), Data: t.data, FUA: t.fua(), Atomic: true}, nil)
}
