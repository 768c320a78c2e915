package target

import (
	"bytes"
	"errors"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

// processors has the test run on n of them, of which half may wait for direct sockets.
func processors(t *testing.T, n int) {
	t.Helper()
	before := runtime.GOMAXPROCS(n)
	t.Cleanup(func() { runtime.GOMAXPROCS(before) })
}

func (b *bench) direct() int { return int(b.srv.directs.n.Load()) }

// busy sends a command upon each answer, whose data is looked at, until ok.
func (c *client) busy(ok func() bool) {
	c.t.Helper()
	for n := 0; !ok(); n++ { // the client's deadline ends it
		data := pattern(byte(n), BlockSize)
		if r := c.put(iscsi.Write16CDB(uint64(n%1000), 1, false), data); r.status != iscsi.StatusGood {
			c.t.Fatalf("write %d: status %#x", n, r.status)
		}
		if r := c.do(iscsi.Read16CDB(uint64(n%1000), 1), BlockSize); !bytes.Equal(r.data, data) {
			c.t.Fatalf("command %d does not read what was written", n)
		}
	}
}

// directSession is a session whose socket is direct.
func (b *bench) directSession() *client {
	b.t.Helper()
	before := b.direct()
	c := b.login()
	c.do(iscsi.CDB{}, 0) // takes the unit attention
	c.busy(func() bool { return b.direct() > before })
	return c
}

func TestABusySessionIsDirectUntilItIsSilent(t *testing.T) {
	processors(t, 4)
	b := newBench(t, Config{}, nil)
	c := b.directSession()
	for range 5 { // there and back again
		eventually(t, "a silent session stays direct", func() bool { return b.direct() == 0 })
		c.busy(func() bool { return b.direct() == 1 })
	}
	c.send(iscsi.Logout{ITT: 7, CmdSN: c.cmdSN}, nil)
	if p := c.recv(); p.Opcode() != iscsi.OpLogoutResponse {
		t.Fatalf("%v answers a logout", p.Opcode())
	}
	c.gone()
	eventually(t, "an ended session is direct", func() bool { return b.direct() == 0 })
}

func TestNoMoreSessionsAreDirectThanHalfTheProcessors(t *testing.T) {
	processors(t, 4)
	b := newBench(t, Config{}, nil)
	most := 0
	var all []*client
	for n := range 4 {
		c := b.dial()
		c.isid = byte(n)
		if status := c.login(); status != iscsi.LoginSuccess {
			t.Fatalf("login %d: status %04x", n, status)
		}
		c.do(iscsi.CDB{}, 0)
		all = append(all, c)
	}
	for n := 0; most < 2 || n < 2000; n++ { // two are direct, and two have tried often
		for _, c := range all {
			c.do(iscsi.Read16CDB(0, 1), BlockSize)
			most = max(most, b.direct())
		}
	}
	if most != 2 {
		t.Errorf("%d sessions are direct, on 4 processors", most)
	}
}

func TestNoSessionIsDirectOnOneProcessor(t *testing.T) {
	processors(t, 1)
	b := newBench(t, Config{}, nil)
	c := b.login()
	c.do(iscsi.CDB{}, 0)
	for range 50 * busyWaits {
		c.do(iscsi.Read16CDB(0, 1), BlockSize)
		if b.direct() != 0 {
			t.Fatal("it has the only processor")
		}
	}
}

func TestASessionWhoseCommandsTakeTimeIsNotDirect(t *testing.T) {
	processors(t, 4)
	b := newBench(t, Config{}, nil)
	c := b.directSession()
	b.unit.hold()
	cmd := c.command(iscsi.Read16CDB(0, 1), BlockSize, false)
	c.send(cmd, nil)
	<-b.unit.arrived
	eventually(t, "it is direct while its command is with the unit", func() bool { return b.direct() == 0 })
	b.unit.release()
	c.finish(cmd.ITT, nil, 0).want(t, iscsi.StatusGood)
}

func TestADirectSessionThatIsDroppedIsReset(t *testing.T) {
	processors(t, 4)
	for range 20 {
		b := newBench(t, Config{}, nil)
		c := b.directSession()
		if err := b.srv.DropSessions(testIQN); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, c.nc); err == nil || errors.Is(err, net.ErrClosed) {
			t.Fatalf("the connection was closed (%v), not reset", err)
		}
		eventually(t, "an ended session is direct", func() bool { return b.direct() == 0 })
	}
}

