package target

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"runtime"
	"slices"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

func TestIdentityIsTheSerialOfTheDiskAndTheNAAOfTheSite(t *testing.T) {
	b := newBench(t, Config{}, nil)
	c := b.login()
	if r := c.do(iscsi.InquiryVPDCDB(0x80, 255), 255); string(r.data[4:]) != "serial" {
		t.Errorf("serial page %q", r.data)
	}
	r := c.do(iscsi.InquiryVPDCDB(0x83, 512), 512)
	naa := b.unit.info.NAA
	if !bytes.Contains(r.data, append([]byte{0x01, 0x03, 0, 8}, naa[:]...)) {
		t.Errorf("no NAA in %x", r.data)
	}
	if !bytes.Contains(r.data, []byte{0x02, 0x01, 0, 24, 'H', 'O', 'L', 'D', 'F', 'A', 'S', 'T'}) {
		t.Errorf("no T10 vendor designator in %q", r.data)
	}
	if bytes.Contains(r.data, []byte("serial")) {
		t.Error("the serial, which two sites share, is among the identifiers of the unit")
	}
}

func TestEveryAdvertisedPageAndOpcodeIsThere(t *testing.T) {
	b := newBench(t, Config{}, nil)
	c := b.login()
	pages := c.do(iscsi.InquiryVPDCDB(0, 255), 255).data
	for _, p := range pages[4:] {
		if r := c.do(iscsi.InquiryVPDCDB(p, 255), 255); r.status != 0 || r.data[1] != p {
			t.Errorf("page %02x: %#x", p, r.status)
		}
	}
	c.do(iscsi.InquiryVPDCDB(0xd0, 255), 255).wantSense(t, iscsi.SenseIllegalRequest, iscsi.ASCInvalidFieldInCDB)
	all := c.do(iscsi.CDB{0: iscsi.MaintenanceIn, 1: iscsi.ReportOpcodesSA, 2: 0x80, 8: 0x40}, 0x4000).data
	if n := binary.BigEndian.Uint32(all); int(n) != len(all)-4 || n%20 != 0 || n == 0 {
		t.Fatalf("%d bytes of opcodes in %d", n, len(all))
	}
	for d := all[4:]; len(d) > 0; d = d[20:] {
		one := iscsi.CDB{0: iscsi.MaintenanceIn, 1: iscsi.ReportOpcodesSA, 2: 1 + d[5]&1, 3: d[0], 4: d[2], 5: d[3], 8: 1}
		r := c.do(one, 256)
		if r.status != 0 || r.data[1]&7 != 3 || r.data[4] != d[0] || int(r.data[3]) != int(d[7]) || len(r.data) != 4+int(d[7]) {
			t.Errorf("opcode %02x/%02x: %#x %x", d[0], d[3], r.status, r.data)
		}
	}
}

func TestVerifyOfALongRangeTakesNoDeeperStackThanOfAShortOne(t *testing.T) {
	b := newBench(t, Config{}, nil)
	c := b.login()
	var depths []int
	b.unit.setFail(func(*Command) error {
		depths = append(depths, runtime.Callers(0, make([]uintptr, 1024)))
		return nil
	})
	blocks := len(b.unit.data) / BlockSize
	cdb := iscsi.CDB{0: iscsi.Verify16}
	binary.BigEndian.PutUint32(cdb[10:], uint32(blocks))
	if r := c.do(cdb, 0); r.status != 0 {
		t.Fatalf("verify: %#x", r.status)
	}
	b.unit.setFail(nil)
	if len(depths) != 16 || slices.Max(depths) != slices.Min(depths) {
		t.Fatalf("calls deep at each MiB: %v", depths)
	}
	b.unit.setFail(func(c *Command) error { // a part fails, answered at once
		if c.Off == 8<<20 {
			return ErrMedium
		}
		return nil
	})
	if r := c.do(cdb, 0); r.status == 0 {
		t.Fatal("a part that cannot be read is no success")
	}
	b.unit.setFail(nil)
	b.unit.hold() // the first part is answered later, the rest at once
	go func() {
		<-b.unit.arrived
		b.unit.release()
	}()
	if r := c.do(cdb, 0); r.status != 0 {
		t.Fatalf("verify: %#x", r.status)
	}
}

