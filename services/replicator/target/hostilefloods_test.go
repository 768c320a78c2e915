package target

import (
	"io"
	"net"
	"sync"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

func (h *hostile) connectionFlood() {
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 100 {
				nc, err := net.Dial("tcp", h.addr)
				if err != nil {
					h.t.Errorf("connect: %v", err)
					return
				}
				if i%2 == 0 {
					_ = nc.(*net.TCPConn).SetLinger(0)
				}
				_ = nc.Close()
			}
		})
	}
	wg.Wait()
}

// floods sends as much as the target takes of what costs it something to answer. An initiator that does not read its answers
// is dropped when they have waited for Config.WriteTimeout.
func (h *hostile) floods(reads bool) {
	nop := func(c *client, i uint32) iscsi.PDU {
		var p iscsi.PDU
		iscsi.NopOut{Immediate: true, ITT: i, TTT: iscsi.NoTag, CmdSN: c.cmdSN}.Put(&p)
		p.Data = make([]byte, 4096)
		return p
	}
	manage := func(c *client, i uint32) iscsi.PDU {
		var p iscsi.PDU
		iscsi.TaskMgmt{Immediate: true, Function: iscsi.TaskMgmtFunction(i % 9), LUN: iscsi.EncodeLUN(int(i % 3)), ITT: i, RefITT: i - 1, CmdSN: c.cmdSN}.Put(&p)
		if p.BHS[1] == 0x80|byte(iscsi.TargetColdReset) {
			p.BHS[1] = 0x80 | byte(iscsi.LogicalUnitReset) // a cold reset would end the honest session, as it should
		}
		return p
	}
	text := func(c *client, i uint32) iscsi.PDU {
		var p iscsi.PDU
		iscsi.Text{Immediate: true, Final: true, ITT: i, TTT: iscsi.NoTag, CmdSN: c.cmdSN}.Put(&p)
		p.Data = []byte("SendTargets=\x00")
		return p
	}
	command := func(c *client, i uint32) iscsi.PDU {
		var p iscsi.PDU
		cmd := iscsi.SCSICommand{Immediate: true, Final: true, Read: true, ITT: i, EDTL: 16 << 10, CmdSN: c.cmdSN, CDB: iscsi.Read16CDB(0, 32)}
		cmd.Put(&p)
		return p
	}
	snack := func(*client, uint32) iscsi.PDU { return iscsi.PDU{BHS: [48]byte{0: byte(iscsi.OpSNACK), 1: 0x80}} }
	for i, each := range []func(*client, uint32) iscsi.PDU{nop, manage, text, command, snack} {
		h.flood(byte(i+1), reads, each)
	}
}

func (h *hostile) flood(isid byte, reads bool, request func(*client, uint32) iscsi.PDU) {
	const count = 4000
	c := h.visit(isid, kv("MaxRecvDataSegmentLength", "65536")...)
	answers := 0
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for reads && answers < count {
			var p iscsi.PDU
			if c.r.Next(&p) != nil {
				return
			}
			if op := p.Opcode(); op != iscsi.OpDataIn || iscsi.ParseDataIn(&p).HasStatus {
				answers++
			}
		}
	}()
	for i := range uint32(count) {
		if p := request(c, i); c.w.Write(&p) != nil {
			break
		}
	}
	_ = c.w.Flush()
	if reads {
		<-ended
		if answers != count {
			h.t.Errorf("flood %d: %d answers to %d requests", isid, answers, count)
		}
	}
	_ = c.nc.(*net.TCPConn).CloseWrite()
	_, _ = io.Copy(io.Discard, c.nc)
	_ = c.nc.Close()
	<-ended
}

// pendingTransfers has the target ask for all that it may, 9,600 pieces, and sends nothing of it.
func (h *hostile) pendingTransfers() {
	var all []*client
	for isid := range byte(12) {
		c := h.visit(isid+1, kv("MaxOutstandingR2T", "8", "MaxBurstLength", "1024", "ImmediateData", "No")...)
		all = append(all, c)
		const commands = 100
		for range commands {
			c.send(c.command(iscsi.Write16CDB(0, 16, false), 8192, true), nil)
		}
		for range commands * 8 {
			if p := c.recv(); p.Opcode() != iscsi.OpR2T {
				h.t.Errorf("%v came", p.Opcode())
				return
			}
		}
	}
	for _, c := range all {
		_ = c.nc.Close()
	}
}

func (h *hostile) logoutGames() {
	c := h.visit(1)
	for _, l := range []iscsi.Logout{{Reason: iscsi.LogoutCloseConnection, CID: 99}, {Reason: iscsi.LogoutRecovery}, {Reason: 77}, {ITT: iscsi.NoTag}} {
		l.Immediate, l.CmdSN = true, c.cmdSN
		c.send(l, nil)
		p := c.recv()
		if p.Opcode() == iscsi.OpLogoutResponse && iscsi.ParseLogoutResponse(p).Response == iscsi.LogoutOK {
			h.t.Errorf("%+v is a logout", l)
		}
	}
	cmd := c.command(iscsi.Write16CDB(0, 64, false), 32<<10, true)
	c.send(cmd, nil)
	r := iscsi.ParseR2T(c.recv())
	c.send(iscsi.Logout{Immediate: true, ITT: 5, CmdSN: c.cmdSN}, nil)
	_ = c.trySend(iscsi.DataOut{Final: true, ITT: cmd.ITT, TTT: r.TTT}, make([]byte, 32<<10))
	_ = c.trySend(c.command(iscsi.InquiryCDB(36), 36, false), nil)
	c.gone() // what came after the logout may have made its answer a reset
	_ = c.nc.Close()
}
