package target

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

const (
	// maxRecvData is the MaxRecvDataSegmentLength the target declares.
	maxRecvData = 256 << 10
	// drainBytes is how much answer data may wait before the reader sends it although more commands are there.
	drainBytes = 256 << 10
)

// conn is one TCP connection: first its login, then, when it has a session, the full feature phase.
type conn struct {
	srv    *Server
	socket *socket
	peer   netip.Addr // the address it counts for
	r      *iscsi.Reader
	ss     *session // nil until login ended

	readAt   time.Duration // since the server began, when the reader last went to the network; the reader's own
	drainAt  time.Duration // when the batch being sent was taken; under wmu
	received atomic.Uint64 // PDUs, so that the writer sees silence
	busy     atomic.Bool   // the reader is at a PDU and will drain after it
	dead     atomic.Bool
	ended    chan struct{} // closed with dead
	rests    rests

	qmu    sync.Mutex
	queue  []outgoing
	queued int // bytes of data that wait in queue
	wake   chan struct{}

	wmu    sync.Mutex // the order of everything that is sent
	w      *iscsi.Writer
	spare  []outgoing
	statSN uint32
	pdu    iscsi.PDU // the answer being put together, so that none is allocated
	sense  [2 + iscsi.SenseLen]byte
	last   bool // nothing may follow (logout was answered)
	sure   *lun // may answer, as of when upTo bytes waited to be sent
	upTo   int
}

// outgoing is something to send. emit runs under conn.wmu; discard instead of it when the connection died.
type outgoing interface {
	emit(c *conn) error
	discard()
}

func newConn(s *Server, nc net.Conn) *conn {
	c := &conn{srv: s, peer: peerOf(nc.RemoteAddr()), wake: make(chan struct{}, 1), ended: make(chan struct{})}
	c.socket = newSocket(nc, s.cfg.WriteTimeout, &c.wmu, &s.directs)
	c.r, c.w = iscsi.NewSmallReader(c.socket, &s.pool, iscsi.DefaultMRDSL), iscsi.NewWriter(c.socket)
	return c
}

// serve runs the connection to its end.
func (c *conn) serve() {
	defer c.close("ended", false)
	if err := c.socket.SetReadDeadline(time.Now().Add(c.srv.cfg.LoginTimeout)); err != nil {
		return
	}
	ss, err := login(c)
	if errors.Is(err, io.EOF) {
		c.srv.log.Debug("closed without a login", "initiator", c.socket.remote.String()) // a health probe, mostly
		return
	}
	if err != nil {
		c.tellRefused(ss, err)
		c.lastWords()
		return
	}
	if ss == nil {
		return
	}
	if err := c.socket.SetReadDeadline(time.Time{}); err != nil {
		ss.end()
		return
	}
	c.fullFeature(ss)
}

// tellRefused logs a login that failed. Wrong or missing credentials are somebody's mistake, or somebody.
func (c *conn) tellRefused(ss *session, err error) {
	from := c.socket.remote.String()
	inARow, tell := c.srv.limits.refusal(c.peer)
	if !tell {
		return
	}
	var le *loginError
	if ss == nil || !errors.As(err, &le) || le.status != iscsi.LoginAuthFailure {
		c.srv.log.Info("login failed", "initiator", from, "error", err, "inARow", inARow)
		return
	}
	c.srv.log.Warn("login refused: give the initiator this target's CHAP user and secret", "initiator", ss.initiator, "address", from,
		"target", ss.targetName(), "error", err, "inARow", inARow)
}

// lastWords lets the answer to a refused login arrive: what the initiator still sent is read before the close, which
// would otherwise be a reset.
func (c *conn) lastWords() {
	if c.dead.Load() || !c.socket.closeWrite() {
		return
	}
	_ = c.socket.SetReadDeadline(time.Now().Add(time.Second))
	_, _ = io.CopyN(io.Discard, c.socket, 1<<20)
}

func (c *conn) fullFeature(ss *session) {
	log := c.srv.log.With("target", ss.targetName(), "initiator", ss.initiator)
	log.Info("session began", "tsih", ss.tsih, "discovery", ss.tgt == nil, "header_digest", ss.par.headerDigest, "data_digest", ss.par.dataDigest)
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		c.writer(stop)
	}()
	err := c.read(ss)
	c.close(err.Error(), false)
	close(stop)
	<-ended
	ss.end()
	c.drop()
	log.Info("session ended", "tsih", ss.tsih, "reason", err)
}

// read takes PDUs until the connection or the session ends.
func (c *conn) read(ss *session) error {
	var p iscsi.PDU
	defer p.Release()
	for {
		if !c.r.Waiting() || c.overfull() {
			c.busy.Store(false)
			if err := c.drain(); err != nil {
				return err
			}
		}
		waits := !c.r.Waiting()
		var err error
		if waits {
			c.socket.settle(ss.idle())
			err = c.rests.await(c)
		}
		if err == nil {
			err = c.r.Header(&p)
		}
		if waits {
			c.readAt = time.Since(c.srv.began)
		}
		if err == nil {
			err = c.r.Body(&p, ss.place(&p))
		}
		if err != nil {
			if errors.Is(err, iscsi.ErrDataDigest) {
				c.send(newReject(&p, iscsi.RejectDataDigest), 0)
				_ = c.drain()
			}
			return err
		}
		c.received.Add(1)
		c.busy.Store(true)
		if err := ss.handle(&p); err != nil {
			_ = c.drain()
			return err
		}
	}
}

