package nbd

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

const testExport = "disk"

// memUnit is a unit in memory. Its completions may be held back, and it knows what is durable and what was given back.
type memUnit struct {
	info target.UnitInfo

	mu       sync.Mutex
	data     []byte
	durable  []byte
	hole     []bool // of each block
	holding  bool
	async    bool // done is called from another goroutine
	silent   bool // no record is kept
	held     []func()
	arrived  chan struct{} // one per command that was held
	fail     func(*target.Command) error
	commands []target.Command // without their data
	allowed  bool
}

func newMemUnit(size int) *memUnit {
	u := &memUnit{data: make([]byte, size), durable: make([]byte, size), hole: make([]bool, size/target.BlockSize), arrived: make(chan struct{}, 1024), allowed: true,
		info: target.UnitInfo{SizeBytes: int64(size), Product: "memory", ThinProvisioned: true, WriteCache: true}}
	for i := range u.hole {
		u.hole[i] = true
	}
	return u
}

func (u *memUnit) Info() target.UnitInfo { return u.info }

func (u *memUnit) MayAnswer() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.allowed
}

func (u *memUnit) Submit(c *target.Command, done func(error)) {
	u.mu.Lock()
	if !u.silent {
		u.commands = append(u.commands, target.Command{Op: c.Op, Off: c.Off, Len: c.Len, FUA: c.FUA})
	}
	if u.holding {
		u.held = append(u.held, func() { done(u.apply(c)) })
		u.mu.Unlock()
		u.arrived <- struct{}{}
		return
	}
	async := u.async
	u.mu.Unlock()
	if async {
		go func() { done(u.apply(c)) }()
		return
	}
	done(u.apply(c))
}

func (u *memUnit) apply(c *target.Command) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.fail != nil {
		if err := u.fail(c); err != nil {
			return err
		}
	}
	end := min(c.Off+c.Len, int64(len(u.data))) // a unit may say that it is larger than its memory
	off := min(c.Off, end)
	switch c.Op {
	case target.OpRead:
		copy(c.Data, u.data[off:])
	case target.OpWrite:
		copy(u.data[off:], c.Data)
	case target.OpZero, target.OpUnmap:
		clear(u.data[off:end])
	case target.OpFlush:
		copy(u.durable, u.data)
	}
	if c.FUA {
		copy(u.durable[off:end], u.data[off:end])
	}
	for b := off / target.BlockSize; c.Op != target.OpRead && c.Op != target.OpFlush && b < end/target.BlockSize; b++ {
		u.hole[b] = c.Op == target.OpUnmap
	}
	return nil
}

// Extent answers in small steps, so that neighbours have to be joined.
func (u *memUnit) Extent(off, _ int64) (bool, int64, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.fail != nil {
		if err := u.fail(&target.Command{Off: off}); err != nil {
			return false, 0, err
		}
	}
	first := int(off / target.BlockSize)
	n := 1
	for n < 4 && first+n < len(u.hole) && u.hole[first+n] == u.hole[first] {
		n++
	}
	return !u.hole[first], int64(n) * target.BlockSize, nil
}

func (u *memUnit) set(f func(*memUnit)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	f(u)
}

func (u *memUnit) release() {
	u.mu.Lock()
	held := u.held
	u.held, u.holding = nil, false
	u.mu.Unlock()
	for _, f := range held {
		f()
	}
}

func (u *memUnit) asked() []target.Command {
	u.mu.Lock()
	defer u.mu.Unlock()
	out := u.commands
	u.commands = nil
	return out
}

func (u *memUnit) bytes(of []byte, off, n int) []byte {
	u.mu.Lock()
	defer u.mu.Unlock()
	return bytes.Clone(of[off : off+n])
}

// bench is a server on loopback with one export.
type bench struct {
	t    testing.TB
	srv  *Server
	unit *memUnit
	addr string
}

func newBench(t testing.TB, cfg Config) *bench {
	t.Helper()
	return newBenchOn(t, cfg, newMemUnit(16<<20))
}

