package sdnotify

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

func env(pairs ...string) func(string) string {
	return func(key string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == key {
				return pairs[i+1]
			}
		}
		return ""
	}
}

func listen(t *testing.T, name string) *net.UnixConn {
	t.Helper()
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	if err := l.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return l
}

func TestEveryWordReachesTheManagerOnPathAndAbstractSockets(t *testing.T) {
	for _, name := range []string{filepath.Join(t.TempDir(), "notify"), fmt.Sprintf("@holdfast-test-%d", os.Getpid())} {
		manager := listen(t, name)
		n, err := Open(env("NOTIFY_SOCKET", name, "WATCHDOG_USEC", "3000000", "WATCHDOG_PID", strconv.Itoa(os.Getpid())))
		if err != nil {
			t.Fatal(err)
		}
		if n.Watchdog() != 3*time.Second {
			t.Errorf("watchdog of %s, want 3s", n.Watchdog())
		}
		if err := errors.Join(n.Ready(), n.Alive(), n.Status("two\nlines"), n.Stopping()); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"READY=1", "WATCHDOG=1", "STATUS=two lines", "STOPPING=1"} {
			buf := make([]byte, 256)
			k, err := manager.Read(buf)
			if err != nil || string(buf[:k]) != want {
				t.Errorf("on %s the manager heard %q, %v; want %q", name, buf[:k], err, want)
			}
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestWithoutAManagerNothingIsToldAndNothingFails(t *testing.T) {
	n, err := Open(env("WATCHDOG_USEC", "1000000"))
	if err != nil || n != nil {
		t.Fatalf("%v, %v", n, err)
	}
	if err := errors.Join(n.Ready(), n.Alive(), n.Status("x"), n.Stopping(), n.Close()); err != nil || n.Watchdog() != 0 {
		t.Errorf("%v, watchdog %s", err, n.Watchdog())
	}
}

func TestTheWatchdogOfAnotherProcessIsNotOurs(t *testing.T) {
	name := filepath.Join(t.TempDir(), "notify")
	listen(t, name)
	n, err := Open(env("NOTIFY_SOCKET", name, "WATCHDOG_USEC", "3000000", "WATCHDOG_PID", "1"))
	if err != nil || n.Watchdog() != 0 {
		t.Errorf("watchdog %s, %v", n.Watchdog(), err)
	}
}

func TestASocketThatCannotBeHadIsAnError(t *testing.T) {
	if _, err := Open(env("NOTIFY_SOCKET", "relative")); !errors.Is(err, domain.ErrInvalid) {
		t.Errorf("a relative name: %v", err)
	}
	if _, err := Open(env("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "none"))); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no socket: %v", err)
	}
	name := filepath.Join(t.TempDir(), "notify")
	listen(t, name)
	if _, err := Open(env("NOTIFY_SOCKET", name, "WATCHDOG_USEC", "soon")); !errors.Is(err, domain.ErrInvalid) {
		t.Errorf("an interval that is no number: %v", err)
	}
}
