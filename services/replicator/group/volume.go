package group

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/durable"
)

// volume is one volume's sparse file. Writes go to the page cache; Sync makes them durable.
type volume struct {
	f     *os.File
	size  int64
	fails func(place string) error // in tests: how a write or a flush fails; nil: never
}

// openVolume opens the file, or makes it when create is set: also one that a kill left made and not yet sized. A file of
// another size is domain.ErrInvalid.
func openVolume(path string, size int64, create bool) (*volume, error) {
	flags := os.O_RDWR
	if create {
		flags |= os.O_CREATE
	}
	f, err := os.OpenFile(path, flags, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open volume %s: %w", path, err)
	}
	st, err := f.Stat()
	switch {
	case err != nil:
	case create && st.Size() == 0:
		err = errors.Join(f.Truncate(size), f.Sync(), durable.SyncDir(filepath.Dir(path)))
	case st.Size() != size:
		err = fmt.Errorf("the file has %d bytes, the group's definition says %d; mend the definition, or restore the file: %w",
			st.Size(), size, domain.ErrInvalid)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open volume %s: %w", path, err), f.Close())
	}
	return &volume{f: f, size: size}, nil
}

// ReadAt reads what was applied.
func (v *volume) ReadAt(p []byte, off int64) (int, error) { return v.f.ReadAt(p, off) }

// WriteAt implements journal.Volume.
func (v *volume) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > v.size {
		return 0, fmt.Errorf("write %d bytes at %d of %d: %w", len(p), off, v.size, domain.ErrInvalid)
	}
	if err := v.failing("volume write"); err != nil {
		n, _ := v.f.WriteAt(p[:len(p)/2], off)
		return n, err
	}
	return v.f.WriteAt(p, off)
}

// Zero implements journal.Volume.
func (v *volume) Zero(off, n int64) error {
	return v.punch(unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, off, n)
}

// Unmap implements journal.Volume.
func (v *volume) Unmap(off, n int64) error {
	return v.punch(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
}

func (v *volume) punch(mode uint32, off, n int64) error {
	if off < 0 || n < 0 || off > v.size-n {
		return fmt.Errorf("zero %d bytes at %d of %d: %w", n, off, v.size, domain.ErrInvalid)
	}
	if err := v.failing("volume write"); err != nil {
		return err
	}
	err := again(func() error { return unix.Fallocate(int(v.f.Fd()), mode, off, n) })
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.ENOSYS) {
		return err
	}
	zeroes := make([]byte, min(n, 1<<20))
	for n > 0 {
		part := zeroes[:min(n, int64(len(zeroes)))]
		if _, err := v.f.WriteAt(part, off); err != nil {
			return err
		}
		off, n = off+int64(len(part)), n-int64(len(part))
	}
	return nil
}

// clear makes all of the volume zeroes that take no space, durably.
func (v *volume) clear() error {
	return errors.Join(v.f.Truncate(0), v.f.Truncate(v.size), v.f.Sync())
}

// Sync implements journal.Volume. fdatasync is not repeated: it does not report EINTR for what it lost.
func (v *volume) Sync() error {
	if err := v.failing("volume flush"); err != nil {
		return err
	}
	return unix.Fdatasync(int(v.f.Fd()))
}

func (v *volume) failing(place string) error {
	if v.fails == nil {
		return nil
	}
	return v.fails(place)
}

func again(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// removeDurably removes a file or folder; one that is not there is no error.
func removeDurably(path string) error {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(path))
}
