package target

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

func TestReinstatementWaitsForWhatTheOldSessionHadInFlight(t *testing.T) {
	b := newBench(t, Config{}, nil)
	old := b.login()
	b.unit.hold()
	old.send(old.command(iscsi.Write16CDB(0, 1, false), 512, true), pattern(1, 512))
	<-b.unit.arrived
	again := b.dial()
	status := make(chan uint16)
	go func() { status <- again.login() }()
	old.gone()
	select {
	case s := <-status:
		t.Fatalf("let in with status %04x while a write of the old session is in flight", s)
	case <-time.After(50 * time.Millisecond):
	}
	b.unit.release()
	if s := <-status; s != 0 {
		t.Fatalf("status %04x", s)
	}
	if n := len(b.srv.Sessions()); n != 1 {
		t.Fatalf("%d sessions", n)
	}
	again.do(iscsi.TestUnitReadyCDB(), 0).want(t, iscsi.StatusGood)
}

func TestReinstatementGivesUpWhenTheOldSessionNeverSettles(t *testing.T) {
	b := newBench(t, Config{LoginTimeout: 200 * time.Millisecond}, nil)
	old := b.login()
	b.unit.hold()
	old.send(old.command(iscsi.Read16CDB(0, 1), 512, false), nil)
	<-b.unit.arrived
	if s := b.dial().login(); s != iscsi.LoginServiceUnavailable {
		t.Fatalf("status %04x", s)
	}
}

func TestTwoInitiatorsAndTwoISIDsLiveSideBySide(t *testing.T) {
	b := newBench(t, Config{}, nil)
	one := b.login()
	two := b.dial()
	two.isid = 7
	three := b.dial()
	three.name = "iqn.2026-11.test:another"
	for _, c := range []*client{two, three} {
		if s := c.login(); s != 0 {
			t.Fatalf("status %04x", s)
		}
	}
	for _, c := range []*client{one, two, three} {
		c.do(iscsi.TestUnitReadyCDB(), 0).want(t, iscsi.StatusGood)
	}
	if n := len(b.srv.Sessions()); n != 3 {
		t.Fatalf("%d sessions", n)
	}
}

func TestAFencedUnitDropsTheSessionWithoutAnAnswer(t *testing.T) {
	b := newBench(t, Config{}, nil)
	c := b.login()
	b.unit.setFail(func(*Command) error { return ErrFenced })
	c.send(c.command(iscsi.Write16CDB(0, 1, false), 512, true), pattern(1, 512))
	if ops := c.gone(); len(ops) != 0 {
		t.Fatalf("the target answered %v", ops)
	}
}

func TestAnAnswerIsNotSentOnceTheUnitMayNotAnswer(t *testing.T) {
	b := newBench(t, Config{}, nil)
	c := b.login()
	b.unit.hold()
	c.send(c.command(iscsi.Write16CDB(0, 1, false), 512, true), pattern(1, 512))
	<-b.unit.arrived
	b.unit.mu.Lock()
	b.unit.allowed = false
	b.unit.mu.Unlock()
	b.unit.release()
	if ops := c.gone(); len(ops) != 0 {
		t.Fatalf("the target answered %v", ops)
	}
}

func TestRemoveTargetWaitsAndSilences(t *testing.T) {
	b := newBench(t, Config{}, nil)
	c := b.login()
	b.unit.hold()
	c.send(c.command(iscsi.Write16CDB(0, 1, false), 512, true), pattern(1, 512))
	<-b.unit.arrived
	removed := make(chan error)
	go func() { removed <- b.srv.RemoveTarget(testIQN) }()
	if ops := c.gone(); len(ops) != 0 {
		t.Fatalf("the target answered %v", ops)
	}
	select {
	case <-removed:
		t.Fatal("RemoveTarget returned with a write in flight")
	case <-time.After(50 * time.Millisecond):
	}
	b.unit.release()
	if err := <-removed; err != nil {
		t.Fatal(err)
	}
	if s := b.dial().login(); s != iscsi.LoginTargetNotFound {
		t.Fatalf("status %04x", s)
	}
	if err := b.srv.RemoveTarget(testIQN); !errors.Is(err, domain.ErrNotFound) {
		t.Fatalf("removed twice: %v", err)
	}
}

func TestDropSessionsLetsThemComeBack(t *testing.T) {
	b := newBench(t, Config{}, nil)
	c := b.login()
	if err := b.srv.DropSessions(testIQN); err != nil {
		t.Fatal(err)
	}
	c.gone()
	if n := len(b.srv.Sessions()); n != 0 {
		t.Fatalf("%d sessions", n)
	}
	b.login().do(iscsi.TestUnitReadyCDB(), 0).want(t, iscsi.StatusGood)
}

