//go:build e2e

package initiators

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// shell is a serial line at whose other end init.sh takes commands.
type shell struct {
	t       *testing.T
	conn    net.Conn
	listen  *net.UnixListener
	lines   chan string // closed when the line is cut
	console string
}

// listenShell waits for QEMU at a Unix socket.
func listenShell(t *testing.T, name, console string) *shell {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	return &shell{t: t, listen: l, lines: make(chan string, 1024), console: console}
}

// ready returns when the guest takes commands.
func (s *shell) ready() {
	s.t.Helper()
	s.conn = accept(s.t, s.listen)
	go func() {
		defer close(s.lines)
		for r := bufio.NewScanner(s.conn); r.Scan(); {
			s.lines <- strings.TrimRight(r.Text(), "\r")
		}
	}()
	s.until("HF-READY", nil)
}

func accept(t *testing.T, l *net.UnixListener) net.Conn {
	t.Helper()
	_ = l.SetDeadline(time.Now().Add(patience))
	conn, err := l.Accept()
	if err != nil {
		t.Fatal("QEMU did not start: ", err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = l.Close()
	return conn
}

// next is the next line; ok is false when the guest is gone.
func (s *shell) next() (line string, ok bool) {
	s.t.Helper()
	select {
	case line, ok = <-s.lines:
		return line, ok
	case <-time.After(patience):
		console, _ := os.ReadFile(s.console)
		s.t.Fatalf("the guest said nothing for %s; its console:\n%s", patience, console)
		return "", false
	}
}

// until hands the lines before the one with a prefix to each, and returns that one.
func (s *shell) until(prefix string, each func(string)) string {
	s.t.Helper()
	for {
		line, ok := s.next()
		switch {
		case !ok:
			console, _ := os.ReadFile(s.console)
			s.t.Fatalf("the guest ended; its console:\n%s", console)
		case strings.HasPrefix(line, prefix):
			return line
		case each != nil:
			each(line)
		}
	}
}

// send starts a command, whose lines next and until return.
func (s *shell) send(command string) {
	s.t.Helper()
	if _, err := fmt.Fprintln(s.conn, strings.ReplaceAll(command, "\n", " ")); err != nil {
		s.t.Fatal("the guest is gone: ", err)
	}
}

// try runs a command, and returns what it printed and its exit status.
func (s *shell) try(command string) (string, int) {
	s.t.Helper()
	s.send(command)
	return s.result()
}

// result waits for the end of a command that was sent.
func (s *shell) result() (string, int) {
	s.t.Helper()
	var out strings.Builder
	end := s.until("HF-EXIT ", func(line string) { out.WriteString(line + "\n") })
	var code int
	if _, err := fmt.Sscanf(end, "HF-EXIT %d", &code); err != nil {
		s.t.Fatal(err)
	}
	return out.String(), code
}

// monitor is the line to QEMU itself (QMP). It lets a guest go on that a disk error stopped.
type monitor struct {
	mu      sync.Mutex
	conn    net.Conn
	stopped int
}

// goOnAfter is how long a stopped guest waits for its next try.
const goOnAfter = 250 * time.Millisecond

func listenMonitor(t *testing.T, name string) *monitor {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	m := &monitor{}
	go func() {
		defer l.Close()
		conn, err := l.Accept()
		if err != nil {
			return
		}
		m.conn = conn
		t.Cleanup(func() { _ = conn.Close() })
		m.follow()
	}()
	t.Cleanup(func() { _ = l.Close() })
	return m
}

func (m *monitor) follow() {
	m.execute("qmp_capabilities")
	for r := bufio.NewScanner(m.conn); r.Scan(); {
		var message struct{ Event string }
		if json.Unmarshal(r.Bytes(), &message) == nil && message.Event == "STOP" {
			m.mu.Lock()
			m.stopped++
			m.mu.Unlock()
			time.AfterFunc(goOnAfter, func() { m.execute("cont") })
		}
	}
}

func (m *monitor) execute(command string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, _ = fmt.Fprintf(m.conn, "{\"execute\":%q}\n", command) // a QEMU that is gone is noticed by its end
}

// stops is how often a disk error stopped the guest.
func (m *monitor) stops() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.stopped
}
