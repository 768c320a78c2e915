package failover

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/failover/declaration"
	"github.com/holdfast-dr/holdfast/services/failover/run"
)

// retention is how much of what has ended is kept of what a site led.
type retention struct {
	runs, declarations int           // the newest
	age                time.Duration // and of those what ended no longer ago
	last               time.Duration // how long the rest is still there
}

var kept = retention{runs: keptRuns, declarations: keptDeclarations, age: 90 * 24 * time.Hour, last: 10 * time.Minute}

const (
	retainFirst = time.Minute // not while a site takes over what it can
	retainEvery = time.Hour
)

// retain has the journals here and at the other sites forget what nobody needs any more, until ctx ends.
func (s *service) retain(ctx context.Context) {
	for wait := retainFirst; clock.Sleep(ctx, wait) == nil; wait = retainEvery {
		conns := []*bus.Conn{s.mesh.Local()}
		for _, p := range s.peers {
			if p.conn.Connected() {
				conns = append(conns, p.conn)
			}
		}
		for _, conn := range conns {
			if err := s.retainAt(ctx, conn, kept); err != nil && ctx.Err() == nil {
				s.log.Warn("ended runs not removed; it is tried again in an hour", "at", string(conn.Site()), "error", err)
			}
		}
	}
}

// retainAt has one site's journal forget what this site led.
func (s *service) retainAt(ctx context.Context, conn *bus.Conn, keep retention) error {
	j, now := run.NewJournal(conn, nil), time.Now()
	lives, err := j.Load(ctx, "", everything, nil)
	if err != nil {
		return err
	}
	all := make([]api.Run, 0, len(lives))
	for _, l := range lives {
		all = append(all, l.Snapshot())
	}
	for _, r := range expired(all, s.cfg.Site, keep, now) {
		if conn == s.mesh.Local() {
			s.forget(r)
		}
		if err := j.Expire(ctx, r, keep.last); err != nil {
			return err
		}
	}
	declared, _, err := j.LoadDeclarations(ctx, "", s.cfg.Site, everything, nil) // those that cannot be read stay
	if err != nil {
		return err
	}
	for i, d := range declared {
		if !declaration.Forgettable(d.Declaration, now) || i >= len(declared)-keep.declarations && now.Sub(d.Ended) <= keep.age {
			continue
		}
		if err := j.ExpireDeclaration(ctx, d.Declaration, keep.last); err != nil {
			return err
		}
	}
	return nil
}

const everything = 1 << 30

// expired picks, of all runs of a journal, those that leader led and nobody needs any more: what has not ended, the last of each plan, and
// what says how a group was brought up stay, however old.
func expired(all []api.Run, leader domain.SiteID, keep retention, now time.Time) (out []api.Run) {
	slices.SortStableFunc(all, func(a, b api.Run) int { return a.Started.Compare(b.Started) })
	newer := 0
	for i, r := range slices.Backward(all) {
		if r.Leader != leader {
			continue
		}
		newer++
		later := all[i+1:]
		lastOfPlan := !slices.ContainsFunc(later, func(x api.Run) bool { return x.Plan == r.Plan })
		if newer <= keep.runs && now.Sub(r.Ended) <= keep.age || lastOfPlan || needed(r, later) {
			continue
		}
		out = append(out, r)
	}
	return out
}

// forget drops a run from memory, so that it is not copied again.
func (s *service) forget(r api.Run) {
	s.mu.Lock()
	s.runs = slices.DeleteFunc(s.runs, func(l *run.Live) bool { return l.Snapshot().ID == r.ID })
	s.mu.Unlock()
	s.copies.drop(api.RunSubject(r.Plan, r.ID, ""))
}

// drop forgets the records of a run, by what their subjects begin with.
func (c *copies) drop(prefix string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.order = slices.DeleteFunc(c.order, func(subject string) bool {
		of := strings.HasPrefix(subject, prefix)
		if of {
			delete(c.latest, subject)
		}
		return of
	})
}
