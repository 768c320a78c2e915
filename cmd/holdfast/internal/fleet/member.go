package fleet

import (
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// member is one process and those that follow it.
type member struct {
	name, log string
	args      []string
	over      chan struct{} // closed when it is not to be started again

	mu      sync.Mutex
	cmd     *exec.Cmd
	ended   chan struct{} // closed when cmd has ended
	held    chan struct{} // not nil: it is not started before this is closed
	changed chan struct{} // closed and replaced at each start
}

// rest waits as long as the restart policy does; false when the member is not to run again.
func (m *member) rest() bool {
	t := time.NewTimer(RestartAfter)
	defer t.Stop()
	select {
	case <-t.C:
	case <-m.over:
		return false
	}
	m.mu.Lock()
	held := m.held
	m.mu.Unlock()
	if held == nil {
		return true
	}
	select {
	case <-held:
		return true
	case <-m.over:
		return false
	}
}

// run is one life of a member.
func (m *member) run(command Command) error {
	log, err := os.OpenFile(m.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	cmd := command(m.name, m.args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	m.mu.Lock()
	select {
	case <-m.over:
		m.mu.Unlock()
		return nil
	default:
	}
	if err := cmd.Start(); err != nil {
		m.mu.Unlock()
		return err
	}
	ended := make(chan struct{})
	m.cmd, m.ended = cmd, ended
	close(m.changed)
	m.changed = make(chan struct{})
	m.mu.Unlock()
	_ = cmd.Wait()
	close(ended)
	return nil
}

// kill is SIGKILL to what runs of the member now.
func (m *member) kill() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cmd != nil {
		_ = syscall.Kill(-m.cmd.Process.Pid, syscall.SIGKILL) // its process group
	}
}

// gone waits until what ran of the member has ended.
func (m *member) gone() {
	m.mu.Lock()
	ended := m.ended
	m.mu.Unlock()
	if ended != nil {
		<-ended
	}
}

// end kills a member for good.
func (m *member) end() {
	m.mu.Lock()
	select {
	case <-m.over:
	default:
		close(m.over)
	}
	m.mu.Unlock()
	m.kill()
}
