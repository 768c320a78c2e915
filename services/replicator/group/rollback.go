package group

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
	"github.com/holdfast-dr/holdfast/services/replicator/extent"
	"github.com/holdfast-dr/holdfast/services/replicator/history"
)

// rollback is the durable intent to bring a copy back to a checkpoint. From when it is written the copy is on its way there;
// every start finishes it:
//
//	all of the journal applied, what came after the checkpoint quarantined
//	-> intent written                     nothing is lost before: the copy is as it was
//	-> before-images into the volumes, flushed                  may be repeated
//	-> journal reset to the checkpoint, in the new epoch        may be repeated
//	-> remembered as done -> history rewound to the checkpoint -> intent removed
type rollback struct {
	LSN     domain.LSN         `json:"lsn"`
	For     string             `json:"for,omitempty"` // the decision
	Lineage []api.LineageEntry `json:"lineage"`       // of the copy then; ends with the new epoch
}

func (s *store) rollbackPath() string { return filepath.Join(s.dir, "rollback.json") }

// rolledBack reports whether the copy was brought back to a checkpoint before, for a promotion by the same decision that did not come
// to its end, and goes on from there.
func (s *store) rolledBack(lsn domain.LSN, decision string) bool {
	s.mu.Lock()
	m := s.meta
	s.mu.Unlock()
	return m.RolledUnder != 0 && m.RolledTo == lsn && m.RolledFor == decision &&
		slices.ContainsFunc(s.lineage(), func(e api.LineageEntry) bool { return e.Epoch == m.RolledUnder && e.FirstLSN == lsn+1 })
}

// goesBack reports whether a promotion is to bring the copy to a checkpoint first.
func (s *store) goesBack(req api.PromoteRequest) bool {
	return req.Checkpoint != 0 && !s.rolledBack(req.Checkpoint, req.Decision)
}

// mayRollBack refuses a checkpoint that is not there, and keeps one that is until it is let go.
func (g *Group) mayRollBack(req api.PromoteRequest) (letGo func(), err error) {
	if !g.store.goesBack(req) {
		return func() {}, nil
	}
	v, err := g.view(req.Checkpoint)
	if err != nil {
		return nil, err
	}
	return v.Close, nil
}

// EstimateAt says what of the primary's last known state would be missing after a promotion here, at a checkpoint when one is
// named. domain.ErrNotFound when it is not listed.
func (g *Group) EstimateAt(lsn domain.LSN) (api.LossEstimate, error) {
	if lsn == 0 {
		return g.Estimate(), nil
	}
	v, err := g.reading(lsn) // and keep it for a while: whoever asks may be about to go back to it
	if err != nil {
		return api.LossEstimate{}, err
	}
	note := fmt.Sprintf(", back to checkpoint %d", lsn)
	if s := g.current(); s != nil {
		e, err := s.since(v.Point())
		e.Text = lossText(e) + note
		return e, err
	}
	return g.estimate(lsn, v.Point().Time, note), nil
}

// since is what the session's copy has beyond a checkpoint. Its bytes are those of the blocks that differ.
func (s *session) since(p history.Point) (api.LossEstimate, error) {
	head, _ := s.head()
	now := time.Now()
	// A mark is listed before it counts as acknowledged.
	e := api.LossEstimate{Known: true, Writes: uint64(max(head, p.LSN) - p.LSN), Seconds: max(0, now.Sub(p.Time).Seconds()), AsOf: now}
	set := extent.New(s.st.sizes())
	err := s.st.hist.Changed(p.LSN, func(volume int, off, length int64) { set.Mark(volume, off, length) })
	e.Bytes = uint64(set.Bytes())
	return e, err
}

// estimateOf is the loss that a promotion takes, which may be a repeat.
func (g *Group) estimateOf(req api.PromoteRequest) (api.LossEstimate, error) {
	if !g.store.goesBack(req) {
		return g.Estimate(), nil
	}
	return g.EstimateAt(req.Checkpoint)
}

// rollBack brings the copy to a checkpoint, to go on from there under a new epoch. What came after is kept aside first.
// Nothing else changes the store.
func (g *Group) rollBack(ctx context.Context, req api.PromoteRequest) error {
	s, lsn := g.store, req.Checkpoint
	if err := s.reloadTail(); err != nil {
		return err
	}
	if err := s.applyUpTo(s.last()); err != nil {
		return g.failUnlessFull(err)
	}
	// Read once before the point of no return: a damaged block is found while nothing is lost.
	if err := s.hist.Restore(lsn, func(int, int64, []byte) error { return nil }); err != nil {
		return err
	}
	if err := g.quarantineAfter(ctx, lsn); err != nil {
		return err
	}
	r := rollback{LSN: lsn, For: req.Decision}
	for _, e := range s.lineage() {
		if e.FirstLSN <= lsn {
			r.Lineage = append(r.Lineage, e)
		}
	}
	r.Lineage = append(r.Lineage, api.LineageEntry{Epoch: req.Epoch, FirstLSN: lsn + 1, Site: g.cfg.Site})
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := g.cfg.failpoint("rollback begins"); err != nil {
		return err
	}
	if err := s.writeFile(s.rollbackPath(), b); err != nil {
		if left := removeDurably(s.rollbackPath()); left != nil { // it may be there after all, and a start would carry it out
			g.fail(errors.Join(err, left))
		}
		return g.failUnlessFull(err)
	}
	// The intent is durable: where there is no room, it waits for some.
	if err := g.roomy(g.ctx, func() error { return s.finishRollback(r, g.cfg.failpoint) }); err != nil {
		g.fail(err)
		return err
	}
	return nil
}

