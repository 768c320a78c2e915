package target

import (
	"bytes"
	"net"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

// act is one thing a hostile initiator does. It closes what it opens.
type act struct {
	name string
	do   func(*hostile)
}

func hostileActs() []act {
	return []act{
		{"a byte at a time", (*hostile).slow},
		{"logins that stop halfway", (*hostile).halfOpen},
		{"logins that never end", (*hostile).endlessLogins},
		{"lengths that lie", (*hostile).lyingLengths},
		{"expected lengths that lie", (*hostile).lyingExpectations},
		{"command numbers", (*hostile).commandNumbers},
		{"command numbers that wrap", (*hostile).wrapAround},
		{"data out of order", (*hostile).dataOutOfOrder},
		{"tags that were never given", (*hostile).forgedTags},
		{"tags used twice", (*hostile).reusedTags},
		{"broken digests", (*hostile).brokenDigests},
		{"resets at every stage", (*hostile).resets},
		{"a flood of connections", (*hostile).connectionFlood},
		{"floods that are read", func(h *hostile) { h.floods(true) }},
		{"floods that are not read", func(h *hostile) { h.floods(false) }},
		{"thousands of transfers asked for", (*hostile).pendingTransfers},
		{"logout games", (*hostile).logoutGames},
	}
}

// visit logs in with a session of its own.
func (h *hostile) visit(isid byte, extra ...iscsi.Pair) *client {
	c := h.dial()
	c.isid = isid
	_ = c.nc.SetDeadline(time.Now().Add(2 * time.Minute)) // floods are slow on a busy machine
	if s := c.login(extra...); s != 0 {
		h.t.Errorf("login: status %04x", s)
	}
	return c
}

// wire is the bytes of PDUs.
func wire(c *client, puts ...interface{ Put(*iscsi.PDU) }) []byte {
	var b bytes.Buffer
	w := iscsi.NewWriter(&b)
	for _, put := range puts {
		var p iscsi.PDU
		put.Put(&p)
		if w.Write(&p) != nil || w.Flush() != nil {
			c.t.Error("encode")
		}
	}
	return b.Bytes()
}

func (h *hostile) slow() {
	c := h.dial()
	defer c.nc.Close()
	var p iscsi.PDU
	iscsi.Login{Transit: true, CSG: 1, NSG: 3, CmdSN: 1, ISID: [6]byte{0x80}}.Put(&p)
	p.Data = iscsi.Pairs(kv("InitiatorName", c.name, "TargetName", testIQN)).Encode()
	var b bytes.Buffer
	w := iscsi.NewWriter(&b)
	if w.Write(&p) != nil || w.Flush() != nil {
		h.t.Error("encode")
	}
	login := c.trickle(b.Bytes())
	for range 3 {
		login = login && c.trickle(wire(c, c.command(iscsi.Read16CDB(0, 1), 512, false)))
	}
	if !login || c.recv().Opcode() != iscsi.OpLoginResponse {
		h.t.Error("a slow login is not answered")
		return
	}
	for itt := range uint32(3) {
		if r := c.finish(itt+1, nil, 0); r.status != iscsi.StatusGood && r.sense.Key != iscsi.SenseUnitAttention {
			h.t.Errorf("a slow command: %#x", r.status)
		}
	}
}

func (c *client) trickle(b []byte) bool {
	for i := range b {
		if _, err := c.nc.Write(b[i : i+1]); err != nil {
			return false
		}
	}
	return true
}

func (h *hostile) halfOpen() {
	var all []*client
	for i := range 20 {
		c := h.dial()
		_, _ = c.nc.Write(make([]byte, i*3))
		if i%4 == 3 {
			_ = c.nc.(*net.TCPConn).CloseWrite()
		}
		all = append(all, c)
	}
	for _, c := range all {
		c.gone()
		_ = c.nc.Close()
	}
}

func (h *hostile) endlessLogins() {
	for _, req := range []iscsi.Login{{Continue: true, CSG: 1, NSG: 3}, {CSG: 1}, {CSG: 0}} {
		c := h.dial()
		who := iscsi.Pairs(kv("InitiatorName", c.name, "TargetName", testIQN)).Encode()
		n := 0
		for ; c.trySend(req, who) == nil; n++ {
			var p iscsi.PDU
			if who = nil; c.r.Next(&p) != nil {
				break
			}
		}
		if n > maxLoginPDUs+1 {
			h.t.Errorf("a login of %d PDUs", n)
		}
		_ = c.nc.Close()
	}
}

func (h *hostile) lyingLengths() {
	for i, lie := range []func(*iscsi.PDU){
		func(p *iscsi.PDU) { p.BHS[4] = 255 },
		func(p *iscsi.PDU) { p.BHS[5], p.BHS[6], p.BHS[7] = 0xff, 0xff, 0xff },
		func(p *iscsi.PDU) { p.BHS[5] = 4 }, // as long as the target takes, and never sent
		func(p *iscsi.PDU) { p.BHS[4], p.BHS[7] = 9, 1 },
	} {
		c := h.visit(byte(i + 1))
		var p iscsi.PDU
		c.command(iscsi.Write16CDB(0, 8, false), 4096, true).Put(&p)
		lie(&p)
		_, _ = c.nc.Write(p.BHS[:])
		_, _ = c.nc.Write(make([]byte, 30))
		_ = c.nc.(*net.TCPConn).CloseWrite()
		c.gone()
		_ = c.nc.Close()
	}
}

func (h *hostile) lyingExpectations() {
	c := h.visit(1)
	defer c.nc.Close()
	room := make([]byte, 8<<20)
	for _, edtl := range []uint32{0, 1, 511, 513, 1 << 20, 1 << 31, 0xffffffff} {
		for _, cdb := range []iscsi.CDB{iscsi.Write16CDB(0, 4, false), iscsi.UnmapCDB(24), iscsi.UnmapCDB(0xffff), iscsi.WriteSame16CDB(0, 1, false, false),
			iscsi.CompareAndWriteCDB(0, 1), {0: iscsi.ModeSelect10, 1: 0x10, 7: 0xff, 8: 0xff}, {0: iscsi.PersistentReserveOut, 5: 0xff, 8: 24},
			iscsi.Read16CDB(0, 4), iscsi.InquiryCDB(0xffff), iscsi.Read16CDB(0, 1<<31)} {
			for _, write := range []bool{true, false} {
				cmd := c.command(cdb, edtl, write)
				c.send(cmd, nil)
				if r := c.finish(cmd.ITT, room, 256<<10); uint64(len(r.data)) > uint64(edtl) {
					h.t.Errorf("%x: %d bytes where %d were expected", cdb[0], len(r.data), edtl)
				}
			}
		}
	}
}

func (h *hostile) commandNumbers() {
	c := h.visit(1)
	for _, away := range []uint32{1 << 31, 1 << 30, 0xffffffff, 0xfffffff0, 1000} { // out of the window: ignored
		for range 100 {
			cmd := c.command(iscsi.Write16CDB(0, 1, false), 512, true)
			c.cmdSN--
			cmd.CmdSN += away
			c.send(cmd, make([]byte, 512))
		}
	}
	if r := c.do(iscsi.InquiryCDB(36), 36); r.status != iscsi.StatusGood {
		h.t.Errorf("status %#x", r.status)
	}
	c.cmdSN += 3 // a gap within it: the end
	c.send(c.command(iscsi.InquiryCDB(36), 36, false), nil)
	c.gone()
	_ = c.nc.Close()
}

func (h *hostile) wrapAround() {
	c := h.dial()
	defer c.nc.Close()
	c.isid, c.cmdSN = 1, 0xffffff00
	if s := c.login(); s != 0 {
		h.t.Errorf("status %04x", s)
	}
	for range 600 {
		if r := c.do(iscsi.InquiryCDB(36), 36); r.status != iscsi.StatusGood {
			h.t.Errorf("status %#x at %#x", r.status, c.cmdSN)
			return
		}
	}
}

func (h *hostile) dataOutOfOrder() {
	c := h.visit(1, kv("InitialR2T", "No", "ImmediateData", "No")...)
	defer c.nc.Close()
	for i := range uint32(200) {
		cmd := c.command(iscsi.Write16CDB(0, 64, false), 32<<10, true)
		cmd.Final = false
		c.send(cmd, nil)
		bad := iscsi.DataOut{ITT: cmd.ITT, TTT: iscsi.NoTag, DataSN: i%3 + 1, Offset: i % 5 * 512}
		for range 3 {
			c.send(bad, make([]byte, 512))
		}
		if r := c.finish(cmd.ITT, nil, 0); r.status != iscsi.StatusCheckCondition {
			h.t.Errorf("status %#x", r.status)
			return
		}
	}
}

func (h *hostile) forgedTags() {
	c := h.visit(1)
	for i := range uint32(300) { // data for tasks that are not there is dropped, answers to no ping too
		c.send(iscsi.DataOut{Final: true, ITT: 1 << 20, TTT: i, Offset: i * 512}, make([]byte, 512))
		c.send(iscsi.NopOut{Immediate: true, ITT: iscsi.NoTag, TTT: i, CmdSN: c.cmdSN}, nil)
		c.send(iscsi.Text{Immediate: true, Final: true, ITT: i, TTT: i, CmdSN: c.cmdSN}, nil)
		if p := c.recv(); p.Opcode() != iscsi.OpReject {
			h.t.Errorf("%v answers a forged tag", p.Opcode())
			return
		}
	}
	cmd := c.command(iscsi.Write16CDB(0, 64, false), 32<<10, true)
	c.send(cmd, nil)
	r := iscsi.ParseR2T(c.recv())
	c.send(iscsi.DataOut{ITT: cmd.ITT, TTT: r.TTT + 1}, make([]byte, 512))
	c.gone()
	_ = c.nc.Close()
}

func (h *hostile) reusedTags() {
	c := h.visit(1)
	defer c.nc.Close()
	cmd := c.command(iscsi.Write16CDB(0, 64, false), 32<<10, true)
	c.send(cmd, nil)
	r := iscsi.ParseR2T(c.recv())
	for range 100 {
		again := c.command(iscsi.Read16CDB(0, 1), 512, false)
		again.ITT = cmd.ITT
		c.send(again, nil)
		if p := c.recv(); p.Opcode() != iscsi.OpReject || iscsi.ParseReject(p).Reason != iscsi.RejectTaskInProgress {
			h.t.Errorf("%v", p.Opcode())
			return
		}
	}
	data := pattern(7, 32<<10)
	c.answerR2T(r, data, 4096)
	if got := c.finish(cmd.ITT, data, 4096); got.status != iscsi.StatusGood || !bytes.Equal(h.unit.at(0, len(data)), data) {
		h.t.Errorf("the first task of the tag: %#x", got.status)
	}
}

func (h *hostile) brokenDigests() {
	for i := range 40 {
		c := h.visit(1, kv("HeaderDigest", "CRC32C", "DataDigest", "CRC32C")...)
		var b bytes.Buffer
		w := iscsi.NewWriter(&b)
		w.SetDigests(true, true)
		var p iscsi.PDU
		c.command(iscsi.Write16CDB(1024, 1, false), 512, true).Put(&p)
		p.Data = pattern(1, 512)
		if w.Write(&p) != nil || w.Flush() != nil {
			h.t.Error("encode")
		}
		at := i * 13 % b.Len()
		if at < 8 {
			at += 8 // the lengths are for another act
		}
		b.Bytes()[at] ^= 1 << (i % 8)
		_, _ = c.nc.Write(b.Bytes())
		c.gone()
		_ = c.nc.Close()
	}
	if !bytes.Equal(h.unit.at(1024*512, 512), make([]byte, 512)) {
		h.t.Error("damaged data was written")
	}
}

// resets breaks the connection at every stage of its life, without a goodbye of TCP either.
func (h *hostile) resets() {
	reset := func(c *client) {
		_ = c.nc.(*net.TCPConn).SetLinger(0)
		_ = c.nc.Close()
	}
	for range 10 {
		reset(h.dial())
		c := h.dial()
		_, _ = c.nc.Write([]byte{0x43, 0x87, 0, 0})
		reset(c)
		c = h.dial()
		c.loginStep(iscsi.Login{CSG: 0, NSG: 1}, kv("InitiatorName", c.name, "TargetName", testIQN))
		reset(c)
		reset(h.visit(1))
		c = h.visit(2) // with a transfer asked for and half of it sent
		cmd := c.command(iscsi.Write16CDB(0, 64, false), 32<<10, true)
		c.send(cmd, nil)
		r := iscsi.ParseR2T(c.recv())
		c.send(iscsi.DataOut{ITT: cmd.ITT, TTT: r.TTT}, make([]byte, 8192))
		_, _ = c.nc.Write(wire(c, iscsi.DataOut{ITT: cmd.ITT, TTT: r.TTT, DataSN: 1, Offset: 8192})[:20])
		reset(c)
		c = h.visit(3) // with data on its way to it
		for range 8 {
			c.send(c.command(iscsi.Read16CDB(0, 16384), 8<<20, false), nil)
		}
		c.recv()
		reset(c)
	}
}