func newBenchOn(t testing.TB, cfg Config, unit *memUnit) *bench {
	t.Helper()
	b := &bench{t: t, unit: unit, srv: New(cfg)}
	if err := b.srv.AddExport(testExport, unit); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b.addr = ln.Addr().String()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- b.srv.Serve(ctx, ln) }()
	t.Cleanup(func() {
		b.unit.release()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("serve: %v", err)
		}
		if n := b.srv.budget.free; n != b.srv.cfg.MaxBufferedBytes {
			t.Errorf("%d bytes of the budget were never given back", b.srv.cfg.MaxBufferedBytes-n)
		}
	})
	return b
}

// client is a raw client: it sends what a test says, right or wrong.
type client struct {
	t      testing.TB
	nc     net.Conn
	r      *bufio.Reader
	cookie uint64
	size   uint64
	flags  uint16
}

// dial connects and takes the greeting.
func (b *bench) dial() *client {
	b.t.Helper()
	nc, err := net.Dial("tcp", b.addr)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { nc.Close() }) // it may be closed already
	c := &client{t: b.t}
	c.use(nc)
	if got := c.take(18); binary.BigEndian.Uint64(got) != magicServer || binary.BigEndian.Uint64(got[8:]) != magicOption || got[17] != 3 {
		b.t.Fatalf("greeting %x", got)
	}
	return c
}

func (c *client) use(nc net.Conn) {
	c.nc, c.r = nc, bufio.NewReaderSize(nc, 1<<20)
	if err := nc.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) put(parts ...any) {
	c.t.Helper()
	var b bytes.Buffer
	for _, p := range parts {
		if s, ok := p.(string); ok {
			p = []byte(s)
		}
		if err := binary.Write(&b, binary.BigEndian, p); err != nil {
			c.t.Fatal(err)
		}
	}
	if _, err := c.nc.Write(b.Bytes()); err != nil {
		c.t.Fatalf("send: %v", err)
	}
}

func (c *client) take(n int) []byte {
	c.t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(c.r, b); err != nil {
		c.t.Fatalf("receive: %v", err)
	}
	return b
}

// gone waits for the server to end the connection, and returns how many bytes it sent before that.
func (c *client) gone() int64 {
	c.t.Helper()
	n, err := io.Copy(io.Discard, c.r)
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() {
		c.t.Fatal("the server did not end the connection")
	}
	return n
}

// optReply is one reply to an option.
type optReply struct {
	typ  uint32
	data []byte
}

// option asks and takes the replies up to the one that ends them.
func (c *client) option(opt uint32, data string) (replies []optReply, last uint32) {
	c.t.Helper()
	c.put(uint64(magicOption), opt, uint32(len(data)), data)
	for {
		h := c.take(20)
		if binary.BigEndian.Uint64(h) != magicOptReply || binary.BigEndian.Uint32(h[8:]) != opt {
			c.t.Fatalf("reply %x to option %d", h, opt)
		}
		r := optReply{binary.BigEndian.Uint32(h[12:]), c.take(int(binary.BigEndian.Uint32(h[16:])))}
		if r.typ == repAck || r.typ >= 1<<31 {
			return replies, r.typ
		}
		replies = append(replies, r)
	}
}

func lv(s string) string { return string(binary.BigEndian.AppendUint32(nil, uint32(len(s)))) + s }

// goData is the data of NBD_OPT_INFO and NBD_OPT_GO.
func goData(name string, infos ...uint16) string {
	b := binary.BigEndian.AppendUint16([]byte(lv(name)), uint16(len(infos)))
	for _, i := range infos {
		b = binary.BigEndian.AppendUint16(b, i)
	}
	return string(b)
}

// contextData is the data of the options about metadata contexts.
func contextData(name string, queries ...string) string {
	out := lv(name) + string(binary.BigEndian.AppendUint32(nil, uint32(len(queries))))
	for _, q := range queries {
		out += lv(q)
	}
	return out
}

// open goes through a handshake; structured takes structured replies and base:allocation as well.
func (b *bench) open(structured bool) *client {
	b.t.Helper()
	c := b.dial()
	c.put(uint32(3))
	c.open(structured)
	return c
}

