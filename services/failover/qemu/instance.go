package qemu

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/services/failover/hostagent"
	"github.com/holdfast-dr/holdfast/services/failover/workload/ledger"
)

// instance is one QEMU process. It implements hostagent.Instance.
type instance struct {
	spec  hostagent.Spec
	log   *slog.Logger
	cmd   *exec.Cmd
	stdin io.WriteCloser
	qmp   *monitor
	qga   *guestAgent
	kill  context.CancelFunc
	ready chan struct{} // closed when the guest's service listens
	done  chan struct{}

	mu     sync.Mutex
	reason string // of an end that was asked for
	fault  string // what the guest said last about why it gives up
	last   uint64
	err    error
}

// launch starts QEMU; the end of ctx kills it.
func launch(ctx context.Context, spec hostagent.Spec, args []string, log *slog.Logger) (*instance, error) {
	power := ctx
	ctx, kill := context.WithCancel(ctx)
	i := &instance{spec: spec, log: log, kill: kill, ready: make(chan struct{}), done: make(chan struct{})}
	i.cmd = exec.CommandContext(ctx, program, args...)
	i.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stderr := &tail{}
	i.cmd.Stderr = stderr
	var err error
	if i.stdin, err = i.cmd.StdinPipe(); err != nil {
		kill()
		return nil, err
	}
	console, err := i.cmd.StdoutPipe()
	if err != nil {
		kill()
		return nil, err
	}
	if err := i.connect(); err != nil {
		kill()
		return nil, err
	}
	started := make(chan error)
	go i.run(power, console, stderr, started)
	err = <-started
	for _, theirs := range i.cmd.ExtraFiles {
		_ = theirs.Close()
	}
	if err != nil {
		i.disconnect()
		kill()
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	return i, nil
}

// connect makes the connections to QEMU: its file descriptors 3 (QMP) and 4 (the guest agent's port).
func (i *instance) connect() error {
	qmp, theirQMP, err := socketPair("qmp")
	if err != nil {
		return err
	}
	qga, theirQGA, err := socketPair("qga")
	if err != nil {
		return errors.Join(err, qmp.Close(), theirQMP.Close())
	}
	i.qmp, i.qga = &monitor{conn: qmp}, newGuestAgent(qga)
	i.cmd.ExtraFiles = []*os.File{theirQMP, theirQGA}
	return nil
}

func (i *instance) disconnect() {
	_ = i.qmp.conn.Close()
	_ = i.qga.conn.Close()
}

// socketPair makes the two ends of a connection, the second one for QEMU.
func socketPair(name string) (net.Conn, *os.File, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make the connection %s: %w", name, err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), name), os.NewFile(uintptr(fds[1]), name)
	defer func() { _ = ours.Close() }()
	conn, err := net.FileConn(ours)
	if err != nil {
		_ = theirs.Close()
		return nil, nil, fmt.Errorf("make the connection %s: %w", name, err)
	}
	return conn, theirs, nil
}

// run starts the process and follows it to its end. It keeps its thread, since the kernel sends the parent's death
// signal when the thread that made the process ends.
func (i *instance) run(power context.Context, console io.Reader, stderr *tail, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := i.cmd.Start(); err != nil {
		started <- err
		return
	}
	started <- nil
	defer close(i.done)
	var side sync.WaitGroup
	side.Go(func() { i.readConsole(console) })
	side.Go(func() { i.watch(power) })
	side.Wait() // both end with the process
	err := i.cmd.Wait()
	i.kill()
	i.disconnect()
	i.conclude(power, err, stderr.String())
}

// conclude says why the process ended, to the ledger and to Err.
func (i *instance) conclude(power context.Context, err error, stderr string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	reason := i.reason
	switch {
	case power.Err() != nil && reason == "":
		return // loss of power
	case reason == "" && i.fault != "":
		i.err = errors.New("the guest gave up: " + i.fault)
	case reason == "":
		i.err = fmt.Errorf("%s ended by itself: %w: %s", program, errors.Join(err, errEnded), stderr)
	}
	if i.err != nil {
		reason = "failed: " + i.err.Error()
	}
	l := i.line(ledger.KindStop, i.last)
	l.Reason = reason
	_ = i.spec.Ledger(l) // evidence only: nothing waits for it
}

var errEnded = errors.New("the machine is off")

// watch follows QEMU's events until it ends, and lets a guest that an I/O error stopped go on.
func (i *instance) watch(power context.Context) {
	var again *time.Timer
	defer i.qga.wait()
	i.qmp.follow(func(m qmpMessage) {
		switch {
		case m.Error != nil:
			i.log.Warn("qmp command refused", "vm", i.spec.VM, "error", m.Error.Desc)
		case m.Event == "STOP":
			i.log.Warn("vm paused by a disk error", "site", i.spec.Site, "group", i.spec.Group, "vm", i.spec.VM)
			again = time.AfterFunc(resumeAfter, func() { i.qmp.send("cont") })
		case m.Event == "VSERPORT_CHANGE" && m.Data.ID == qgaPort:
			i.qga.changed(power, m.Data.Open, i.log)
		}
	})
	if again != nil {
		again.Stop()
	}
}

const resumeAfter = time.Second

// readConsole takes the guest's HF- lines; QEMU itself writes the whole console to its file.
func (i *instance) readConsole(r io.Reader) {
	br := bufio.NewReaderSize(r, 64<<10)
	for {
		line, err := br.ReadString('\n')
		if err != nil {
			return
		}
		if at := strings.Index(line, "HF-"); at >= 0 {
			i.heard(strings.TrimSpace(line[at:]))
		}
	}
}

// heard takes one line of the guest.
func (i *instance) heard(line string) {
	var seq uint64
	word, rest, _ := strings.Cut(line, " ")
	switch word {
	case "HF-READY":
		if _, err := fmt.Sscan(rest, &seq); err != nil {
			return
		}
		i.note(ledger.KindStart, seq, "", 0)
		close(i.ready)
	case "HF-ACK":
		var guestClock int64
		var hash string
		var size int
		if _, err := fmt.Sscan(rest, &seq, &guestClock, &hash, &size); err != nil {
			i.log.Warn("console line damaged", "vm", i.spec.VM, "line", line)
			return
		}
		i.note(ledger.KindAck, seq, hash, size)
	case "HF-FAIL":
		i.mu.Lock()
		i.fault = rest
		i.mu.Unlock()
	}
}

// note writes a line to the ledger, stamped with the host's clock: the guest's own says nothing outside of it.
func (i *instance) note(kind string, seq uint64, hash string, size int) {
	i.mu.Lock()
	i.last = seq
	l := i.line(kind, seq)
	i.mu.Unlock()
	l.Hash, l.Bytes = hash, size
	if err := i.spec.Ledger(l); err != nil {
		i.log.Error("ledger line lost; the console file has it", "vm", i.spec.VM, "error", err)
	}
}

func (i *instance) line(kind string, seq uint64) ledger.Line {
	s := i.spec
	return ledger.Line{
		Kind: kind, VM: s.VM, Site: s.Site, Host: s.Host, Instance: s.Instance, Epoch: s.Epoch, Seq: seq,
		ClockNS: int64(clock.Now()), WallNS: time.Now().UnixNano(),
	}
}

// Stop implements hostagent.Instance: the guest finishes its answers, unmounts and powers off; within the grace.
func (i *instance) Stop(ctx context.Context, grace time.Duration) {
	i.setReason("stopped")
	_, _ = io.WriteString(i.stdin, "poweroff\n")
	t := time.NewTimer(grace)
	defer t.Stop()
	select {
	case <-i.done:
	case <-t.C:
	case <-ctx.Done():
	}
	i.kill()
	<-i.done
}

// Kill implements hostagent.Instance.
func (i *instance) Kill(reason string) {
	i.setReason("killed: " + reason)
	i.kill()
	<-i.done
}

func (i *instance) setReason(r string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.reason == "" {
		i.reason = r
	}
}

// Done implements hostagent.Instance.
func (i *instance) Done() <-chan struct{} { return i.done }

// Err implements hostagent.Instance.
func (i *instance) Err() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.err
}

// Pid is QEMU's process, for tests that kill it from outside.
func (i *instance) Pid() int { return i.cmd.Process.Pid }

// Console is the guest's console file.
func (i *instance) Console() string { return filepath.Join(i.spec.Dir, ConsoleFile) }

// tail keeps the last few kilobytes written to it.
type tail struct {
	mu sync.Mutex
	b  []byte
}

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	t.b = t.b[max(0, len(t.b)-4096):]
	return len(p), nil
}

// String is what was kept, on one line.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(strings.Fields(string(t.b)), " ")
}
