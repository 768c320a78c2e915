package run

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
	"github.com/holdfast-dr/holdfast/pkg/telemetry"
)

// Intend records, durably, a choice that a repeat of the step must keep. It is found in the step's Result from then on.
type Intend func(ctx context.Context, choice string) error

// Actor carries out steps. Every method may be called again for the same step.
type Actor interface {
	// Check says whether the run still has the right to act for the step's group. domain.ErrNoLease when not,
	// domain.ErrUnavailable when nobody can say.
	Check(ctx context.Context, r api.Run, s api.Step) error
	// Do brings the step's effect about and returns what later steps need, as JSON.
	Do(ctx context.Context, r api.Run, s api.Step, intend Intend) (result string, err error)
}

// Moments a Hook is told of.
const (
	BeforeEffect = "before the effect"
	AfterEffect  = "after the effect, before the record"
)

// Executor carries out runs.
type Executor struct {
	Journal *Journal
	Actor   Actor
	Tracer  trace.Tracer
	Publish func(ctx context.Context, id string, f event.Fact)
	Log     *slog.Logger
	// Retry is the first and MaxRetry the longest wait between attempts of a step; Patience is how long a step is tried.
	Retry, MaxRetry, Patience time.Duration
	// Hook, if not nil, is called around each effect: a test kills the service there.
	Hook func(ctx context.Context, moment string, r api.Run, s api.Step)
}

const atOnce = 32 // steps of a run in flight

type ended struct {
	id  string
	err error
}

