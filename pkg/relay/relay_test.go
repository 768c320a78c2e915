package relay_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/relay"
	"github.com/holdfast-dr/holdfast/pkg/telemetry"
)

// patience bounds what a test waits for: the machine has other work.
const patience = 30 * time.Second

// destination is a server that hands each of its connections to the test.
func destination(t *testing.T) (address string, conns <-chan *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	out := make(chan *net.TCPConn, 64)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			out <- c.(*net.TCPConn)
		}
	}()
	return ln.Addr().String(), out
}

type relayed struct {
	*relay.Server
	registry *telemetry.Registry
}

// start runs the relay of site b to site c.
func start(t *testing.T, c string, change ...func(*relay.Config)) relayed {
	t.Helper()
	registry := telemetry.NewRegistry("b", "relay", telemetry.NewHealth("b", "relay"))
	cfg := relay.Config{Site: "b", Listen: "127.0.0.1:0", To: map[domain.SiteID]string{"c": c}, PerPeer: 8, Timing: relay.DefaultTiming(), Metrics: registry.For("relay")}
	for _, f := range change {
		f(&cfg)
	}
	s, err := relay.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return relayed{s, registry}
}

func dial(r relayed, to domain.SiteID) (*net.TCPConn, error) {
	c, err := relay.Dialer{To: to, Relay: r.Addr(), Timeout: patience}.Dial("tcp", "ignored:1")
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// through is both ends of a relayed connection.
func through(t *testing.T, r relayed, conns <-chan *net.TCPConn) (near, far *net.TCPConn) {
	t.Helper()
	near, err := dial(r, "c")
	if err != nil {
		t.Fatal(err)
	}
	far = <-conns
	for _, c := range []*net.TCPConn{near, far} {
		c.SetDeadline(time.Now().Add(patience))
		t.Cleanup(func() { c.Close() })
	}
	return near, far
}

// measures waits until the relay's page has a line.
func (r relayed) measures(t *testing.T, line string) {
	t.Helper()
	var page string
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if page = scrape(r.registry); strings.Contains(page, line) {
			return
		}
	}
	t.Fatalf("the page never had %q:\n%s", line, page)
}

func TestBytesArriveBothWaysAsTheyWere(t *testing.T) {
	address, conns := destination(t)
	r := start(t, address)
	near, far := through(t, r, conns)
	up, down := make([]byte, 3<<20+17), make([]byte, 2<<20+5)
	rand.Read(up)
	rand.Read(down)
	type got struct {
		data []byte
		err  error
	}
	ends := make(chan got, 2)
	exchange := func(c *net.TCPConn, send []byte) {
		go c.Write(send)
		var g got
		g.data = make([]byte, len(up)+len(down)-len(send))
		_, g.err = io.ReadFull(c, g.data)
		ends <- g
	}
	go exchange(near, up)
	go exchange(far, down)
	for range 2 {
		if g := <-ends; g.err != nil || !bytes.Equal(g.data, up) && !bytes.Equal(g.data, down) {
			t.Fatalf("%d bytes, %v", len(g.data), g.err)
		}
	}
	r.measures(t, `holdfast_relay_bytes_total{direction="to",service="relay",site="b",to="c"} 3.145745e+06`)
	r.measures(t, `holdfast_relay_bytes_total{direction="from",service="relay",site="b",to="c"} 2.097157e+06`)
	r.measures(t, `holdfast_relay_connections{service="relay",site="b",to="c"} 1`)
	near.Close()
	far.Close()
	r.measures(t, `holdfast_relay_connections_ended_total{result="relayed",service="relay",site="b",to="c"} 1`)
	r.measures(t, `holdfast_relay_connections{service="relay",site="b",to="c"} 0`)
}

// TestTheServerMaySpeakFirst: as a NATS server does. What it says at once must not be taken for the relay's answer.
func TestTheServerMaySpeakFirst(t *testing.T) {
	address, conns := destination(t)
	r := start(t, address)
	go func() {
		c := <-conns
		c.Write([]byte("INFO {}\r\n"))
		c.Close()
	}()
	near, err := dial(r, "c")
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	near.SetDeadline(time.Now().Add(patience))
	if got, err := io.ReadAll(near); err != nil || string(got) != "INFO {}\r\n" {
		t.Fatalf("%q, %v", got, err)
	}
}

func TestOneSideMayEndAndTheOtherGoOn(t *testing.T) {
	address, conns := destination(t)
	r := start(t, address)
	near, far := through(t, r, conns)
	near.Write([]byte("question"))
	near.CloseWrite()
	if got, err := io.ReadAll(far); err != nil || string(got) != "question" {
		t.Fatalf("%q, %v", got, err)
	}
	far.Write([]byte("answer"))
	far.Close()
	if got, err := io.ReadAll(near); err != nil || string(got) != "answer" {
		t.Fatalf("%q, %v", got, err)
	}
}

func TestAResetIsAReset(t *testing.T) {
	address, conns := destination(t)
	r := start(t, address)
	near, far := through(t, r, conns)
	far.SetLinger(0)
	far.Close()
	if _, err := near.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Fatalf("a broken connection looks like one that was ended: %v", err)
	}
}

func TestADestinationThatIsNotListedIsRefused(t *testing.T) {
	address, conns := destination(t)
	r := start(t, address)
	_, err := dial(r, "d")
	var no *relay.Refusal
	if !errors.As(err, &no) || !errors.Is(err, domain.ErrRefused) || !strings.Contains(err.Error(), "site b does not relay to site d: list it under relay.to") {
		t.Fatalf("%v", err)
	}
	r.measures(t, `holdfast_relay_connections_ended_total{result="refused",service="relay",site="b",to="-"} 1`)
	if len(conns) > 0 {
		t.Fatal("the destination was connected to")
	}
}

