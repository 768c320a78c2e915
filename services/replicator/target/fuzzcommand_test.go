package target

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

// fuzzClient is a session with a unit in memory over a pipe, without the cost of sockets. Its end checks that all memory came
// back.
func fuzzClient(t *testing.T) (c *client, unit *memUnit, end func()) {
	s := New(Config{})
	unit = newMemUnit(1 << 20)
	if err := s.AddTarget(testIQN, map[int]Unit{0: unit, 1: newMemUnit(64 << 10)}, nil); err != nil {
		t.Fatal(err)
	}
	pipe, theirs := net.Pipe()
	_ = pipe.SetDeadline(time.Now().Add(10 * time.Second))
	ours := newBacklog(pipe)
	sc := newConn(s, theirs)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		sc.serve()
	}()
	c = &client{t: t, nc: ours, r: iscsi.NewReader(ours, nil, 16<<20-1), w: iscsi.NewWriter(ours), name: "iqn.2026-11.test:fuzz", cmdSN: 1}
	if status := c.login(kv("MaxRecvDataSegmentLength", "262144", "FirstBurstLength", "65536")...); status != 0 {
		t.Fatalf("status %04x", status)
	}
	return c, unit, func() {
		_ = ours.Close()
		<-ended
		if n := s.buffered.Load(); n != 0 {
			t.Errorf("%d bytes were never given back", n)
		}
		if n := len(s.Sessions()); n != 0 {
			t.Errorf("%d sessions stay", n)
		}
	}
}

// backlog is a pipe that takes what is written at once, as a socket does: a target answers what it refuses before it has read all of it.
type backlog struct {
	net.Conn
	mu    sync.Mutex
	more  *sync.Cond
	queue [][]byte
	err   error
}

func newBacklog(c net.Conn) *backlog {
	b := &backlog{Conn: c}
	b.more = sync.NewCond(&b.mu)
	go b.deliver()
	return b
}

func (b *backlog) deliver() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.err == nil {
		if len(b.queue) == 0 {
			b.more.Wait()
			continue
		}
		next := b.queue[0]
		b.queue = b.queue[1:]
		b.mu.Unlock()
		_, err := b.Conn.Write(next)
		b.mu.Lock()
		b.err = errors.Join(b.err, err)
	}
}

func (b *backlog) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return 0, b.err
	}
	b.queue = append(b.queue, bytes.Clone(p))
	b.more.Signal()
	return len(p), nil
}

func (b *backlog) Close() error {
	b.mu.Lock()
	b.err = errors.Join(b.err, net.ErrClosed)
	b.more.Signal()
	b.mu.Unlock()
	return b.Conn.Close()
}

// FuzzCommand gives the target any CDB with any expected length and data: it is answered once, with no more data than was
// expected, and the session and the unit live on.
func FuzzCommand(f *testing.F) {
	for op := range 256 {
		cdb := iscsi.CDB{0: byte(op), 8: 8, 13: 8}
		f.Add(cdb[:], make([]byte, 24), uint32(24), byte(op)&3)
	}
	for _, c := range newCommandSet().list {
		cdb := iscsi.CDB{0: c.op, 1: byte(max(c.sa, 0)), 4: 1, 8: 2, 13: 2}
		f.Add(cdb[:], make([]byte, 1024), uint32(1024), byte(1))
		f.Add(cdb[:], []byte(nil), uint32(1<<31), byte(2))
		f.Add(cdb[:], make([]byte, 100), uint32(0xffffffff), byte(3))
	}
	room := make([]byte, 16<<20) // what R2Ts are answered with
	f.Fuzz(func(t *testing.T, raw, data []byte, edtl uint32, flags byte) {
		c, _, end := fuzzClient(t)
		defer end()
		cmd := c.command(iscsi.CDB{}, edtl, false)
		copy(cmd.CDB[:], raw)
		cmd.Write, cmd.Read, cmd.Attr = flags&1 != 0, flags&2 != 0, flags>>2&3
		cmd.LUN = iscsi.EncodeLUN(int(flags >> 4 & 3)) // two of the four are there
		data = data[:min(len(data), 4096)]
		now := data
		if !cmd.Write {
			now = nil
		}
		c.send(cmd, now[:min(uint32(len(now)), edtl)])
		if r := c.finish(cmd.ITT, room, 256<<10); uint64(len(r.data)) > uint64(edtl) {
			t.Errorf("%d bytes where %d were expected", len(r.data), edtl)
		}
		fuzzStillServes(t, c)
	})
}

