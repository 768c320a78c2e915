package netfault_test

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/netfault"
)

func echo(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); _ = c.Close() }()
		}
	}()
	return ln.Addr().String()
}

func ask(t *testing.T, c net.Conn, wait time.Duration) error {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(wait)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("x")); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, 1))
	return err
}

// connected is a link to an echo, and a connection over it.
func connected(t *testing.T) (*netfault.Proxy, net.Conn) {
	t.Helper()
	p, err := netfault.Listen(t.Context(), "127.0.0.1:0", echo(t))
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return p, c
}

func TestCutLinkHoldsBytesAndDeliversThemWhenItHeals(t *testing.T) {
	p, c := connected(t)
	if err := ask(t, c, 5*time.Second); err != nil {
		t.Fatalf("open link: %v", err)
	}
	p.Set(netfault.Cut)
	if err := ask(t, c, 200*time.Millisecond); err == nil {
		t.Fatal("a byte crossed a cut link")
	}
	p.Set(netfault.Pass)
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatalf("healed link: the byte that was held is missing: %v", err)
	}
	p.SetDelay(50 * time.Millisecond)
	begin := time.Now()
	if err := ask(t, c, 5*time.Second); err != nil || time.Since(begin) < 100*time.Millisecond {
		t.Fatalf("delayed link: %v after %v, want both directions delayed", err, time.Since(begin))
	}
	p.Reset()
	if err := ask(t, c, 5*time.Second); err == nil {
		t.Fatal("a reset connection still answers")
	}
}

func TestBytesOfADelayedLinkFollowOneAnother(t *testing.T) {
	p, c := connected(t)
	const delay, chunks = 100 * time.Millisecond, 50
	p.SetDelay(delay)
	begin := time.Now()
	go func() {
		for range chunks {
			_, _ = c.Write(make([]byte, 16<<10))
		}
	}()
	if _, err := io.ReadFull(c, make([]byte, chunks*16<<10)); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took < 2*delay || took > chunks*delay {
		t.Fatalf("%d chunks took %v over a round trip of %v: each waited for the one before", chunks, took, 2*delay)
	}
}

func TestANarrowLinkIsSharedByItsConnections(t *testing.T) {
	p, err := netfault.Listen(t.Context(), "127.0.0.1:0", echo(t))
	if err != nil {
		t.Fatal(err)
	}
	const rate, each = 1 << 20, 128 << 10
	p.SetRate(rate)
	begin := time.Now()
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			c, err := net.Dial("tcp", p.Addr())
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = c.Close() }()
			if _, err := c.Write(make([]byte, each)); err != nil {
				t.Error(err)
			}
			if _, err := io.ReadFull(c, make([]byte, each)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if took, least := time.Since(begin), time.Duration(2*each)*time.Second/rate; took < least {
		t.Fatalf("%d bytes crossed in %v, where %d a second need %v", 2*each, took, rate, least)
	}
}

// ends is a link, both ends of a connection over it, and who takes further ones.
func ends(t *testing.T) (p *netfault.Proxy, near, far net.Conn, ln *net.TCPListener) {
	t.Helper()
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	if p, err = netfault.Listen(t.Context(), "127.0.0.1:0", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if near, err = net.Dial("tcp", p.Addr()); err != nil {
		t.Fatal(err)
	}
	if far, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = near.Close(), far.Close() })
	return p, near, far, ln
}

// crosses sends bytes and waits for them at the other end, for a time.
func crosses(t *testing.T, from, to net.Conn, text string, wait time.Duration) error {
	t.Helper()
	if _, err := from.Write([]byte(text)); err != nil {
		return err
	}
	return comes(t, to, text, wait)
}

func comes(t *testing.T, to net.Conn, text string, wait time.Duration) error {
	t.Helper()
	if err := to.SetReadDeadline(time.Now().Add(wait)); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(to, got); err != nil {
		return err
	}
	if string(got) != text {
		t.Fatalf("%q came, want %q", got, text)
	}
	return nil
}

func TestALinkThatIsCutOneWayCarriesTheOther(t *testing.T) {
	for way, name := range map[netfault.Way]string{netfault.Forth: "forth", netfault.Back: "back"} {
		t.Run(name, func(t *testing.T) {
			p, near, far, ln := ends(t)
			from, to := near, far
			if way == netfault.Back {
				from, to = far, near
			}
			p.SetWay(way, netfault.Cut)
			if err := crosses(t, from, to, "held", 100*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("across the cut way: %v", err)
			}
			if err := crosses(t, to, from, "carried", 5*time.Second); err != nil {
				t.Fatalf("the other way: %v", err)
			}
			c, err := net.Dial("tcp", p.Addr()) // as far as the kernel
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if err := ln.SetDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
				t.Fatal(err)
			}
			if _, err := ln.Accept(); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("a connection was made over half a link: %v", err)
			}
			p.SetWay(way, netfault.Pass)
			if err := comes(t, to, "held", 5*time.Second); err != nil {
				t.Fatalf("what was held: %v", err)
			}
		})
	}
}

func TestThatAnEndClosedDoesNotCrossACutLink(t *testing.T) {
	for _, name := range []string{"nothing under way", "bytes under way", "bytes come towards the end that closed"} {
		t.Run(name, func(t *testing.T) {
			p, near, far, _ := ends(t)
			p.SetWay(netfault.Forth, netfault.Cut)
			if name == "bytes under way" {
				if _, err := near.Write([]byte("x")); err != nil {
					t.Fatal(err)
				}
			}
			if err := near.Close(); err != nil {
				t.Fatal(err)
			}
			if name == "bytes come towards the end that closed" {
				for range 3 {
					if _, err := far.Write([]byte("x")); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := comes(t, far, "x", 100*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("it crossed: %v", err)
			}
			p.SetWay(netfault.Forth, netfault.Pass)
			if err := far.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, far); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal("the link is whole, and the other end does not know")
			}
		})
	}
}

func TestALinkThatRefusesEndsWhatStandsAndWhatComes(t *testing.T) {
	p, near, far, _ := ends(t)
	p.Set(netfault.Refuse)
	for name, c := range map[string]net.Conn{"near": near, "far": far} {
		if err := comes(t, c, "x", 5*time.Second); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the %s end: %v", name, err)
		}
	}
	if c, err := net.Dial("tcp", p.Addr()); err == nil {
		defer c.Close()
		if err := comes(t, c, "x", 5*time.Second); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a new connection: %v", err)
		}
	}
	p.Close() // returns when nothing of it runs
	if _, err := net.Dial("tcp", p.Addr()); err == nil {
		t.Error("a closed link takes connections")
	}
}
