package group

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/history"
	"github.com/holdfast-dr/holdfast/services/replicator/journal"
	"github.com/holdfast-dr/holdfast/services/replicator/journal/vfs"
	"github.com/holdfast-dr/holdfast/services/replicator/slots"
	"github.com/holdfast-dr/holdfast/services/replicator/whole"
)

// meta is what a copy remembers beside its journal, in the journal's superblocks.
type meta struct {
	Fence      domain.Epoch `json:"fence"`                 // nothing below is taken
	Seeded     bool         `json:"seeded,omitempty"`      // the volumes hold seeds, no state of the group
	DemotedEnd domain.LSN   `json:"demoted_lsn,omitempty"` // the end of Demoted
	Demoted    domain.Epoch `json:"demoted,omitempty"`     // the epoch that was given up in order
	// RolledTo is the checkpoint that the copy was last brought back to, RolledUnder the epoch that began there, RolledFor the decision
	// that had it done.
	RolledTo    domain.LSN   `json:"rolled_lsn,omitempty"`
	RolledUnder domain.Epoch `json:"rolled,omitempty"`
	RolledFor   string       `json:"rolled_for,omitempty"`
	// Class is what this copy served as when it served last.
	Class domain.Durability `json:"class,omitempty"`
}

// store is a copy on disk: journal, volumes, and what is kept beside them. One goroutine changes it at a time, except
// where a method says otherwise.
type store struct {
	group domain.Group // as it was opened; the copy's volumes are in its table
	wants atomic.Pointer[domain.Group]
	tab   atomic.Pointer[table]
	// tableMu is held while the table changes beside other things: by who applies, and by who empties a removed volume.
	tableMu sync.Mutex
	dir     string
	lock    *os.File
	j       *journal.Journal

	applyMu sync.Mutex // held while a frame is applied, and while ap changes
	ap      *journal.Applier

	tailMu sync.Mutex
	tail   []*journal.Frame // durable in the journal, not applied yet

	hist  *history.History // the copy's past
	every atomic.Int64     // nanoseconds between two checkpoints of it; 0: none are taken
	past  past

	failpoint func(place string) error // of tests
	files     vfs.FS
	// untracked is told that what a site lacks, up to an LSN, could not be noted; nil in tests.
	untracked func(site domain.SiteID, upto domain.LSN, why error)

	mu   sync.Mutex
	meta meta
	kept map[string]api.Quarantined // quarantine folders read so far; they never change
}

// openStore opens the copy, or makes it when there is none: the journal is recovered and all of it applied, then a resync
// that had been committed is finished. Everything in the journal may have reached the volumes before a crash, so only all
// of it gives a prefix again; and what a resync sent goes on from the journal's end.
func openStore(ctx context.Context, cfg Config, g domain.Group) (*store, error) {
	s := &store{group: g, dir: cfg.Dir, kept: map[string]api.Quarantined{}, failpoint: cfg.failpoint, files: cfg.files}
	if s.files == nil {
		s.files = vfs.OS()
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("open store of group %s: %w", g.ID, err)
	}
	if err := s.recover(ctx, cfg); err != nil {
		s.close()
		return nil, fmt.Errorf("open store of group %s: %w", g.ID, err)
	}
	return s, nil
}

func (s *store) recover(ctx context.Context, cfg Config) error {
	if err := s.takeLock(); err != nil {
		return err
	}
	rec, err := s.openJournal(ctx, cfg)
	if err != nil {
		return err
	}
	if err := s.plantSeeds(rec.LastLSN); err != nil {
		return err
	}
	t, err := s.loadTable()
	if err == nil {
		err = s.openTable(t, rec.LastLSN == 0)
	}
	if err != nil {
		return err
	}
	s.newApplier()
	if rec.Torn != nil && cfg.Logger != nil {
		// After a crash that is what had not been acknowledged yet. That a disk has damaged what had been, at this one place, nobody
		// can tell from here: who suspects it compares the head LSN with the other site's.
		cfg.Logger.Warn("journal ended in a frame that is not whole: it is cut", slog.String("group", string(s.group.ID)), slog.String("folder", cfg.Dir),
			slog.Uint64("frame", rec.Torn.Number), slog.Int64("offset", rec.Torn.Offset), slog.Uint64("head_lsn", uint64(rec.LastLSN)), slog.String("reason", rec.Torn.Reason))
	}
	if err := s.openHistory(cfg); err != nil {
		return err
	}
	back, err := s.rollbackUnderWay()
	if err != nil {
		return err
	}
	if err := s.replay(rec, back != nil); err != nil {
		return err
	}
	if err := s.redoRollback(back); err != nil {
		return err
	}
	if err := s.finishDiscards(); err != nil {
		return err
	}
	if err := s.redoStage(); err != nil {
		return err
	}
	return s.emptyAgain()
}

