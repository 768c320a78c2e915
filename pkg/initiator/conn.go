package initiator

import (
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

// conn is one connection in the full feature phase: a goroutine that reads, one that writes, one that watches for
// silence. The reader never writes to the socket, so that the two sides cannot wait for one another.
type conn struct {
	nc      net.Conn
	r       *iscsi.Reader
	w       *iscsi.Writer
	params  params
	lun     uint64
	silence time.Duration
	onDone  func(*command) // told of each command that ended, before its owner

	broken chan struct{} // closed by fail
	wg     sync.WaitGroup

	mu        sync.Mutex
	wake      sync.Cond
	err       error
	queue     []*command // not sent yet
	urgent    []message  // answers to the target: outside of the command window
	pending   map[uint32]*command
	nextITT   uint32
	cmdSN     uint32
	maxCmdSN  uint32
	expStatSN uint32
	heard     uint64 // PDUs received
}

// message is what is sent beside commands: a PDU whose header is made by put when it is written, or the data that an
// R2T asked for.
type message struct {
	put  func(p *iscsi.PDU, cmdSN, expStatSN uint32)
	data []byte
	r2t  *solicited
}

// solicited is a part of a command's data that the target asked for.
type solicited struct {
	cmd      *command
	itt, ttt uint32
	from, to int
}

func newConn(nc net.Conn, r *iscsi.Reader, w *iscsi.Writer, p params, lun uint64, silence time.Duration, onDone func(*command)) *conn {
	c := &conn{
		nc: nc, r: r, w: w, params: p, lun: lun, silence: silence, onDone: onDone, broken: make(chan struct{}),
		pending: map[uint32]*command{}, nextITT: 1, cmdSN: p.cmdSN, maxCmdSN: p.maxCmdSN, expStatSN: p.expStatSN,
	}
	c.wake.L = &c.mu
	return c
}

// start runs the connection until fail.
func (c *conn) start() {
	c.wg.Go(c.read)
	c.wg.Go(c.write)
	c.wg.Go(c.watch)
}

// fail breaks the connection. The first cause is kept.
func (c *conn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err = err
	_ = c.nc.Close()
	close(c.broken)
	c.wake.Broadcast()
}

// wait returns when no goroutine of the connection runs any more, with the cause of its end.
func (c *conn) wait() error {
	c.wg.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// send queues a command.
func (c *conn) send(cmd *command) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queue = append(c.queue, cmd)
	c.wake.Broadcast()
}

// unsend takes a command out of the queue, if it is still there.
func (c *conn) unsend(cmd *command) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := slices.Index(c.queue, cmd); i >= 0 {
		c.queue = slices.Delete(c.queue, i, i+1)
	}
}

func (c *conn) answer(m message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.urgent = append(c.urgent, m)
	c.wake.Broadcast()
}

// write sends what is queued, and flushes when there is nothing left to send.
func (c *conn) write() {
	for {
		send, ok := c.next()
		if !ok {
			return
		}
		if err := send(); err != nil {
			c.fail(fmt.Errorf("send: %w", err))
			return
		}
	}
}

// next waits for something to send. It is a flush when data is buffered and nothing may be sent now.
func (c *conn) next() (func() error, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case c.err != nil:
			return nil, false
		case len(c.urgent) > 0:
			m := c.urgent[0]
			c.urgent = c.urgent[1:]
			cmdSN, expStatSN := c.cmdSN, c.expStatSN
			return func() error { return c.writeMessage(m, cmdSN, expStatSN) }, true
		case len(c.queue) > 0 && int32(c.maxCmdSN-c.cmdSN) >= 0:
			return c.issue(), true
		case c.w.Buffered() > 0:
			return c.w.Flush, true
		}
		c.wake.Wait()
	}
}

