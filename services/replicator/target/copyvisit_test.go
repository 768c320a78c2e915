package target

import (
	"bytes"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

const otherIQN = "iqn.2026-11.test:other"

// apart is a server of two targets with a unit each.
func apart(t *testing.T, here, there *CHAP) (b *bench, from, to *memUnit) {
	t.Helper()
	b = newBench(t, Config{}, here)
	to = newMemUnit(8 << 20)
	to.info.NAA = [8]byte{0x30, 2}
	if err := b.srv.AddTarget(otherIQN, map[int]Unit{0: to}, there); err != nil {
		t.Fatal(err)
	}
	copy(b.unit.data, pattern(5, 1<<20))
	return b, b.unit, to
}

// at logs in to a target, and takes its unit attention.
func (b *bench) at(iqn string, isid byte, secret *CHAP) *client {
	b.t.Helper()
	c := b.dial()
	c.isid, c.secret = isid, secret
	return b.in(c, iqn)
}

// stranger is at for another initiator.
func (b *bench) stranger(iqn string) *client {
	b.t.Helper()
	c := b.dial()
	c.name = "iqn.2026-11.test:stranger"
	return b.in(c, iqn)
}

func (b *bench) in(c *client, iqn string) *client {
	b.t.Helper()
	who := iscsi.Pairs{{Key: "InitiatorName", Value: c.name}, {Key: "TargetName", Value: iqn}}
	if c.secret != nil {
		if status := c.chap(who); status != iscsi.LoginSuccess {
			b.t.Fatalf("login: status %04x", status)
		}
		who = nil
	}
	if rsp, _ := c.loginStep(iscsi.Login{Transit: true, CSG: iscsi.StageOperational, NSG: iscsi.StageFullFeature}, who); rsp.Status != iscsi.LoginSuccess {
		b.t.Fatalf("login: status %04x", rsp.Status)
	}
	c.do(iscsi.TestUnitReadyCDB(), 0)
	return c
}

var copied = testSegment{0, 1, 2048, 0, 8}

func TestACopyGoesToAnotherTargetThatItsInitiatorIsLoggedInTo(t *testing.T) {
	b, from, to := apart(t, nil, nil)
	c := b.at(testIQN, 0, nil)
	list := copyList(0, false, []*memUnit{from, to}, copied)
	c.xcopy(list).wantSense(t, iscsi.SenseCopyAborted, iscsi.ASCCSCDNotReachable)
	b.stranger(otherIQN)
	c.xcopy(list).wantSense(t, iscsi.SenseCopyAborted, iscsi.ASCCSCDNotReachable)
	there := b.at(otherIQN, 7, nil)
	c.xcopy(list).want(t, iscsi.StatusGood)
	if !bytes.Equal(to.at(8*BlockSize, 1<<20), pattern(5, 1<<20)) {
		t.Fatal("the copy differs")
	}
	back := copyList(0, false, []*memUnit{to, from}, testSegment{0, 1, 8, 8, 10000})
	c.xcopy(back).want(t, iscsi.StatusGood)
	if !bytes.Equal(from.at(10000*BlockSize, 4096), pattern(5, 4096)) {
		t.Fatal("the copy back differs")
	}
	there.send(iscsi.Logout{Immediate: true, Reason: iscsi.LogoutCloseSession, ITT: 99, CmdSN: there.cmdSN}, nil)
	if p := there.recv(); p.Opcode() != iscsi.OpLogoutResponse {
		t.Fatalf("%v answers a logout", p.Opcode())
	}
	c.xcopy(list).wantSense(t, iscsi.SenseCopyAborted, iscsi.ASCCSCDNotReachable)
}

// An initiator's name is no proof: who knows the secret of one target only has nothing copied from or to another, whoever else is logged in
// there under the same name.
func TestACopyNeedsTheCredentialsOfTheOtherTarget(t *testing.T) {
	one, two := &CHAP{User: "one", Secret: []byte("a secret of one")}, &CHAP{User: "two", Secret: []byte("a secret of two")}
	sameUser := &CHAP{User: "one", Secret: []byte("a secret of two")}
	for name, c := range map[string]struct {
		here, there *CHAP
		may         bool
	}{
		"the same":               {one, one, true},
		"another user":           {one, two, false},
		"another secret":         {one, sameUser, false},
		"none here, some there":  {nil, two, false},
		"some here, none there":  {one, nil, false},
		"nobody needs any":       {nil, nil, true},
		"the other way about":    {two, one, false},
		"the secret, as another": {two, sameUser, false},
	} {
		t.Run(name, func(t *testing.T) {
			b, from, to := apart(t, c.here, c.there)
			b.at(otherIQN, 7, c.there)
			r := b.at(testIQN, 0, c.here).xcopy(copyList(0, false, []*memUnit{from, to}, copied))
			if c.may {
				r.want(t, iscsi.StatusGood)
				return
			}
			r.wantSense(t, iscsi.SenseCopyAborted, iscsi.ASCCSCDNotReachable)
			if !bytes.Equal(to.at(0, 8<<20), make([]byte, 8<<20)) {
				t.Error("something was written")
			}
		})
	}
}

// begun sends a copy whose write is held at its destination.
func begun(c *client, from, to *memUnit, segments ...testSegment) iscsi.SCSICommand {
	c.t.Helper()
	to.hold()
	list := copyList(0, false, []*memUnit{from, to}, segments...)
	cmd := c.command(copyCDB(len(list)), uint32(len(list)), true)
	c.send(cmd, list)
	<-to.arrived
	return cmd
}

func TestTheRemovalOfATargetWaitsForWhatIsCopiedToIt(t *testing.T) {
	b, from, to := apart(t, nil, nil)
	c, there := b.at(testIQN, 0, nil), b.at(otherIQN, 7, nil)
	cmd := begun(c, from, to, copied, copied)
	removed := make(chan error, 1)
	go func() { removed <- b.srv.RemoveTarget(otherIQN) }()
	there.gone()
	select {
	case err := <-removed:
		t.Fatalf("removed (%v) while a part of a copy is in flight in its unit", err)
	default:
	}
	to.release()
	if err := <-removed; err != nil {
		t.Fatal(err)
	}
	before := len(to.writesSoFar())
	c.finish(cmd.ITT, nil, 0).wantSense(t, iscsi.SenseCopyAborted, iscsi.ASCCSCDNotReachable)
	if n := len(to.writesSoFar()); n != before {
		t.Errorf("%d writes reached the unit after its target was removed", n-before)
	}
	c.do(iscsi.TestUnitReadyCDB(), 0).want(t, iscsi.StatusGood)
}

func (u *memUnit) writesSoFar() []int64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	return append([]int64(nil), u.writes...)
}

