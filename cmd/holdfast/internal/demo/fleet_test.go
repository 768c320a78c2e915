package demo

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
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// fleet runs every service of every site as an OS process of its own, its NATS server too, and starts what died again after a
// while, as a container's restart policy does. It is a launcher.
type fleet struct {
	t      *testing.T
	binary string
	l      layout
	errs   chan error

	mu      sync.Mutex
	members map[string]*member
	wg      sync.WaitGroup
}

// member is one process and those that follow it.
type member struct {
	name, log string
	args      []string
	over      chan struct{} // closed when it is not to be started again

	mu      sync.Mutex
	cmd     *exec.Cmd
	held    chan struct{} // not nil: it is not started before this is closed
	starts  int
	changed chan struct{} // closed and replaced at each start
}

// restartAfter is how long a restart policy waits.
const restartAfter = time.Second

// buildDir is set by TestMain, once.
var buildDir string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "holdfast-fleet-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	buildDir = dir
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// buildOnce makes the product once for all tests of this package.
var buildOnce = sync.OnceValues(func() (string, error) {
	path := filepath.Join(buildDir, "holdfast")
	out, err := exec.Command("go", "build", "-o", path, "../..").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build holdfast: %w\n%s", err, out)
	}
	return path, nil
})

func newFleet(t *testing.T, l layout) *fleet {
	t.Helper()
	path, err := buildOnce()
	if err != nil {
		t.Fatal(err)
	}
	return &fleet{t: t, binary: path, l: l, errs: make(chan error), members: map[string]*member{}}
}

// partOf is the name of a service's process.
func partOf(s domain.SiteID, service string) string { return string(s) + "/" + service }

const partNATS = "nats"

// services are what runs at a site, in the order in which it is started.
func (f *fleet) services(s domain.SiteID) []string {
	out := []string{partNATS, api.ServiceQuorum, api.ServiceHealth}
	if s != siteW {
		out = append(out, api.ServiceReplicator, api.ServiceFailover, api.ServiceDNS)
	}
	return out
}

func (f *fleet) startSite(_ context.Context, s domain.SiteID) error {
	for _, name := range f.services(s) {
		f.start(partOf(s, name), name, "--config", f.l.configFile(s))
	}
	return nil
}

func (f *fleet) startHost(_ context.Context, s domain.SiteID, h domain.HostID) error {
	f.start(partOf(s, api.HostService(h)), "host", "--config", f.l.configFile(s), "--host", string(h))
	return nil
}

func (f *fleet) start(name string, args ...string) {
	m := &member{name: name, log: filepath.Join(f.l.dir, strings.ReplaceAll(name, "/", "-")+".log"), args: args, over: make(chan struct{}), changed: make(chan struct{})}
	f.mu.Lock()
	f.members[name] = m
	f.mu.Unlock()
	f.wg.Go(func() { f.keep(m) })
}

// keep starts a member again and again.
func (f *fleet) keep(m *member) {
	for {
		if err := m.run(f.binary); err != nil {
			f.t.Logf("%s: %v", m.name, err)
		}
		if !m.rest() {
			return
		}
	}
}

// rest waits as long as the restart policy does; false when the member is not to run again.
func (m *member) rest() bool {
	t := time.NewTimer(restartAfter)
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
func (m *member) run(binary string) error {
	log, err := os.OpenFile(m.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(binary, m.args...)
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
	m.cmd = cmd
	m.starts++
	close(m.changed)
	m.changed = make(chan struct{})
	m.mu.Unlock()
	_ = cmd.Wait()
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

func (f *fleet) member(name string) *member {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.members[name]
	if m == nil {
		f.t.Fatalf("no process %s", name)
	}
	return m
}

// strike kills a member and returns when it runs again.
func (f *fleet) strike(ctx context.Context, name string) error {
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

// hold kills a member and keeps it down until the function it gives is called.
func (f *fleet) hold(name string) (release func()) {
	m := f.member(name)
	held := make(chan struct{})
	m.mu.Lock()
	m.held = held
	m.mu.Unlock()
	m.kill()
	return func() {
		m.mu.Lock()
		m.held = nil
		m.mu.Unlock()
		close(held)
	}
}

func (f *fleet) killWhere(match func(name string) bool) {
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

func (f *fleet) killSite(s domain.SiteID) {
	f.killWhere(func(name string) bool { return strings.HasPrefix(name, string(s)+"/") })
}

func (f *fleet) killHost(s domain.SiteID, h domain.HostID) {
	f.killWhere(func(name string) bool { return name == partOf(s, api.HostService(h)) })
}

func (f *fleet) failed() <-chan error { return f.errs }

func (f *fleet) close() {
	f.killWhere(func(string) bool { return true })
	f.wg.Wait()
}

// problems are the last lines of warning of every process, for a test that failed.
func (f *fleet) problems() string {
	files, _ := filepath.Glob(filepath.Join(f.l.dir, "*.log"))
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
