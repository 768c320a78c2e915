package target

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

const copyIQN = "iqn.2026-11.test:two"

// copyBench is a target of two units, and a client that took its unit attentions.
func copyBench(t *testing.T) (b *bench, c *client, from, to *memUnit) {
	t.Helper()
	return copyBenchOf(t, newMemUnit(8<<20))
}

func copyBenchOf(t *testing.T, first *memUnit) (b *bench, c *client, from, to *memUnit) {
	t.Helper()
	b = newBench(t, Config{}, nil)
	from, to = first, newMemUnit(8<<20)
	to.info.NAA = [8]byte{0x30, 2}
	if err := b.srv.AddTarget(copyIQN, map[int]Unit{0: from, 1: to}, nil); err != nil {
		t.Fatal(err)
	}
	c = b.dial()
	if rsp, _ := c.loginStep(iscsi.Login{Transit: true, CSG: 1, NSG: 3}, kv("InitiatorName", c.name, "TargetName", copyIQN)); rsp.Status != 0 {
		t.Fatalf("login: status %04x", rsp.Status)
	}
	for n := range 2 {
		c.on(n, iscsi.TestUnitReadyCDB(), nil)
	}
	return b, c, from, to
}

// on runs a command on one of several units.
func (c *client) on(lun int, cdb iscsi.CDB, data []byte) result {
	c.t.Helper()
	cmd := c.command(cdb, uint32(len(data)), len(data) > 0)
	if data == nil {
		cmd.Read, cmd.EDTL = true, 4096
	}
	cmd.LUN = iscsi.EncodeLUN(lun)
	c.send(cmd, data)
	return c.finish(cmd.ITT, data, len(data))
}

type testSegment struct {
	from, to uint16
	blocks   uint16
	src, dst uint64
}

// copyList is an EXTENDED COPY (LID1) parameter list; keep asks for the result to be held.
func copyList(id byte, keep bool, units []*memUnit, segments ...testSegment) []byte {
	be := binary.BigEndian
	b := make([]byte, 16)
	b[0] = id
	if !keep {
		b[1] = 2 << 3
	}
	be.PutUint16(b[2:], uint16(32*len(units)))
	be.PutUint32(b[8:], uint32(28*len(segments)))
	for _, u := range units {
		d := make([]byte, 32)
		d[0], d[4], d[5], d[7] = 0xe4, 1, 3, 8
		copy(d[8:], u.info.NAA[:])
		be.PutUint32(d[28:], BlockSize)
		b = append(b, d...)
	}
	for _, s := range segments {
		d := make([]byte, 28)
		d[0], d[3] = 2, 24
		be.PutUint16(d[4:], s.from)
		be.PutUint16(d[6:], s.to)
		be.PutUint16(d[10:], s.blocks)
		be.PutUint64(d[12:], s.src)
		be.PutUint64(d[20:], s.dst)
		b = append(b, d...)
	}
	return b
}

func copyCDB(n int) iscsi.CDB {
	c := iscsi.CDB{0: iscsi.ExtendedCopy}
	binary.BigEndian.PutUint32(c[10:], uint32(n))
	return c
}

func resultsCDB(sa, id byte) iscsi.CDB {
	return iscsi.CDB{0: iscsi.ReceiveCopyResults, 1: sa, 2: id, 12: 2}
}

func (c *client) xcopy(list []byte) result {
	c.t.Helper()
	return c.on(0, copyCDB(len(list)), list)
}

func TestExtendedCopyCopiesFromUnitToUnit(t *testing.T) {
	_, c, from, to := copyBench(t)
	data := pattern(3, 3<<20)
	clear(data[1<<20 : 2<<20]) // zeroes are unmapped, not written
	copy(from.data, data)
	copy(to.data, pattern(9, len(to.data)))
	units := []*memUnit{from, to}
	c.xcopy(copyList(7, true, units, testSegment{0, 1, 6144, 0, 100}, testSegment{1, 0xffff, 8, 100, 10000})).want(t, iscsi.StatusGood)
	if !bytes.Equal(to.at(100*512, len(data)), data) || !bytes.Equal(from.at(10000*512, 4096), data[:4096]) {
		t.Fatal("the copy differs")
	}
	if !bytes.Equal(to.at(0, 51200), pattern(9, 51200)) || to.at(100*512+len(data), 1)[0] != pattern(9, len(to.data))[100*512+len(data)] {
		t.Fatal("more was written than was asked for")
	}
	r := c.on(0, resultsCDB(copyStatusSA, 7), nil)
	r.want(t, iscsi.StatusGood)
	if kib := binary.BigEndian.Uint32(r.data[8:]); r.data[4] != 1 || r.data[6] != 2 || r.data[7] != 1 || kib != 3072+4 {
		t.Errorf("copy status %x", r.data)
	}
	c.on(0, resultsCDB(copyStatusSA, 7), nil).wantSense(t, iscsi.SenseIllegalRequest, iscsi.ASCInvalidFieldInCDB) // told once
}

func TestExtendedCopyOfOverlappingRangesKeepsTheSource(t *testing.T) {
	for name, seg := range map[string]testSegment{"upwards": {0, 0, 8192, 0, 100}, "downwards": {0, 0, 8192, 100, 0}} {
		_, c, from, _ := copyBench(t)
		copy(from.data, pattern(5, 5<<20))
		want := bytes.Clone(from.data[seg.src*512 : seg.src*512+8192*512])
		c.xcopy(copyList(0, false, []*memUnit{from}, seg)).want(t, iscsi.StatusGood)
		if !bytes.Equal(from.at(int(seg.dst)*512, len(want)), want) {
			t.Errorf("%s: the copy differs", name)
		}
	}
}

