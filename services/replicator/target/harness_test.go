package target

import (
	"bytes"
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

const testIQN = "iqn.2026-11.test:disk"

// memUnit is a unit in memory whose commands a test may hold back.
type memUnit struct {
	info UnitInfo

	mu      sync.Mutex
	data    []byte
	holding bool
	held    []func()      // completions that wait for release
	arrived chan struct{} // one per command that was held
	fail    func(*Command) error
	writes  []int64 // offsets in order of Submit
	allowed bool
}

func newMemUnit(size int) *memUnit {
	return &memUnit{data: make([]byte, size), arrived: make(chan struct{}, 1024), allowed: true,
		info: UnitInfo{SizeBytes: int64(size), Serial: "serial", NAA: [8]byte{0x30, 1}, ThinProvisioned: true, WriteCache: true}}
}

func (u *memUnit) Info() UnitInfo { return u.info }

func (u *memUnit) MayAnswer() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.allowed
}

func (u *memUnit) Submit(c *Command, done func(error)) {
	u.mu.Lock()
	if c.Op == OpWrite {
		u.writes = append(u.writes, c.Off)
	}
	if u.holding {
		u.held = append(u.held, func() { done(u.apply(c)) })
		u.mu.Unlock()
		u.arrived <- struct{}{}
		return
	}
	u.mu.Unlock()
	done(u.apply(c))
}

func (u *memUnit) apply(c *Command) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.fail != nil {
		if err := u.fail(c); err != nil {
			return err
		}
	}
	switch c.Op {
	case OpRead:
		copy(c.Data, u.data[c.Off:])
	case OpWrite:
		copy(u.data[c.Off:], c.Data)
	case OpZero, OpUnmap:
		clear(u.data[c.Off : c.Off+c.Len])
	case OpCompareAndWrite:
		if at := Differs(u.data[c.Off:c.Off+c.Len], c.Compare); at >= 0 {
			return &MiscompareError{Offset: int64(at)}
		}
		copy(u.data[c.Off:], c.Data)
	}
	return nil
}

func (u *memUnit) hold() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.holding = true
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

func (u *memUnit) setFail(f func(*Command) error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.fail = f
}

func (u *memUnit) at(off, n int) []byte {
	u.mu.Lock()
	defer u.mu.Unlock()
	return bytes.Clone(u.data[off : off+n])
}

// bench is a server on loopback with one unit.
type bench struct {
	t    testing.TB
	srv  *Server
	unit *memUnit
	addr string
}

func newBench(t testing.TB, cfg Config, auth *CHAP) *bench {
	t.Helper()
	b := &bench{t: t, unit: newMemUnit(16 << 20)}
	b.srv = New(cfg)
	if err := b.srv.AddTarget(testIQN, map[int]Unit{0: b.unit}, auth); err != nil {
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
		if n := b.srv.buffered.Load(); n != 0 {
			t.Errorf("%d bytes of the budget were never given back", n)
		}
	})
	return b
}

// client is a raw initiator: it sends what a test says, right or wrong.
type client struct {
	t      testing.TB
	nc     net.Conn
	r      *iscsi.Reader
	w      *iscsi.Writer
	name   string
	isid   byte
	cmdSN  uint32
	itt    uint32
	maxSN  uint32
	keys   iscsi.Pairs // what the target answered
	secret *CHAP
}

func (b *bench) dial() *client {
	b.t.Helper()
	nc, err := net.Dial("tcp", b.addr)
	if err != nil {
		b.t.Fatal(err)
	}
	return b.clientOn(nc)
}

func (b *bench) clientOn(nc net.Conn) *client {
	b.t.Helper()
	if err := nc.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { nc.Close() }) // it may be closed already
	return &client{t: b.t, nc: nc, r: iscsi.NewReader(nc, nil, 16<<20-1), w: iscsi.NewWriter(nc), name: "iqn.2026-11.test:initiator", cmdSN: 1}
}

func (b *bench) login(extra ...iscsi.Pair) *client {
	b.t.Helper()
	c := b.dial()
	if status := c.login(extra...); status != iscsi.LoginSuccess {
		b.t.Fatalf("login: status %04x", status)
	}
	return c
}

