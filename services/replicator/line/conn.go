package line

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/identity"
)

// Conn is a sender's end of a line.
type Conn struct {
	site         domain.SiteID
	nc           net.Conn
	writeTimeout time.Duration

	head   [headBytes]byte
	parts  [3][]byte   // the head and the message around its gap
	rest   net.Buffers // what of them is not written
	record []byte      // the head and the message's beginning, in TLS; else nil

	once sync.Once
	err  error // of lost
	lost chan struct{}
	read chan struct{} // closed when acked is not called any more
}

// Dial connects to a receiver and shows it the token. acked is called for each ack, in order, by one goroutine; it holds up the acks
// behind it. ctx bounds only this call, which takes no longer than 5 s. Errors: domain.ErrNotFound when the offer has ended: rejoin for a
// new one; domain.ErrRefused when either end does not accept the other; domain.ErrInvalid for what is no offer; else
// domain.ErrUnavailable. It may be repeated; a connection that shows the same token ends the one before.
func Dial(ctx context.Context, site domain.SiteID, o Offer, creds *identity.Credentials, acked func(Ack)) (*Conn, error) {
	c, r, err := dial(ctx, site, o, creds)
	if err == nil {
		go c.readAcks(r, acked)
		return c, nil
	}
	if domain.Code(err) == "internal" {
		err = fmt.Errorf("%w: %w", domain.ErrUnavailable, err)
	}
	return nil, fmt.Errorf("open a line to site %s at %s: %w", site, o.Address, err)
}

func dial(ctx context.Context, site domain.SiteID, o Offer, creds *identity.Credentials) (*Conn, *bufio.Reader, error) {
	if len(o.Token) != tokenBytes {
		return nil, nil, fmt.Errorf("a token of %d bytes: %w: it has %d", len(o.Token), domain.ErrInvalid, tokenBytes)
	}
	ctx, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	var d net.Dialer
	nc, err := d.DialContext(ctx, "tcp", o.Address)
	if err != nil {
		return nil, nil, err
	}
	tune(nc)
	stop := context.AfterFunc(ctx, func() { _ = nc.Close() })
	c, r, err := greet(ctx, site, nc, o.Token, creds)
	if !stop() {
		err = fmt.Errorf("no answer in time: %w", ctx.Err())
	}
	if err != nil {
		_ = nc.Close()
		return nil, nil, err
	}
	return c, r, nil
}

// greet shows the token and reads the answer.
func greet(ctx context.Context, site domain.SiteID, nc net.Conn, token string, creds *identity.Credentials) (*Conn, *bufio.Reader, error) {
	c := &Conn{site: site, nc: nc, writeTimeout: writeTimeout, lost: make(chan struct{}), read: make(chan struct{})}
	if creds != nil {
		conf, err := proof(creds, replicatorOf(site))
		if err != nil {
			return nil, nil, err
		}
		secured := tls.Client(nc, conf)
		if err := secured.HandshakeContext(ctx); err != nil {
			return nil, nil, orRefused(err)
		}
		c.nc, c.record = secured, make([]byte, recordBytes)
	}
	if _, err := c.nc.Write(putHello(token)); err != nil {
		return nil, nil, orRefused(err)
	}
	r := bufio.NewReader(c.nc)
	answer, err := r.ReadByte()
	switch {
	case err != nil:
		return nil, nil, fmt.Errorf("read the answer to the hello: %w", orRefused(err))
	case answer == welcome:
		return c, r, nil
	case answer == unknownToken:
		return nil, nil, fmt.Errorf("the token is unknown there: %w: its receiver has ended; rejoin for a new one", domain.ErrNotFound)
	case answer == otherVersion:
		return nil, nil, fmt.Errorf("it does not know version %d of the line: %w: upgrade the older of the two sites", version, domain.ErrRefused)
	}
	return nil, nil, fmt.Errorf("the answer to the hello is %d: %w: no receiver of lines is there, or one side wants TLS and the other does not; set security.secrets at both sites",
		answer, domain.ErrRefused)
}

