package target

import (
	"bytes"
	"sync"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

// asyncUnit finishes every command in a goroutine of its own, so completions come in any order.
type asyncUnit struct{ *memUnit }

func (u asyncUnit) Submit(c *Command, done func(error)) {
	go func() { done(u.apply(c)) }()
}

func TestManySessionsWithCompletionsInAnyOrder(t *testing.T) {
	b := newBench(t, Config{}, nil)
	const iqn = "iqn.2026-11.test:async"
	unit := asyncUnit{newMemUnit(16 << 20)}
	if err := b.srv.AddTarget(iqn, map[int]Unit{0: unit}, nil); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for id := range 4 {
		c := b.dial()
		c.isid = byte(id)
		rsp, _ := c.loginStep(iscsi.Login{Transit: true, CSG: 1, NSG: 3}, kv("InitiatorName", c.name, "TargetName", iqn))
		if rsp.Status != 0 {
			t.Fatalf("status %04x", rsp.Status)
		}
		wg.Go(func() {
			for round := range 20 {
				c.batch(id, round)
			}
		})
	}
	wg.Wait()
	if err := b.srv.RemoveTarget(iqn); err != nil {
		t.Fatal(err)
	}
}

// batch writes 32 blocks at once, then reads them at once, in this client's own range.
func (c *client) batch(id, round int) {
	base := uint64(id * 4096)
	first := c.itt + 1
	for i := range 32 {
		cmd := c.command(iscsi.Write16CDB(base+uint64(i)*8, 8, false), 4096, true)
		if err := c.trySend(cmd, pattern(byte(id+i+round), 4096)); err != nil {
			c.t.Error(err)
			return
		}
	}
	for range 32 {
		var p iscsi.PDU
		if err := c.r.Next(&p); err != nil || p.Opcode() != iscsi.OpSCSIResponse || p.BHS[3] != 0 || p.ITT()-first > 31 {
			c.t.Errorf("%v %v", p.Opcode(), err)
			return
		}
	}
	first = c.itt + 1
	for i := range 32 {
		if err := c.trySend(c.command(iscsi.Read16CDB(base+uint64(i)*8, 8), 4096, false), nil); err != nil {
			c.t.Error(err)
			return
		}
	}
	for range 32 {
		var p iscsi.PDU
		if err := c.r.Next(&p); err != nil || !bytes.Equal(p.Data, pattern(byte(id+int(p.ITT()-first)+round), 4096)) {
			c.t.Errorf("%v %v: wrong data", p.Opcode(), err)
			return
		}
	}
}

func TestSessionsAreDroppedUnderLoad(t *testing.T) {
	b := newBench(t, Config{}, nil)
	const iqn = "iqn.2026-11.test:async"
	unit := asyncUnit{newMemUnit(16 << 20)}
	if err := b.srv.AddTarget(iqn, map[int]Unit{0: unit}, nil); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		c := b.dial()
		if rsp, _ := c.loginStep(iscsi.Login{Transit: true, CSG: 1, NSG: 3}, kv("InitiatorName", c.name, "TargetName", iqn)); rsp.Status != 0 {
			t.Fatalf("status %04x", rsp.Status)
		}
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			for i := range 64 {
				if c.trySend(c.command(iscsi.Write16CDB(uint64(i)*8, 8, false), 4096, true), make([]byte, 4096)) != nil {
					return
				}
			}
		}()
		c.recv()
		if err := b.srv.DropSessions(iqn); err != nil {
			t.Fatal(err)
		}
		<-sent
		c.gone()
	}
	if n := len(b.srv.Sessions()); n != 0 {
		t.Fatalf("%d sessions", n)
	}
}
