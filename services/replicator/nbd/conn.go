package nbd

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

const (
	readBuffer = 256 << 10
	// drainBytes is how much answer data may wait before the reader sends it although more requests are there.
	drainBytes = 256 << 10
)

// errDisconnect ends a connection whose client said goodbye.
var errDisconnect = errors.New("disconnected")

// conn is one connection: first its handshake, then the requests to one export.
type conn struct {
	srv *Server
	raw net.Conn
	nc  net.Conn // raw, or TLS over it
	r   *bufio.Reader

	// Set by the handshake.
	exp        *export
	info       target.UnitInfo
	flags      uint16
	structured bool // replies
	allocation bool // base:allocation was asked for

	readAt time.Duration // since the server began, when the reader last went to the network; the reader's own
	busy   atomic.Bool   // the reader is at a request and will drain after it
	dead   atomic.Bool
	dying  chan struct{} // closed when dead is set
	gone   chan struct{} // closed once nothing of the connection is left
	wake   chan struct{}
	freed  chan struct{} // the reader, which waits for room, may look again

	mu       sync.Mutex
	queue    []*request // to be answered
	queued   int        // bytes of data in queue
	free     []*request
	inFlight int   // requests, until their answer is written
	held     int64 // memory of these
	running  int   // requests whose answer is not yet queued
	wanting  bool  // the reader waits for freed
	closing  bool
	settled  chan struct{} // closed once closing and nothing is running

	wmu   sync.Mutex // the order of everything that is sent
	out   output
	spare []*request
}

func newConn(s *Server, nc net.Conn) *conn {
	c := &conn{srv: s, raw: nc, nc: nc, r: bufio.NewReaderSize(nc, readBuffer), dying: make(chan struct{}), gone: make(chan struct{}),
		wake: make(chan struct{}, 1), freed: make(chan struct{}, 1), settled: make(chan struct{})}
	c.out.c = c
	return c
}

// serve runs the connection to its end.
func (c *conn) serve() {
	defer close(c.gone)
	defer c.close("ended", false)
	if tcp, ok := c.raw.(*net.TCPConn); ok {
		_ = tcp.SetNoDelay(true)
		_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 15 * time.Second, Count: 4})
	}
	from := c.raw.RemoteAddr().String()
	if err := c.raw.SetDeadline(time.Now().Add(c.srv.cfg.HandshakeTimeout)); err != nil {
		return
	}
	err := c.handshake()
	if c.exp != nil {
		defer c.exp.leave(c)
	}
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, errAborted):
		c.srv.log.Debug("closed in the handshake", "client", from) // a health probe, or a client that only looked
		return
	case err != nil:
		c.srv.log.Info("handshake failed", "client", from, "error", err)
		return
	}
	if err := c.raw.SetDeadline(time.Time{}); err != nil {
		return
	}
	_, secure := c.nc.(*tls.Conn)
	log := c.srv.log.With("export", c.exp.name, "client", from)
	log.Info("connection began", "tls", secure, "structured", c.structured)
	log.Info("connection ended", "reason", c.transmission())
}

// transmission carries out requests until the connection ends, and returns why it did, with nothing in flight.
func (c *conn) transmission() error {
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		c.writer(stop)
	}()
	err := c.read()
	if errors.Is(err, errDisconnect) {
		c.busy.Store(false)
		c.settle()
		_ = c.drain()
	}
	c.close(err.Error(), false)
	close(stop)
	<-ended
	c.settle()
	_ = c.drain() // nothing is sent any more: it lets go of what is queued
	return err
}

// read takes requests until the connection ends.
func (c *conn) read() error {
	for {
		if !c.waiting() || c.overfull() {
			if err := c.pause(); err != nil {
				return err
			}
		}
		waits := !c.waiting()
		h, err := c.header()
		if waits {
			c.readAt = time.Since(c.srv.began)
		}
		if err != nil {
			return err
		}
		c.busy.Store(true)
		if err := c.handle(&h); err != nil {
			return err
		}
	}
}

// waiting reports whether a whole request is in memory already, so that the reader would not wait for the network.
func (c *conn) waiting() bool {
	have := c.r.Buffered()
	if have < requestLen {
		return false
	}
	b, err := c.r.Peek(requestLen)
	if err != nil {
		return false
	}
	need := uint64(requestLen)
	if binary.BigEndian.Uint16(b[6:]) == cmdWrite {
		need += uint64(binary.BigEndian.Uint32(b[24:]))
	}
	return uint64(have) >= need
}

func (c *conn) overfull() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.queued > drainBytes
}

// pause sends what is queued before the reader waits for something; from then on the writer does.
func (c *conn) pause() error {
	c.busy.Store(false)
	return c.drain()
}

// header takes the next request's header off the stream.
func (c *conn) header() (h header, err error) {
	b, err := c.r.Peek(requestLen)
	if err != nil {
		if len(b) > 0 && errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return h, err
	}
	if magic := binary.BigEndian.Uint32(b); magic != magicRequest {
		return h, fmt.Errorf("request begins with %#x: %w", magic, errProtocol)
	}
	h = header{flags: binary.BigEndian.Uint16(b[4:]), typ: binary.BigEndian.Uint16(b[6:]), cookie: binary.BigEndian.Uint64(b[8:]),
		off: binary.BigEndian.Uint64(b[16:]), length: binary.BigEndian.Uint32(b[24:])}
	_, err = c.r.Discard(requestLen)
	return h, err
}

// payload takes the data of a write off the stream; nil skips n bytes. What is announced has to come in time.
func (c *conn) payload(dst []byte, n int) error {
	inTime := c.r.Buffered() >= n
	if !inTime {
		if err := c.pause(); err != nil { // answers do not wait for what the client still has to send
			return err
		}
		defer c.busy.Store(true)
		patience := c.srv.cfg.PayloadTimeout * time.Duration(1+n/(8<<20))
		if err := c.raw.SetReadDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
	}
	var err error
	if dst != nil {
		_, err = io.ReadFull(c.r, dst[:n])
	} else {
		_, err = c.r.Discard(n)
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("take the %d bytes of a write: %w", n, err)
	}
	if !inTime {
		return c.raw.SetReadDeadline(time.Time{})
	}
	return nil
}

// writer sends what the unit finishes while the reader waits.
func (c *conn) writer(stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-c.wake:
		}
		if err := c.drain(); err != nil {
			c.close(err.Error(), false)
			return
		}
	}
}

// settle waits until nothing is with the unit.
func (c *conn) settle() {
	c.mu.Lock()
	first := !c.closing
	c.closing = true
	if first && c.running == 0 {
		close(c.settled)
	}
	c.mu.Unlock()
	<-c.settled
}

// kill closes the connection by reset, so that nothing the kernel holds is sent any more.
func (c *conn) kill(reason string) { c.close(reason, true) }

func (c *conn) close(reason string, reset bool) {
	if c.dead.Swap(true) {
		return
	}
	close(c.dying)
	if reset {
		if tcp, ok := c.raw.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = c.raw.Close()
	} else {
		_ = c.nc.Close()
	}
	c.srv.log.Debug("connection closed", "client", c.raw.RemoteAddr().String(), "reason", reason)
}
