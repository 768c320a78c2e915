package failover

import (
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
	"github.com/holdfast-dr/holdfast/pkg/telemetry"
)

// meters count what the runs led here come to.
type meters struct {
	runs           *telemetry.CounterVec
	runTime, steps *telemetry.HistogramVec
}

func newMeters(m *telemetry.Metrics) meters {
	out := meters{runs: m.Counter(telemetry.Runs), runTime: m.Histogram(telemetry.RunDuration), steps: m.Histogram(telemetry.RunStepDuration)}
	for _, kind := range []string{api.RunStart, api.RunFailover, api.RunSwitchover, api.RunFailback} {
		for _, result := range []string{api.StepDone, api.StepFailed} {
			out.runs.WithLabelValues(kind, result) // from 0, so that the first one is an increase
		}
	}
	return out
}

// observe counts the end of a run or of a step as it is told.
func (m meters) observe(f event.Fact) {
	switch f := f.(type) {
	case event.RunChanged:
		if f.Run.State == api.StepDone || f.Run.State == api.StepFailed {
			m.runs.WithLabelValues(f.Run.Kind, f.Run.State).Inc()
			m.runTime.WithLabelValues(f.Run.Kind, f.Run.State).Observe(f.Run.Ended.Sub(f.Run.Started).Seconds())
		}
	case event.StepChanged:
		if f.Step.State == api.StepDone || f.Step.State == api.StepFailed {
			m.steps.WithLabelValues(f.Step.Kind, f.Step.State).Observe(f.Step.Ended.Sub(f.Step.Started).Seconds())
		}
	}
}

// tellMetrics lets the gauges be read from the runs in memory, which a restart loads again.
func (s *service) tellMetrics(m *telemetry.Metrics) {
	m.Collect([]string{telemetry.RunsActive, telemetry.RunLastRTO, telemetry.Declarations, telemetry.BreakerState, telemetry.SiteDrained, telemetry.DrainGroups}, func(set telemetry.Set) {
		active := 0
		last := map[string]time.Duration{}
		for _, r := range s.mine() { // oldest first
			switch r.State {
			case api.StepRunning:
				active++
			case api.StepDone:
				last[r.Kind] = recoveryTime(r)
			}
		}
		set(telemetry.RunsActive, float64(active))
		for kind, took := range last {
			set(telemetry.RunLastRTO, took.Seconds(), kind)
		}
		s.tellDrain(set)
		s.tellDeclared(set)
		for site, p := range s.peers {
			set(telemetry.BreakerState, float64(p.breaker.State()), string(site))
		}
	})
}

// tellDrain tells whether the site is drained, and how far that is.
func (s *service) tellDrain(set telemetry.Set) {
	d := s.store.Drained(s.cfg.Site)
	if d == nil {
		set(telemetry.SiteDrained, 0)
		return
	}
	set(telemetry.SiteDrained, 1)
	groups := map[string]int{api.StepPending: 0, api.StepRunning: 0, api.StepDone: 0, api.StepFailed: 0, "stays": 0}
	failed := map[domain.GroupID]bool{}
	for _, r := range d.Runs {
		groups[r.State] += len(r.Groups)
		for _, g := range r.Groups {
			failed[g] = r.State == api.StepFailed
		}
	}
	for _, st := range d.Stays {
		if !failed[st.Group] {
			groups["stays"]++
		}
	}
	for state, n := range groups {
		set(telemetry.DrainGroups, float64(n), state)
	}
}

// tellDeclared counts the groups of open declarations.
func (s *service) tellDeclared(set telemetry.Set) {
	for _, d := range s.ledger.now().List {
		if api.DeclarationEnded(d.State) {
			continue
		}
		for _, state := range []string{api.DeclarationSuspected, api.DeclarationConfirmed, api.DeclarationHeldDown, api.DeclarationAwaiting, api.DeclarationDeclared} {
			n := 0
			for _, g := range d.Groups {
				if g.State == state {
					n++
				}
			}
			set(telemetry.Declarations, float64(n), string(d.Site), state)
		}
	}
}

// recoveryTime is how long a run's groups were away: a failover counts from the first missed heartbeat, where that is known.
func recoveryTime(r api.Run) time.Duration {
	if r.Kind == api.RunFailover && !r.FirstMissed.IsZero() {
		return r.Ended.Sub(r.FirstMissed)
	}
	return r.Ended.Sub(r.Started)
}