// Whoever preempts, or resets, is answered when the part of a copy that is at the unit has landed; the rest of a preempted copy never does.
func TestAPreemptionAndAResetWaitForThePartOfACopyAtTheUnit(t *testing.T) {
	for name, c := range map[string]struct {
		act  func(c *client)
		ends bool
	}{
		"preempt and abort": {func(c *client) {
			list := reserveKeys(2, 1)
			cmd := c.command(reserveOutCDB(outPreemptAbort, writeExclusiveRegistrantsOnly), uint32(len(list)), true)
			c.send(cmd, list)
		}, true},
		"logical unit reset": {func(c *client) {
			c.send(iscsi.TaskMgmt{Immediate: true, Function: iscsi.LogicalUnitReset, ITT: 1 << 20, CmdSN: c.cmdSN}, nil)
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			b, from, to := apart(t, nil, nil)
			here, there, other := b.at(testIQN, 0, nil), b.at(otherIQN, 7, nil), b.stranger(otherIQN)
			there.register(0, 1, 0).want(t, iscsi.StatusGood)
			other.register(0, 2, 0).want(t, iscsi.StatusGood)
			there.put(reserveOutCDB(outReserve, writeExclusiveRegistrantsOnly), reserveKeys(1, 0)).want(t, iscsi.StatusGood)
			cmd := begun(here, from, to, copied, copied)
			c.act(other)
			other.send(iscsi.NopOut{Immediate: true, ITT: 1<<20 + 1, TTT: iscsi.NoTag, CmdSN: other.cmdSN}, nil)
			if p := other.recv(); p.Opcode() != iscsi.OpNopIn {
				t.Fatalf("%v while a part of a copy is in flight", p.Opcode())
			}
			to.release()
			if p := other.recv(); p.Opcode() != iscsi.OpSCSIResponse && p.Opcode() != iscsi.OpTaskMgmtRsp {
				t.Fatalf("%v", p.Opcode())
			}
			if r := here.finish(cmd.ITT, nil, 0); c.ends {
				r.wantSense(t, iscsi.SenseCopyAborted, iscsi.ASCCSCDNotReachable)
			} else {
				r.want(t, iscsi.StatusGood)
			}
		})
	}
}

