package site

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/config"
	"github.com/holdfast-dr/holdfast/pkg/telemetry"
)

// processName is the name under which all services of a site in one process tell their health and metrics.
const processName = "site"

// monitor is what a process tells about itself at metrics.listen.
type monitor struct {
	health   *telemetry.Health
	registry *telemetry.Registry
	stop     func()

	mu    sync.Mutex
	alive []func(ctx context.Context) error // of services that have begun
}

// startMonitor answers /healthz and /metrics for a process that is to run these services, none of which has begun, and tells
// the service manager of it.
func startMonitor(ctx context.Context, cfg config.Config, o Options, process string, all []service) (*monitor, error) {
	m := &monitor{health: telemetry.NewHealth(cfg.Site, process)}
	for _, s := range all {
		m.health.Check(s.name, "serving", func() error { return errors.New("it has not begun") })
	}
	m.registry = telemetry.NewRegistry(cfg.Site, process, m.health)
	stop, err := telemetry.Listen(ctx, cfg.Metrics.Address(process), m.health, m.registry.Handler())
	if err != nil {
		return nil, err
	}
	quiet, err := startManager(ctx, &manager{report: m.health.Report, alive: m.answers, log: o.Logger})
	if err != nil {
		stop()
		return nil, err
	}
	m.stop = func() { quiet(); stop() }
	return m, nil
}

// answers is nil when the process is really alive: each service's state can be read for its metrics, which takes its locks,
// and each connection to its own site's server, where it stands, carries a question and its answer.
func (m *monitor) answers(ctx context.Context) error {
	if err := m.registry.Gather(); err != nil {
		return err
	}
	m.mu.Lock()
	alive := slices.Clone(m.alive)
	m.mu.Unlock()
	for _, f := range alive {
		if err := f(ctx); err != nil {
			return err
		}
	}
	return nil
}

// connectionAnswers asks the server of the own site over a service's connection. One that is down is no fault of the service.
func connectionAnswers(service string, conn *bus.Conn) func(ctx context.Context) error {
	return func(ctx context.Context) error {
		if !conn.Connected() {
			return nil
		}
		if err := conn.RoundTrip(ctx); err != nil && conn.Connected() {
			return fmt.Errorf("%s: %w", service, err)
		}
		return nil
	}
}

// watch makes a service's health that of its connection to its own site's server, and of its answering there. Other sites
// have no part in it. It gives the service its metrics.
func (m *monitor) watch(service string, mesh *bus.Mesh) *telemetry.Metrics {
	m.health.Check(service, "bus", func() error {
		if !mesh.Local().Connected() {
			return errors.New("the NATS server of its own site is not reached: see that it runs, and nats.local in the configuration")
		}
		return nil
	})
	m.health.Check(service, "serving", func() error {
		if !mesh.Local().Serving() {
			return errors.New("it is starting and does not answer requests yet")
		}
		return nil
	})
	m.mu.Lock()
	m.alive = append(m.alive, connectionAnswers(service, mesh.Local()))
	m.mu.Unlock()
	metrics := m.registry.For(service)
	metrics.Collect([]string{telemetry.BusConnected, telemetry.CertificateExpiry}, func(set telemetry.Set) {
		if ends, ok := mesh.CertificateExpires(); ok {
			set(telemetry.CertificateExpiry, time.Until(ends).Seconds())
		}
		for _, site := range mesh.Sites() {
			if c, err := mesh.Conn(site); err == nil {
				set(telemetry.BusConnected, telemetry.Bool(c.Connected()), string(site))
			}
		}
	})
	return metrics
}
