package target

import (
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

// START STOP UNIT's byte 4.
const (
	stopOnly = 0
	startBit = 1
	loejBit  = 2
)

func startStopCDB(flags byte) iscsi.CDB { return iscsi.CDB{0: iscsi.StartStopUnit, 4: flags} }

func preventCDB(prevent byte) iscsi.CDB { return iscsi.CDB{0: iscsi.PreventAllow, 4: prevent} }

// newRemovable is a bench whose unit is a removable medium.
func newRemovable(t *testing.T) *bench {
	t.Helper()
	b := newBench(t, Config{}, nil)
	if err := b.srv.RemoveTarget(testIQN); err != nil {
		t.Fatal(err)
	}
	b.unit.info.Removable = true
	if err := b.srv.AddTarget(testIQN, map[int]Unit{0: b.unit}, nil); err != nil {
		t.Fatal(err)
	}
	return b
}

// another logs in a second initiator port.
func (b *bench) another() *client {
	b.t.Helper()
	c := b.dial()
	c.isid = 1
	if s := c.login(); s != 0 {
		b.t.Fatalf("status %04x", s)
	}
	return c
}

func TestEjectedMediumIsOutOfReachUntilItIsLoaded(t *testing.T) {
	b := newRemovable(t)
	one, two := b.login(), b.another()
	if r := one.do(iscsi.InquiryCDB(96), 96); r.data[1] != 0x80 {
		t.Errorf("byte 1 of INQUIRY is %02x", r.data[1])
	}
	one.put(iscsi.Write16CDB(0, 1, false), pattern(1, 512)).want(t, iscsi.StatusGood)
	one.do(startStopCDB(loejBit), 0).want(t, iscsi.StatusGood)
	for _, c := range []*client{one, two} {
		c.do(iscsi.TestUnitReadyCDB(), 0).wantSense(t, iscsi.SenseNotReady, iscsi.ASCMediumAbsentTrayOpen)
		c.do(iscsi.Read16CDB(0, 1), 512).wantSense(t, iscsi.SenseNotReady, iscsi.ASCMediumAbsentTrayOpen)
		c.put(iscsi.Write16CDB(0, 1, false), pattern(2, 512)).wantSense(t, iscsi.SenseNotReady, iscsi.ASCMediumAbsentTrayOpen)
		c.do(iscsi.ReadCapacity16CDB(32), 32).wantSense(t, iscsi.SenseNotReady, iscsi.ASCMediumAbsentTrayOpen)
		c.do(iscsi.InquiryCDB(96), 96).want(t, iscsi.StatusGood)
		c.do(iscsi.CDB{0: iscsi.ModeSense6, 2: pageCaching, 4: 255}, 255).want(t, iscsi.StatusGood)
	}
	one.do(startStopCDB(startBit), 0).wantSense(t, iscsi.SenseNotReady, iscsi.ASCMediumAbsentTrayOpen)
	one.do(startStopCDB(loejBit), 0).want(t, iscsi.StatusGood) // it is out already
	two.do(startStopCDB(loejBit|startBit), 0).want(t, iscsi.StatusGood)
	two.do(iscsi.TestUnitReadyCDB(), 0).want(t, iscsi.StatusGood)
	one.do(iscsi.TestUnitReadyCDB(), 0).wantSense(t, iscsi.SenseUnitAttention, iscsi.ASCMediumChanged)
	if r := one.do(iscsi.Read16CDB(0, 1), 512); r.status != 0 || r.data[3] != pattern(1, 512)[3] {
		t.Errorf("after the load: %#x", r.status)
	}
}

func TestWriteWhoseDataCameAfterTheEjectIsRefused(t *testing.T) {
	b := newRemovable(t)
	one, two := b.login(), b.another()
	cmd := one.command(iscsi.Write16CDB(0, 8, false), 4096, true)
	one.send(cmd, nil)
	r := iscsi.ParseR2T(one.recv())
	two.do(startStopCDB(loejBit), 0).want(t, iscsi.StatusGood)
	one.answerR2T(r, pattern(1, 4096), 4096)
	one.finish(cmd.ITT, nil, 0).wantSense(t, iscsi.SenseNotReady, iscsi.ASCMediumAbsentTrayOpen)
	if b.unit.at(0, 1)[0] != 0 {
		t.Error("it was written")
	}
}

func TestEjectWhoseFlushFailsLeavesTheMediumIn(t *testing.T) {
	b := newRemovable(t)
	c := b.login()
	b.unit.setFail(func(*Command) error { return ErrMedium })
	c.do(startStopCDB(loejBit), 0).wantSense(t, iscsi.SenseMediumError, iscsi.ASCWriteError)
	b.unit.setFail(nil)
	c.do(iscsi.TestUnitReadyCDB(), 0).want(t, iscsi.StatusGood)
}

func TestPowerConditionsAndStopsMoveNoMedium(t *testing.T) {
	b := newRemovable(t)
	c := b.login()
	for power := byte(1); power < 16; power++ {
		c.do(startStopCDB(power<<4|loejBit), 0).want(t, iscsi.StatusGood)
		c.do(iscsi.TestUnitReadyCDB(), 0).want(t, iscsi.StatusGood)
	}
	for _, flags := range []byte{stopOnly, startBit, 4, 4 | startBit} {
		c.do(startStopCDB(flags), 0).want(t, iscsi.StatusGood)
		c.do(iscsi.TestUnitReadyCDB(), 0).want(t, iscsi.StatusGood)
	}
}

func TestFixedDiskIsNeverEjected(t *testing.T) {
	b := newBench(t, Config{}, nil)
	c := b.login()
	if r := c.do(iscsi.InquiryCDB(96), 96); r.data[1] != 0 {
		t.Errorf("byte 1 of INQUIRY is %02x", r.data[1])
	}
	c.do(startStopCDB(loejBit), 0).wantSense(t, iscsi.SenseIllegalRequest, iscsi.ASCInvalidFieldInCDB)
	c.do(preventCDB(1), 0).want(t, iscsi.StatusGood)
	c.do(iscsi.TestUnitReadyCDB(), 0).want(t, iscsi.StatusGood)
}

func TestPreventionHoldsUntilEveryNexusEndedIts(t *testing.T) {
	b := newRemovable(t)
	one, two := b.login(), b.another()
	one.do(preventCDB(1), 0).want(t, iscsi.StatusGood)
	two.do(preventCDB(1), 0).want(t, iscsi.StatusGood)
	prevented := func() {
		t.Helper()
		one.do(startStopCDB(loejBit), 0).wantSense(t, iscsi.SenseIllegalRequest, iscsi.ASCMediumRemovalPrevented)
	}
	prevented()
	one.do(preventCDB(0), 0).want(t, iscsi.StatusGood)
	prevented()
	two.do(preventCDB(0), 0).want(t, iscsi.StatusGood)
	one.do(startStopCDB(loejBit), 0).want(t, iscsi.StatusGood)
	two.do(preventCDB(1), 0).want(t, iscsi.StatusGood)
	one.do(startStopCDB(loejBit|startBit), 0).wantSense(t, iscsi.SenseIllegalRequest, iscsi.ASCMediumRemovalPrevented)
	one.do(preventCDB(2), 0).wantSense(t, iscsi.SenseIllegalRequest, iscsi.ASCInvalidFieldInCDB)
}

func TestPreventionEndsWithItsNexusAndWithEveryReset(t *testing.T) {
	for name, end := range map[string]func(b *bench, one, two *client){
		"connection lost": func(b *bench, _, two *client) {
			two.nc.Close()
			eventually(t, "the session stays", func() bool { return len(b.srv.Sessions()) == 1 })
		},
		"logout": func(b *bench, _, two *client) {
			two.send(iscsi.Logout{Immediate: true, Reason: iscsi.LogoutCloseSession, ITT: 3, CmdSN: two.cmdSN}, nil)
			two.gone()
			eventually(t, "the session stays", func() bool { return len(b.srv.Sessions()) == 1 })
		},
		"reinstated": func(b *bench, _, _ *client) { b.another() },
		"lun reset": func(_ *bench, one, two *client) {
			two.wantTMF(two.tmf(iscsi.LogicalUnitReset, 0), iscsi.TMComplete)
			one.do(iscsi.TestUnitReadyCDB(), 0).wantSense(t, iscsi.SenseUnitAttention, iscsi.ASCDeviceReset)
		},
		"warm reset": func(_ *bench, one, two *client) {
			two.wantTMF(two.tmf(iscsi.TargetWarmReset, 0), iscsi.TMComplete)
			one.do(iscsi.TestUnitReadyCDB(), 0).wantSense(t, iscsi.SenseUnitAttention, iscsi.ASCBusReset)
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newRemovable(t)
			one, two := b.login(), b.another()
			two.do(preventCDB(1), 0).want(t, iscsi.StatusGood)
			one.do(startStopCDB(loejBit), 0).wantSense(t, iscsi.SenseIllegalRequest, iscsi.ASCMediumRemovalPrevented)
			end(b, one, two)
			one.do(startStopCDB(loejBit), 0).want(t, iscsi.StatusGood)
		})
	}
}