// fuzzStillServes runs a command past any unit attention.
func fuzzStillServes(t *testing.T, c *client) {
	for range 8 {
		cmd := c.command(iscsi.InquiryCDB(36), 36, false)
		c.send(cmd, nil)
		if r := c.finish(cmd.ITT, nil, 0); r.status == iscsi.StatusGood {
			return
		}
	}
	t.Error("the unit answers no INQUIRY")
}

// FuzzParameters gives the commands that take a parameter list any list, and a length in the CDB that may lie about it.
func FuzzParameters(f *testing.F) {
	lists := parameterCommands()
	unmapList := iscsi.UnmapList([]iscsi.Extent{{LBA: 0, Blocks: 8}, {LBA: 1 << 40, Blocks: 1}})
	for i := range lists {
		f.Add(byte(i), byte(0), unmapList, int16(0))
		f.Add(byte(i), byte(1), make([]byte, 24), int16(8))
		f.Add(byte(i), byte(3), []byte{0, 0, 0, 0, 0x0a, 0x0a, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0}, int16(-4))
		f.Add(byte(i), byte(0x11), []byte{0, 0, 0, 0, 0x08, 0x12, 0x04}, int16(0))
	}
	f.Fuzz(func(t *testing.T, which, arg byte, list []byte, lie int16) {
		c, unit, end := fuzzClient(t)
		defer end()
		list = list[:min(len(list), 8192)]
		cdb := lists[int(which)%len(lists)](arg, uint32(max(len(list)+int(lie), 0)))
		for range 2 { // the second meets what the first left
			cmd := c.command(cdb, uint32(len(list)), true)
			c.send(cmd, list)
			c.finish(cmd.ITT, list, len(list))
		}
		if n := len(unit.at(0, 1<<20)); n != 1<<20 {
			t.Errorf("the unit has %d bytes", n)
		}
		fuzzStillServes(t, c)
	})
}

// parameterCommands build the CDB of each command with a parameter list out of an argument and the list's length.
func parameterCommands() []func(arg byte, n uint32) iscsi.CDB {
	long := func(op byte) func(byte, uint32) iscsi.CDB {
		return func(arg byte, n uint32) iscsi.CDB {
			c := iscsi.CDB{0: op, 1: arg}
			binary.BigEndian.PutUint32(c[10:], n)
			return c
		}
	}
	return []func(arg byte, n uint32) iscsi.CDB{
		func(_ byte, n uint32) iscsi.CDB { return iscsi.UnmapCDB(uint16(n)) },
		func(arg byte, n uint32) iscsi.CDB { return iscsi.CDB{0: iscsi.ModeSelect6, 1: arg, 4: byte(n)} },
		func(arg byte, n uint32) iscsi.CDB {
			return iscsi.CDB{0: iscsi.ModeSelect10, 1: arg, 7: byte(n >> 8), 8: byte(n)}
		},
		func(arg byte, n uint32) iscsi.CDB {
			c := iscsi.CDB{0: iscsi.PersistentReserveOut, 1: arg & 0x1f, 2: arg >> 5}
			binary.BigEndian.PutUint32(c[5:], n)
			return c
		},
		long(0x83), // EXTENDED COPY
		func(arg byte, n uint32) iscsi.CDB {
			return iscsi.CDB{0: 0x48, 1: arg, 7: byte(n >> 8), 8: byte(n)} // SANITIZE
		},
		func(arg byte, _ uint32) iscsi.CDB { return iscsi.CDB{0: iscsi.FormatUnit, 1: arg} },
		func(arg byte, n uint32) iscsi.CDB { return iscsi.CompareAndWriteCDB(uint64(arg), byte(n)) },
		func(arg byte, n uint32) iscsi.CDB {
			return iscsi.WriteSame16CDB(uint64(arg), n, arg&1 != 0, arg&2 != 0)
		},
	}
}
