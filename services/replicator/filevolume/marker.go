package filevolume

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/durable"
	"github.com/holdfast-dr/holdfast/services/replicator/blockfile"
	"github.com/holdfast-dr/holdfast/services/replicator/journal/vfs"
	"github.com/holdfast-dr/holdfast/services/replicator/record"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

// marked is what the marker of a sanitize says, in FILE.sanitize: how it is done, of which file, how far it is, and whether it
// failed. Where there is one, the volume's blocks are not to be read.
type marked struct {
	Inode    uint64 `json:"inode"`
	Born     uint64 `json:"born"`
	Pattern  []byte `json:"pattern,omitempty"` // none: the blocks are erased
	Passes   int    `json:"passes,omitempty"`
	Invert   bool   `json:"invert,omitempty"`
	MayLeave bool   `json:"may_leave,omitempty"`
	Done     int64  `json:"done"` // bytes written and durable, over all passes
	Failed   bool   `json:"failed,omitempty"`
}

const sanitizeSuffix = ".sanitize"

// marker keeps what is marked.
type marker struct {
	record.File
	id fileID
}

func markerOf(path string, id fileID) *marker {
	return &marker{record.File{FS: vfs.OS(), Path: besidePath(path, sanitizeSuffix)}, id}
}

func (m *marker) save(now marked) error {
	now.Inode, now.Born = m.id.inode, m.id.born
	b, err := json.Marshal(now)
	if err != nil {
		return err
	}
	return m.Save(b)
}

// remove says, durably, that the sanitize ended.
func (m *marker) remove() error {
	if err := os.Remove(m.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return durable.SyncDir(filepath.Dir(m.Path))
}

// load is what is marked, nil where nothing is. A marker that is not of this file, or of a file whose content is not what the
// sanitize left, is domain.ErrConflict: going on would destroy what was put in its place.
func (m *marker) load(volume *blockfile.File, size int64) (*marked, error) {
	b, err := m.Load()
	if err != nil || b == nil {
		return nil, err
	}
	var now marked
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&now); err != nil {
		return nil, fmt.Errorf("read marker %s: %w: %w", m.Path, domain.ErrInvalid, err)
	}
	if len(now.Pattern) > target.BlockSize || (len(now.Pattern) > 0) != (now.Passes > 0) || now.Done < 0 {
		return nil, fmt.Errorf("read marker %s: %w: no sanitize is such", m.Path, domain.ErrInvalid)
	}
	foreign := m.id != (fileID{now.Inode, now.Born})
	if !foreign && !now.Failed {
		foreign, err = now.foreign(volume, size)
	}
	if err == nil && foreign {
		err = fmt.Errorf("%s says that a sanitize has not ended, of another file or of what this one held before: %w; if the volume was restored since, remove %s",
			m.Path, domain.ErrConflict, m.Path)
	}
	return &now, err
}

// pass is which pass, and how far in it, done bytes are.
func (m *marked) pass(size int64) (n int, at int64) { return int(m.Done / size), m.Done % size }

// fill is what pass n writes, as many blocks of it as fit into a piece.
func (m *marked) fill(n int) []byte {
	out := make([]byte, sanitizePiece)
	if len(m.Pattern) == 0 {
		return out
	}
	block := out[:target.BlockSize]
	for i := range block {
		block[i] = m.Pattern[i%len(m.Pattern)]
		if m.Invert && n%2 == 1 {
			block[i] = ^block[i]
		}
	}
	for at := len(block); at < len(out); at += len(block) {
		copy(out[at:], block)
	}
	return out
}

// foreign looks at a few blocks of what is done, and tells whether one is not what was written there.
func (m *marked) foreign(volume *blockfile.File, size int64) (bool, error) {
	const samples = 64
	n, at := m.pass(size)
	if at == 0 {
		n, at = n-1, size
	}
	if n < 0 {
		return false, nil
	}
	want, have := m.fill(n)[:target.BlockSize], make([]byte, target.BlockSize)
	for i := range int64(samples) {
		off := at / samples * i / target.BlockSize * target.BlockSize
		if off+target.BlockSize > at {
			break
		}
		if _, err := volume.ReadAt(have, off); err != nil {
			return false, fmt.Errorf("look at what was sanitized: %w", err)
		}
		if !bytes.Equal(have, want) {
			return true, nil
		}
	}
	return false, nil
}
