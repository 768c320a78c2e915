package target

import (
	"errors"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

// A command takes its number and its place at one moment: an answer that leaves in between would promise a place too many, and
// the command that takes it would be ignored.
func TestMaxCmdSNNeverFalls(t *testing.T) {
	s := &session{srv: &Server{cfg: Config{QueueDepth: 8}}, expCmdSN: 5}
	promised := s.maxCmdSN()
	var p iscsi.PDU
	iscsi.SCSICommand{CmdSN: 5, ITT: 1, Final: true}.Put(&p)
	if take, err := s.admit(&p); !take || err != nil {
		t.Fatalf("not admitted: %v", err)
	}
	if exp, most := s.window(); exp != 6 || most != promised {
		t.Fatalf("the window is %d to %d, and %d was promised", exp, most, promised)
	}
}

// forgetful cannot keep anything.
type forgetful struct{}

func (forgetful) Kept() ([]byte, error) { return nil, nil }
func (forgetful) Keep([]byte) error     { return errors.New("no space") }

func TestOneInitiatorHoldsTheUnitByReserve6(t *testing.T) {
	h := &holding{keeper: forgetful{}, unsure: true} // of RESERVE (6) nothing is kept
	for range 2 {                                    // the second time changes nothing
		if !h.reserve("a") {
			t.Fatal("a does not hold it")
		}
	}
	if h.reserve("b") {
		t.Fatal("b holds what a holds")
	}
	h.release("b")
	if h.reserve("b") {
		t.Fatal("b gave up what a holds")
	}
	h.release("a")
	if !h.reserve("b") {
		t.Fatal("nobody holds it, and b may not")
	}
	r := &reservations{}
	r.register(registration{nexus: "a", key: 1})
	h.now.Store(r)
	if h.reserve("b") {
		t.Fatal("there is a registration")
	}
}
