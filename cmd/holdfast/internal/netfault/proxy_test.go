package netfault_test

import (
	"io"
	"net"
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

func TestCutLinkHoldsBytesAndDeliversThemWhenItHeals(t *testing.T) {
	p, err := netfault.Listen(t.Context(), "127.0.0.1:0", echo(t))
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
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
