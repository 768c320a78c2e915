package target

import (
	"encoding/binary"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

func atomicCDB(lba uint64, blocks, boundary uint16) iscsi.CDB {
	c := iscsi.CDB{0: iscsi.WriteAtomic16}
	binary.BigEndian.PutUint64(c[2:], lba)
	binary.BigEndian.PutUint16(c[10:], boundary)
	binary.BigEndian.PutUint16(c[12:], blocks)
	return c
}

func TestWriteAtomicIsOfferedByUnitsThatKeepIt(t *testing.T) {
	b := newBench(t, Config{}, nil)
	c := b.login()
	ask := iscsi.CDB{0: iscsi.MaintenanceIn, 1: iscsi.ReportOpcodesSA, 2: 1, 3: iscsi.WriteAtomic16, 8: 1}
	c.put(atomicCDB(0, 1, 0), make([]byte, 512)).wantSense(t, iscsi.SenseIllegalRequest, iscsi.ASCInvalidOpcode)
	if r := c.do(ask, 256); r.data[1] != 1 {
		t.Errorf("support %x of a unit without", r.data[1])
	}
	able := newMemUnit(1 << 20)
	able.info.MaxAtomicBytes = 32 << 10
	_, c, unit, _ := copyBenchOf(t, able)
	if r := c.do(ask, 256); r.data[1] != 3 {
		t.Errorf("support %x of a unit with it", r.data[1])
	}
	if r := c.do(iscsi.InquiryVPDCDB(0xb0, 255), 255); binary.BigEndian.Uint32(r.data[44:]) != 64 {
		t.Errorf("block limits %x", r.data)
	}
	var flagged bool
	unit.setFail(func(cmd *Command) error {
		flagged = cmd.Atomic && cmd.Op == OpWrite && cmd.Len == 64*512
		return nil
	})
	c.put(atomicCDB(3, 64, 0), pattern(1, 64*512)).want(t, iscsi.StatusGood)
	if !flagged {
		t.Error("the unit was not told that the write is atomic")
	}
	for name, tc := range map[string]struct {
		cdb  iscsi.CDB
		data int
		asc  uint16
	}{
		"longer than the unit's limit": {atomicCDB(0, 65, 0), 65 * 512, iscsi.ASCInvalidFieldInCDB},
		"with a boundary":              {atomicCDB(0, 8, 4), 8 * 512, iscsi.ASCInvalidFieldInCDB},
		"with less data than it names": {atomicCDB(0, 8, 0), 7 * 512, iscsi.ASCInvalidFieldInCDB},
		"past the end":                 {atomicCDB(2047, 2, 0), 2 * 512, iscsi.ASCLBAOutOfRange},
	} {
		t.Run(name, func(t *testing.T) {
			c.put(tc.cdb, make([]byte, tc.data)).wantSense(t, iscsi.SenseIllegalRequest, tc.asc)
		})
	}
}
