package target

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

// pinged proves that the target has acted on all that c sent and answered nothing of it yet.
func (c *client) pinged() {
	c.t.Helper()
	c.send(iscsi.NopOut{Immediate: true, ITT: 1 << 20, TTT: iscsi.NoTag, CmdSN: c.cmdSN}, nil)
	if p := c.recv(); p.Opcode() != iscsi.OpNopIn {
		c.t.Fatalf("%v before what is in flight has ended", p.Opcode())
	}
}

// held sends a write that the unit holds back.
func (c *client) held(b *bench) iscsi.SCSICommand {
	c.t.Helper()
	cmd := c.command(iscsi.Write16CDB(0, 1, false), 512, true)
	c.send(cmd, pattern(1, 512))
	<-b.unit.arrived
	return cmd
}

func TestFunctionsThatEndOthersTasksWaitForThemToo(t *testing.T) {
	for f, asc := range map[iscsi.TaskMgmtFunction]uint16{iscsi.ClearTaskSet: iscsi.ASCCommandsCleared, iscsi.LogicalUnitReset: iscsi.ASCDeviceReset,
		iscsi.TargetWarmReset: iscsi.ASCBusReset} {
		b := newBench(t, Config{}, nil)
		one, two := b.login(), b.another()
		b.unit.hold()
		one.held(b)
		tag := two.tmf(f, 0)
		two.pinged()
		b.unit.release()
		two.wantTMF(tag, iscsi.TMComplete)
		one.do(iscsi.TestUnitReadyCDB(), 0).wantSense(t, iscsi.SenseUnitAttention, asc) // and no answer to the write before it
		one.do(iscsi.TestUnitReadyCDB(), 0).want(t, iscsi.StatusGood)
		if f == iscsi.ClearTaskSet {
			two.do(iscsi.TestUnitReadyCDB(), 0).want(t, iscsi.StatusGood)
		}
	}
}

func TestAbortTaskSetLeavesOthersTasksAlone(t *testing.T) {
	b := newBench(t, Config{}, nil)
	one, two := b.login(), b.another()
	b.unit.hold()
	kept := one.held(b)
	two.held(b)
	tag := two.tmf(iscsi.AbortTaskSet, 0)
	two.pinged()
	b.unit.release()
	two.wantTMF(tag, iscsi.TMComplete)
	one.finish(kept.ITT, nil, 0).want(t, iscsi.StatusGood)
	one.do(iscsi.TestUnitReadyCDB(), 0).want(t, iscsi.StatusGood)
}

func TestColdResetIsAnsweredAfterAllHasEndedAndThenEverySessionIs(t *testing.T) {
	b := newBench(t, Config{}, nil)
	one, two := b.login(), b.another()
	b.unit.hold()
	one.held(b)
	tag := two.tmf(iscsi.TargetColdReset, 0)
	two.pinged()
	b.unit.release()
	two.wantTMF(tag, iscsi.TMComplete)
	for _, c := range []*client{one, two} {
		if p := c.recv(); p.Opcode() != iscsi.OpAsync || iscsi.ParseAsync(p).Event != iscsi.AsyncDropAll {
			t.Fatalf("%v", p.Opcode())
		}
		var p iscsi.PDU
		if err := c.r.Next(&p); !errors.Is(err, io.EOF) {
			t.Fatalf("after a cold reset: %v", err)
		}
	}
	b.login().tidied().do(iscsi.TestUnitReadyCDB(), 0).want(t, iscsi.StatusGood)
}

func TestTaskThatIsAbortedTwiceIsWaitedForTwice(t *testing.T) {
	b := newBench(t, Config{}, nil)
	one, two := b.login(), b.another()
	b.unit.hold()
	cmd := one.held(b)
	first := one.tmf(iscsi.AbortTask, cmd.ITT)
	second := two.tmf(iscsi.LogicalUnitReset, 0)
	one.pinged()
	two.pinged()
	b.unit.release()
	one.wantTMF(first, iscsi.TMComplete)
	two.wantTMF(second, iscsi.TMComplete)
}

func TestFunctionOnAUnitThatIsNotThereSaysSo(t *testing.T) {
	b := newBench(t, Config{}, nil)
	c := b.login()
	for _, f := range []iscsi.TaskMgmtFunction{iscsi.AbortTask, iscsi.AbortTaskSet, iscsi.ClearTaskSet, iscsi.LogicalUnitReset} {
		c.itt++
		c.send(iscsi.TaskMgmt{Immediate: true, Function: f, LUN: iscsi.EncodeLUN(5), ITT: c.itt, CmdSN: c.cmdSN}, nil)
		c.wantTMF(c.itt, iscsi.TMNoLUN)
	}
	c.wantTMF(c.tmf(iscsi.TaskReassign, 0), iscsi.TMNoReassign)
	c.wantTMF(c.tmf(14, 0), iscsi.TMNotSupported)
}

func TestSupportedTaskManagementIsToldTruly(t *testing.T) {
	b := newBench(t, Config{}, nil)
	c := b.login()
	cdb := iscsi.CDB{0: iscsi.MaintenanceIn, 1: iscsi.ReportTMFsSA, 9: 64}
	if r := c.do(cdb, 64); r.status != 0 || !bytes.Equal(r.data, []byte{0xda, 0, 0, 0}) {
		t.Errorf("%#x %x", r.status, r.data)
	}
	cdb[2] = 0x80
	if r := c.do(cdb, 64); r.status != 0 || len(r.data) != 16 || r.data[3] != 12 {
		t.Errorf("with REPD: %#x %x", r.status, r.data)
	}
	for _, f := range []iscsi.TaskMgmtFunction{iscsi.AbortTaskSet, iscsi.ClearTaskSet, iscsi.LogicalUnitReset, iscsi.TargetWarmReset} {
		c.wantTMF(c.tmf(f, 0), iscsi.TMComplete)
	}
	cdb[9] = 3
	c.tidied().do(cdb, 3).wantSense(t, iscsi.SenseIllegalRequest, iscsi.ASCInvalidFieldInCDB)
}
