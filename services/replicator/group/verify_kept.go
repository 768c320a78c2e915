package group

import (
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
	"github.com/holdfast-dr/holdfast/pkg/durable"
)

// verifyKept is how far a comparison came, kept beside the copy now and then: what breaks off with the process of either side goes
// on from there.
type verifyKept struct {
	Status api.VerifyStatus `json:"status"` // running: the process or its serving ended
	Sizes  []int64          `json:"sizes"`  // of the volumes, by index
	Volume int              `json:"volume"` // where it goes on
	Offset int64            `json:"offset"`
	LSN    domain.LSN       `json:"lsn"` // the target's journal held then: a copy that has less is another one
}

// verifyKeeps is for how long: what was compared longer ago is compared again.
const verifyKeeps = 24 * time.Hour

func (s *store) verifyPath(site domain.SiteID) string {
	return filepath.Join(s.dir, "verify-"+string(site))
}

// keptVerify gives the comparison with a target that broke off, if it may go on: the volumes are the same, and no other site
// was primary since. A target that joins again with another copy has it dropped; see rejoined.
func (s *store) keptVerify(site, self domain.SiteID) (k verifyKept, ok bool) {
	path := s.verifyPath(site)
	st, err := os.Stat(path)
	if err != nil || time.Since(st.ModTime()) > verifyKeeps {
		return k, false
	}
	raw, err := os.ReadFile(path)
	if err != nil || json.Unmarshal(raw, &k) != nil || k.Status.Target != site {
		return k, false
	}
	for _, e := range s.lineage() {
		if e.Epoch >= k.Status.Epoch && e.Site != self {
			return k, false
		}
	}
	sizes := s.sizes()
	return k, len(k.Sizes) <= len(sizes) && slices.Equal(k.Sizes, sizes[:len(k.Sizes)])
}

// dropVerify forgets how far a comparison with a target came.
func (s *store) dropVerify(site domain.SiteID) error {
	err := os.Remove(s.verifyPath(site))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return durable.SyncDir(s.dir)
}

// resume goes on from where one of the same kind broke off.
func (v *verify) resume(k verifyKept) {
	st := k.Status
	v.at = k
	v.st.Started, v.st.Scheduled = st.Started, v.st.Scheduled || st.Scheduled
	v.st.Bytes, v.st.Resumed = st.Bytes, st.Bytes
	v.st.Differ, v.st.Healed, v.st.Undecided, v.st.Extents = st.Differ, st.Healed, st.Undecided, slices.Clone(st.Extents)
	if v.st.FailedSince.IsZero() {
		v.st.FailedSince = st.FailedSince
	}
}

// compared reports whether a stretch was, before this broke off.
func (v *verify) compared(at stretch) bool {
	return at.volume < v.at.Volume || at.volume == v.at.Volume && at.off < v.at.Offset
}

// passed goes on to what follows a stretch, with what was found up to its end.
func (v *verify) passed(at stretch, sizes []int64) {
	acked, _ := v.t.progress()
	v.file.Lock()
	v.at = verifyKept{Status: v.status(), Sizes: sizes, Volume: at.volume, Offset: at.off + at.length, LSN: acked}
	v.file.Unlock()
	if time.Since(v.noted) >= v.s.g.cfg.Timing.Progress {
		v.note(true)
	}
}

// note keeps how far the comparison is, if it is anywhere; broken: it breaks off with its session.
func (v *verify) note(broken bool) {
	v.file.Lock()
	defer v.file.Unlock()
	if v.void || v.at.Status.Target == "" {
		return
	}
	k := v.at
	k.Status.Running, k.Status.FailedSince = broken, v.status().FailedSince
	raw, err := json.Marshal(k)
	if err == nil {
		err = durable.WriteFile(v.s.st.verifyPath(v.t.site), raw, 0o600)
	}
	if err != nil {
		v.s.log.Warn("how far the comparison is was not kept", "target", string(v.t.site), "error", err)
	}
	v.noted = time.Now()
}

// forget drops what was kept, and keeps nothing more.
func (v *verify) forget() error {
	v.file.Lock()
	defer v.file.Unlock()
	v.void = true
	return v.s.st.dropVerify(v.t.site)
}

// rejoined forgets how far the comparison with a target is, when its copy is not the one that was compared: it is to be sent
// blocks, or has less than it had.
func (g *Group) rejoined(site domain.SiteID, at domain.LSN, blocks bool) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if v := g.verifies[site]; v != nil {
		if blocks || at < v.reached() {
			return v.forget()
		}
		return nil
	}
	if k, ok := g.store.keptVerify(site, g.cfg.Site); !ok || blocks || at < k.LSN {
		return g.store.dropVerify(site)
	}
	return nil
}

// reached is what the target's journal held when the last stretch was compared.
func (v *verify) reached() domain.LSN {
	v.file.Lock()
	defer v.file.Unlock()
	return v.at.LSN
}

// sameCopy refuses what went on from before while the target came back with another copy: nobody compared that one's beginning.
func (v *verify) sameCopy() error {
	resumed := v.status().Resumed
	v.file.Lock()
	defer v.file.Unlock()
	if v.void && resumed > 0 {
		return fmt.Errorf("target %s came back with another copy than was compared before: run it again: %w", v.t.site, domain.ErrConflict)
	}
	return nil
}

// resumeLoop goes on with the comparisons that broke off with a session before this one, once their targets follow.
func (s *session) resumeLoop() {
	for waiting := true; waiting && sleep(s.ctx, s.g.cfg.Timing.Retry); {
		waiting = false
		for site, t := range s.senders.all() {
			k, ok := s.st.keptVerify(site, s.g.cfg.Site)
			if !ok || !k.Status.Running || s.g.comparing(site) {
				continue
			}
			if !t.isLive() {
				waiting = true
				continue
			}
			var again time.Duration
			if every := s.g.cfg.ScrubEvery; k.Status.Scheduled && every > 0 {
				again = scrubWait(every, 1)
			}
			if _, ok := s.startVerify(t, k.Status.Heal, again); !ok {
				return
			}
		}
	}
}

// comparing reports whether a comparison with a target runs.
func (g *Group) comparing(site domain.SiteID) bool {
	g.mu.Lock()
	v := g.verifies[site]
	g.mu.Unlock()
	return v != nil && v.status().Running
}