func (c *conn) overfull() bool {
	c.qmu.Lock()
	defer c.qmu.Unlock()
	return c.queued > drainBytes
}

// writer sends what units finish while the reader waits for the network, and pings a silent initiator.
func (c *conn) writer(stop <-chan struct{}) {
	interval, patience := c.srv.cfg.PingInterval, 2
	if c.ss.tgt == nil {
		interval, patience = c.srv.cfg.DiscoveryTimeout, 0 // it knows no pings
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	var seen uint64
	silent := 0
	for {
		select {
		case <-stop:
			return
		case <-c.wake:
		case <-tick.C:
			now := c.received.Load()
			if now != seen {
				seen, silent = now, 0
				continue
			}
			c.giveBack()
			if silent++; silent > patience {
				c.tellSilent()
				c.kill("initiator is silent")
				return
			}
			c.enqueue(newPing(c.ss.nextTTT()), 0)
		}
		if err := c.drain(); err != nil {
			c.close(err.Error(), false)
			return
		}
	}
}

// tellSilent says why the session is about to end; a discovery session that was left open is nobody's trouble.
func (c *conn) tellSilent() {
	if c.ss.tgt == nil {
		c.srv.log.Info("idle discovery session ended", "initiator", c.ss.initiator, "address", c.socket.remote.String())
		return
	}
	c.srv.log.Warn("session ended: its initiator answers no ping", "target", c.ss.targetName(), "initiator", c.ss.initiator,
		"address", c.socket.remote.String(), "silence", 3*c.srv.cfg.PingInterval)
}

// enqueue adds to what is to be sent; the caller sees to it that someone drains.
func (c *conn) enqueue(o outgoing, bytes int) {
	c.qmu.Lock()
	c.queue = append(c.queue, o)
	c.queued += bytes
	c.qmu.Unlock()
}

// send queues from any goroutine. The reader drains what is there when it ran out of PDUs; while it waits for one, the
// writer is woken. A reader that just stopped to be busy drains after it said so, so nothing is left lying.
func (c *conn) send(o outgoing, bytes int) {
	c.enqueue(o, bytes)
	if c.busy.Load() {
		return
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// errLogout ends a connection whose logout was answered.
var errLogout = errors.New("logged out")

// drain sends all that is queued.
func (c *conn) drain() error {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	for {
		c.qmu.Lock()
		batch := c.queue
		c.queue, c.queued = c.spare[:0], 0
		c.qmu.Unlock()
		if len(batch) == 0 {
			c.spare = batch
			break
		}
		c.drainAt, c.sure = time.Since(c.srv.began), nil
		err := c.emitAll(batch)
		clear(batch)
		c.spare = batch[:0]
		if err != nil {
			return err
		}
	}
	if c.dead.Load() {
		return net.ErrClosed
	}
	if err := c.w.Flush(); err != nil {
		return err
	}
	if c.last {
		return errLogout
	}
	return nil
}

func (c *conn) emitAll(batch []outgoing) error {
	for i, o := range batch {
		err := net.ErrClosed
		if !c.dead.Load() && !c.last {
			err = o.emit(c)
		} else {
			o.discard()
		}
		if err != nil {
			for _, rest := range batch[i+1:] {
				rest.discard()
			}
			return err
		}
	}
	return nil
}

// drop lets go of what will never be sent.
func (c *conn) drop() {
	c.qmu.Lock()
	defer c.qmu.Unlock()
	for _, o := range c.queue {
		o.discard()
	}
	c.queue = nil
}

// kill closes the connection by reset, so that nothing the kernel holds is sent any more.
func (c *conn) kill(reason string) { c.close(reason, true) }

func (c *conn) close(reason string, reset bool) {
	if c.dead.Swap(true) {
		return
	}
	close(c.ended)
	c.socket.Close(reset)
	c.srv.log.Debug("connection closed", "initiator", c.socket.remote.String(), "reason", reason)
}

// answersKnown reports whether the initiator had every answer when it sent the PDU that is being handled, with its ExpStatSN, and has
// sent nothing since that is here already. It is the reader's.
func (c *conn) answersKnown(expStatSN uint32) bool {
	if c.r.Waiting() {
		return false
	}
	c.wmu.Lock()
	defer c.wmu.Unlock()
	return expStatSN == c.statSN
}

// stamp numbers p and writes it. Under wmu. Only a PDU that carries a status uses StatSN up.
func (c *conn) stamp(p *iscsi.PDU, status bool) error {
	exp, maxCmd := c.ss.window()
	p.SetStat(c.statSN, exp, maxCmd)
	if status {
		c.statSN++
	}
	return c.w.Write(p)
}
