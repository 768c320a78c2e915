package target

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/initiator"
	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

// breaker is a dialer whose connections a test can cut.
type breaker struct {
	mu   sync.Mutex
	last net.Conn
}

func (b *breaker) dial(ctx context.Context, network, address string) (net.Conn, error) {
	nc, err := new(net.Dialer).DialContext(ctx, network, address)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last = nc
	return nc, err
}

func (b *breaker) cut() {
	b.mu.Lock()
	defer b.mu.Unlock()
	_ = b.last.Close()
}

// TestReplayAfterAReconnectChangesNothing cuts the connection while a write is in flight. The initiator sends it again, to a
// session that is let in only after the first one has landed, so that it lands on itself and on nothing newer.
func TestReplayAfterAReconnectChangesNothing(t *testing.T) {
	b := newBench(t, Config{}, nil)
	var br breaker
	s, err := initiator.Dial(t.Context(), fmt.Sprintf("iscsi://%s/%s/0", b.addr, testIQN), initiator.Options{Replay: true, Dial: br.dial})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	before := pattern(1, 64<<10)
	if err := s.Write(t.Context(), before, 0, false); err != nil {
		t.Fatal(err)
	}
	for round := range 10 {
		b.unit.mu.Lock()
		b.unit.writes = nil
		b.unit.mu.Unlock()
		b.unit.hold()
		data := pattern(byte(10+round), 4096)
		written := make(chan error, 1)
		go func() { written <- s.Write(t.Context(), data, 8192, false) }()
		<-b.unit.arrived
		br.cut()
		b.unit.release()
		if err := <-written; err != nil {
			t.Fatal(err)
		}
		want := slices.Clone(before)
		copy(want[8192:], data)
		if !bytes.Equal(b.unit.at(0, len(want)), want) {
			t.Fatal("a replay changed something else")
		}
		b.unit.mu.Lock()
		writes := slices.Clone(b.unit.writes)
		b.unit.mu.Unlock()
		for _, off := range writes {
			if off != 8192 {
				t.Fatalf("writes at %v", writes)
			}
		}
		if round > 0 && len(writes) == 0 {
			t.Fatal("nothing was written")
		}
	}
}

// TestACompareAndWriteIsNeverReplayed: it may have been done, and would then miscompare with itself.
func TestACompareAndWriteIsNeverReplayed(t *testing.T) {
	b := newBench(t, Config{}, nil)
	var br breaker
	s, err := initiator.Dial(t.Context(), fmt.Sprintf("iscsi://%s/%s/0", b.addr, testIQN), initiator.Options{Replay: true, Dial: br.dial})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	b.unit.hold()
	result := make(chan error, 1)
	go func() { result <- s.CompareAndWrite(t.Context(), 0, make([]byte, 512), pattern(1, 512)) }()
	<-b.unit.arrived
	br.cut()
	b.unit.release()
	if err := <-result; !errors.Is(err, initiator.ErrAmbiguous) {
		t.Fatalf("got %v", err)
	}
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestA32MiBWriteIsRefusedWithAReason: some initiators send it whatever the Block Limits page says.
func TestA32MiBWriteIsRefusedWithAReason(t *testing.T) {
	b := newBench(t, Config{}, nil)
	const iqn = "iqn.2026-11.test:large"
	if err := b.srv.AddTarget(iqn, map[int]Unit{0: newMemUnit(64 << 20)}, nil); err != nil {
		t.Fatal(err)
	}
	c := b.dial()
	if rsp, _ := c.loginStep(iscsi.Login{Transit: true, CSG: 1, NSG: 3}, kv("InitiatorName", c.name, "TargetName", iqn)); rsp.Status != 0 {
		t.Fatalf("status %04x", rsp.Status)
	}
	for _, cdb := range []iscsi.CDB{iscsi.Write16CDB(0, 32<<20/512, false), {0: iscsi.Write12, 6: 0, 7: 1}} {
		cmd := c.command(cdb, 32<<20, true)
		c.send(cmd, make([]byte, 8192))
		c.finish(cmd.ITT, nil, 0).wantSense(t, iscsi.SenseIllegalRequest, iscsi.ASCInvalidFieldInCDB)
	}
	c.do(iscsi.TestUnitReadyCDB(), 0).want(t, iscsi.StatusGood)
}