// issue numbers the first queued command. The caller holds the lock.
func (c *conn) issue() func() error {
	cmd := c.queue[0]
	c.queue = c.queue[1:]
	for c.nextITT >= pingTag || c.pending[c.nextITT] != nil {
		c.nextITT = (c.nextITT + 1) % pingTag
	}
	itt, cmdSN, expStatSN := c.nextITT, c.cmdSN, c.expStatSN
	c.nextITT++
	c.cmdSN++
	c.pending[itt] = cmd
	cmd.sent.Store(true)
	return func() error { return c.writeCommand(cmd, itt, cmdSN, expStatSN) }
}

// writeCommand sends a command with as much of its data as may go unasked (RFC 7143 section 11.7).
func (c *conn) writeCommand(cmd *command, itt, cmdSN, expStatSN uint32) error {
	p := c.params
	unasked := 0
	if !p.initialR2T {
		unasked = min(len(cmd.out), p.firstBurst)
	}
	immediate := 0
	if p.immediate {
		immediate = min(len(cmd.out), p.firstBurst, p.maxSend)
	}
	head := iscsi.SCSICommand{
		Final: immediate >= unasked, Read: cmd.want > 0, Write: len(cmd.out) > 0, Attr: iscsi.AttrSimple, LUN: c.lun, ITT: itt,
		EDTL: uint32(max(cmd.want, len(cmd.out))), CmdSN: cmdSN, ExpStatSN: expStatSN, CDB: cmd.cdb,
	}
	var pdu iscsi.PDU
	head.Put(&pdu)
	pdu.Data = cmd.out[:immediate]
	if err := c.w.Write(&pdu); err != nil {
		return err
	}
	if immediate >= unasked {
		return nil
	}
	return c.writeData(cmd, itt, iscsi.NoTag, immediate, unasked, expStatSN)
}

// writeData sends a sequence of Data-Out: out[from:to].
func (c *conn) writeData(cmd *command, itt, ttt uint32, from, to int, expStatSN uint32) error {
	var pdu iscsi.PDU
	for sn := uint32(0); from < to; sn++ {
		n := min(c.params.maxSend, to-from)
		d := iscsi.DataOut{Final: from+n == to, LUN: c.lun, ITT: itt, TTT: ttt, ExpStatSN: expStatSN, DataSN: sn, Offset: uint32(from)}
		d.Put(&pdu)
		pdu.Data = cmd.out[from : from+n]
		if err := c.w.Write(&pdu); err != nil {
			return err
		}
		from += n
	}
	return nil
}

func (c *conn) writeMessage(m message, cmdSN, expStatSN uint32) error {
	var pdu iscsi.PDU
	if m.r2t != nil {
		return c.writeData(m.r2t.cmd, m.r2t.itt, m.r2t.ttt, m.r2t.from, m.r2t.to, expStatSN)
	}
	m.put(&pdu, cmdSN, expStatSN)
	pdu.Data = m.data
	return c.w.Write(&pdu)
}

// watch asks a silent target for a sign of life while commands are in flight, and gives it up when it stays silent.
func (c *conn) watch() {
	tick := time.NewTicker(c.silence)
	defer tick.Stop()
	var last uint64
	asked := false
	for {
		select {
		case <-c.broken:
			return
		case <-tick.C:
		}
		c.mu.Lock()
		quiet := c.heard == last && len(c.pending) > 0
		last = c.heard
		c.mu.Unlock()
		switch {
		case !quiet:
			asked = false
		case asked:
			c.fail(fmt.Errorf("the target was silent for %s", 2*c.silence))
			return
		default:
			asked = true
			c.answer(message{put: func(p *iscsi.PDU, cmdSN, expStatSN uint32) {
				iscsi.NopOut{Immediate: true, LUN: c.lun, ITT: pingTag, TTT: iscsi.NoTag, CmdSN: cmdSN, ExpStatSN: expStatSN}.Put(p)
			}})
		}
	}
}

// Task tags of what is no command: the commands' own stay below.
const (
	pingTag   uint32 = 0xfffffff0
	logoutTag uint32 = 0xfffffff1
)
