package group

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/journal"
)

// Quiescer holds a group's guests still for an application-consistent checkpoint.
type Quiescer interface {
	// Quiesce makes all guests of the group that run under the epoch write out what they hold back and stop writing, and returns when
	// all of them have. release lets them go on; it must be called whatever happens, and may be repeated. It returns nil only when
	// every guest was held from Quiesce's return until release was called. Without it they go on by themselves after limit.
	// Errors: domain.ErrRefused when a guest cannot be held, domain.ErrUnavailable when one does not answer; then none is held.
	Quiesce(ctx context.Context, g domain.Group, e domain.Epoch, limit time.Duration) (release func() error, err error)
}

const (
	// quiesceLimit bounds how long guests are held for a checkpoint.
	quiesceLimit = api.MaxFreeze
	// confirmLimit bounds the wait for the word that they were.
	confirmLimit = 5 * time.Second
)

// Mark puts a mark into the group's order, which becomes a checkpoint at every target: see api.CheckpointCreateRequest.
func (g *Group) Mark(ctx context.Context, req api.CheckpointCreateRequest) (reply api.Checkpoint, err error) {
	if len(req.Label) > journal.MaxMarkerBytes {
		return reply, fmt.Errorf("checkpoint of group %s: a label of %d bytes, at most %d: %w", g.id, len(req.Label), journal.MaxMarkerBytes, domain.ErrInvalid)
	}
	s := g.current()
	if s == nil || !s.gate.open() {
		return reply, fmt.Errorf("checkpoint of group %s: site %s does not serve it; ask the one that does: %w", g.id, g.cfg.Site, domain.ErrRefused)
	}
	if !req.App {
		reply, err = s.mark(ctx, markCrash, []byte(req.Label))
	} else {
		reply, err = s.markHeld(ctx, req.Label)
	}
	if err != nil {
		if req.App {
			g.publish(ctx, "checkpoint_failed", s.epoch, max(reply.LSN, g.store.last()), "", err.Error())
		}
		return api.Checkpoint{}, fmt.Errorf("checkpoint of group %s: %w", g.id, err)
	}
	g.told(ctx, reply)
	return reply, nil
}

// told publishes a checkpoint that was made.
func (g *Group) told(ctx context.Context, p api.Checkpoint) {
	g.publish(ctx, "checkpoint_created", p.Epoch, p.LSN, "", p.Kind+" "+p.Label)
}

// markHeld makes an application-consistent checkpoint:
//
//	guests held still -> mark acknowledged -> guests go on, and were held until now -> confirmation acknowledged
//
// The mark alone counts as crash-consistent, at every target, for good if nothing follows: whatever dies or takes too long in between
// leaves no checkpoint that claims more than it holds. With an error, a checkpoint that has an LSN is one that stays, crash-consistent.
func (s *session) markHeld(ctx context.Context, label string) (p api.Checkpoint, err error) {
	if s.g.cfg.Quiesce == nil {
		return p, fmt.Errorf("site %s has no VM hosts to hold guests still; take a crash-consistent one: %w", s.g.cfg.Site, domain.ErrRefused)
	}
	select {
	case s.g.holding <- struct{}{}:
		defer func() { <-s.g.holding }()
	case <-ctx.Done():
		return p, fmt.Errorf("another one is being made: %w: %w", domain.ErrUnavailable, ctx.Err())
	}
	if p, err = s.hold(ctx, label); err != nil {
		return p, err
	}
	cctx, cancel := context.WithTimeout(ctx, confirmLimit)
	defer cancel()
	if _, err := s.mark(cctx, markSure, binary.LittleEndian.AppendUint64(nil, uint64(p.LSN))); err != nil {
		return p, fmt.Errorf("checkpoint %d is made, crash-consistent: that the guests were held still is not acknowledged: %w", p.LSN, err)
	}
	p.Kind = api.CheckpointApp
	return p, nil
}

// hold puts the mark into the order while all guests are held still.
func (s *session) hold(ctx context.Context, label string) (p api.Checkpoint, err error) {
	hctx, cancel := context.WithTimeout(ctx, quiesceLimit)
	defer cancel()
	release, err := s.g.cfg.Quiesce.Quiesce(hctx, s.st.policy(), s.epoch, quiesceLimit)
	if err != nil {
		return p, fmt.Errorf("hold its guests still: %w; they go on, and no checkpoint was made", err)
	}
	p, err = s.mark(hctx, markHeld, []byte(label))
	held := release()
	switch {
	case err != nil && held != nil:
		return p, errors.Join(err, held)
	case err != nil:
		return p, fmt.Errorf("%w; the guests go on", err)
	case held != nil:
		return p, fmt.Errorf("its guests were not held still until its mark was made: %w; checkpoint %d is crash-consistent", held, p.LSN)
	}
	return p, nil
}

// mark waits until a mark is where an acknowledged write must be.
func (s *session) mark(ctx context.Context, mark int64, data []byte) (api.Checkpoint, error) {
	done := make(chan error, 1)
	o := &op{marker: true, mark: mark, label: data, done: func(err error) { done <- err }}
	s.enqueue(o)
	select {
	case err := <-done:
		if err != nil {
			return api.Checkpoint{}, fmt.Errorf("%w: %w", domain.ErrNoLease, err)
		}
	case <-ctx.Done():
		return api.Checkpoint{}, fmt.Errorf("its mark is not acknowledged in time, and may still come, as a crash-consistent one: %w: %w", domain.ErrUnavailable, ctx.Err())
	}
	return api.Checkpoint{LSN: o.lsn, Epoch: s.epoch, Time: time.Now(), Kind: api.CheckpointCrash, Label: string(o.label)}, nil
}

// Bounds of how often the schedule of application-consistent checkpoints is looked at.
const (
	leastHoldTick = 10 * time.Millisecond
	mostHoldTick  = time.Second
)

// holdLoop makes application-consistent checkpoints as often as the policy in force says. The first one comes that long after the
// session began: its guests have to boot.
func (s *session) holdLoop() {
	last := time.Now()
	for {
		c := s.st.policy().Checkpoints
		if !sleep(s.ctx, max(leastHoldTick, min(c.AppEvery/10, mostHoldTick))) {
			return
		}
		if c.AppEvery <= 0 || c.Disabled || time.Since(last) < c.AppEvery {
			continue
		}
		last = time.Now()
		s.scheduled(s.ctx)
	}
}

// scheduled makes one that is due. Where it cannot be had, a crash-consistent one stands in for it, and the reason is told.
func (s *session) scheduled(ctx context.Context) {
	p, err := s.markHeld(ctx, "")
	if err == nil {
		s.g.told(ctx, p)
		return
	}
	if p.LSN == 0 {
		var second error
		if p, second = s.mark(ctx, markCrash, nil); second == nil {
			err = fmt.Errorf("%w; checkpoint %d, crash-consistent, stands in for it", err, p.LSN)
		}
	}
	if s.ctx.Err() != nil {
		return // told by whoever ended the session
	}
	s.log.Warn("application-consistent checkpoint not made", "error", err)
	s.g.publish(ctx, "checkpoint_failed", s.epoch, max(p.LSN, s.st.applied()), "", err.Error())
}