func (c *client) send(put interface{ Put(*iscsi.PDU) }, data []byte) {
	c.t.Helper()
	if err := c.trySend(put, data); err != nil {
		c.t.Fatalf("send: %v", err)
	}
}

func (c *client) trySend(put interface{ Put(*iscsi.PDU) }, data []byte) error {
	var p iscsi.PDU
	put.Put(&p)
	p.Data = data
	return errors.Join(c.w.Write(&p), c.w.Flush())
}

// recv is the next PDU, answering nothing by itself.
func (c *client) recv() *iscsi.PDU {
	c.t.Helper()
	p := new(iscsi.PDU)
	if err := c.r.Next(p); err != nil {
		c.t.Fatalf("receive: %v", err)
	}
	c.maxSN = p.MaxCmdSN()
	return p
}

// gone waits for the target to end the connection, and returns what it sent before that.
func (c *client) gone() (before []iscsi.Opcode) {
	c.t.Helper()
	for {
		var p iscsi.PDU
		err := c.r.Next(&p)
		if err == nil {
			before = append(before, p.Opcode())
			continue
		}
		var ne net.Error
		if errors.As(err, &ne) && ne.Timeout() {
			c.t.Fatal("the target did not end the connection")
		}
		return before
	}
}

func (c *client) loginStep(req iscsi.Login, pairs iscsi.Pairs) (iscsi.LoginResponse, iscsi.Pairs) {
	c.t.Helper()
	req.ISID = [6]byte{0x80, 0, 0, 0, 0, c.isid}
	req.CmdSN = c.cmdSN
	c.send(req, pairs.Encode())
	p := c.recv()
	if p.Opcode() != iscsi.OpLoginResponse {
		c.t.Fatalf("%v answers a login", p.Opcode())
	}
	out, err := iscsi.DecodePairs(p.Data)
	if err != nil {
		c.t.Fatal(err)
	}
	return iscsi.ParseLoginResponse(p), out
}

// login logs in to the test target, with CHAP when c.secret is set, and returns the status.
func (c *client) login(extra ...iscsi.Pair) uint16 {
	c.t.Helper()
	who := iscsi.Pairs{{Key: "InitiatorName", Value: c.name}, {Key: "TargetName", Value: testIQN}, {Key: "SessionType", Value: "Normal"}}
	first := iscsi.Login{Transit: true, CSG: iscsi.StageOperational, NSG: iscsi.StageFullFeature}
	if c.secret != nil {
		if status := c.chap(who); status != iscsi.LoginSuccess {
			return status
		}
		who = nil
	}
	rsp, out := c.loginStep(first, append(who, extra...))
	c.keys = out
	if rsp.Status == iscsi.LoginSuccess && (!rsp.Transit || rsp.NSG != iscsi.StageFullFeature) {
		c.t.Fatalf("the target stays in its stage: %+v", rsp)
	}
	hd, _ := out.Get("HeaderDigest")
	dd, _ := out.Get("DataDigest")
	c.r.SetDigests(hd == "CRC32C", dd == "CRC32C")
	c.w.SetDigests(hd == "CRC32C", dd == "CRC32C")
	return rsp.Status
}

func (c *client) chap(who iscsi.Pairs) uint16 {
	c.t.Helper()
	req := iscsi.Login{CSG: iscsi.StageSecurity, NSG: iscsi.StageOperational}
	rsp, out := c.loginStep(req, append(who, iscsi.Pair{Key: "AuthMethod", Value: "CHAP,None"}))
	if method, _ := out.Get("AuthMethod"); rsp.Status != 0 || method != "CHAP" {
		return rsp.Status
	}
	rsp, out = c.loginStep(req, iscsi.Pairs{{Key: "CHAP_A", Value: "7,5"}})
	if rsp.Status != 0 {
		return rsp.Status
	}
	ch, err := iscsi.ParseChallenge(out)
	if err != nil {
		c.t.Fatal(err)
	}
	req.Transit = true
	answer := iscsi.Pairs{{Key: "CHAP_N", Value: c.secret.User}, {Key: "CHAP_R", Value: iscsi.EncodeBinary(ch.Response(c.secret.Secret))}}
	mine := iscsi.NewChallenge()
	if c.secret.MutualSecret != nil {
		mine.Add(&answer)
	}
	rsp, out = c.loginStep(req, answer)
	if r, _ := out.Get("CHAP_R"); rsp.Status == 0 && c.secret.MutualSecret != nil && !mine.Verify(r, c.secret.MutualSecret) {
		c.t.Fatal("the target does not know the mutual secret")
	}
	return rsp.Status
}

