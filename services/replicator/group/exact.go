package group

import (
	"errors"
	"fmt"
	"io"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/hashmap"
	"github.com/holdfast-dr/holdfast/services/replicator/journal"
)

// exactBlocks bounds how many blocks are read at one LSN: changes wait meanwhile.
const exactBlocks = 256

// errUndecided means that what would decide is not in the journal any more, or not yet.
var errUndecided = errors.New("not decided")

// readExact reads blocks of a volume at one LSN: they show every change up to it and none after.
func (s *store) readExact(volume int, blocks []int64) (content [][]byte, at domain.LSN, err error) {
	if volume < 0 || volume >= len(s.vols()) || len(blocks) > exactBlocks {
		return nil, 0, fmt.Errorf("read %d blocks of volume %d: %w", len(blocks), volume, domain.ErrInvalid)
	}
	v := s.vols()[volume]
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	for _, b := range blocks {
		if b < 0 || b >= (v.size+hashmap.Block-1)/hashmap.Block {
			return nil, 0, fmt.Errorf("read block %d of volume %d: %w", b, volume, domain.ErrInvalid)
		}
		buf := make([]byte, min(hashmap.Block, v.size-b*hashmap.Block))
		if _, err := v.ReadAt(buf, b*hashmap.Block); err != nil && !errors.Is(err, io.EOF) {
			return nil, 0, err
		}
		content = append(content, buf)
	}
	if s.ap.Torn() {
		return nil, 0, fmt.Errorf("the disk is full in the middle of a change: %w", errUndecided)
	}
	return content, s.ap.Applied(), nil
}

// advance brings blocks, as they are at LSN from, to what they are at LSN to, by the journal's changes in between.
// errUndecided when the journal does not have them all.
func (s *store) advance(volume int, blocks []int64, content [][]byte, from, to domain.LSN) error {
	if to < from {
		return fmt.Errorf("from LSN %d back to %d: %w", from, to, errUndecided)
	}
	seen := from
	err := s.eachFrame(from+1, to, func(f *journal.Frame) error {
		for i, e := range f.Entries {
			lsn := f.FirstLSN + domain.LSN(i)
			if lsn <= from || lsn > to || int(e.Volume) != volume {
				continue
			}
			for k, b := range blocks {
				applyTo(content[k], b*hashmap.Block, e)
			}
		}
		seen = min(f.LastLSN, to)
		return nil
	})
	if errors.Is(err, journal.ErrNotRetained) || err == nil && seen < to {
		return fmt.Errorf("changes %d to %d are not all in the journal: %w", from+1, to, errUndecided)
	}
	return err
}

// applyTo applies a change to the part of it that a block at off has.
func applyTo(block []byte, off int64, e journal.Entry) {
	from, to := max(off, e.Off), min(off+int64(len(block)), e.Off+e.Len)
	if from >= to {
		return
	}
	switch e.Op {
	case journal.OpWrite:
		copy(block[from-off:to-off], e.Data[from-e.Off:to-e.Off])
	case journal.OpZero, journal.OpUnmap:
		clear(block[from-off : to-off])
	}
}
