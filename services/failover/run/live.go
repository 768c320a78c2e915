package run

import (
	"encoding/json"
	"maps"
	"slices"
	"sync"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Live is a run as it stands, with the sequences its records have in the journal. Safe for concurrent use.
type Live struct {
	mu   sync.Mutex
	run  api.Run
	head uint64
	seqs map[string]uint64 // by step id
	done chan struct{}     // closed when the end is recorded
}

func newLive(r api.Run) *Live {
	r.Epochs, r.Before = maps.Clone(r.Epochs), maps.Clone(r.Before)
	if r.Epochs == nil {
		r.Epochs = map[domain.GroupID]domain.Epoch{}
	}
	if r.Before == nil {
		r.Before = map[domain.GroupID]domain.Epoch{}
	}
	r.Steps = slices.Clone(r.Steps)
	l := &Live{run: r, seqs: map[string]uint64{}, done: make(chan struct{})}
	if r.State != api.StepRunning {
		close(l.done)
	}
	return l
}

// Snapshot is a copy of the run.
func (l *Live) Snapshot() api.Run {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.run
	r.Epochs, r.Before, r.Steps = maps.Clone(r.Epochs), maps.Clone(r.Before), slices.Clone(r.Steps)
	return r
}

// Running reports whether the run has not ended.
func (l *Live) Running() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.run.State == api.StepRunning
}

// Done is closed once the run's end is recorded.
func (l *Live) Done() <-chan struct{} { return l.done }

// end takes the record of the run's end over.
func (l *Live) end(r api.Run, seq uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.run, l.head = r, seq
	close(l.done)
}

// apply takes a step's record over.
func (l *Live) apply(s api.Step, seq uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.run.Steps {
		if l.run.Steps[i].ID == s.ID {
			l.run.Steps[i] = s
		}
	}
	l.seqs[s.ID] = seq
	if s.State != api.StepDone {
		return
	}
	var r struct {
		Epoch domain.Epoch `json:"epoch"`
	}
	if json.Unmarshal([]byte(s.Result), &r) != nil || r.Epoch == 0 {
		return
	}
	switch s.Kind { // these two tell the run's epochs; see package plan
	case "acquire":
		l.run.Epochs[s.Group] = r.Epoch
	case "precheck":
		l.run.Before[s.Group] = r.Epoch
	}
}

func (l *Live) step(id string) (api.Step, uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.IndexFunc(l.run.Steps, func(s api.Step) bool { return s.ID == id })
	return l.run.Steps[i], l.seqs[id]
}

// ready lists the steps that can be carried out now: not ended, and all they need is done.
func (l *Live) ready() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	done := map[string]bool{}
	for _, s := range l.run.Steps {
		done[s.ID] = s.State == api.StepDone
	}
	var out []string
	for _, s := range l.run.Steps {
		if s.State == api.StepDone || s.State == api.StepFailed || slices.ContainsFunc(s.Needs, func(n string) bool { return !done[n] }) {
			continue
		}
		out = append(out, s.ID)
	}
	return out
}