func (s *store) takeLock() error {
	f, err := os.OpenFile(filepath.Join(s.dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return errors.Join(fmt.Errorf("lock folder %s: another process has it open: %w: %w", s.dir, domain.ErrConflict, err), f.Close())
	}
	s.lock = f
	return nil
}

func (s *store) openJournal(ctx context.Context, cfg Config) (*journal.Recovered, error) {
	path := filepath.Join(s.dir, "journal")
	jcfg := journal.Config{Group: s.group.ID}
	exists, err := s.files.Exists(path)
	if err != nil {
		return nil, err
	}
	if !exists {
		if err := s.noVolumes(path); err != nil {
			return nil, err
		}
		jcfg.SizeBytes = cfg.JournalBytes
		j, err := journal.Create(ctx, s.files, path, jcfg)
		if err != nil {
			return nil, err
		}
		if err := j.Close(); err != nil {
			return nil, err
		}
	}
	j, rec, err := journal.Open(ctx, s.files, path, jcfg)
	if err != nil {
		return nil, err
	}
	s.j = j
	if len(rec.Meta) > 0 {
		if err := json.Unmarshal(rec.Meta, &s.meta); err != nil {
			return nil, fmt.Errorf("read the journal's meta: %w", err)
		}
	}
	s.meta.Fence = max(s.meta.Fence, rec.Epoch)
	return rec, nil
}

// noVolumes refuses a new journal beside volumes: they are made after it, and what they hold is not what an empty one says.
func (s *store) noVolumes(journal string) error {
	for _, v := range slots.Of(s.group.Volumes) {
		path := s.volumePath(v)
		switch _, err := os.Lstat(path); {
		case err == nil:
			return fmt.Errorf("there is no journal %s, but volume %s: make sure that the other site serves the group and shows this "+
				"one out of sync, then move the group's whole folder %s aside: %w", journal, path, s.dir, domain.ErrRefused)
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
	}
	return nil
}

func (s *store) newApplier() { s.ap = journal.NewApplier(s.j, s.table().media()) }

// close gives everything back at once and makes nothing durable.
func (s *store) close() {
	if s.j != nil {
		_ = s.j.Close()
	}
	if s.hist != nil {
		s.hist.Close()
	}
	s.closeVolumes(s.vols())
	if s.lock != nil {
		_ = s.lock.Close()
	}
}

// fence is the lowest epoch that is taken.
func (s *store) fence() domain.Epoch {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.meta.Fence
}

// remember changes the meta, durably.
func (s *store) remember(f func(m *meta)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.meta
	f(&next)
	if next == s.meta {
		return nil
	}
	b, err := json.Marshal(next)
	if err != nil {
		return err
	}
	if err := s.j.SetMeta(b); err != nil {
		return err
	}
	s.meta = next
	return nil
}

// raiseFence refuses every epoch below e from now on, durably. A lower one than the present fence is stale.
func (s *store) raiseFence(e domain.Epoch) error {
	if have := s.fence(); e < have {
		return fmt.Errorf("fence group %s to epoch %s, it is at %s: %w", s.group.ID, e, have, domain.ErrStaleEpoch)
	}
	return s.remember(func(m *meta) { m.Fence = e })
}

// lineage is the copy's own.
func (s *store) lineage() []api.LineageEntry { return lineageToAPI(s.j.State().Lineage) }

func lineageToAPI(l []journal.LineageEntry) []api.LineageEntry {
	out := make([]api.LineageEntry, len(l))
	for i, e := range l {
		out[i] = api.LineageEntry{Epoch: e.Epoch, FirstLSN: e.First, Site: e.Site}
	}
	return out
}

func lineageFromAPI(l []api.LineageEntry) []journal.LineageEntry {
	out := make([]journal.LineageEntry, len(l))
	for i, e := range l {
		out[i] = journal.LineageEntry{Epoch: e.Epoch, First: e.FirstLSN, Site: e.Site}
	}
	return out
}

// last is the last durable change.
func (s *store) last() domain.LSN { return s.j.Next().FirstLSN - 1 }

// apply brings one durable frame of the copy's own serving to the volumes, as a whole where readers are guarded. Safe beside everything
// else. A copy that has a past goes on keeping what is overwritten, and has a checkpoint wherever one is asked for; none by the clock,
// which would have every block read and kept again after each.
func (s *store) apply(f *journal.Frame, readers *whole.Guard) error {
	if s.hist.Recording() {
		b := bringer{s: s, readers: readers}
		if err := b.bring(f); err != nil {
			return err
		}
		return b.flush()
	}
	for i, e := range f.Entries { // nothing in the frame of a new volume's names it: it is served later
		if err := s.followTable(e, f.FirstLSN+domain.LSN(i), f.Epoch); err != nil {
			return err
		}
	}
	return s.show(f, f.LastLSN, readers)
}

// show writes a frame to the volumes, up to a change.
func (s *store) show(f *journal.Frame, upto domain.LSN, readers *whole.Guard) error {
	if readers != nil {
		readers.Begin()
		defer readers.End()
	}
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	return s.ap.Apply(f, upto)
}

// applied is the last change the volumes show.
func (s *store) applied() domain.LSN {
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	return s.ap.Applied()
}

// torn reports whether the volumes show a part of a change.
func (s *store) torn() bool {
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	return s.ap.Torn()
}

// settledAt is up to where the volumes show every change and nothing of later ones. While a full disk holds one up, it waits.
func (s *store) settledAt(ctx context.Context) (domain.LSN, error) {
	for {
		s.applyMu.Lock()
		at, torn := s.ap.Applied(), s.ap.Torn()
		s.applyMu.Unlock()
		if !torn {
			return at, nil
		}
		if !sleep(ctx, roomEvery) {
			return 0, ctx.Err()
		}
	}
}

// push keeps a durable frame until it is known to be committed. Safe beside applyUpTo.
func (s *store) push(f *journal.Frame) {
	s.tailMu.Lock()
	defer s.tailMu.Unlock()
	s.tail = append(s.tail, f)
}

// applyUpTo applies the frames that wait and end at or before upto.
func (s *store) applyUpTo(upto domain.LSN) error {
	for {
		frames := s.waiting(upto)
		if len(frames) == 0 {
			return nil
		}
		if err := s.bring(frames); err != nil {
			return err
		}
		s.tailMu.Lock()
		clear(s.tail[:len(frames)])
		s.tail = s.tail[len(frames):]
		s.tailMu.Unlock()
	}
}

// reloadTail reads back from the journal what is durable and not applied. Nothing else may run.
func (s *store) reloadTail() error {
	s.tailMu.Lock()
	defer s.tailMu.Unlock()
	s.tail = nil
	next := s.applied() + 1
	return s.eachFrame(next, s.last(), func(f *journal.Frame) error {
		s.tail = append(s.tail, f)
		return nil
	})
}

const readBytes = 8 << 20

// eachFrame calls f for the journal's frames from the one that holds `from` to the one that holds `to`.
func (s *store) eachFrame(from, to domain.LSN, f func(*journal.Frame) error) error {
	for from <= to {
		raw, err := s.j.Read(from, readBytes)
		if err != nil {
			return err
		}
		if len(raw) == 0 {
			return nil
		}
		for _, b := range raw {
			fr, err := journal.Decode(b)
			if err != nil {
				return err
			}
			if fr.FirstLSN > to {
				return nil
			}
			if err := f(fr); err != nil {
				return err
			}
			from = fr.LastLSN + 1
		}
	}
	return nil
}

// reset makes the journal go on after last in the lineage given; the volumes hold exactly that, durably.
func (s *store) reset(last domain.LSN, l []api.LineageEntry) error {
	if len(l) == 0 {
		return fmt.Errorf("reset group %s: no lineage: %w", s.group.ID, domain.ErrInvalid)
	}
	if err := s.j.Reset(last, l[len(l)-1].Epoch, lineageFromAPI(l)); err != nil {
		return err
	}
	s.tailMu.Lock()
	s.tail = nil
	s.tailMu.Unlock()
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	s.newApplier()
	return nil
}

// lastTime is the time of the last frame that the ring holds, zero when it holds none.
func (s *store) lastTime() (at time.Time, err error) {
	last := s.last()
	if st := s.j.State(); last == 0 || last < st.TailLSN {
		return at, nil
	}
	err = s.eachFrame(last, last, func(f *journal.Frame) error {
		at = f.Time
		return nil
	})
	return at, err
}

// raiseEpoch adds an epoch to the lineage. When the ring holds frames of too many epochs letGo empties it of what was applied.
func (s *store) raiseEpoch(e api.LineageEntry, letGo func() error) error {
	err := s.j.RaiseEpoch(e.Epoch, e.Site, e.FirstLSN)
	if !errors.Is(err, domain.ErrRefused) {
		return err
	}
	if err := letGo(); err != nil {
		return err
	}
	return s.j.RaiseEpoch(e.Epoch, e.Site, e.FirstLSN)
}
