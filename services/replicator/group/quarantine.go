package group

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/durable"
	"github.com/holdfast-dr/holdfast/services/replicator/extent"
	"github.com/holdfast-dr/holdfast/services/replicator/journal"
	"github.com/holdfast-dr/holdfast/services/replicator/lineage"
)

// A quarantine folder holds frames.bin (the diverged frames as they stood in the journal, one after the other), blocks.bin
// (blocks whose frames the ring no longer held, as records of a resync; empty as a rule) and, written last, map.json: an
// api.Quarantined with every extent.
const (
	quarantineFrames = api.QuarantineFrames
	quarantineBlocks = api.QuarantineBlocks
	quarantineMap    = "map.json"
)

func (s *store) quarantineDir() string { return filepath.Join(s.dir, "quarantine") }

// quarantineTail keeps the changes after common aside, durably, before anything overwrites them. maps are the bitmaps that
// cover what the ring no longer holds. Nothing to keep is nil. It may be repeated.
func (s *store) quarantineTail(site domain.SiteID, common domain.LSN, maps []*dirtyMap) (*api.Quarantined, error) {
	st := s.j.State()
	if st.LastLSN <= common {
		return nil, nil
	}
	first := max(common+1, st.TailLSN)
	item := api.Quarantined{Group: s.group.ID, Site: site, Epoch: lineage.EpochOf(s.lineage(), st.LastLSN), FirstLSN: common + 1, LastLSN: st.LastLSN, Volumes: quarantineVolumes(s.slots())}
	item.Path = filepath.Join(s.quarantineDir(), fmt.Sprintf("%s-e%d-%d-%d", s.group.ID, item.Epoch, common+1, st.LastLSN))
	if have, err := readQuarantine(item.Path); err == nil {
		return have, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err := os.MkdirAll(item.Path, 0o700); err != nil {
		return nil, err
	}
	if err := s.keepFrames(&item, first); err != nil {
		return nil, fmt.Errorf("quarantine group %s: %w", s.group.ID, err)
	}
	if err := s.keepBlocks(&item, common, maps); err != nil {
		return nil, fmt.Errorf("quarantine group %s: %w", s.group.ID, err)
	}
	if len(item.Extents) == 0 {
		return nil, os.RemoveAll(item.Path) // marks only
	}
	item.ID, item.Count = filepath.Base(item.Path), len(item.Extents)
	b, err := json.MarshalIndent(item, "", " ")
	if err != nil {
		return nil, err
	}
	if err := s.writeFile(filepath.Join(item.Path, quarantineMap), b); err != nil {
		return nil, fmt.Errorf("quarantine group %s: %w", s.group.ID, err)
	}
	return &item, errors.Join(durable.SyncDir(s.quarantineDir()), durable.SyncDir(s.dir))
}

// keepFrames writes the frames from first on, and their extents into the map.
func (s *store) keepFrames(item *api.Quarantined, first domain.LSN) error {
	return s.fill(filepath.Join(item.Path, quarantineFrames), func(w *bufio.Writer) error {
		names := s.slots()
		defer func() { item.Volumes = quarantineVolumes(names) }()
		return s.eachFrame(first, item.LastLSN, func(f *journal.Frame) error {
			for i, e := range f.Entries {
				lsn := f.FirstLSN + domain.LSN(i)
				if c, is, err := tableChange(e); is { // the copy's volumes may not have come to it
					if err == nil {
						names, err = names.Apply(c, lsn, f.Epoch)
					}
					if err != nil {
						return err
					}
				}
				if lsn < first || e.Op == journal.OpFlush || e.Op == journal.OpMarker {
					continue
				}
				item.Writes++
				item.Bytes += uint64(e.Len)
				item.Extents = append(item.Extents, api.QuarantinedExtent{
					Volume: names[e.Volume].ID, Offset: e.Off, Length: e.Len, LSN: lsn, Time: f.Time})
			}
			if item.From.IsZero() {
				item.From = f.Time
			}
			item.To = f.Time
			b, err := journal.Encode(f)
			if err != nil {
				return err
			}
			_, err = w.Write(b)
			return err
		})
	})
}

// keepBlocks writes the blocks that diverged and whose frames are gone from the ring: their order is lost, their last
// content is not. When no bitmap tells which they are, that is all that the volumes hold.
func (s *store) keepBlocks(item *api.Quarantined, common domain.LSN, maps []*dirtyMap) error {
	set := extent.New(s.sizes())
	if tail := s.j.State().TailLSN; tail > common+1 && !unite(set, maps, common, tail) {
		set.MarkAll()
	}
	return s.fill(filepath.Join(item.Path, quarantineBlocks), func(w *bufio.Writer) error {
		for run := range set.Runs(1 << 20) {
			buf := make([]byte, run.Len)
			if _, err := s.vols()[run.Volume].ReadAt(buf, run.Off); err != nil {
				return err
			}
			if allZero(buf) {
				continue // an export reads as zeroes wherever it holds nothing
			}
			rec := record{kind: recordData, volume: uint16(run.Volume), off: run.Off, length: run.Len, payload: buf}
			if _, err := w.Write(rec.append(nil)); err != nil {
				return err
			}
			item.Bytes += uint64(run.Len)
			item.Extents = append(item.Extents, api.QuarantinedExtent{Volume: s.slots()[run.Volume].ID, Offset: run.Off, Length: run.Len})
		}
		return nil
	})
}

// fill makes a file of the quarantine, which a test may have fail at its end, by its name.
func (s *store) fill(path string, fill func(*bufio.Writer) error) error {
	return writeFile(path, func(w *bufio.Writer) error { return errors.Join(fill(w), s.fails(filepath.Base(path))) })
}

// writeFile makes a file durable; its folder's entry is the caller's.
func writeFile(path string, fill func(*bufio.Writer) error) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	err = fill(w)
	return errors.Join(err, w.Flush(), f.Sync(), f.Close())
}

func readQuarantine(dir string) (*api.Quarantined, error) {
	b, err := os.ReadFile(filepath.Join(dir, quarantineMap))
	if err != nil {
		return nil, err
	}
	var item api.Quarantined
	if err := json.Unmarshal(b, &item); err != nil {
		return nil, fmt.Errorf("read quarantine %s: %w", dir, err)
	}
	item.Path, item.ID, item.Count = dir, filepath.Base(dir), len(item.Extents)
	return &item, nil
}

// quarantined lists what was kept aside, oldest change first.
func (s *store) quarantined() ([]api.Quarantined, error) {
	dirs, err := filepath.Glob(filepath.Join(s.quarantineDir(), "*"))
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	out := []api.Quarantined{}
	for _, d := range dirs {
		if strings.HasSuffix(d, discardedSuffix) {
			continue
		}
		if item, ok := s.kept[d]; ok {
			out = append(out, item)
			continue
		}
		item, err := readQuarantine(d)
		if errors.Is(err, fs.ErrNotExist) {
			continue // being written
		}
		if err != nil {
			return nil, err
		}
		s.kept[d] = *item
		out = append(out, *item)
	}
	slices.SortFunc(out, func(a, b api.Quarantined) int {
		if a.Epoch != b.Epoch {
			return int(a.Epoch - b.Epoch)
		}
		return int(int64(a.FirstLSN) - int64(b.FirstLSN))
	})
	return out, nil
}

func allZero(b []byte) bool {
	for len(b) >= 8 {
		if b[0]|b[1]|b[2]|b[3]|b[4]|b[5]|b[6]|b[7] != 0 {
			return false
		}
		b = b[8:]
	}
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
