package target

import (
	"bytes"
	"maps"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

// connections are those that the server has.
func (b *bench) connections() []*conn {
	b.srv.mu.Lock()
	defer b.srv.mu.Unlock()
	return slices.Collect(maps.Keys(b.srv.conns))
}

// rested reports whether the readers of all connections wait with little memory.
func (b *bench) rested() bool {
	for _, c := range b.connections() {
		c.rests.mu.Lock()
		rested := c.rests.waits && !c.rests.large
		c.rests.mu.Unlock()
		if !rested {
			return false
		}
	}
	return true
}

// burst writes 16 times at once, and returns when all are answered.
func (c *client) burst(data []byte) {
	c.t.Helper()
	var batch bytes.Buffer
	w := iscsi.NewWriter(&batch)
	for i := range 16 {
		var p iscsi.PDU
		c.command(iscsi.Write16CDB(uint64(i)*16, 16, false), uint32(len(data)), true).Put(&p)
		p.Data = data
		if err := w.Write(&p); err != nil {
			c.t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		c.t.Fatal(err)
	}
	if _, err := c.nc.Write(batch.Bytes()); err != nil {
		c.t.Fatal(err)
	}
	for range 16 {
		if p := c.recv(); p.Opcode() != iscsi.OpSCSIResponse || p.BHS[3] != 0 {
			c.t.Fatalf("%v with status %#x", p.Opcode(), p.BHS[3])
		}
	}
}

// Memory is taken from a session at any moment: before, in and after what it sends, all of which is served.
func TestASessionWhoseMemoryIsTakenGoesOn(t *testing.T) {
	b := newBench(t, Config{}, nil)
	c := b.login(kv("MaxRecvDataSegmentLength", "262144")...)
	c.do(iscsi.CDB{}, 0) // takes the unit attention
	stop := make(chan struct{})
	var taker sync.WaitGroup
	taker.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			for _, sc := range b.connections() {
				sc.giveBack()
			}
			runtime.Gosched()
		}
	})
	for round := range 200 {
		data := pattern(byte(round), 8192)
		c.burst(data)
		if r := c.do(iscsi.Read16CDB(15*16, 16), 8192); !bytes.Equal(r.data, data) {
			t.Fatalf("round %d: what was written is not read", round)
		}
	}
	close(stop)
	taker.Wait()
}

func TestASilentSessionGivesItsMemoryBack(t *testing.T) {
	b := newBench(t, Config{PingInterval: 300 * time.Millisecond}, nil)
	c := b.login()
	c.do(iscsi.CDB{}, 0)
	c.burst(make([]byte, 8192))
	if b.rested() {
		t.Error("it has as little memory right after a burst")
	}
	p := c.recv() // its silence was noticed
	if p.Opcode() != iscsi.OpNopIn {
		t.Fatalf("%v in silence", p.Opcode())
	}
	eventually(t, "little memory", b.rested)
}
