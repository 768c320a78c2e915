package failover

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/failover/plan"
	"github.com/holdfast-dr/holdfast/services/failover/run"
)

// evacuate is the evacuate verb: stops a group's VMs for a planned move, and keeps them down while that run goes on.
func (s *service) evacuate(ctx context.Context, req api.EvacuateRequest) (api.Empty, error) {
	var none api.Empty
	g, err := s.store.Group(ctx, req.Group)
	if err != nil {
		return none, err
	}
	if err := g.Group.Barred(req.To); req.To != "" && err != nil {
		return none, fmt.Errorf("evacuate group %s: %w", req.Group, err)
	}
	if err := s.awaitStart(ctx, req.Group); err != nil {
		return none, fmt.Errorf("evacuate group %s: %w", req.Group, err)
	}
	l, err := s.lease(ctx, req.Group, 0)
	if err != nil {
		return none, fmt.Errorf("evacuate group %s: %w", req.Group, err)
	}
	if l.Epoch > req.Epoch {
		return none, fmt.Errorf("evacuate group %s under epoch %s: %w: epoch %s was granted", req.Group, req.Epoch, domain.ErrStaleEpoch, l.Epoch)
	}
	if err := s.holdDown(req); err != nil {
		return none, err
	}
	s.log.Info("group is evacuated", "group", string(req.Group), "epoch", req.Epoch.String(), "run", string(req.RunID))
	return none, s.stopGroup(ctx, g.Group, req.Epoch, s.cfg.Timings.StopGrace)
}

// awaitStart waits for the run that brings the group up here, if there is one: its volumes are served before its VMs and names
// stand, and a move may be ordered in between. domain.ErrUnavailable when that takes longer; the leader asks again.
func (s *service) awaitStart(ctx context.Context, g domain.GroupID) error {
	l := s.find(s.active(g))
	if l == nil {
		return nil
	}
	r := l.Snapshot()
	if r.Kind != api.RunStart {
		return nil
	}
	if err := s.await(ctx, l.Done(), s.cfg.Timings.Call); err != nil {
		return err
	}
	if l.Running() {
		return fmt.Errorf("%w: run %s is still bringing it up at site %s", domain.ErrUnavailable, r.ID, s.cfg.Site)
	}
	return nil
}

// holdDown marks a group as moving away, unless a run of this site has it.
func (s *service) holdDown(req api.EvacuateRequest) error {
	s.starting.Lock()
	defer s.starting.Unlock()
	if busy := s.active(req.Group); busy != "" {
		return fmt.Errorf("evacuate group %s: %w: it is in run %s of site %s", req.Group, domain.ErrRefused, busy, s.cfg.Site)
	}
	if e, down := s.isEvacuated(req.Group); down && e.run != req.RunID {
		return fmt.Errorf("evacuate group %s: %w: run %s is moving it already", req.Group, domain.ErrRefused, e.run)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.evacuated[req.Group] = evacuation{run: req.RunID, epoch: req.Epoch, heard: clock.Now()}
	return nil
}

func (s *service) isEvacuated(g domain.GroupID) (evacuation, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.evacuated[g]
	return e, ok
}

// recallEvacuations finds, in the copies of other sites' runs, what was being moved away when this service last stopped.
func (s *service) recallEvacuations(runs []*run.Live) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range runs {
		r := l.Snapshot()
		if r.From != s.cfg.Site || r.Leader == s.cfg.Site || r.State != api.StepRunning {
			continue
		}
		for _, st := range r.Steps {
			if st.Kind == plan.KindEvacuate && (st.State == api.StepRunning || st.State == api.StepDone) {
				s.evacuated[st.Group] = evacuation{run: r.ID, epoch: r.Before[st.Group], heard: clock.Now()}
			}
		}
	}
}

// verdict is what becomes of an evacuation.
type verdict int

const (
	keepDown  verdict = iota // its run goes on, or may
	moved                    // another site has the group
	abandoned                // it is this site's still
)

// judge decides over an evacuation by what its run's leader answers (known: it did), by the epoch that desired state has for the
// group at this site, and by whether the leader was silent for too long. A move that is done keeps the group down until this site's
// desired state says so, too: until then the site would take the group for its own. And a leader that is lost after that has its
// group moved, whatever it can tell: nobody has to wait for its answer.
func judge(e evacuation, state string, known bool, desired domain.Epoch, silent bool) verdict {
	switch {
	case known && state == api.StepRunning:
		return keepDown
	case desired > e.epoch && (!known || state == api.StepDone):
		return moved
	case known && state != api.StepDone:
		return abandoned
	case silent:
		return abandoned
	}
	return keepDown
}

// checkEvacuations asks how the runs go on for which groups are held down here. It keeps the epochs of groups whose run
// failed, or was not heard of for too long: they come up here again, if they are still this site's.
func (s *service) checkEvacuations(ctx context.Context, list api.GroupList) {
	s.mu.Lock()
	open := maps.Clone(s.evacuated)
	s.mu.Unlock()
	desired := map[domain.GroupID]domain.Epoch{}
	for _, g := range list.Groups {
		desired[g.Group.ID] = g.Epoch
	}
	for g, e := range open {
		state, known := s.remoteRun(ctx, e.run)
		switch judge(e, state, known, desired[g], clock.Now().Sub(e.heard) > s.cfg.Timings.Evacuated) {
		case keepDown:
			if known && state == api.StepRunning {
				e.heard = clock.Now()
				s.setEvacuated(g, &e)
			}
		case moved:
			s.setEvacuated(g, nil)
		case abandoned:
			s.log.Warn("evacuation ends without a move", "group", string(g), "run", string(e.run), "state", state)
			s.setEvacuated(g, nil)
			s.mu.Lock()
			s.abandoned[g] = e.epoch
			s.mu.Unlock()
		}
	}
}

// isAbandoned reports whether a move of the group away from here ended without it, under the epoch.
func (s *service) isAbandoned(g domain.GroupID, e domain.Epoch) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return e != 0 && s.abandoned[g] == e
}

func (s *service) setEvacuated(g domain.GroupID, e *evacuation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e == nil {
		delete(s.evacuated, g)
		return
	}
	s.evacuated[g] = *e
}

// remoteRun asks the other sites for the state of a run; known is false when nobody who knows it answers.
func (s *service) remoteRun(ctx context.Context, id domain.RunID) (state string, known bool) {
	for site, p := range s.peers {
		if !p.conn.Connected() {
			continue
		}
		r, err := callPeer[api.Run](ctx, s, site, s.cfg.Timings.Call, api.ServiceFailover, api.VerbRunShow, api.RunShowRequest{ID: id})
		if errors.Is(err, domain.ErrNotFound) || errors.Is(err, domain.ErrUnavailable) {
			continue
		}
		if err == nil && r.Leader == site {
			return r.State, true
		}
	}
	return "", false
}