func TestExtendedCopyThatFailsSaysWhereAndWhy(t *testing.T) {
	_, c, from, to := copyBench(t)
	copy(from.data, pattern(5, 4096))
	units := []*memUnit{from, to}
	stranger := newMemUnit(1 << 20)
	stranger.info.NAA = [8]byte{0x30, 99}
	end := uint64(len(to.data) / 512)
	for name, tc := range map[string]struct {
		units []*memUnit
		seg   testSegment
		asc   uint16
	}{
		"no such descriptor":         {units, testSegment{0, 2, 8, 0, 0}, iscsi.ASCUnreachableCSCD},
		"a unit of nobody":           {[]*memUnit{from, stranger}, testSegment{0, 1, 8, 0, 0}, iscsi.ASCCSCDNotReachable},
		"past the destination's end": {units, testSegment{0, 1, 8, 0, end - 7}, iscsi.ASCNone},
		"past the source's end":      {units, testSegment{0, 1, 8, 1 << 63, 0}, iscsi.ASCNone},
	} {
		good := testSegment{0, 1, 8, 0, 0}
		c.xcopy(copyList(3, true, tc.units, testSegment{0, 0, 8, 0, 64}, tc.seg, good)).wantSense(t, iscsi.SenseCopyAborted, tc.asc)
		if r := c.on(0, resultsCDB(copyStatusSA, 3), nil); r.data[4] != 2 || r.data[6] != 1 {
			t.Errorf("%s: copy status %x", name, r.data)
		}
		r := c.on(0, resultsCDB(copyFailureSA, 3), nil)
		if s, err := iscsi.ParseSense(r.data[60:]); err != nil || s.Key != iscsi.SenseCopyAborted || s.ASC != tc.asc {
			t.Errorf("%s: failed segment details %x", name, r.data)
		}
		if !bytes.Equal(to.at(0, 4096), make([]byte, 4096)) {
			t.Fatalf("%s: the segments after it were copied", name)
		}
	}
	to.setFail(func(cmd *Command) error {
		if cmd.Op == OpWrite {
			return errors.New("broken")
		}
		return nil
	})
	c.xcopy(copyList(0, false, units, testSegment{0, 1, 8, 0, 0})).wantSense(t, iscsi.SenseCopyAborted, iscsi.ASCWriteError)
}

func TestExtendedCopyHonoursReservationsAndWriteProtection(t *testing.T) {
	b, c, from, to := copyBench(t)
	copy(from.data, pattern(5, 4096))
	list := copyList(0, false, []*memUnit{from, to}, testSegment{0, 1, 8, 0, 0})
	other := b.dial()
	other.isid = 1
	if rsp, _ := other.loginStep(iscsi.Login{Transit: true, CSG: 1, NSG: 3}, kv("InitiatorName", other.name, "TargetName", copyIQN)); rsp.Status != 0 {
		t.Fatalf("login: status %04x", rsp.Status)
	}
	other.on(1, iscsi.TestUnitReadyCDB(), nil)
	other.on(1, iscsi.CDB{0: iscsi.Reserve6}, nil).want(t, iscsi.StatusGood)
	c.xcopy(list).wantSense(t, iscsi.SenseCopyAborted, iscsi.ASCCSCDNotReachable)
	other.on(1, iscsi.CDB{0: iscsi.Release6}, nil).want(t, iscsi.StatusGood)
	protect := []byte{0, 0, 0, 0, pageControl, 10, 0, 0x10, swpBit, 0, 0, 0, 0, 0, 0, 0}
	other.on(1, iscsi.CDB{0: iscsi.ModeSelect6, 1: 0x10, 4: byte(len(protect))}, protect).want(t, iscsi.StatusGood)
	c.xcopy(list).wantSense(t, iscsi.SenseCopyAborted, iscsi.ASCCSCDNotReachable)
	if !bytes.Equal(to.at(0, 4096), make([]byte, 4096)) {
		t.Fatal("it was written")
	}
}

func TestAnAbortedExtendedCopyStops(t *testing.T) {
	_, c, from, to := copyBench(t)
	from.hold()
	list := copyList(5, true, []*memUnit{from, to}, testSegment{0, 1, 8192, 0, 0})
	cmd := c.command(copyCDB(len(list)), uint32(len(list)), true)
	c.send(cmd, list)
	<-from.arrived
	if r := c.on(0, resultsCDB(copyStatusSA, 5), nil); r.data[4] != 0 {
		t.Errorf("copy status %x while it is at work", r.data)
	}
	c.send(iscsi.TaskMgmt{Immediate: true, Function: iscsi.AbortTask, ITT: 1 << 20, RefITT: cmd.ITT, CmdSN: c.cmdSN}, nil)
	c.send(iscsi.NopOut{Immediate: true, ITT: 1<<20 + 1, TTT: iscsi.NoTag, CmdSN: c.cmdSN}, nil)
	if p := c.recv(); p.Opcode() != iscsi.OpNopIn { // the target is at the ping: it has seen the abort
		t.Fatalf("%v while the copy's read is in flight", p.Opcode())
	}
	from.release()
	if p := c.recv(); p.Opcode() != iscsi.OpTaskMgmtRsp {
		t.Fatalf("%v", p.Opcode())
	}
	if r := c.on(0, resultsCDB(copyStatusSA, 5), nil); r.data[4] != 2 {
		t.Errorf("copy status %x after the abort", r.data)
	}
}
