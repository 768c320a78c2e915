//go:build e2e

package qemu

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/pkg/tgtd"
	"github.com/holdfast-dr/holdfast/services/failover/hostagent"
	"github.com/holdfast-dr/holdfast/services/failover/workload/ledger"
)

const hostMode = "HOLDFAST_TEST_HOST"

// TestMain makes the test binary a host process of its own where it is told to be one.
func TestMain(m *testing.M) {
	if os.Getenv(hostMode) == "" {
		os.Exit(m.Run())
	}
	i, err := launch(context.Background(), hostagent.Spec{VM: "orphan", Ledger: func(ledger.Line) error { return nil }}, idle(), slog.New(slog.DiscardHandler))
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(i.Pid())
	<-i.Done()
}

// idle is a machine that does nothing.
func idle() []string {
	return []string{"-nodefaults", "-no-user-config", "-display", "none", "-S", "-m", "16", "-chardev", "socket,id=qmp,fd=3", "-mon", "chardev=qmp,mode=control"}
}

func TestQEMUDiesWithItsHostProcess(t *testing.T) {
	tgtd.Need(t, program)
	host := exec.Command(os.Args[0])
	host.Env = append(os.Environ(), hostMode+"=1")
	out, err := host.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := host.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	pid, convErr := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || convErr != nil {
		t.Fatalf("%q %v", line, err)
	}
	vm, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(vm)
	if err := host.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(vm), Events: unix.POLLIN}}, 5000)
	if err != nil || n != 1 {
		_ = unix.Kill(pid, unix.SIGKILL)
		t.Fatalf("QEMU lives on without its host: %d %v", n, err)
	}
	t.Logf("gone after %s", time.Since(begin))
	_ = host.Wait()
}

func TestEndOfContextKillsQEMUWithoutATrace(t *testing.T) {
	tgtd.Need(t, program)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var lines []ledger.Line
	i, err := launch(ctx, hostagent.Spec{VM: "x", Ledger: func(l ledger.Line) error { lines = append(lines, l); return nil }}, idle(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	<-i.Done()
	if i.Err() != nil || len(lines) != 0 {
		t.Fatalf("loss of power left %v %+v", i.Err(), lines)
	}
}