// command builds a SCSI command and takes the next CmdSN for it.
func (c *client) command(cdb iscsi.CDB, edtl uint32, write bool) iscsi.SCSICommand {
	c.itt++
	cmd := iscsi.SCSICommand{Final: true, Read: !write && edtl > 0, Write: write, Attr: iscsi.AttrSimple, ITT: c.itt, EDTL: edtl, CmdSN: c.cmdSN, CDB: cdb}
	c.cmdSN++
	return cmd
}

// result is how a command ended.
type result struct {
	status iscsi.Status
	sense  iscsi.Sense
	data   []byte
	res    iscsi.Residual
}

// finish takes PDUs until the command with tag itt ended, answering R2Ts out of data in pieces of at most piece bytes.
func (c *client) finish(itt uint32, data []byte, piece int) result {
	c.t.Helper()
	var out result
	for {
		p := c.recv()
		if p.ITT() != itt {
			c.t.Fatalf("%v for tag %d, want %d", p.Opcode(), p.ITT(), itt)
		}
		switch p.Opcode() {
		case iscsi.OpR2T:
			c.answerR2T(iscsi.ParseR2T(p), data, piece)
		case iscsi.OpDataIn:
			d := iscsi.ParseDataIn(p)
			if int(d.Offset) != len(out.data) {
				c.t.Fatalf("data at %d, want %d", d.Offset, len(out.data))
			}
			out.data = append(out.data, p.Data...)
			if d.HasStatus {
				out.status, out.res = d.Status, d.Residual
				return out
			}
		case iscsi.OpSCSIResponse:
			r := iscsi.ParseSCSIResponse(p)
			out.status, out.res = r.Status, r.Residual
			if len(p.Data) > 0 {
				s, err := iscsi.ResponseSense(p.Data)
				if err != nil {
					c.t.Fatal(err)
				}
				out.sense = s
			}
			return out
		default:
			c.t.Fatalf("%v came", p.Opcode())
		}
	}
}

func (c *client) answerR2T(r iscsi.R2T, data []byte, piece int) {
	c.t.Helper()
	end := int(r.Offset + r.Length)
	for sn, off := uint32(0), int(r.Offset); off < end; sn++ {
		n := min(piece, end-off)
		c.send(iscsi.DataOut{Final: off+n == end, ITT: r.ITT, TTT: r.TTT, DataSN: sn, Offset: uint32(off)}, data[off:off+n])
		off += n
	}
}

// do runs one command without or with data from the target.
func (c *client) do(cdb iscsi.CDB, alloc uint32) result {
	c.t.Helper()
	cmd := c.command(cdb, alloc, false)
	c.send(cmd, nil)
	return c.finish(cmd.ITT, nil, 0)
}

// put runs one command with immediate data.
func (c *client) put(cdb iscsi.CDB, data []byte) result {
	c.t.Helper()
	cmd := c.command(cdb, uint32(len(data)), true)
	c.send(cmd, data)
	return c.finish(cmd.ITT, data, len(data))
}

func (r result) want(t *testing.T, status iscsi.Status) {
	t.Helper()
	if r.status != status {
		t.Fatalf("status %#x (%v), want %#x", r.status, r.sense, status)
	}
}

func (r result) wantSense(t *testing.T, key byte, asc uint16) {
	t.Helper()
	if r.status != iscsi.StatusCheckCondition || r.sense.Key != key || r.sense.ASC != asc {
		t.Fatalf("status %#x, sense %x/%04x, want %x/%04x", r.status, r.sense.Key, r.sense.ASC, key, asc)
	}
}

func pattern(seed byte, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = seed + byte(i) + byte(i>>8)*3 + byte(i>>16)*7
	}
	return b
}

func kv(pairs ...string) []iscsi.Pair {
	var out []iscsi.Pair
	for i := 0; i < len(pairs); i += 2 {
		out = append(out, iscsi.Pair{Key: pairs[i], Value: pairs[i+1]})
	}
	return out
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
