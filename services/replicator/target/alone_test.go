package target

import (
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

// A unit may take a command's time for itself when the initiator waits for nothing else, and the initiator's own numbers say so.
func TestACommandIsAloneWhenItsInitiatorHadEveryAnswer(t *testing.T) {
	b := newBench(t, Config{}, nil)
	alone := make(chan bool, 8)
	b.unit.fail = func(cmd *Command) error {
		if cmd.Op == OpWrite {
			alone <- cmd.Alone
		}
		return nil
	}
	c := b.login()
	known := uint32(0)
	write := func(expStatSN uint32) {
		t.Helper()
		cmd := c.command(iscsi.Write16CDB(0, 1, false), BlockSize, true)
		cmd.ExpStatSN = expStatSN
		c.send(cmd, make([]byte, BlockSize))
	}
	answer := func() {
		t.Helper()
		p := c.recv()
		if p.Opcode() != iscsi.OpSCSIResponse {
			t.Fatalf("%v came", p.Opcode())
		}
		known = iscsi.ParseSCSIResponse(p).StatSN + 1
	}
	write(0)
	answer()
	<-alone
	write(known)
	answer()
	if !<-alone {
		t.Error("one after the other: it is not alone")
	}
	write(known - 1) // sent before the last answer came
	answer()
	if <-alone {
		t.Error("its initiator lacked an answer, and it is alone")
	}
	b.unit.hold()
	write(known)
	<-b.unit.arrived
	write(known)
	<-b.unit.arrived
	b.unit.release()
	answer()
	answer()
	if first, second := <-alone, <-alone; !first || second {
		t.Errorf("two at once: %v, %v", first, second)
	}
}
