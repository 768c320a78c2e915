package group

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/extent"
	"github.com/holdfast-dr/holdfast/services/replicator/journal"
	"github.com/holdfast-dr/holdfast/services/replicator/journal/vfs"
)

// track is what a primary owes one target: everything after floor, which the ring holds, or the bitmap covers.
type track struct {
	mu    sync.Mutex
	floor domain.LSN // the target's journal holds everything up to here, or nothing is known of what it lacks up to here
	dirty *dirtyMap  // nil while the ring alone covers what the target lacks
	// fresh, during a resync, collects the blocks of changes after cut that left the ring.
	cut   domain.LSN
	fresh *extent.Set

	aheadMu sync.Mutex // not mu: frames are applied while a bitmap is saved
	// ahead is what was applied since the target stopped keeping up, so that the ring need not be read for it; nil: nothing.
	ahead *dirtyMap
}

// note adds a frame that was applied, after the one before it, to what is ahead of a target that does not keep up.
func (t *track) note(f *journal.Frame, sizes []int64) {
	t.aheadMu.Lock()
	defer t.aheadMu.Unlock()
	a := t.ahead
	if a == nil || a.upto+1 != f.FirstLSN {
		a = &dirtyMap{base: f.FirstLSN - 1, set: extent.New(sizes)}
	}
	a.set.Grow(sizes)
	markFrame(a.set, f, a.base, f.LastLSN)
	a.upto, t.ahead = f.LastLSN, a
}

// takeAhead gives what is ahead, which is forgotten.
func (t *track) takeAhead() *dirtyMap {
	t.aheadMu.Lock()
	defer t.aheadMu.Unlock()
	a := t.ahead
	t.ahead = nil
	return a
}

// covered is the last LSN that the ring need not keep for this target.
func (t *track) covered() domain.LSN {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.dirty != nil {
		return max(t.floor, t.dirty.upto)
	}
	return t.floor
}

// loadTrack begins with nothing known of the target: the ring's tail bounds what can be told, and an old bitmap extends it.
func (s *store) loadTrack(site domain.SiteID) (*track, error) {
	tail := s.j.State().TailLSN
	t := &track{floor: tail - 1}
	d, err := s.usableBitmap(site)
	if err != nil {
		return nil, err
	}
	if d != nil && d.upto+1 >= tail {
		t.dirty = d
	}
	return t, nil
}

// overflow takes the changes up to upto off the ring for a target: their blocks go into its durable bitmap.
func (s *store) overflow(site domain.SiteID, t *track, upto domain.LSN) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.dirty
	if d == nil {
		d = &dirtyMap{base: t.floor, upto: t.floor, set: extent.New(s.sizes())}
	} else {
		d = &dirtyMap{base: d.base, upto: d.upto, set: d.set.Clone()}
	}
	if upto <= d.upto {
		return nil
	}
	ahead := t.takeAhead()
	err := s.markSince(d.set, d.upto, upto, ahead)
	if t.fresh != nil && upto > t.cut && err == nil {
		if ahead != nil && ahead.base < t.cut {
			ahead = nil // it would be sent twice
		}
		err = s.markSince(t.fresh, max(t.cut, d.upto), upto, ahead)
	}
	if err == nil {
		d.upto = upto
		err = s.saveBitmap(site, d)
	}
	if vfs.IsFull(err) || errors.Is(err, journal.ErrCorrupt) {
		err = s.giveUpTrack(site, t, upto, err)
		d = nil
	}
	if err != nil {
		return fmt.Errorf("overflow of target %s: %w", site, err)
	}
	t.dirty = d
	return nil
}

// giveUpTrack forgets what a site lacks up to an LSN, because there is no room to note it, or the ring is damaged where it says so.
// Nobody waits for that: without a bitmap nothing tells what the target lacks, and its resync compares everything; one that is
// under way sends everything. Under the track's mu.
func (s *store) giveUpTrack(site domain.SiteID, t *track, upto domain.LSN, why error) error {
	if s.untracked != nil {
		s.untracked(site, upto, why)
	}
	t.floor = upto
	if t.fresh != nil {
		t.fresh.MarkAll()
	}
	return s.dropBitmap(site)
}