// Execute carries the run on from where its journal stands, until every step that can be is done or failed. It returns nil
// when the end is recorded (done or failed, see the run's state), ctx's error when it was stopped, ErrSuperseded, or the
// journal's error; then the run is still open and may be executed again after it was read anew.
func (x *Executor) Execute(ctx context.Context, l *Live) error {
	results := make(chan ended)
	running := map[string]bool{}
	var broken error
	for {
		if broken == nil && ctx.Err() == nil {
			for _, id := range l.ready() {
				if running[id] || len(running) == atOnce {
					continue
				}
				running[id] = true
				go func() { results <- ended{id, x.step(ctx, l, id)} }()
			}
		}
		if len(running) == 0 {
			break
		}
		e := <-results // every step ends soon after ctx does
		delete(running, e.id)
		if e.err != nil && broken == nil {
			broken = e.err
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if broken != nil {
		return broken
	}
	return x.finish(ctx, l)
}

// finish records the end of the run.
func (x *Executor) finish(ctx context.Context, l *Live) error {
	r := l.Snapshot()
	r.State, r.Ended = api.StepDone, time.Now().UTC()
	var errs []string
	var kinds []error
	for _, s := range r.Steps {
		if s.State == api.StepFailed {
			errs, kinds = append(errs, "step "+s.ID+": "+s.Error), append(kinds, domain.FromCode(s.Code))
		}
		if s.State != api.StepDone {
			r.State = api.StepFailed
		}
	}
	r.Error = strings.Join(errs, "; ")
	if r.State == api.StepFailed {
		r.Code = domain.Code(errors.Join(kinds...))
	}
	seq, err := x.Journal.put(ctx, api.RunSubject(r.Plan, r.ID, headStep), r, l.head)
	if err != nil {
		return fmt.Errorf("end run %s: %w", r.ID, err)
	}
	l.end(r, seq)
	fact := "completed"
	if r.State == api.StepFailed {
		fact = "failed"
		x.Log.Warn("run failed", "run", string(r.ID), "kind", r.Kind, "error", r.Error)
	}
	x.Publish(ctx, string(r.ID)+"-"+fact, event.RunChanged{Fact: fact, Run: l.Snapshot()})
	return nil
}

// record writes a step's record and takes it over.
func (x *Executor) record(ctx context.Context, l *Live, s api.Step) error {
	_, last := l.step(s.ID)
	r := l.Snapshot()
	seq, err := x.Journal.put(ctx, api.RunSubject(r.Plan, r.ID, s.ID), s, last)
	if err != nil {
		return fmt.Errorf("record step %s of run %s: %w", s.ID, r.ID, err)
	}
	l.apply(s, seq)
	return nil
}

// step carries out one step and records how it ended. It returns an error only when that could not be recorded.
func (x *Executor) step(ctx context.Context, l *Live, id string) error {
	s, _ := l.step(id)
	r := l.Snapshot()
	if s.Started.IsZero() {
		s.Started = time.Now().UTC()
	}
	s.State = api.StepRunning
	s.Attempts++
	if err := x.record(ctx, l, s); err != nil {
		return err
	}
	x.tell(ctx, r, s, "step_started")
	result, err := x.attempts(trace.ContextWithSpanContext(ctx, spanOfStep(r, s)), l, &s)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(err, ErrSuperseded) {
		return err
	}
	fact := "step_done"
	s.State, s.Ended = api.StepDone, time.Now().UTC()
	if err != nil {
		s.State, s.Error, s.Code, fact = api.StepFailed, err.Error(), domain.Code(err), "step_failed"
	} else {
		s.Result = result
	}
	if err := x.record(ctx, l, s); err != nil {
		return err
	}
	x.tell(ctx, r, s, fact)
	return nil
}

func (x *Executor) tell(ctx context.Context, r api.Run, s api.Step, fact string) {
	x.Publish(ctx, string(r.ID)+"-"+s.ID+"-"+fact, event.StepChanged{Fact: fact, Run: r.ID, Plan: r.Plan, Step: s})
}

// attempts tries a step until it is done, an answer is final, or its time is over.
func (x *Executor) attempts(ctx context.Context, l *Live, s *api.Step) (string, error) {
	intend := func(ctx context.Context, choice string) error {
		s.Result = choice
		return x.record(ctx, l, *s)
	}
	began, wait := time.Now(), x.Retry
	for n := 1; ; n++ {
		result, err, final := x.traced(ctx, l, s, intend, n)
		if err == nil || final || ctx.Err() != nil {
			return result, err
		}
		if time.Since(began)+wait > x.Patience {
			return "", fmt.Errorf("given up after %s: %w", x.Patience, err)
		}
		x.Log.Debug("step is tried again", "step", s.ID, "error", err)
		if err := clock.Sleep(ctx, wait); err != nil {
			return "", err
		}
		wait = min(2*wait, x.MaxRetry)
	}
}

// tracedAttempts bounds the spans of a step that is tried for hours.
const tracedAttempts = 20

// traced makes one try and shows it in a span of its own, while the step's is told at the end of the run. What the try causes
// hangs below the step: a try's span dies with the service.
func (x *Executor) traced(ctx context.Context, l *Live, s *api.Step, intend Intend, n int) (string, error, bool) {
	if n > tracedAttempts {
		return x.attempt(ctx, l, s, intend)
	}
	r := l.Snapshot()
	_, span := x.Tracer.Start(ctx, "attempt", trace.WithAttributes(append(aboutStep(r, *s), attribute.Int("attempt", n))...))
	result, err, final := x.attempt(ctx, l, s, intend)
	telemetry.End(span, err)
	return result, err, final
}

// attempt makes one try at a step. A final error is not to be tried again.
func (x *Executor) attempt(ctx context.Context, l *Live, s *api.Step, intend Intend) (result string, err error, final bool) {
	r := l.Snapshot()
	if err := x.Actor.Check(ctx, r, *s); err != nil {
		return "", err, !errors.Is(err, domain.ErrUnavailable)
	}
	x.hook(ctx, BeforeEffect, r, *s)
	if ctx.Err() != nil {
		return "", ctx.Err(), true
	}
	result, err = x.Actor.Do(ctx, r, *s, intend)
	x.hook(ctx, AfterEffect, r, *s)
	if ctx.Err() != nil {
		return "", ctx.Err(), true
	}
	return result, err, err != nil && Final(err)
}

func (x *Executor) hook(ctx context.Context, moment string, r api.Run, s api.Step) {
	if x.Hook != nil {
		x.Hook(ctx, moment, r, s)
	}
}

// Final reports whether asking again cannot change the answer.
func Final(err error) bool {
	for _, s := range []error{domain.ErrRefused, domain.ErrStaleEpoch, domain.ErrConflict, domain.ErrInvalid, domain.ErrNotFound, ErrSuperseded} {
		if errors.Is(err, s) {
			return true
		}
	}
	return false
}
