package group

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/extent"
	"github.com/holdfast-dr/holdfast/services/replicator/journal"
)

// dirtyMap is a target's dirty bitmap: every block that the changes in (base, upto] touch. It may hold more.
type dirtyMap struct {
	base, upto domain.LSN
	set        *extent.Set
}

func (s *store) bitmapPath(site domain.SiteID) string {
	return filepath.Join(s.dir, "dirty-"+string(site)+".map")
}

// saveBitmap makes a target's bitmap durable; only then may the ring let go of what it covers.
func (s *store) saveBitmap(site domain.SiteID, d *dirtyMap) error {
	if err := s.writeFile(s.bitmapPath(site), d.encode()); err != nil {
		return fmt.Errorf("save dirty bitmap of target %s: %w", site, err)
	}
	return nil
}

// encode is the map's file: both LSNs, then the set in package extent's form.
func (d *dirtyMap) encode() []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(d.base))
	b = binary.LittleEndian.AppendUint64(b, uint64(d.upto))
	return append(b, d.set.Encode()...)
}

// decodeDirty reads what encode made; sizes are those of the volumes. Any other bytes are extent.ErrDamaged.
func decodeDirty(b []byte, sizes []int64) (*dirtyMap, error) {
	if len(b) < 16 {
		return nil, fmt.Errorf("%w: %d bytes", extent.ErrDamaged, len(b))
	}
	d := &dirtyMap{base: domain.LSN(binary.LittleEndian.Uint64(b)), upto: domain.LSN(binary.LittleEndian.Uint64(b[8:]))}
	if d.upto < d.base {
		return nil, fmt.Errorf("%w: from change %d back to %d", extent.ErrDamaged, d.base, d.upto)
	}
	var err error
	d.set, err = extent.Decode(b[16:], sizes)
	return d, err
}

// loadBitmap reads a target's bitmap, nil when there is none.
func (s *store) loadBitmap(site domain.SiteID) (*dirtyMap, error) {
	b, err := os.ReadFile(s.bitmapPath(site))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	d, err := decodeDirty(b, s.sizes())
	if err != nil {
		return nil, fmt.Errorf("load dirty bitmap of target %s: %w", site, err)
	}
	return d, nil
}

// usableBitmap reads a target's bitmap. A damaged one is removed: it tells no more than one that is not there, and then
// every block is sent.
func (s *store) usableBitmap(site domain.SiteID) (*dirtyMap, error) {
	d, err := s.loadBitmap(site)
	if errors.Is(err, extent.ErrDamaged) {
		return nil, s.dropBitmap(site)
	}
	return d, err
}

func (s *store) dropBitmap(site domain.SiteID) error { return removeDurably(s.bitmapPath(site)) }

func (s *store) bitmapSites() ([]domain.SiteID, error) {
	names, err := filepath.Glob(filepath.Join(s.dir, "dirty-*.map"))
	if err != nil {
		return nil, err
	}
	var out []domain.SiteID
	for _, n := range names {
		out = append(out, domain.SiteID(strings.TrimSuffix(strings.TrimPrefix(filepath.Base(n), "dirty-"), ".map")))
	}
	return out, nil
}

// dropAllBitmaps forgets what this copy once owed to others, when it has become another's copy.
func (s *store) dropAllBitmaps() error {
	sites, err := s.bitmapSites()
	for _, site := range sites {
		err = errors.Join(err, s.dropBitmap(site))
	}
	return err
}

// markFrames adds to set the blocks of the journal's changes in (after, upto].
func (s *store) markFrames(set *extent.Set, after, upto domain.LSN) error {
	set.Grow(s.sizes()) // it may be older than a volume that is written to
	return s.eachFrame(after+1, upto, func(f *journal.Frame) error {
		markFrame(set, f, after, upto)
		return nil
	})
}

// markSince is markFrames that reads from the ring only what is not ahead. Of that it adds everything, so perhaps more than was asked.
func (s *store) markSince(set *extent.Set, after, upto domain.LSN, ahead *dirtyMap) error {
	if ahead == nil || ahead.base >= upto || ahead.upto <= after {
		return s.markFrames(set, after, upto)
	}
	if err := s.markFrames(set, after, ahead.base); err != nil {
		return err
	}
	set.Union(ahead.set)
	return s.markFrames(set, ahead.upto, upto)
}

func markFrame(set *extent.Set, f *journal.Frame, after, upto domain.LSN) {
	for i, e := range f.Entries {
		if lsn := f.FirstLSN + domain.LSN(i); lsn <= after || lsn > upto {
			continue
		}
		if e.Op == journal.OpWrite || e.Op == journal.OpZero || e.Op == journal.OpUnmap {
			set.Mark(int(e.Volume), e.Off, e.Len)
		}
	}
}

// reaches reports whether a map has every block that was written after `since` and before what the ring has, from its tail on.
func (d *dirtyMap) reaches(since, tail domain.LSN) bool {
	return d != nil && d.base <= since && d.upto+1 >= tail
}

// unite adds to set what the maps know that reach back to `since`; false when none does.
func unite(set *extent.Set, maps []*dirtyMap, since, tail domain.LSN) (known bool) {
	for _, d := range maps {
		if d.reaches(since, tail) {
			set.Union(d.set)
			known = true
		}
	}
	return known
}

// anyReaches reports whether what was written after `since` is known without the copy's past.
func (s *store) anyReaches(maps []*dirtyMap, since domain.LSN) bool {
	tail := s.j.State().TailLSN
	return tail <= since+1 || slices.ContainsFunc(maps, func(d *dirtyMap) bool { return d.reaches(since, tail) })
}

// writtenSince gives the blocks that this copy's changes after `since` touch: from the journal, and where that does not
// reach back far enough, from a bitmap that does. known is false when neither does.
func (s *store) writtenSince(since domain.LSN, maps []*dirtyMap) (set *extent.Set, known bool, err error) {
	set = extent.New(s.sizes())
	st := s.j.State()
	from := since
	if st.TailLSN > since+1 {
		if !unite(set, maps, since, st.TailLSN) {
			return nil, false, nil
		}
		from = st.TailLSN - 1
	}
	if err := s.markFrames(set, from, st.LastLSN); err != nil {
		return nil, false, err
	}
	return set, true, nil
}
