package initiator

import (
	"errors"
	"fmt"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

// read takes what the target sends until the connection ends.
func (c *conn) read() {
	var p iscsi.PDU
	defer p.Release()
	for {
		if err := c.r.Next(&p); err != nil {
			c.fail(fmt.Errorf("receive: %w", err))
			return
		}
		if err := c.take(&p); err != nil {
			c.fail(err)
			return
		}
	}
}

// take handles one PDU. An error ends the connection: with ErrorRecoveryLevel 0 there is no other remedy.
func (c *conn) take(p *iscsi.PDU) error {
	switch p.Opcode() {
	case iscsi.OpSCSIResponse:
		c.count(p, true)
		return c.takeResponse(iscsi.ParseSCSIResponse(p), p.Data)
	case iscsi.OpDataIn:
		d := iscsi.ParseDataIn(p)
		c.count(p, d.HasStatus)
		return c.takeData(d, p.Data)
	case iscsi.OpR2T:
		c.count(p, false)
		return c.takeR2T(iscsi.ParseR2T(p))
	case iscsi.OpNopIn:
		n := iscsi.ParseNopIn(p)
		c.count(p, n.ITT != iscsi.NoTag)
		c.takeNop(n, p.Data)
		return nil
	case iscsi.OpAsync:
		c.count(p, true)
		if a := iscsi.ParseAsync(p); a.Event != iscsi.AsyncSCSI {
			return fmt.Errorf("the target ends the session (asynchronous event %d)", a.Event)
		}
		return nil
	case iscsi.OpReject:
		return fmt.Errorf("the target rejects a PDU, reason 0x%02x", iscsi.ParseReject(p).Reason)
	case iscsi.OpLogoutResponse:
		return errLoggedOut
	}
	return fmt.Errorf("the target sent %v", p.Opcode())
}

var errLoggedOut = errors.New("logged out")

// count takes over the sequence numbers of a PDU; status says that StatSN counts one.
func (c *conn) count(p *iscsi.PDU, status bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heard++
	if status {
		c.expStatSN = p.StatSN() + 1
	}
	if m := p.MaxCmdSN(); int32(m-c.maxCmdSN) > 0 && int32(m-(p.ExpCmdSN()-1)) >= 0 {
		c.maxCmdSN = m
		c.wake.Broadcast()
	}
}

func (c *conn) find(itt uint32) (*command, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cmd := c.pending[itt]; cmd != nil {
		return cmd, nil
	}
	return nil, fmt.Errorf("the target answers task 0x%x, which is not in flight", itt)
}

// finish ends a command: first for the session, then for its owner.
func (c *conn) finish(itt uint32, cmd *command, r result) {
	c.mu.Lock()
	delete(c.pending, itt)
	c.mu.Unlock()
	r.got = cmd.received()
	c.onDone(cmd)
	cmd.done <- r
}

func (c *conn) takeResponse(r iscsi.SCSIResponse, data []byte) error {
	cmd, err := c.find(r.ITT)
	if err != nil {
		return err
	}
	res := result{status: r.Status}
	switch {
	case r.Response != 0:
		res.err = fmt.Errorf("the target failed the command, response 0x%02x: %w", r.Response, ErrAmbiguous)
	case r.Status == iscsi.StatusCheckCondition:
		if res.sense, err = iscsi.ResponseSense(data); err != nil {
			res.err = fmt.Errorf("check condition: %w", err)
		}
	}
	c.finish(r.ITT, cmd, res)
	return nil
}

func (c *conn) takeData(d iscsi.DataIn, data []byte) error {
	cmd, err := c.find(d.ITT)
	if err != nil {
		return err
	}
	if !cmd.fill(d.Offset, data) {
		return fmt.Errorf("the target sent %d bytes at %d of a read of %d", len(data), d.Offset, cmd.want)
	}
	if d.HasStatus {
		c.finish(d.ITT, cmd, result{status: d.Status})
	}
	return nil
}

func (c *conn) takeR2T(r iscsi.R2T) error {
	cmd, err := c.find(r.ITT)
	if err != nil {
		return err
	}
	end := uint64(r.Offset) + uint64(r.Length)
	if r.Length == 0 || end > uint64(len(cmd.out)) {
		return fmt.Errorf("the target asks for %d bytes at %d of a write of %d", r.Length, r.Offset, len(cmd.out))
	}
	c.answer(message{r2t: &solicited{cmd: cmd, itt: r.ITT, ttt: r.TTT, from: int(r.Offset), to: int(end)}})
	return nil
}

// takeNop answers a target's ping; an answer to our own needs nothing more than having been heard.
func (c *conn) takeNop(n iscsi.NopIn, data []byte) {
	if n.TTT == iscsi.NoTag {
		return
	}
	echo := append([]byte(nil), data...)
	c.answer(message{data: echo, put: func(p *iscsi.PDU, cmdSN, expStatSN uint32) {
		iscsi.NopOut{Immediate: true, LUN: n.LUN, ITT: iscsi.NoTag, TTT: n.TTT, CmdSN: cmdSN, ExpStatSN: expStatSN}.Put(p)
	}})
}

// logout asks the target to end the session; its answer ends the connection.
func (c *conn) logout() {
	c.answer(message{put: func(p *iscsi.PDU, cmdSN, expStatSN uint32) {
		iscsi.Logout{Immediate: true, Reason: iscsi.LogoutCloseSession, ITT: logoutTag, CmdSN: cmdSN, ExpStatSN: expStatSN}.Put(p)
	}})
}