func TestADirectSessionWhoseInitiatorVanishesEnds(t *testing.T) {
	processors(t, 4)
	b := newBench(t, Config{}, nil)
	for range 20 {
		c := b.directSession()
		if err := c.nc.Close(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it is direct without an initiator", func() bool { return b.direct() == 0 && len(b.connections()) == 0 })
	}
}

// stalled is a direct session whose initiator has taken a first part of its answers, and takes no more: the target waits to send.
func (b *bench) stalled() *client {
	b.t.Helper()
	c := b.directSession()
	if err := c.nc.(*net.TCPConn).SetReadBuffer(4096); err != nil {
		b.t.Fatal(err)
	}
	c.send(c.command(iscsi.Read16CDB(0, 16384), 8<<20, false), nil)
	if _, err := io.ReadFull(c.nc, make([]byte, 100<<10)); err != nil {
		b.t.Fatal(err)
	}
	return c
}

func TestADirectSessionThatTakesNoAnswersEnds(t *testing.T) {
	processors(t, 4)
	b := newBench(t, Config{WriteTimeout: 300 * time.Millisecond}, nil)
	b.stalled()
	eventually(t, "it never ends", func() bool { return b.direct() == 0 && len(b.connections()) == 0 })
}

// An initiator that takes its answers a little at a time has no more time for them than one that takes none.
func TestADirectSessionThatTakesItsAnswersByDripsEnds(t *testing.T) {
	processors(t, 4)
	b := newBench(t, Config{WriteTimeout: 300 * time.Millisecond}, nil)
	c := b.stalled()
	var drips sync.WaitGroup
	drips.Go(func() {
		drip := make([]byte, 512)
		for {
			if _, err := c.nc.Read(drip); err != nil {
				return
			}
			<-time.After(time.Millisecond)
		}
	})
	eventually(t, "it never ends", func() bool { return b.direct() == 0 && len(b.connections()) == 0 })
	c.nc.Close()
	drips.Wait()
}

// What is dropped sends nothing more, though the kernel has much of it, and the drop waits for nobody.
func TestADirectSessionThatTakesNoAnswersIsDroppedAtOnce(t *testing.T) {
	processors(t, 4)
	b := newBench(t, Config{WriteTimeout: time.Minute}, nil)
	c := b.stalled() // its deadline is before a minute is over
	if err := b.srv.DropSessions(testIQN); err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(io.Discard, c.nc)
	var ne net.Error
	if err == nil || errors.As(err, &ne) && ne.Timeout() || n > 4<<20 {
		t.Fatalf("%d bytes came of what was dropped, then %v", n, err)
	}
	eventually(t, "it is direct", func() bool { return b.direct() == 0 })
}

func TestADirectSessionThatTakesNoAnswersIsReinstatedAtOnce(t *testing.T) {
	processors(t, 4)
	b := newBench(t, Config{WriteTimeout: time.Minute}, nil)
	b.stalled()
	b.login().do(iscsi.TestUnitReadyCDB(), 0)
}

func TestADirectSessionThatBecomesSlowIsNotDirect(t *testing.T) {
	processors(t, 4)
	b := newBench(t, Config{}, nil)
	c := b.directSession()
	for n := 0; b.direct() > 0; n++ {
		if n == 1000 {
			t.Fatal("it is direct")
		}
		<-time.After(2 * time.Millisecond)
		c.do(iscsi.TestUnitReadyCDB(), 0)
	}
}