// quarantineAfter keeps what came after a checkpoint aside.
func (g *Group) quarantineAfter(ctx context.Context, lsn domain.LSN) error {
	s := g.store
	d := &dirtyMap{base: lsn, upto: s.last(), set: extent.New(s.sizes())}
	if err := s.hist.Changed(lsn, func(volume int, off, length int64) { d.set.Mark(volume, off, length) }); err != nil {
		return err
	}
	item, err := s.quarantineTail(g.cfg.Site, lsn, []*dirtyMap{d})
	if err != nil || item == nil {
		return err
	}
	g.log.Warn("writes after the checkpoint kept aside", "checkpoint", uint64(lsn), "writes", item.Writes, "path", item.Path)
	g.cfg.Events.Publish(ctx, fmt.Sprintf("%s-%s-quarantined-%d-%d-%d", g.id, g.cfg.Site, item.Epoch, item.FirstLSN, item.LastLSN), event.WritesQuarantined{Item: *item})
	return nil
}

// redoRollback finishes a rollback that was under way when the process ended.
func (s *store) redoRollback(r *rollback) error {
	if r == nil {
		return nil
	}
	return s.finishRollback(*r, func(string) error { return nil })
}

// rollbackUnderWay reads the intent, nil when there is none.
func (s *store) rollbackUnderWay() (*rollback, error) {
	b, err := os.ReadFile(s.rollbackPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var r rollback
	if err := json.Unmarshal(b, &r); err != nil || len(r.Lineage) == 0 {
		return nil, fmt.Errorf("read the rollback's intent %s: %w", s.rollbackPath(), errors.Join(err, domain.ErrInvalid))
	}
	return &r, nil
}

func (s *store) finishRollback(r rollback, failpoint func(string) error) error {
	epoch := r.Lineage[len(r.Lineage)-1].Epoch
	if err := s.restore(r, epoch, failpoint); err != nil {
		return fmt.Errorf("roll group %s back to checkpoint %d: %w", s.group.ID, r.LSN, err)
	}
	if err := failpoint("rollback reset"); err != nil {
		return err
	}
	if err := s.cutTable(r.LSN); err != nil {
		return err
	}
	err := s.remember(func(m *meta) { m.RolledTo, m.RolledUnder, m.RolledFor = r.LSN, epoch, r.For })
	if err == nil {
		err = s.dropAllBitmaps()
	}
	if err == nil {
		err = failpoint("rollback remembered")
	}
	if err == nil {
		err = s.hist.Rewind(r.LSN)
	}
	if err == nil {
		err = failpoint("rollback history rewound")
	}
	if err != nil {
		return err
	}
	return removeDurably(s.rollbackPath())
}

// restore brings the volumes and the journal to the checkpoint. The history is rewound after that only.
func (s *store) restore(r rollback, epoch domain.Epoch, failpoint func(string) error) error {
	if st := s.j.State(); !s.hist.Recording() {
		if st.LastLSN == r.LSN && st.Epoch == epoch {
			return nil
		}
		return fmt.Errorf("the history was lost on the way; the copy is of use to nobody: move the group's folder %s aside and let another site send it anew: %w", s.dir, domain.ErrRefused)
	}
	then := len(s.slots().At(r.LSN))
	s.hist.Leave(r.LSN)
	err := s.hist.Restore(r.LSN, func(volume int, off int64, data []byte) error {
		if err := failpoint("rollback block"); err != nil {
			return err
		}
		if volume >= then {
			return nil // it was added later, and goes
		}
		if data == nil {
			return s.vols()[volume].Unmap(off, min(history.BlockSize, s.sizes()[volume]-off))
		}
		_, err := s.vols()[volume].WriteAt(data, off)
		return err
	})
	if err != nil {
		return err
	}
	for _, v := range s.vols() {
		if err := v.Sync(); err != nil {
			return fmt.Errorf("flush: %w", err)
		}
	}
	if err := failpoint("rollback applied"); err != nil {
		return err
	}
	return s.reset(r.LSN, r.Lineage)
}