func TestRefusalsSayWhy(t *testing.T) {
	b := newBench(t, Config{}, nil)
	c := b.login()
	end := uint64(len(b.unit.data) / 512)
	ill := iscsi.SenseIllegalRequest
	for name, tc := range map[string]struct {
		cdb iscsi.CDB
		asc uint16
	}{
		"unknown opcode":       {iscsi.CDB{0: 0xc1}, iscsi.ASCInvalidOpcode},
		"read past the end":    {iscsi.Read16CDB(end-1, 2), iscsi.ASCLBAOutOfRange},
		"read from the end on": {iscsi.Read16CDB(end+1, 0), iscsi.ASCLBAOutOfRange},
		"lba wraps":            {iscsi.Read16CDB(1<<64-1, 2), iscsi.ASCLBAOutOfRange},
		"flush past the end":   {iscsi.SyncCache16CDB(end, 1), iscsi.ASCLBAOutOfRange},
		"protection":           {iscsi.CDB{0: iscsi.Read10, 1: 0x20, 8: 1}, iscsi.ASCInvalidFieldInCDB},
		"verify mode":          {iscsi.CDB{0: iscsi.Verify10, 1: 0x04, 8: 1}, iscsi.ASCInvalidFieldInCDB},
		"unknown service":      {iscsi.CDB{0: iscsi.ServiceActionIn16, 1: 0x1e}, iscsi.ASCInvalidFieldInCDB},
		"mode page":            {iscsi.CDB{0: iscsi.ModeSense6, 2: 0x2b, 4: 255}, iscsi.ASCInvalidFieldInCDB},
		"saved pages":          {iscsi.CDB{0: iscsi.ModeSense6, 2: 0xc8, 4: 255}, 0x3900},
		"eject":                {iscsi.CDB{0: iscsi.StartStopUnit, 4: 2}, iscsi.ASCInvalidFieldInCDB},
		"lba status past end":  {iscsi.CDB{0: iscsi.ServiceActionIn16, 1: iscsi.GetLBAStatusSA, 2: 1, 13: 24}, iscsi.ASCLBAOutOfRange},
		"write same too long":  {iscsi.WriteSame16CDB(0, maxSameBlocks+1, false, true), iscsi.ASCLBAOutOfRange},
	} {
		t.Run(name, func(t *testing.T) { c.do(tc.cdb, 0).wantSense(t, ill, tc.asc) })
	}
	cmd := c.command(iscsi.TestUnitReadyCDB(), 0, false)
	cmd.LUN = iscsi.EncodeLUN(5)
	c.send(cmd, nil)
	c.finish(cmd.ITT, nil, 0).wantSense(t, ill, iscsi.ASCLUNotSupported)
	cmd = c.command(iscsi.InquiryCDB(96), 96, false)
	cmd.LUN = iscsi.EncodeLUN(5)
	c.send(cmd, nil)
	if r := c.finish(cmd.ITT, nil, 0); r.data[0] != 0x7f {
		t.Errorf("no unit 5, INQUIRY says %02x", r.data[0])
	}
}

func TestErrorsOfTheUnitReachTheInitiator(t *testing.T) {
	b := newBench(t, Config{}, nil)
	c := b.login()
	for _, tc := range []struct {
		err error
		key byte
		asc uint16
	}{
		{ErrReadOnly, iscsi.SenseDataProtect, iscsi.ASCWriteProtected},
		{ErrNoSpace, iscsi.SenseDataProtect, iscsi.ASCSpaceAllocFailed},
		{ErrMedium, iscsi.SenseMediumError, iscsi.ASCWriteError},
		{fmt.Errorf("wrapped: %w", ErrNoSpace), iscsi.SenseDataProtect, iscsi.ASCSpaceAllocFailed},
		{fmt.Errorf("anything else"), iscsi.SenseMediumError, iscsi.ASCWriteError},
	} {
		b.unit.setFail(func(*Command) error { return tc.err })
		c.put(iscsi.Write16CDB(0, 1, false), make([]byte, 512)).wantSense(t, tc.key, tc.asc)
		b.unit.setFail(nil)
	}
	b.unit.setFail(func(*Command) error { return ErrMedium })
	c.do(iscsi.Read16CDB(0, 1), 512).wantSense(t, iscsi.SenseMediumError, iscsi.ASCReadError)
}

func TestCompareAndWrite(t *testing.T) {
	b := newBench(t, Config{}, nil)
	c := b.login()
	c.put(iscsi.CompareAndWriteCDB(4, 2), append(make([]byte, 1024), pattern(5, 1024)...)).want(t, iscsi.StatusGood)
	wrong := pattern(5, 1024)
	wrong[700] ^= 1
	r := c.put(iscsi.CompareAndWriteCDB(4, 2), append(wrong, make([]byte, 1024)...))
	r.wantSense(t, iscsi.SenseMiscompare, iscsi.ASCMiscompare)
	if r.sense.Info != 700 || !bytes.Equal(b.unit.at(2048, 1024), pattern(5, 1024)) {
		t.Errorf("miscompare at %d", r.sense.Info)
	}
	c.put(iscsi.CompareAndWriteCDB(4, 3), make([]byte, 2048)).wantSense(t, iscsi.SenseIllegalRequest, iscsi.ASCInvalidFieldInCDB)
}