// settled says that the target's journal holds everything up to lsn: nothing before it is owed.
func (s *store) settled(site domain.SiteID, t *track, lsn domain.LSN) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.floor, t.fresh = lsn, nil
	if t.dirty == nil {
		return nil
	}
	t.dirty = nil
	return s.dropBitmap(site)
}

// repaid forgets the bitmap of a target whose position shows that it has everything the bitmap stands for.
func (s *store) repaid(site domain.SiteID, t *track, lsn domain.LSN) error {
	t.mu.Lock() // throughout: an overflow meanwhile would make the bitmap stand for more
	defer t.mu.Unlock()
	if t.dirty == nil || t.fresh != nil || lsn < t.dirty.upto {
		return nil
	}
	t.floor, t.dirty = lsn, nil
	return s.dropBitmap(site)
}

// advance moves the floor with the target's position.
func (t *track) advance(lsn domain.LSN) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.dirty == nil {
		t.floor = max(t.floor, lsn)
	}
}

// Shares of the ring: above pressure, targets that hold it back overflow; below keep nothing is released, so that a copy
// that comes back later finds as much history as there is room for.
const (
	pressureShare = 0.60
	nearlyFull    = 0.85
	keepShare     = 0.35
)

// checkpointLoop flushes the volumes and releases the ring.
func (s *session) checkpointLoop() {
	tick := time.NewTicker(min(200*time.Millisecond, s.g.cfg.Timing.Checkpoint))
	defer tick.Stop()
	last := time.Now()
	for {
		full := false
		select {
		case <-tick.C:
		case <-s.kickCkpt:
			full = true
		case <-s.ctx.Done():
			return
		}
		used := s.st.used()
		if !full && used < pressureShare && time.Since(last) < s.g.cfg.Timing.Checkpoint {
			continue
		}
		last = time.Now()
		if err := s.checkpoint(used, full); err != nil {
			if s.ctx.Err() == nil {
				s.fail(fmt.Errorf("checkpoint: %w", err))
			}
			return
		}
		poke(s.released)
	}
}

// used is the share of the ring in use.
func (s *store) used() float64 {
	st := s.j.State()
	return float64(st.UsedBytes) / float64(max(st.SizeBytes, 1))
}

// checkpoint releases what no target needs: see store.release.
func (s *session) checkpoint(used float64, full bool) error {
	s.changing.Lock() // no target comes or goes between what it lacks and what the ring lets go of
	defer s.changing.Unlock()
	s.letting.Lock()
	defer s.letting.Unlock()
	return s.st.release(s.owed(), used, full)
}

// goOnFrom says that the target's journal holds everything up to lsn, and goes on with frames from the ring; errRejoin when the ring
// has let go of those since the target was asked.
func (s *session) goOnFrom(t *sender, lsn domain.LSN) error {
	if err := s.g.cfg.failpoint("settle"); err != nil {
		return err
	}
	s.letting.Lock()
	defer s.letting.Unlock()
	if tail := s.st.j.State().TailLSN; lsn+1 < tail {
		return fmt.Errorf("target %s is at LSN %d, the ring begins at %d by now: %w", t.site, lsn, tail, errRejoin)
	}
	return s.st.settled(t.site, t.track, lsn)
}

// isThere reports whether the target was heard lately, so that writers may be made to wait for it: one that only begins again
// is there.
func (t *sender) isThere() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return time.Since(t.heard) < 4*t.s.g.cfg.Timing.TargetTimeout
}

// owed is what the session owes its targets. Under changing.
func (s *session) owed() []owed {
	var out []owed
	throttle := s.st.policy().Congestion == domain.CongestionThrottle
	for site, t := range s.senders.all() {
		out = append(out, owed{site: site, track: t.track, waits: t.keepsUp(), always: throttle && t.isThere(), overflowed: t.overflowed})
	}
	return out
}

// checkpoint flushes the volumes, and releases the ring up to limit when it is worth the history.
func (s *store) checkpoint(limit domain.LSN, used float64, full bool) error {
	s.applyMu.Lock()
	ap := s.ap
	s.applyMu.Unlock()
	if used < keepShare && !full {
		limit = 0
	}
	_, err := ap.Checkpoint(limit)
	return err
}
