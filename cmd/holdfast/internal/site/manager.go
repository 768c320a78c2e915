package site

import (
	"context"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/sdnotify"
	"github.com/holdfast-dr/holdfast/pkg/telemetry"
)

const (
	startTick = 250 * time.Millisecond // until the process is ready
	calmTick  = 5 * time.Second
)

// manager tells the service manager that started the process how it is: ready once the report of /healthz is good for the
// first time, and alive for as long as alive says so. A process whose own NATS server is lost stays alive: a restart would not
// mend that, and a replicator's would cost its lease.
type manager struct {
	notifier *sdnotify.Notifier
	report   func() telemetry.HealthReport
	alive    func(ctx context.Context) error // asks the process's parts for an answer; may hang where they do
	log      *slog.Logger

	ready  bool
	status string
}

// startManager speaks to the service manager, if there is one, until ctx ends; stop ends it sooner and waits, at most for
// the question that a hung part has not answered.
func startManager(ctx context.Context, m *manager) (stop func(), err error) {
	if m.notifier, err = sdnotify.Open(os.Getenv); err != nil {
		return nil, err
	}
	if m.notifier == nil {
		return func() {}, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { m.run(ctx) })
	return func() {
		cancel()
		wg.Wait()
		_ = m.notifier.Close()
	}, nil
}

func (m *manager) run(ctx context.Context) {
	for {
		m.tell(ctx)
		wait := calmTick
		if !m.ready {
			wait = startTick
		} else if w := m.notifier.Watchdog(); w > 0 {
			wait = min(wait, w/4)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			m.check(m.notifier.Stopping())
			return
		}
	}
}

// tell is one look at the process. Where a part hangs it does not return, and the watchdog's time runs out.
func (m *manager) tell(ctx context.Context) {
	actx, cancel := context.WithTimeout(ctx, calmTick)
	err := m.alive(actx)
	cancel()
	if ctx.Err() != nil {
		return
	}
	r := m.report()
	switch {
	case err != nil:
		m.say("does not answer itself: " + err.Error())
		m.log.Warn("process does not answer itself", "site", string(r.Site), "service", r.Service, "error", err)
		return
	case r.Impaired():
		m.say("serving, but " + firstReason(r))
	case r.OK:
		m.say("serving")
	default:
		m.say(firstReason(r))
	}
	if r.OK && !m.ready {
		m.ready = true
		m.check(m.notifier.Ready())
	}
	if m.notifier.Watchdog() > 0 {
		m.check(m.notifier.Alive())
	}
}

func (m *manager) say(status string) {
	if status != m.status {
		m.status = status
		m.check(m.notifier.Status(status))
	}
}

func (m *manager) check(err error) {
	if err != nil {
		m.log.Warn("service manager not told", "error", err)
	}
}

func firstReason(r telemetry.HealthReport) string {
	for _, c := range r.Checks {
		if !c.OK {
			return c.Service + ": " + c.Reason
		}
	}
	return "starting"
}
