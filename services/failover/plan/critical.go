package plan

import (
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
)

// Phases of a run that are no steps.
const (
	PhaseDetect   = "detect"
	PhaseHoldDown = "hold-down"
)

// Phase is the part of a recovery that a kind of step is. Other kinds are a phase of their own name.
func Phase(kind string) string {
	switch kind {
	case KindAcquire:
		return "vote"
	case KindDesired:
		return "record"
	case KindStart:
		return "start"
	case KindProtect:
		return "reprotect"
	}
	return kind
}

// Leg is a stretch of the critical path. It begins where the one before it ended: what a step waited for after the last of
// its needs is part of it.
type Leg struct {
	Phase      string    `json:"phase"`
	Step       string    `json:"step,omitempty"`
	Start, End time.Time `json:"-"`
}

// Took is the leg's length.
func (l Leg) Took() time.Duration { return l.End.Sub(l.Start) }

// Path is the chain of steps that decided how long a run took.
type Path struct {
	Legs  []Leg
	Total time.Duration
}

// Has reports whether a step is on the path.
func (p Path) Has(step string) bool {
	return slices.ContainsFunc(p.Legs, func(l Leg) bool { return l.Step == step })
}

// CriticalPath is the chain of needs that ended last: from the first missed heartbeat of a failover, else from the run's
// start, to the last client answered; to the last step that ended when no client was.
func CriticalPath(r api.Run) Path {
	at := map[string]api.Step{}
	for _, s := range r.Steps {
		at[s.ID] = s
	}
	var chain []api.Step
	for last, ok := goal(r.Steps); ok; last, ok = latest(at, last.Needs) {
		chain = append(chain, last)
	}
	slices.Reverse(chain)
	var p Path
	from := r.Started
	if !r.FirstMissed.IsZero() && !r.Confirmed.IsZero() && !r.Confirmed.After(r.Started) {
		p.Legs = append(p.Legs, Leg{Phase: PhaseDetect, Start: r.FirstMissed, End: r.Confirmed},
			Leg{Phase: PhaseHoldDown, Start: r.Confirmed, End: r.Started})
		from = r.FirstMissed
	}
	begin := r.Started
	for _, s := range chain {
		p.Legs = append(p.Legs, Leg{Phase: Phase(s.Kind), Step: s.ID, Start: begin, End: s.Ended})
		begin = s.Ended
	}
	p.Total = begin.Sub(from)
	return p
}

// goal is the step the path leads to.
func goal(steps []api.Step) (goal api.Step, ok bool) {
	for _, s := range steps {
		done := !s.Ended.IsZero()
		nearer := !ok || (s.Kind == KindClient) && goal.Kind != KindClient || (s.Kind == KindClient) == (goal.Kind == KindClient) && s.Ended.After(goal.Ended)
		if done && nearer {
			goal, ok = s, true
		}
	}
	return goal, ok
}

// latest is the need that ended last.
func latest(at map[string]api.Step, needs []string) (last api.Step, ok bool) {
	for _, id := range needs {
		if s, known := at[id]; known && !s.Ended.IsZero() && (!ok || s.Ended.After(last.Ended)) {
			last, ok = s, true
		}
	}
	return last, ok
}
