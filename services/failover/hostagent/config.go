package hostagent

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/telemetry"
)

// Config describes one host.
type Config struct {
	Site domain.SiteID
	Host domain.HostID
	// Dir holds the epochs seen and a folder for each VM.
	Dir string
	// Probe is the host:port of the agent's health page; empty means a free port of 127.0.0.1.
	Probe string
	// Pull is how often a VM's lease is asked for. 0 means 500 ms.
	Pull time.Duration
	// Epsilon bounds the drift of two clocks, as a fraction. 0 means 0.01.
	Epsilon float64
	// KillMargin is how long before the deadline a VM is killed. 0 means 100 ms.
	KillMargin time.Duration
	// Heartbeat is how often the host says that it lives. 0 means 500 ms.
	Heartbeat time.Duration
	// StartWait is how long a start request waits for the VM to run before it answers "starting". 0 means 1.5 s.
	StartWait time.Duration
}

// Deps are what the agent is given.
type Deps struct {
	Mesh    *bus.Mesh
	Driver  Driver
	Logger  *slog.Logger       // nil: silent
	Tracer  trace.Tracer       // nil: none
	Metrics *telemetry.Metrics // nil: none
	// Ready, when set, is called once the agent answers, with the address of its health page.
	Ready func(probe string)
}

func (c Config) withDefaults() Config {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&c.Pull, 500*time.Millisecond)
	def(&c.KillMargin, 100*time.Millisecond)
	def(&c.Heartbeat, 500*time.Millisecond)
	def(&c.StartWait, 1500*time.Millisecond)
	if c.Epsilon == 0 {
		c.Epsilon = 0.01
	}
	if c.Probe == "" {
		c.Probe = "127.0.0.1:0"
	}
	return c
}

func (c Config) validate(d Deps) error {
	switch {
	case !domain.ValidToken(string(c.Site)) || !domain.ValidToken(string(c.Host)):
		return fmt.Errorf("host %q of site %q: %w: not a valid name", c.Host, c.Site, domain.ErrInvalid)
	case c.Dir == "":
		return fmt.Errorf("host %s: %w: no folder", c.Host, domain.ErrInvalid)
	case d.Mesh == nil || d.Driver == nil:
		return fmt.Errorf("host %s: %w: no bus or no driver", c.Host, domain.ErrInvalid)
	case c.Epsilon < 0 || c.Epsilon >= 1 || c.Pull < 0 || c.KillMargin < 0:
		return fmt.Errorf("host %s: %w: timing", c.Host, domain.ErrInvalid)
	}
	return nil
}

func (d Deps) withDefaults() Deps {
	if d.Logger == nil {
		d.Logger = slog.New(slog.DiscardHandler)
	}
	if d.Tracer == nil {
		d.Tracer = noop.NewTracerProvider().Tracer("")
	}
	return d
}

// VMDir is a VM's folder under an agent's Config.Dir.
func VMDir(dir string, vm domain.VMID) string { return filepath.Join(dir, "vms", string(vm)) }

// LedgerPath is where a VM's ledger is under an agent's Config.Dir.
func LedgerPath(dir string, vm domain.VMID) string {
	return filepath.Join(VMDir(dir, vm), "ledger.jsonl")
}
