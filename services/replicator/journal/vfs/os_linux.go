package vfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// OS is the file system of the machine: O_DIRECT and O_DSYNC, or pwrite and fdatasync where there is no O_DIRECT
// (tmpfs, overlay). Every file is locked (flock), so that a journal has one opener, in this process or another.
func OS() FS { return osFS{} }

type osFS struct{}

// Create implements FS.
func (osFS) Create(path string) (File, error) { return openOS(path, os.O_CREATE|os.O_TRUNC) }

// Open implements FS.
func (osFS) Open(path string) (File, error) { return openOS(path, 0) }

// Exists implements FS.
func (osFS) Exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Rename implements FS.
func (osFS) Rename(oldPath, newPath string) error {
	if err := os.Rename(oldPath, newPath); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(newPath))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Remove implements FS.
func (osFS) Remove(path string) error { return os.Remove(path) }

// osFile has two descriptors of one file: one whose writes are durable on return, one whose writes wait for Sync.
// Without O_DIRECT both are the same.
type osFile struct {
	plain, dsync *os.File
	direct       bool
}

// openOS takes the lock before it truncates, so that creating over an open journal fails and harms nothing.
func openOS(path string, extra int) (File, error) {
	plain, err := os.OpenFile(path, os.O_RDWR|extra&^os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(plain.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s (is it open elsewhere?): %w", path, err), plain.Close())
	}
	if extra&os.O_TRUNC != 0 {
		if err := plain.Truncate(0); err != nil {
			return nil, errors.Join(err, plain.Close())
		}
	}
	dsync, err := os.OpenFile(path, os.O_RDWR|syscall.O_DIRECT|syscall.O_DSYNC, 0o600)
	if err == nil && !takesDirect(dsync) {
		err = errors.Join(syscall.EINVAL, dsync.Close())
	}
	if errors.Is(err, syscall.EINVAL) {
		return &osFile{plain: plain, dsync: plain}, nil
	}
	if err == nil {
		err = setDirect(plain)
	}
	if err != nil {
		return nil, errors.Join(err, plain.Close())
	}
	return &osFile{plain: plain, dsync: dsync, direct: true}, nil
}

// takesDirect tries a read: some file systems take the flag and refuse the transfer.
func takesDirect(f *os.File) bool {
	_, err := f.ReadAt(Aligned(PageSize), 0)
	return !errors.Is(err, syscall.EINVAL)
}

// setDirect makes the descriptor that holds the lock transfer past the page cache too, so that the two agree.
func setDirect(f *os.File) error {
	fd := f.Fd()
	flags, _, errno := syscall.Syscall(syscall.SYS_FCNTL, fd, syscall.F_GETFL, 0)
	if errno == 0 {
		_, _, errno = syscall.Syscall(syscall.SYS_FCNTL, fd, syscall.F_SETFL, flags|syscall.O_DIRECT)
	}
	if errno != 0 {
		return fmt.Errorf("set O_DIRECT: %w", errno)
	}
	return nil
}

// ReadAt implements File.
func (f *osFile) ReadAt(p []byte, off int64) (int, error) { return f.plain.ReadAt(p, off) }

// WriteAt implements File.
func (f *osFile) WriteAt(p []byte, off int64) (int, error) { return f.plain.WriteAt(p, off) }

// WriteSync implements File.
func (f *osFile) WriteSync(p []byte, off int64) (int, error) {
	n, err := f.dsync.WriteAt(p, off)
	if err != nil || f.direct {
		return n, err
	}
	return n, f.Sync()
}

// Sync implements File. It is not repeated when interrupted: fdatasync does not report EINTR for what it lost.
func (f *osFile) Sync() error { return syscall.Fdatasync(int(f.plain.Fd())) }

// Allocate implements File.
func (f *osFile) Allocate(size int64) error {
	err := syscall.Fallocate(int(f.plain.Fd()), 0, 0, size)
	if errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.ENOSYS) {
		return nil
	}
	return err
}

// Size implements File.
func (f *osFile) Size() (int64, error) {
	st, err := f.plain.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

// Close implements File.
func (f *osFile) Close() error {
	if f.direct {
		return errors.Join(f.dsync.Close(), f.plain.Close())
	}
	return f.plain.Close()
}