func TestACopyToAFencedUnitOfAnotherTargetEndsTheCopyOnly(t *testing.T) {
	b, from, to := apart(t, nil, nil)
	c, there := b.at(testIQN, 0, nil), b.at(otherIQN, 7, nil)
	to.setFail(func(*Command) error { return ErrFenced })
	list := copyList(0, false, []*memUnit{from, to}, copied)
	c.xcopy(list).wantSense(t, iscsi.SenseCopyAborted, iscsi.ASCCSCDNotReachable)
	c.do(iscsi.TestUnitReadyCDB(), 0).want(t, iscsi.StatusGood)
	to.setFail(nil)
	there.do(iscsi.TestUnitReadyCDB(), 0).want(t, iscsi.StatusGood)
	c.xcopy(list).want(t, iscsi.StatusGood)
}

// What was written to a unit that may not answer by now is not acknowledged by way of another one.
func TestACopyIsNotAcknowledgedForAUnitThatMayNotAnswer(t *testing.T) {
	b, from, to := apart(t, nil, nil)
	c, _ := b.at(testIQN, 0, nil), b.at(otherIQN, 7, nil)
	begun(c, from, to, copied)
	to.mu.Lock()
	to.allowed = false
	to.mu.Unlock()
	to.release()
	if before := c.gone(); len(before) > 0 {
		t.Errorf("%v was sent", before)
	}
}

// Whenever the other target is removed, nothing reaches its unit afterwards, and the copy ends in order.
func TestNothingIsCopiedToATargetThatWasRemoved(t *testing.T) {
	b, from, to := apart(t, nil, nil)
	c := b.at(testIQN, 0, nil)
	whole := 0
	for round := range 200 {
		b.at(otherIQN, 7, nil)
		arrive := make(chan struct{})
		seen := 0
		to.setFail(func(*Command) error {
			if seen++; seen == 1+round%8 {
				close(arrive) // the target goes while this one is in flight, or right after it
			}
			return nil
		})
		removed := make(chan int, 1)
		go func() {
			<-arrive
			if err := b.srv.RemoveTarget(otherIQN); err != nil {
				t.Error(err)
			}
			removed <- len(to.writesSoFar())
		}()
		switch r := c.xcopy(copyList(0, false, []*memUnit{from, to}, copied, copied, copied, copied, copied, copied, copied, copied)); {
		case r.status == iscsi.StatusGood:
			whole++
		case r.sense.Key != iscsi.SenseCopyAborted || r.sense.ASC != iscsi.ASCCSCDNotReachable:
			t.Fatalf("status %#x, sense %x/%04x", r.status, r.sense.Key, r.sense.ASC)
		}
		if before, n := <-removed, len(to.writesSoFar()); n != before {
			t.Fatalf("%d writes reached the unit after its target was removed", n-before)
		}
		to.setFail(nil)
		if err := b.srv.AddTarget(otherIQN, map[int]Unit{0: to}, nil); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d of 200 copies were whole before", whole)
}
