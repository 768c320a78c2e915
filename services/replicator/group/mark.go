package group

import (
	"context"
	"fmt"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/journal"
)

// Quiescer holds a group's guests still for an application-consistent checkpoint: a hypervisor's driver is one.
type Quiescer interface {
	// Quiesce makes the guests write out what they hold back and stop writing. It returns what lets them go on, which must be
	// called whatever happens, and may be repeated. The guests go on by themselves after limit. domain.ErrRefused when a guest
	// cannot; then none is held.
	Quiesce(ctx context.Context, g domain.GroupID, limit time.Duration) (release func() error, err error)
}

// quiesceLimit bounds how long guests are held for a checkpoint.
const quiesceLimit = 5 * time.Second

// Mark puts a mark into the group's order, which becomes a checkpoint at every target: see api.CheckpointCreateRequest.
func (g *Group) Mark(ctx context.Context, req api.CheckpointCreateRequest) (reply api.Checkpoint, err error) {
	if len(req.Label) > journal.MaxMarkerBytes {
		return reply, fmt.Errorf("checkpoint of group %s: a label of %d bytes, at most %d: %w", g.id, len(req.Label), journal.MaxMarkerBytes, domain.ErrInvalid)
	}
	s := g.current()
	if s == nil || !s.gate.open() {
		return reply, fmt.Errorf("checkpoint of group %s: site %s does not serve it; ask the one that does: %w", g.id, g.cfg.Site, domain.ErrRefused)
	}
	o := &op{marker: true, mark: markCrash, label: []byte(req.Label)}
	if req.App {
		o.mark = markApp
		if g.cfg.Quiesce == nil {
			return reply, fmt.Errorf("checkpoint of group %s: no VM driver of site %s can hold guests still; take a crash-consistent one: %w", g.id, g.cfg.Site, domain.ErrRefused)
		}
		ctx, cancel := context.WithTimeout(ctx, quiesceLimit)
		defer cancel()
		release, err := g.cfg.Quiesce.Quiesce(ctx, g.id, quiesceLimit)
		if err != nil {
			return reply, fmt.Errorf("checkpoint of group %s: hold its guests still: %w", g.id, err)
		}
		defer func() {
			if r := release(); r != nil {
				g.log.Error("guests were not let go on; they go on by themselves", "error", r)
			}
		}()
		return g.mark(ctx, s, o)
	}
	return g.mark(ctx, s, o)
}

// mark waits until the mark is where an acknowledged write must be.
func (g *Group) mark(ctx context.Context, s *session, o *op) (api.Checkpoint, error) {
	done := make(chan error, 1)
	o.done = func(err error) { done <- err }
	s.enqueue(o)
	select {
	case err := <-done:
		if err != nil {
			return api.Checkpoint{}, fmt.Errorf("checkpoint of group %s: %w: %w", g.id, domain.ErrNoLease, err)
		}
	case <-ctx.Done():
		return api.Checkpoint{}, fmt.Errorf("checkpoint of group %s: its mark is not acknowledged in time; it may still come: %w: %w", g.id, domain.ErrUnavailable, ctx.Err())
	}
	p := api.Checkpoint{LSN: o.lsn, Epoch: s.epoch, Time: time.Now(), Kind: api.CheckpointCrash, Label: string(o.label)}
	if o.mark == markApp {
		p.Kind = api.CheckpointApp
	}
	g.publish(ctx, "checkpoint_created", s.epoch, p.LSN, "", p.Kind+" "+p.Label)
	return p, nil
}
