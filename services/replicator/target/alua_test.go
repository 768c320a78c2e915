package target

import (
	"bytes"
	"encoding/hex"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

func TestServedUnitIsActiveAndOptimizedThroughItsOnePort(t *testing.T) {
	b := newBench(t, Config{}, nil)
	c := b.login()
	if r := c.do(iscsi.InquiryCDB(96), 96); r.data[5]&0x30 != tpgsImplicit {
		t.Errorf("TPGS of %02x", r.data[5])
	}
	ids := c.do(iscsi.InquiryVPDCDB(0x83, 512), 512).data
	for what, want := range map[string][]byte{"relative target port": {0x51, 0x94, 0, 4, 0, 0, 0, 1}, "target port group": {0x51, 0x95, 0, 4, 0, 0, 0, 1}} {
		if !bytes.Contains(ids, want) {
			t.Errorf("no %s in %x", what, ids)
		}
	}
	for format, want := range []string{"0000000c" + "0001000100000001" + "00000001", "00000010" + "10000000" + "0001000100000001" + "00000001"} {
		r := c.do(iscsi.CDB{0: iscsi.MaintenanceIn, 1: byte(format)<<5 | reportPortGroupsSA, 9: 64}, 64)
		if r.status != 0 || hex.EncodeToString(r.data) != want {
			t.Errorf("format %d: %#x %x", format, r.status, r.data)
		}
	}
	c.do(iscsi.CDB{0: iscsi.MaintenanceIn, 1: 2<<5 | reportPortGroupsSA, 9: 64}, 64).wantSense(t, iscsi.SenseIllegalRequest, iscsi.ASCInvalidFieldInCDB)
}

func TestUnitThatLostItsRightTellsNoAccessState(t *testing.T) {
	b := newBench(t, Config{}, nil)
	c := b.login()
	b.unit.mu.Lock()
	b.unit.allowed = false
	b.unit.mu.Unlock()
	c.send(c.command(iscsi.CDB{0: iscsi.MaintenanceIn, 1: reportPortGroupsSA, 9: 64}, 64, false), nil)
	if ops := c.gone(); len(ops) != 0 {
		t.Fatalf("the target answered %v", ops)
	}
}
