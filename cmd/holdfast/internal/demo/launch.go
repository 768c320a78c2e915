package demo

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/site"
	"github.com/holdfast-dr/holdfast/pkg/config"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// launcher starts the parts of the installation and takes their power away: nothing of a part that is killed gets to say
// goodbye, whichever launcher it is.
type launcher interface {
	startSite(ctx context.Context, s domain.SiteID) error
	startHost(ctx context.Context, s domain.SiteID, h domain.HostID) error
	killSite(s domain.SiteID) // its hosts as well
	killHost(s domain.SiteID, h domain.HostID)
	// failed gets the error of a part that ended by itself.
	failed() <-chan error
	close()
}

// inProcess runs every part as goroutines of this process; power is a context.
type inProcess struct {
	configs  map[domain.SiteID]config.Config
	exporter sdktrace.SpanExporter
	logger   *slog.Logger
	errs     chan error

	mu    sync.Mutex
	parts map[string]part
}

type part struct {
	off  context.CancelFunc
	gone chan struct{}
}

func newInProcess(configs map[domain.SiteID]config.Config, exporter sdktrace.SpanExporter, logger *slog.Logger) *inProcess {
	return &inProcess{configs: configs, exporter: exporter, logger: logger, errs: make(chan error, 16), parts: map[string]part{}}
}

func (l *inProcess) failed() <-chan error { return l.errs }

func (l *inProcess) start(ctx context.Context, name string, run func(context.Context) error) {
	ctx, off := context.WithCancel(ctx)
	p := part{off: off, gone: make(chan struct{})}
	l.mu.Lock()
	l.parts[name] = p
	l.mu.Unlock()
	go func() {
		defer close(p.gone)
		if err := run(ctx); err != nil && ctx.Err() == nil {
			l.errs <- fmt.Errorf("%s: %w", name, err)
		}
	}()
}

func (l *inProcess) kill(match func(name string) bool) {
	l.mu.Lock()
	var dying []part
	for name, p := range l.parts {
		if match(name) {
			dying = append(dying, p)
			delete(l.parts, name)
		}
	}
	l.mu.Unlock()
	for _, p := range dying {
		p.off()
	}
	for _, p := range dying {
		<-p.gone
	}
}

func (l *inProcess) options() site.Options {
	return site.Options{Logger: l.logger, Exporter: l.exporter}
}

func (l *inProcess) startSite(ctx context.Context, s domain.SiteID) error {
	l.start(ctx, "site "+string(s), func(ctx context.Context) error { return site.Run(ctx, l.configs[s], l.options()) })
	return nil
}

func (l *inProcess) startHost(ctx context.Context, s domain.SiteID, h domain.HostID) error {
	l.start(ctx, hostPart(s, h), func(ctx context.Context) error { return site.RunHost(ctx, l.configs[s], h, l.options()) })
	return nil
}

func (l *inProcess) killSite(s domain.SiteID) { l.kill(ofSite(s)) }

func (l *inProcess) killHost(s domain.SiteID, h domain.HostID) {
	l.kill(func(name string) bool { return name == hostPart(s, h) })
}

func (l *inProcess) close() { l.kill(func(string) bool { return true }) }

func hostPart(s domain.SiteID, h domain.HostID) string {
	return "host " + string(h) + " of site " + string(s)
}

// ofSite matches the site's own part and those of its hosts.
func ofSite(s domain.SiteID) func(string) bool {
	return func(name string) bool {
		if name == "site "+string(s) {
			return true
		}
		for _, h := range siteHosts[s] {
			if name == hostPart(s, h) {
				return true
			}
		}
		return false
	}
}

// processes runs every part as a process of its own, of this same binary; taking the power away is SIGKILL to all of a
// site's processes.
type processes struct {
	binary string
	l      layout
	errs   chan error

	mu    sync.Mutex
	parts map[string]*process
}

type process struct {
	cmd  *exec.Cmd
	gone chan struct{}
	dead bool // killed by us
}

func newProcesses(l layout) (*processes, error) {
	binary, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program's file: %w", err)
	}
	return &processes{binary: binary, l: l, errs: make(chan error, 16), parts: map[string]*process{}}, nil
}

func (p *processes) failed() <-chan error { return p.errs }

func (p *processes) start(name, logName string, args ...string) error {
	log, err := os.OpenFile(filepath.Join(p.l.dir, logName+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(p.binary, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	pr := &process{cmd: cmd, gone: make(chan struct{})}
	p.mu.Lock()
	p.parts[name] = pr
	p.mu.Unlock()
	go func() {
		err := cmd.Wait()
		p.mu.Lock()
		dead := pr.dead
		p.mu.Unlock()
		close(pr.gone)
		if !dead {
			p.errs <- fmt.Errorf("%s ended by itself (%w): read %s", name, errors.Join(err), log.Name())
		}
	}()
	return nil
}

func (p *processes) startSite(_ context.Context, s domain.SiteID) error {
	return p.start("site "+string(s), "site-"+string(s), "site", "--config", p.l.configFile(s))
}

func (p *processes) startHost(_ context.Context, s domain.SiteID, h domain.HostID) error {
	return p.start(hostPart(s, h), "host-"+string(h), "host", "--config", p.l.configFile(s), "--host", string(h))
}

// kill sends SIGKILL to every matching process and its children first, and then waits for all of them.
func (p *processes) kill(match func(string) bool) {
	p.mu.Lock()
	var dying []*process
	for name, pr := range p.parts {
		if match(name) {
			pr.dead = true
			dying = append(dying, pr)
			delete(p.parts, name)
		}
	}
	for _, pr := range dying {
		_ = syscall.Kill(-pr.cmd.Process.Pid, syscall.SIGKILL) // the whole process group
	}
	p.mu.Unlock()
	for _, pr := range dying {
		<-pr.gone
	}
}

func (p *processes) killSite(s domain.SiteID) { p.kill(ofSite(s)) }
func (p *processes) killHost(s domain.SiteID, h domain.HostID) {
	p.kill(func(name string) bool { return name == hostPart(s, h) })
}
func (p *processes) close() { p.kill(func(string) bool { return true }) }
