package group

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/journal"
)

// checkJournal reads every frame that the ring holds and checks its sums. What leaves the ring meanwhile is passed over.
func (s *store) checkJournal() error {
	for from := max(s.j.State().TailLSN, 1); ; {
		err := s.eachFrame(from, s.last(), func(f *journal.Frame) error {
			from = f.LastLSN + 1
			return nil
		})
		if !errors.Is(err, journal.ErrNotRetained) {
			if err != nil {
				return fmt.Errorf("the journal of site's own copy is damaged at LSN %d: move the group to another site, then replace this copy: %w", from, err)
			}
			return nil
		}
		from = max(from, s.j.State().TailLSN)
	}
}

func (s *store) scrubPath(site domain.SiteID) string {
	return filepath.Join(s.dir, "scrubbed-"+string(site))
}

// scrubbed is when a target's copy was last compared with this one to the end, every block of it decided; zero: never.
func (s *store) scrubbed(site domain.SiteID) time.Time {
	if st, err := os.Stat(s.scrubPath(site)); err == nil {
		return st.ModTime()
	}
	return time.Time{}
}

// scrubDue reports whether a target's copy was not compared for so long. A primary that is new counts from its beginning.
func (s *store) scrubDue(site domain.SiteID, every time.Duration, began time.Time) bool {
	last := s.scrubbed(site)
	if last.IsZero() {
		last = began
	}
	return time.Since(last) >= every
}

const (
	scrubFirst = time.Minute // until a scrub that was not good is tried again; twice as long each time
	scrubMost  = time.Hour
)

// scrubWait is how long a scrub waits after so many in a row that were not good.
func scrubWait(every time.Duration, failed int) time.Duration {
	wait, most := min(every/10+time.Millisecond, scrubFirst), min(every, scrubMost)
	for range failed - 1 {
		if wait >= most {
			break
		}
		wait *= 2
	}
	return min(wait, most)
}

// scrubLoop compares each target's copy as often as configured, and sooner again what could not be compared to its end.
func (s *session) scrubLoop() {
	every := s.g.cfg.ScrubEvery
	if every <= 0 {
		return
	}
	began := time.Now()
	failed, next := map[domain.SiteID]int{}, map[domain.SiteID]clock.Time{}
	for sleep(s.ctx, min(every/10+time.Millisecond, time.Minute)) {
		for site, t := range s.senders.all() {
			if !t.isLive() || !s.st.scrubDue(site, every, began) || s.g.cfg.Now().Before(next[site]) {
				continue
			}
			wait := scrubWait(every, failed[site]+1)
			v, ok := s.startVerify(t, s.g.cfg.ScrubHeal, wait)
			if !ok {
				return
			}
			select {
			case <-v.ended:
			case <-s.ctx.Done():
				return
			}
			if v.done {
				delete(failed, site)
				continue
			}
			failed[site]++
			next[site] = s.g.cfg.Now().Add(wait)
			s.log.Warn("scrub not done, tried again", "target", string(site), "failed", failed[site], "wait", wait)
		}
	}
}
