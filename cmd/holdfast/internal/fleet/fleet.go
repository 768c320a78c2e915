package fleet

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// RestartAfter is how long the restart policy waits.
const RestartAfter = time.Second

// NATS is the name of a site's server among its services.
const NATS = "nats"

// Command is the command that runs the product with arguments, for the process of a name.
type Command func(name string, args ...string) *exec.Cmd

// Fleet is the processes. Its methods may be called from any goroutine.
type Fleet struct {
	dir     string // of the logs
	command Command
	tell    func(format string, args ...any)

	mu      sync.Mutex
	members map[string]*member
	wg      sync.WaitGroup
}

// New is a fleet of no process. Each writes to a log in dir; tell is told of what could not be started.
func New(dir string, command Command, tell func(format string, args ...any)) *Fleet {
	return &Fleet{dir: dir, command: command, tell: tell, members: map[string]*member{}}
}

// Part is the name of a service's process.
func Part(s domain.SiteID, service string) string { return string(s) + "/" + service }

// Services are what runs at a site of a role, in the order in which it is started.
func Services(role domain.SiteRole) []string {
	out := []string{NATS, api.ServiceQuorum, api.ServiceHealth}
	if role == domain.SiteData {
		out = append(out, api.ServiceReplicator, api.ServiceFailover, api.ServiceDNS)
	}
	return out
}

// Start starts a process, and starts it again whenever it ended.
func (f *Fleet) Start(name string, args ...string) {
	m := &member{name: name, log: filepath.Join(f.dir, strings.ReplaceAll(name, "/", "-")+".log"), args: args, over: make(chan struct{}), changed: make(chan struct{})}
	f.mu.Lock()
	f.members[name] = m
	f.mu.Unlock()
	f.wg.Go(func() { f.keep(m) })
}

// StartService starts one of Services.
func (f *Fleet) StartService(s domain.SiteID, service, config string) {
	f.Start(Part(s, service), service, "--config", config)
}

// StartHost starts the agent of a host.
func (f *Fleet) StartHost(s domain.SiteID, h domain.HostID, config string) {
	f.Start(Part(s, api.HostService(h)), "host", "--config", config, "--host", string(h))
}

// keep starts a member again and again.
func (f *Fleet) keep(m *member) {
	for {
		if err := m.run(f.command); err != nil {
			f.tell("%s: %v", m.name, err)
		}
		if !m.rest() {
			return
		}
	}
}

// Parts are the names of all processes of a site that are not ended for good.
func (f *Fleet) Parts(s domain.SiteID) (out []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for name := range f.members {
		if strings.HasPrefix(name, string(s)+"/") {
			out = append(out, name)
		}
	}
	return out
}

func (f *Fleet) member(name string) *member {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.members[name]
	if m == nil {
		panic("no process " + name) // a mistake of the test
	}
	return m
}

// Strike kills a process and returns when it runs again.
func (f *Fleet) Strike(ctx context.Context, name string) error {
	m := f.member(name)
	m.mu.Lock()
	changed := m.changed
	m.mu.Unlock()
	m.kill()
	select {
	case <-changed:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for %s to be started again: %w", name, ctx.Err())
	}
}

// Hold kills processes, all at once, and keeps them down until the function it gives is called. It returns when they are gone.
func (f *Fleet) Hold(names ...string) (release func()) {
	held := make(chan struct{})
	var members []*member
	for _, name := range names {
		m := f.member(name)
		m.mu.Lock()
		m.held = held
		m.mu.Unlock()
		members = append(members, m)
	}
	for _, m := range members {
		m.kill()
	}
	for _, m := range members {
		m.gone()
	}
	return func() {
		for _, m := range members {
			m.mu.Lock()
			m.held = nil
			m.mu.Unlock()
		}
		close(held)
	}
}

// Freeze stops a process as it stands, and gives what lets it go on.
func (f *Fleet) Freeze(name string) (thaw func()) {
	m := f.member(name)
	m.mu.Lock()
	pid := m.cmd.Process.Pid
	m.mu.Unlock()
	_ = syscall.Kill(-pid, syscall.SIGSTOP)
	return func() { _ = syscall.Kill(-pid, syscall.SIGCONT) }
}

// End kills processes for good, all at once.
func (f *Fleet) End(match func(name string) bool) {
	f.mu.Lock()
	var dying []*member
	for name, m := range f.members {
		if match(name) {
			dying = append(dying, m)
			delete(f.members, name)
		}
	}
	f.mu.Unlock()
	for _, m := range dying {
		m.end()
	}
}

// EndSite is End for all of a site.
func (f *Fleet) EndSite(s domain.SiteID) {
	f.End(func(name string) bool { return strings.HasPrefix(name, string(s)+"/") })
}

// Close ends all, and waits until they are gone.
func (f *Fleet) Close() {
	f.End(func(string) bool { return true })
	f.wg.Wait()
}

// Problems are the last lines of warning of every process, for a test that failed.
func (f *Fleet) Problems() string {
	files, _ := filepath.Glob(filepath.Join(f.dir, "*.log"))
	var out strings.Builder
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		var kept [][]byte
		for line := range bytes.Lines(data) {
			if !bytes.Contains(line, []byte("level=INFO")) {
				kept = append(kept, line)
			}
		}
		fmt.Fprintf(&out, "--- %s\n%s", filepath.Base(name), bytes.Join(kept[max(0, len(kept)-15):], nil))
	}
	return out.String()
}