func TestWriteSameAndItsKin(t *testing.T) {
	b := newBench(t, Config{}, nil)
	c := b.login()
	block := pattern(7, 512)
	c.put(iscsi.WriteSame16CDB(0, 5000, false, false), block).want(t, iscsi.StatusGood)
	if got := b.unit.at(0, 5001*512); !bytes.Equal(got[4999*512:5000*512], block) || !bytes.Equal(got[5000*512:], make([]byte, 512)) {
		t.Error("the pattern's range is wrong")
	}
	var ops []Op
	b.unit.setFail(func(c *Command) error { ops = append(ops, c.Op); return nil })
	c.put(iscsi.WriteSame16CDB(0, 5000, false, false), make([]byte, 512)).want(t, iscsi.StatusGood)
	c.do(iscsi.WriteSame16CDB(0, 5000, true, true), 0).want(t, iscsi.StatusGood)
	c.put(iscsi.WriteSame16CDB(0, 1, true, false), block).want(t, iscsi.StatusGood)
	if fmt.Sprint(ops) != "[zero unmap write]" {
		t.Errorf("the unit saw %v", ops)
	}
	c.put(iscsi.CDB{0: iscsi.OrWrite, 13: 1}, pattern(8, 512)).want(t, iscsi.StatusGood)
	for i, got := range b.unit.at(0, 512) {
		if got != block[i]|pattern(8, 512)[i] {
			t.Fatalf("byte %d after ORWRITE is %02x", i, got)
		}
	}
}

func TestVerifyComparesWhatItIsGiven(t *testing.T) {
	b := newBench(t, Config{}, nil)
	c := b.login()
	data := pattern(1, 8192)
	c.put(iscsi.CDB{0: iscsi.WriteVerify10, 1: 0x02, 8: 16}, data).want(t, iscsi.StatusGood)
	c.put(iscsi.CDB{0: iscsi.Verify10, 1: 0x02, 8: 16}, data).want(t, iscsi.StatusGood)
	c.do(iscsi.CDB{0: iscsi.Verify10, 7: 0x20}, 0).want(t, iscsi.StatusGood)
	data[5000] ^= 1
	if r := c.put(iscsi.CDB{0: iscsi.Verify16, 1: 0x02, 13: 16}, data); r.sense.Key != iscsi.SenseMiscompare || r.sense.Info != 5000 {
		t.Errorf("%#x %v", r.status, r.sense)
	}
}

func TestWriteProtectByModeSelect(t *testing.T) {
	b := newBench(t, Config{}, nil)
	c, other := b.login(), b.dial()
	other.isid = 1
	if s := other.login(); s != 0 {
		t.Fatalf("status %04x", s)
	}
	sense := c.do(iscsi.CDB{0: iscsi.ModeSense6, 1: 8, 2: pageControl, 4: 255}, 255).data
	list := append([]byte{0, 0, 0, 0}, sense[4:]...)
	list[4+4] |= swpBit
	c.put(iscsi.CDB{0: iscsi.ModeSelect6, 1: 0x10, 4: byte(len(list))}, list).want(t, iscsi.StatusGood)
	other.do(iscsi.TestUnitReadyCDB(), 0).wantSense(t, iscsi.SenseUnitAttention, iscsi.ASCModeParamsChanged)
	other.put(iscsi.Write16CDB(0, 1, false), make([]byte, 512)).wantSense(t, iscsi.SenseDataProtect, iscsi.ASCWriteProtected)
	list[4+5] ^= 0xff
	c.put(iscsi.CDB{0: iscsi.ModeSelect6, 1: 0x10, 4: byte(len(list))}, list).wantSense(t, iscsi.SenseIllegalRequest, iscsi.ASCInvalidFieldInParams)
}

func reserveOutCDB(action, kind byte) iscsi.CDB {
	return iscsi.CDB{0: iscsi.PersistentReserveOut, 1: action, 2: kind, 8: reserveOutParamLen}
}

func reserveKeys(key, saKey uint64) []byte {
	b := make([]byte, reserveOutParamLen)
	binary.BigEndian.PutUint64(b, key)
	binary.BigEndian.PutUint64(b[8:], saKey)
	return b
}