// readAcks tells acks until the line ends.
func (c *Conn) readAcks(r *bufio.Reader, acked func(Ack)) {
	defer close(c.read)
	b := new([ackBytes]byte)
	for {
		_, err := io.ReadFull(r, b[:])
		var a Ack
		if err == nil {
			a, err = parseAck(b)
		}
		if err != nil {
			c.end(err)
			return
		}
		acked(a)
	}
}

// Send sends a message, with one caller at a time. It waits while the socket is full, 2 s at most for each 64 KiB; after that, and after
// any other error that wraps domain.ErrUnavailable, the line is lost. A message of no bytes or too many is domain.ErrInvalid: nothing was
// sent and the line holds. nil says that the message is on its way and no more: acks say what arrived. message is the caller's again on
// return.
func (c *Conn) Send(message []byte) error {
	if err := checkLength(int64(len(message))); err != nil {
		return fmt.Errorf("send to site %s: %w", c.site, err)
	}
	if err := c.write(message); err != nil {
		c.end(err)
		return fmt.Errorf("send a message of %d bytes to site %s: %w: %w", len(message), c.site, domain.ErrUnavailable, c.err)
	}
	return nil
}

// write hands head and message to the socket: at once, or where it is long in pieces.
func (c *Conn) write(message []byte) error {
	h := headOf(message)
	h.put(&c.head)
	rest := message[h.gapAt+h.gap:]
	n := min(len(rest), pieceBytes)
	c.parts = [3][]byte{c.head[:], message[:h.gapAt], rest[:n]}
	err := c.writeParts()
	for rest = rest[n:]; err == nil && len(rest) > 0; rest = rest[n:] {
		n = min(len(rest), pieceBytes)
		c.parts = [3][]byte{rest[:n]}
		err = c.writeParts()
	}
	c.parts, c.rest = [3][]byte{}, nil
	return err
}

func (c *Conn) writeParts() error {
	if err := c.nc.SetWriteDeadline(time.Now().Add(c.writeTimeout)); err != nil {
		return err
	}
	if c.record != nil {
		return c.writeRecords()
	}
	c.rest = c.parts[:]
	_, err := c.rest.WriteTo(c.nc)
	return err
}

// writeRecords writes the parts with no more TLS records than they need.
func (c *Conn) writeRecords() error {
	n := 0
	for i := range c.parts {
		part := &c.parts[i]
		m := copy(c.record[n:], *part)
		n, *part = n+m, (*part)[m:]
	}
	_, err := c.nc.Write(c.record[:n])
	for _, part := range c.parts {
		if err == nil && len(part) > 0 {
			_, err = c.nc.Write(part) // TLS would cut here anyway
		}
	}
	return err
}

// Lost is closed when the line has ended, whoever ended it. Acks that had come may still be told.
func (c *Conn) Lost() <-chan struct{} { return c.lost }

// Err is why the line ended; nil while it holds.
func (c *Conn) Err() error {
	select {
	case <-c.lost:
		return c.err
	default:
		return nil
	}
}

// Close ends the line. acked is not called any more once it returned: it waits for a call that runs. So it must not be called from
// acked, nor by who holds something that acked waits for. It may be called more than once, and while Send runs, which it ends.
func (c *Conn) Close() {
	c.end(errClosed)
	<-c.read
}

// end closes the connection. What ended it first is what is told.
func (c *Conn) end(err error) {
	c.once.Do(func() {
		c.err = err
		abort(c.nc)
		close(c.lost) // nothing is sent any more
	})
}

// abort closes a connection without waiting for its peer.
func abort(nc net.Conn) {
	if secured, ok := nc.(*tls.Conn); ok {
		nc = secured.NetConn() // its own Close may wait 5 s to say goodbye
	}
	_ = nc.Close()
}