func (c *client) tmf(f iscsi.TaskMgmtFunction, ref uint32) uint32 {
	c.itt++
	c.send(iscsi.TaskMgmt{Immediate: true, Function: f, ITT: c.itt, RefITT: ref, CmdSN: c.cmdSN}, nil)
	return c.itt
}

func (c *client) wantTMF(itt uint32, response byte) {
	c.t.Helper()
	p := c.recv()
	if p.Opcode() != iscsi.OpTaskMgmtRsp || p.ITT() != itt || iscsi.ParseTaskMgmtResponse(p).Response != response {
		c.t.Fatalf("%v for tag %d, response %d", p.Opcode(), p.ITT(), p.BHS[2])
	}
}

func TestAbortIsAnsweredAfterTheTaskEndedAndTheTaskNever(t *testing.T) {
	for _, f := range []iscsi.TaskMgmtFunction{iscsi.AbortTask, iscsi.AbortTaskSet, iscsi.ClearTaskSet, iscsi.LogicalUnitReset, iscsi.TargetWarmReset} {
		b := newBench(t, Config{}, nil)
		c := b.login()
		b.unit.hold()
		cmd := c.command(iscsi.Write16CDB(0, 1, false), 512, true)
		c.send(cmd, pattern(1, 512))
		<-b.unit.arrived
		tag := c.tmf(f, cmd.ITT)
		c.send(iscsi.NopOut{Immediate: true, ITT: 1 << 20, TTT: iscsi.NoTag, CmdSN: c.cmdSN}, nil)
		if p := c.recv(); p.Opcode() != iscsi.OpNopIn {
			t.Fatalf("%v before the task ended", p.Opcode())
		}
		b.unit.release()
		c.wantTMF(tag, iscsi.TMComplete)
		if f == iscsi.LogicalUnitReset || f == iscsi.TargetWarmReset {
			if r := c.do(iscsi.TestUnitReadyCDB(), 0); r.sense.Key != iscsi.SenseUnitAttention {
				t.Fatalf("after a reset: %#x %v", r.status, r.sense)
			}
		}
		c.do(iscsi.TestUnitReadyCDB(), 0).want(t, iscsi.StatusGood)
	}
}

func TestAbortOfATaskThatWaitsForData(t *testing.T) {
	b := newBench(t, Config{QueueDepth: 1}, nil)
	c := b.login()
	cmd := c.command(iscsi.Write16CDB(0, 8, false), 4096, true)
	c.send(cmd, nil)
	r := iscsi.ParseR2T(c.recv())
	c.wantTMF(c.tmf(iscsi.AbortTask, cmd.ITT), iscsi.TMComplete)
	c.answerR2T(r, pattern(1, 4096), 4096)
	c.wantTMF(c.tmf(iscsi.AbortTask, cmd.ITT), iscsi.TMNoTask)
	c.do(iscsi.TestUnitReadyCDB(), 0).want(t, iscsi.StatusGood) // its place in the window is free again
	if !bytes.Equal(b.unit.at(0, 4096), make([]byte, 4096)) {
		t.Fatal("an aborted write was written")
	}
}

func TestResetFromAnotherSessionEndsTasksHere(t *testing.T) {
	b := newBench(t, Config{}, nil)
	one, two := b.login(), b.dial()
	two.isid = 1
	if s := two.login(); s != 0 {
		t.Fatalf("status %04x", s)
	}
	cmd := one.command(iscsi.Write16CDB(0, 8, false), 4096, true)
	one.send(cmd, nil)
	r := iscsi.ParseR2T(one.recv())
	two.wantTMF(two.tmf(iscsi.LogicalUnitReset, 0), iscsi.TMComplete)
	one.answerR2T(r, pattern(1, 4096), 1024)
	one.do(iscsi.TestUnitReadyCDB(), 0).wantSense(t, iscsi.SenseUnitAttention, iscsi.ASCDeviceReset)
	if !bytes.Equal(b.unit.at(0, 4096), make([]byte, 4096)) {
		t.Fatal("an aborted write was written")
	}
}

func TestLogoutIsAnsweredAndClosesInOrder(t *testing.T) {
	b := newBench(t, Config{}, nil)
	c := b.login()
	c.send(iscsi.Logout{Immediate: true, Reason: iscsi.LogoutCloseSession, ITT: 3, CmdSN: c.cmdSN}, nil)
	if p := c.recv(); p.Opcode() != iscsi.OpLogoutResponse || iscsi.ParseLogoutResponse(p).Response != iscsi.LogoutOK {
		t.Fatalf("%v", p.Opcode())
	}
	var p iscsi.PDU
	if err := c.r.Next(&p); !errors.Is(err, io.EOF) {
		t.Fatalf("after logout: %v", err)
	}
	eventually(t, "the session stays", func() bool { return len(b.srv.Sessions()) == 0 })
}

