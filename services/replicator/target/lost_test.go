package target

import (
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

func TestWhatAClosedConnectionHeldIsGivenUpBeforeItsInitiatorIsLetInAgain(t *testing.T) {
	b := newRemovable(t)
	for i := range 50 {
		old := b.dial()
		old.isid = byte(2*i + 1)
		if s := old.login(); s != 0 {
			t.Fatalf("status %04x", s)
		}
		old.tidied().do(preventCDB(1), 0).want(t, iscsi.StatusGood)
		old.do(iscsi.CDB{0: iscsi.Reserve6}, 0).want(t, iscsi.StatusGood)
		again := b.dial()
		again.isid = byte(2*i + 2)
		_ = old.nc.Close()
		if s := again.login(); s != 0 {
			t.Fatalf("status %04x", s)
		}
		again.do(startStopCDB(loejBit), 0).want(t, iscsi.StatusGood)
		again.do(startStopCDB(loejBit|startBit), 0).want(t, iscsi.StatusGood)
		_ = again.nc.Close()
	}
}

func TestLoginIsNotHeldUpByALiveSessionOrForeverByADeadOne(t *testing.T) {
	b := newBench(t, Config{}, nil)
	alive, dead := b.login(), b.another()
	b.unit.hold()
	dead.held(b)
	_ = dead.nc.Close()
	again := b.dial()
	again.isid = 7
	if s := again.login(); s != 0 {
		t.Fatalf("status %04x", s)
	}
	b.unit.release()
	alive.do(iscsi.TestUnitReadyCDB(), 0).want(t, iscsi.StatusGood)
	again.do(iscsi.TestUnitReadyCDB(), 0).want(t, iscsi.StatusGood)
}