func (c *client) open(structured bool) {
	c.t.Helper()
	if structured {
		if _, last := c.option(optStructuredReply, ""); last != repAck {
			c.t.Fatalf("structured replies: %#x", last)
		}
		if _, last := c.option(optSetMetaContext, contextData(testExport, contextAllocation)); last != repAck {
			c.t.Fatalf("metadata context: %#x", last)
		}
	}
	replies, last := c.option(optGo, goData(testExport, infoBlockSize))
	if last != repAck {
		c.t.Fatalf("go: %#x", last)
	}
	for _, r := range replies {
		if binary.BigEndian.Uint16(r.data) == infoExport {
			c.size, c.flags = binary.BigEndian.Uint64(r.data[2:]), binary.BigEndian.Uint16(r.data[10:])
		}
	}
}

// ask sends a request and returns its cookie.
func (c *client) ask(typ, flags uint16, off uint64, length uint32, data []byte) uint64 {
	c.t.Helper()
	c.cookie++
	c.put(uint32(magicRequest), flags, typ, c.cookie, off, length, data)
	return c.cookie
}

// answer is a reply to a request.
type answer struct {
	cookie     uint64
	err        errno
	why        string
	structured bool
	data       []byte
	extents    []uint32 // lengths and states in turn
}

// answered takes the next reply; n is how much data a simple one that is successful carries.
func (c *client) answered(n int) answer {
	c.t.Helper()
	switch magic := binary.BigEndian.Uint32(c.take(4)); magic {
	case magicSimple:
		b := c.take(12)
		a := answer{err: errno(binary.BigEndian.Uint32(b)), cookie: binary.BigEndian.Uint64(b[4:])}
		if a.err == 0 {
			a.data = c.take(n)
		}
		return a
	case magicStructured:
		b := c.take(16)
		if binary.BigEndian.Uint16(b) != chunkDone {
			c.t.Fatalf("chunk %x is not the last", b)
		}
		a := answer{cookie: binary.BigEndian.Uint64(b[4:]), structured: true}
		c.chunk(&a, binary.BigEndian.Uint16(b[2:]), c.take(int(binary.BigEndian.Uint32(b[12:]))))
		return a
	default:
		c.t.Fatalf("reply begins with %#x", magic)
	}
	return answer{}
}

func (c *client) chunk(a *answer, typ uint16, b []byte) {
	c.t.Helper()
	switch {
	case typ == chunkNone && len(b) == 0:
	case typ == chunkOffsetData && len(b) > 8:
		a.data = b[8:]
	case typ == chunkBlockStatus && len(b) >= 12 && binary.BigEndian.Uint32(b) == contextAllocationID:
		for b = b[4:]; len(b) > 0; b = b[4:] {
			a.extents = append(a.extents, binary.BigEndian.Uint32(b))
		}
	case typ == chunkError && len(b) >= 6 && len(b) == 6+int(binary.BigEndian.Uint16(b[4:])):
		a.err, a.why = errno(binary.BigEndian.Uint32(b)), string(b[6:])
	default:
		c.t.Fatalf("chunk of type %d: %x", typ, b)
	}
}

// do is one request and its reply.
func (c *client) do(typ, flags uint16, off uint64, length uint32, data []byte) answer {
	c.t.Helper()
	cookie := c.ask(typ, flags, off, length, data)
	n := 0
	if typ == cmdRead {
		n = int(length)
	}
	a := c.answered(n)
	if a.cookie != cookie {
		c.t.Fatalf("answer to %d, want %d", a.cookie, cookie)
	}
	return a
}

func (a answer) want(t *testing.T, err errno) answer {
	t.Helper()
	if a.err != err || a.structured && err != 0 && a.why == "" {
		t.Fatalf("error %d (%s), want %d", a.err, a.why, err)
	}
	return a
}

// pattern is n bytes, of which no two blocks are alike.
func pattern(seed byte, n int) []byte {
	b := bytes.Repeat([]byte{seed, seed + 1, seed ^ 0x55, ^seed}, (n+3)/4)[:n]
	for at := 0; at+8 <= n; at += target.BlockSize {
		binary.BigEndian.PutUint64(b[at:], uint64(at)<<8|uint64(seed))
	}
	return b
}

// eventually waits for what another goroutine is about to make true, where there is no event to wait for.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatal(what)
		}
		time.Sleep(time.Millisecond)
	}
}