func TestADestinationThatIsDownIsSaid(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	r := start(t, ln.Addr().String())
	if _, err = dial(r, "c"); !errors.Is(err, domain.ErrUnavailable) || !strings.Contains(err.Error(), "does not reach the NATS server of site c either") {
		t.Fatalf("%v", err)
	}
	r.measures(t, `holdfast_relay_connections_ended_total{result="unreached",service="relay",site="b",to="c"} 1`)
}

func TestGarbageIsToldAndNotForwarded(t *testing.T) {
	address, conns := destination(t)
	r := start(t, address)
	for _, text := range []string{"GET / HTTP/1.1\r\nHost: b\r\n\r\n", "holdfast-relay/2 c\n", "holdfast-relay/1 ../c\n", "holdfast-relay/1\n", "\n",
		"holdfast-relay/1 c\nCONNECT {}\r\n", strings.Repeat("x", 64), strings.Repeat("x", 5000), "\x16\x03\x01\x02\x00\x01\x00\x01\n"} {
		c, err := net.Dial("tcp", r.Addr())
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(patience))
		c.Write([]byte(text))
		if got, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(got), "no invalid ") || !strings.HasSuffix(string(got), "this is the relay of site b\n") {
			t.Errorf("%.30q: %q, %v", text, got, err)
		}
		c.Close()
	}
	if len(conns) > 0 {
		t.Fatal("the destination was connected to")
	}
}

func TestAnotherServerAtTheRelaysAddressIsTold(t *testing.T) {
	for _, says := range []string{"INFO {\"server_id\":\"x\"}\r\n", "no\n", "no idea what\n", strings.Repeat("x", 600), "half"} {
		address, conns := destination(t)
		go func() {
			c := <-conns
			c.Write([]byte(says))
			c.CloseWrite()
			io.Copy(io.Discard, c)
			c.Close()
		}()
		_, err := relay.Dialer{To: "c", Relay: address, Timeout: patience}.Dial("tcp", "")
		if !errors.Is(err, domain.ErrInvalid) || !strings.Contains(err.Error(), "is no relay") {
			t.Errorf("%.20q: %v", says, err)
		}
	}
}

func TestAPeerHasSoManyConnectionsAndNoMore(t *testing.T) {
	address, conns := destination(t)
	r := start(t, address, func(c *relay.Config) { c.PerPeer = 2 })
	first, _ := through(t, r, conns)
	through(t, r, conns)
	if _, err := dial(r, "c"); !errors.Is(err, domain.ErrRefused) || !strings.Contains(err.Error(), "relay.connections_per_peer") {
		t.Fatalf("%v", err)
	}
	r.measures(t, `holdfast_relay_connections_ended_total{result="busy",service="relay",site="b",to="-"} 1`)
	first.SetLinger(0)
	first.Close()
	r.measures(t, `holdfast_relay_connections{service="relay",site="b",to="c"} 1`)
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); { // its place is free a moment after it is counted
		if _, err = dial(r, "c"); err == nil {
			return
		}
	}
	t.Fatal(err)
}

func TestASilentClientIsLetGo(t *testing.T) {
	address, _ := destination(t)
	r := start(t, address, func(c *relay.Config) { c.Timing.Hello = 20 * time.Millisecond })
	c, err := net.Dial("tcp", r.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if got, err := io.ReadAll(c); err != nil || len(got) > 0 {
		t.Fatalf("%q, %v", got, err)
	}
}

func TestAConnectionOnWhichNothingMovesEnds(t *testing.T) {
	address, conns := destination(t)
	r := start(t, address, func(c *relay.Config) { c.Timing.Idle = 50 * time.Millisecond })
	near, far := through(t, r, conns)
	for _, c := range []*net.TCPConn{near, far} {
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("%v", err)
		}
	}
	r.measures(t, `holdfast_relay_connections{service="relay",site="b",to="c"} 0`)
}

// TestAHalfThatNobodyEndsIsEnded: the side that is left has the linger time, not the idle time.
func TestAHalfThatNobodyEndsIsEnded(t *testing.T) {
	address, conns := destination(t)
	r := start(t, address, func(c *relay.Config) { c.Timing.Linger = 50 * time.Millisecond; c.Timing.Idle = time.Hour })
	near, far := through(t, r, conns)
	near.CloseWrite()
	if got, err := io.ReadAll(far); len(got) > 0 {
		t.Fatalf("%q, %v", got, err)
	}
	r.measures(t, `holdfast_relay_connections{service="relay",site="b",to="c"} 0`)
}

// TestWhoTakesNothingHoldsUpWhoSends: the relay keeps no more than its buffers and the kernel's.
func TestWhoTakesNothingHoldsUpWhoSends(t *testing.T) {
	address, conns := destination(t)
	r := start(t, address)
	near, far := through(t, r, conns)
	near.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
	sent := 0
	for buf := make([]byte, 64<<10); ; {
		n, err := near.Write(buf)
		if sent += n; err != nil {
			break
		}
		if sent > 256<<20 {
			t.Fatal("256 MiB vanished into the relay")
		}
	}
	near.CloseWrite()
	if n, err := io.Copy(io.Discard, far); err != nil || n != int64(sent) {
		t.Fatalf("%d of %d bytes arrived: %v", n, sent, err)
	}
}

func TestStopEndsEveryConnection(t *testing.T) {
	address, conns := destination(t)
	r := start(t, address)
	near, far := through(t, r, conns)
	silent, err := net.Dial("tcp", r.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	r.Stop()
	for _, c := range []net.Conn{near, far} {
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Fatal("it still stands")
		}
	}
	if _, err := dial(r, "c"); err == nil {
		t.Fatal("it still listens")
	}
}