func TestPersistentReservationsFence(t *testing.T) {
	for kind, refused := range map[byte]struct{ read, write bool }{
		writeExclusive: {false, true}, exclusiveAccess: {true, true}, writeExclusiveRegistrantsOnly: {false, true},
		exclusiveAccessRegistrantsOnly: {true, true}, writeExclusiveAllRegistrants: {false, true}, exclusiveAccessAllRegistrants: {true, true},
	} {
		b := newBench(t, Config{}, nil)
		one, two := b.login(), b.dial()
		two.isid = 1
		if s := two.login(); s != 0 {
			t.Fatalf("status %04x", s)
		}
		one.put(reserveOutCDB(outReserve, kind), reserveKeys(1, 0)).want(t, iscsi.StatusReservationConflict)
		one.put(reserveOutCDB(outRegister, 0), reserveKeys(0, 1)).want(t, iscsi.StatusGood)
		one.put(reserveOutCDB(outReserve, kind), reserveKeys(1, 0)).want(t, iscsi.StatusGood)
		check := func(read, write bool) {
			t.Helper()
			if got := two.do(iscsi.Read16CDB(0, 1), 512).status == iscsi.StatusReservationConflict; got != read {
				t.Errorf("type %d: read refused %v, want %v", kind, got, read)
			}
			if got := two.put(iscsi.Write16CDB(0, 1, false), make([]byte, 512)).status == iscsi.StatusReservationConflict; got != write {
				t.Errorf("type %d: write refused %v, want %v", kind, got, write)
			}
		}
		check(refused.read, refused.write)
		one.put(iscsi.Write16CDB(0, 1, false), make([]byte, 512)).want(t, iscsi.StatusGood)
		two.put(reserveOutCDB(outRegister, 0), reserveKeys(0, 2)).want(t, iscsi.StatusGood)
		registrants := kind >= writeExclusiveRegistrantsOnly
		check(refused.read && !registrants, refused.write && !registrants)
		two.put(reserveOutCDB(outPreempt, exclusiveAccess), reserveKeys(2, 1)).want(t, iscsi.StatusGood)
		one.do(iscsi.TestUnitReadyCDB(), 0).wantSense(t, iscsi.SenseUnitAttention, iscsi.ASCRegistrationsPreempted)
		allRegistrants := kind >= writeExclusiveAllRegistrants // then only the registration goes, the reservation stays two's
		if got := one.do(iscsi.Read16CDB(0, 1), 512).status; !allRegistrants && got != iscsi.StatusReservationConflict {
			t.Errorf("type %d: the preempted holder reads with %#x", kind, got)
		}
		two.put(reserveOutCDB(outClear, 0), reserveKeys(2, 0)).want(t, iscsi.StatusGood)
		one.do(iscsi.Read16CDB(0, 1), 512).want(t, iscsi.StatusGood)
	}
}

func TestPreemptAndAbortWaitsForWhatItAborts(t *testing.T) {
	b := newBench(t, Config{}, nil)
	one, two := b.login(), b.dial()
	two.isid = 1
	if s := two.login(); s != 0 {
		t.Fatalf("status %04x", s)
	}
	one.put(reserveOutCDB(outRegister, 0), reserveKeys(0, 1)).want(t, iscsi.StatusGood)
	two.put(reserveOutCDB(outRegister, 0), reserveKeys(0, 2)).want(t, iscsi.StatusGood)
	one.put(reserveOutCDB(outReserve, writeExclusive), reserveKeys(1, 0)).want(t, iscsi.StatusGood)
	b.unit.hold()
	one.send(one.command(iscsi.Write16CDB(0, 1, false), 512, true), pattern(1, 512))
	<-b.unit.arrived
	cmd := two.command(reserveOutCDB(outPreemptAbort, writeExclusive), reserveOutParamLen, true)
	two.send(cmd, reserveKeys(2, 1))
	two.send(iscsi.NopOut{Immediate: true, ITT: 1 << 20, TTT: iscsi.NoTag, CmdSN: two.cmdSN}, nil)
	if p := two.recv(); p.Opcode() != iscsi.OpNopIn {
		t.Fatalf("%v while the preempted write is in flight", p.Opcode())
	}
	b.unit.release()
	two.finish(cmd.ITT, nil, 0).want(t, iscsi.StatusGood)
	one.do(iscsi.TestUnitReadyCDB(), 0).wantSense(t, iscsi.SenseUnitAttention, iscsi.ASCRegistrationsPreempted)
}
