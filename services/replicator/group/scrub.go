package group

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/durable"
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

// scrubDue reports whether a target's copy was not compared for so long. A primary that is new counts from its beginning.
func (s *store) scrubDue(site domain.SiteID, every time.Duration, began time.Time) bool {
	last := began
	if st, err := os.Stat(s.scrubPath(site)); err == nil {
		last = st.ModTime()
	}
	return time.Since(last) >= every
}

// scrubLoop compares each target's copy as often as configured.
func (s *session) scrubLoop() {
	every := s.g.cfg.ScrubEvery
	if every <= 0 {
		return
	}
	began := time.Now()
	for sleep(s.ctx, min(every/10+time.Millisecond, time.Minute)) {
		for site, t := range s.senders.all() {
			if !t.isLive() || !s.st.scrubDue(site, every, began) {
				continue
			}
			v, ok := s.startVerify(t, false, true)
			if !ok {
				return
			}
			for v.status().Running {
				if !sleep(s.ctx, min(every/10+time.Millisecond, time.Second)) {
					return
				}
			}
			if err := durable.WriteFile(s.st.scrubPath(site), nil, 0o600); err != nil {
				s.log.Warn("time of the scrub not kept", "target", string(site), "error", err)
			}
		}
	}
}
