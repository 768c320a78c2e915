package netfault_test

import (
	"io"
	"net"
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
