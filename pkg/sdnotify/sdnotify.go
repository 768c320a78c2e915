// Package sdnotify tells a service manager how a process is, as sd_notify(3) describes: that it has begun to serve, that it
// is alive, that it stops. Without a manager that asks for it, nothing is told and nothing fails.
package sdnotify

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Notifier speaks to the service manager. A nil Notifier says nothing. Its methods may be called from any goroutine.
type Notifier struct {
	conn     *net.UnixConn
	watchdog time.Duration
}

// Open takes the manager's socket and the watchdog's interval from the environment (NOTIFY_SOCKET, WATCHDOG_USEC,
// WATCHDOG_PID). It is nil without error where no manager listens. Errors: a socket that is named and cannot be had.
func Open(getenv func(string) string) (*Notifier, error) {
	name := getenv("NOTIFY_SOCKET")
	if name == "" {
		return nil, nil
	}
	if name[0] != '/' && name[0] != '@' {
		return nil, fmt.Errorf("open the service manager's socket %q: %w: NOTIFY_SOCKET must be a path, or @ and an abstract name", name, domain.ErrInvalid)
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"}) // net takes a leading @ as abstract
	if err != nil {
		return nil, fmt.Errorf("open the service manager's socket %s: %w: the unit needs NotifyAccess=main or all", name, err)
	}
	every, err := watchdog(getenv)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return &Notifier{conn: conn, watchdog: every}, nil
}

func watchdog(getenv func(string) string) (time.Duration, error) {
	usec := getenv("WATCHDOG_USEC")
	if pid := getenv("WATCHDOG_PID"); usec == "" || pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0, nil // off, or meant for another process of the unit
	}
	n, err := strconv.ParseInt(usec, 10, 64)
	if err != nil || n <= 0 {
		return 0, fmt.Errorf("read the watchdog's interval: WATCHDOG_USEC %q: %w: want a number of microseconds above 0", usec, domain.ErrInvalid)
	}
	return time.Duration(n) * time.Microsecond, nil
}

// Watchdog is how long the manager waits for a sign of life before it kills the process; 0 is for ever.
func (n *Notifier) Watchdog() time.Duration {
	if n == nil {
		return 0
	}
	return n.watchdog
}

// Ready says that the process has begun to serve.
func (n *Notifier) Ready() error { return n.send("READY=1") }

// Stopping says that the process has begun to stop.
func (n *Notifier) Stopping() error { return n.send("STOPPING=1") }

// Alive is the sign of life that the watchdog waits for.
func (n *Notifier) Alive() error { return n.send("WATCHDOG=1") }

// Status is one line for people, as systemctl status shows it.
func (n *Notifier) Status(line string) error {
	return n.send("STATUS=" + strings.ReplaceAll(line, "\n", " "))
}

func (n *Notifier) send(text string) error {
	if n == nil {
		return nil
	}
	if _, err := n.conn.Write([]byte(text)); err != nil {
		return fmt.Errorf("tell the service manager %s: %w", text, err)
	}
	return nil
}

// Close gives the socket back.
func (n *Notifier) Close() error {
	if n == nil {
		return nil
	}
	return n.conn.Close()
}
