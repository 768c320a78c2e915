package journal

import (
	"github.com/holdfast-dr/holdfast/services/replicator/journal/vfs"
)

// nullFS keeps nothing: what is measured on it is the journal's own work.
type nullFS struct{}

func (nullFS) Create(string) (vfs.File, error)      { return nullFile{}, nil }
func (nullFS) Open(string) (vfs.File, error)        { return nullFile{}, nil }
func (nullFS) Exists(string) (bool, error)          { return false, nil }
func (nullFS) Rename(oldPath, newPath string) error { return nil }
func (nullFS) Remove(string) error                  { return nil }

type nullFile struct{}

func (nullFile) ReadAt(p []byte, _ int64) (int, error)    { return len(p), nil }
func (nullFile) WriteAt(p []byte, _ int64) (int, error)   { return len(p), nil }
func (nullFile) WriteSync(p []byte, _ int64) (int, error) { return len(p), nil }
func (nullFile) Sync() error                              { return nil }
func (nullFile) Allocate(int64) error                     { return nil }
func (nullFile) Size() (int64, error)                     { return MinSize, nil }
func (nullFile) Close() error                             { return nil }