func TestASilentInitiatorIsAskedAndThenDropped(t *testing.T) {
	b := newBench(t, Config{PingInterval: 20 * time.Millisecond}, nil)
	c := b.login()
	p := c.recv()
	n := iscsi.ParseNopIn(p)
	if p.Opcode() != iscsi.OpNopIn || n.ITT != iscsi.NoTag || n.TTT == iscsi.NoTag {
		t.Fatalf("%v %+v", p.Opcode(), n)
	}
	for _, op := range c.gone() {
		if op != iscsi.OpNopIn {
			t.Fatalf("%v came", op)
		}
	}
}

func TestALoginThatStallsIsEnded(t *testing.T) {
	b := newBench(t, Config{LoginTimeout: 100 * time.Millisecond}, nil)
	idle, half := b.dial(), b.dial()
	if _, err := half.nc.Write([]byte{0x43, 0x87}); err != nil {
		t.Fatal(err)
	}
	idle.gone()
	half.gone()
}

func TestAnInitiatorThatDoesNotReadHoldsNobodyUp(t *testing.T) {
	b := newBench(t, Config{WriteTimeout: 300 * time.Millisecond, MaxBufferedBytes: 512 << 20}, nil)
	stalled := b.login()
	if err := stalled.nc.(*net.TCPConn).SetReadBuffer(4096); err != nil {
		t.Fatal(err)
	}
	for range 16 {
		if stalled.trySend(stalled.command(iscsi.Read16CDB(0, 16384), 8<<20, false), nil) != nil {
			break
		}
	}
	other := b.dial()
	other.isid = 1
	if s := other.login(); s != 0 {
		t.Fatalf("status %04x", s)
	}
	for range 100 {
		other.put(iscsi.Write16CDB(0, 8, false), pattern(1, 4096)).want(t, iscsi.StatusGood)
	}
	eventually(t, "the stalled session stays", func() bool { return len(b.srv.Sessions()) == 1 })
}

func TestGarbageNeverHurtsTheServer(t *testing.T) {
	b := newBench(t, Config{LoginTimeout: 500 * time.Millisecond}, nil)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 60 {
		c := b.dial()
		if i%2 == 0 {
			if s := c.login(); s != 0 {
				t.Fatalf("status %04x", s)
			}
		}
		junk := make([]byte, 48*(1+rng.IntN(40)))
		for j := range junk {
			junk[j] = byte(rng.Uint32())
		}
		for at := 0; i%3 == 0 && at+48 <= len(junk); at += 48 { // plausible headers with wild content
			junk[at], junk[at+4], junk[at+5], junk[at+6] = []byte{0, 1, 2, 4, 5, 6, 0x41, 0x42}[rng.IntN(8)], 0, 0, 0
			junk[at+7] = 0
		}
		_, _ = c.nc.Write(junk)
		if i%5 == 0 {
			_ = c.nc.(*net.TCPConn).CloseWrite()
		}
		_ = c.nc.Close()
	}
	b.login().do(iscsi.TestUnitReadyCDB(), 0).want(t, iscsi.StatusGood)
}

func TestTooManyConnectionsAreTurnedAway(t *testing.T) {
	b := newBench(t, Config{MaxConnections: 1}, nil)
	c := b.login()
	b.dial().gone()
	c.do(iscsi.TestUnitReadyCDB(), 0).want(t, iscsi.StatusGood)
}

func TestAddTargetRefuses(t *testing.T) {
	s := New(Config{})
	u := map[int]Unit{0: newMemUnit(4096)}
	odd := newMemUnit(4096)
	odd.info.SizeBytes = 1000
	for name, c := range map[string]struct {
		iqn  string
		luns map[int]Unit
		auth *CHAP
	}{
		"name": {"disk", u, nil}, "upper case": {"iqn.2026-11.Test:x", u, nil}, "no unit": {testIQN, nil, nil}, "odd size": {testIQN, map[int]Unit{0: odd}, nil},
		"short secret": {testIQN, u, &CHAP{User: "u", Secret: []byte("short")}},
		"same secrets": {testIQN, u, &CHAP{User: "u", Secret: oneWay.Secret, MutualSecret: oneWay.Secret}},
	} {
		if err := s.AddTarget(c.iqn, c.luns, c.auth); !errors.Is(err, domain.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := s.AddTarget(testIQN, u, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.AddTarget(testIQN, u, nil); !errors.Is(err, domain.ErrConflict) {
		t.Errorf("twice: %v", err)
	}
}
