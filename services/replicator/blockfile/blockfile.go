// Package blockfile is a plain file or a block device as the medium of a volume's blocks: read and written in place,
// with holes where nothing is.
package blockfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// File is an open file or device. Its methods may be called concurrently for ranges that do not overlap.
type File struct {
	path   string
	f      *os.File
	fd     int
	direct *os.File // nil: all goes through the page cache
	device bool
}

// Open opens a plain file or a block device that no other process holds. size is what it must have, in bytes; 0 takes
// what it has. mode Direct needs a file system that has it. Errors wrap domain.ErrInvalid (what it is), domain.ErrNotFound, or domain.ErrConflict (who holds it), and
// say the mend.
func Open(path string, size int64, mode Mode) (*File, error) {
	device, err := kind(path)
	if err != nil {
		return nil, err
	}
	flags := os.O_RDWR
	if device {
		flags |= unix.O_EXCL // a device that is mounted, or part of another one, is refused
	}
	f, err := os.OpenFile(path, flags, 0)
	if errors.Is(err, unix.EBUSY) {
		return nil, fmt.Errorf("the device is in use; unmount it, or give another: %w", domain.ErrConflict)
	}
	if err != nil {
		return nil, err
	}
	file := &File{path: path, f: f, fd: int(f.Fd()), device: device}
	err = file.claim(size)
	if err == nil && mode == Direct {
		err = file.openDirect()
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return file, nil
}

// kind tells a block device from a plain file, and refuses all else.
func kind(path string) (device bool, err error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, fmt.Errorf("no such file; create it first: %w", domain.ErrNotFound)
	case err != nil:
		return false, err
	case info.IsDir():
		return false, fmt.Errorf("it is a directory; name a file: %w", domain.ErrInvalid)
	case info.Mode()&(os.ModeDevice|os.ModeCharDevice) == os.ModeDevice:
		return true, nil
	case !info.Mode().IsRegular():
		return false, fmt.Errorf("it is not a plain file or block device (%v); name one: %w", info.Mode().Type(), domain.ErrInvalid)
	}
	return false, nil
}

// claim locks the file and checks its size, in this order, so that nobody resizes it in between.
func (f *File) claim(size int64) error {
	err := unix.Flock(f.fd, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("another process serves this file; stop it first: %w", domain.ErrConflict)
	}
	if err != nil {
		return fmt.Errorf("lock: %w", err)
	}
	has, err := f.Size()
	if err != nil {
		return err
	}
	if size != 0 && has != size {
		return fmt.Errorf("the file has %d bytes, the volume should have %d; give the right size, or another file: %w", has, size, domain.ErrInvalid)
	}
	return nil
}

// Device reports whether it is a block device.
func (f *File) Device() bool { return f.device }

// Reserve takes the space of a range, which keeps what it holds; where that cannot be, it does nothing.
func (f *File) Reserve(off, n int64) error {
	err := retryInterrupted(func() error { return unix.Fallocate(f.fd, unix.FALLOC_FL_KEEP_SIZE, off, n) })
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return nil
	}
	return err
}

// Size is the length in bytes; a device has it at its end.
func (f *File) Size() (int64, error) { return f.f.Seek(0, io.SeekEnd) }

// Truncate makes a plain file longer, with a hole, or shorter. A device cannot be changed: domain.ErrInvalid.
func (f *File) Truncate(size int64) error {
	if f.device {
		return fmt.Errorf("resize %s: a block device is resized by what made it: %w", f.path, domain.ErrInvalid)
	}
	return f.f.Truncate(size)
}

// Allocated is the space the file takes on its file system, in bytes; a device takes all of its own.
func (f *File) Allocated() (int64, error) {
	if f.device {
		return f.Size()
	}
	var st unix.Stat_t
	err := unix.Fstat(f.fd, &st)
	return st.Blocks * 512, err
}

// ReadAt reads len(p) bytes.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	if f.past(p, off) {
		return f.readPast(p, off)
	}
	return f.f.ReadAt(p, off)
}

// TryRead reads what the page cache has, and says whether that was all.
func (f *File) TryRead(p []byte, off int64) bool {
	if f.direct != nil {
		return false
	}
	n, err := unix.Preadv2(f.fd, [][]byte{p}, off, unix.RWF_NOWAIT)
	return err == nil && n == len(p)
}

// WriteAt writes p; it is durable after the next Sync.
func (f *File) WriteAt(p []byte, off int64) (int, error) {
	if f.past(p, off) {
		return f.writePast(p, off)
	}
	return f.f.WriteAt(p, off)
}

// Sync makes everything that was written durable. It must not be tried again after a failure.
func (f *File) Sync() error {
	return retryInterrupted(func() error { return unix.Fdatasync(f.fd) })
}

// Zero makes a range read as zeroes; it may stay allocated.
func (f *File) Zero(off, n int64) error {
	return f.clear(unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, off, n)
}

// Unmap makes a range read as zeroes and gives its space back.
func (f *File) Unmap(off, n int64) error {
	return f.clear(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
}

// clear asks the file system to zero a range and writes zeroes where it cannot.
func (f *File) clear(mode uint32, off, n int64) error {
	err := retryInterrupted(func() error { return unix.Fallocate(f.fd, mode, off, n) })
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EINVAL) {
		return err
	}
	zeroes := make([]byte, min(n, 1<<20))
	for n > 0 {
		part := zeroes[:min(n, int64(len(zeroes)))]
		if _, err := f.f.WriteAt(part, off); err != nil {
			return err
		}
		off, n = off+int64(len(part)), n-int64(len(part))
	}
	return nil
}

// Extent tells whether off is allocated, and for how many bytes from there on that holds. A device is allocated.
func (f *File) Extent(off int64) (mapped bool, length int64, err error) {
	size, err := f.Size()
	if err != nil {
		return false, 0, err
	}
	if f.device {
		return true, size - off, nil
	}
	data, err := unix.Seek(f.fd, off, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return false, size - off, nil
	}
	if err != nil {
		return false, 0, err
	}
	if data > off {
		return false, data - off, nil
	}
	hole, err := unix.Seek(f.fd, off, unix.SEEK_HOLE)
	if err != nil {
		return false, 0, err
	}
	return true, hole - off, nil
}

// Close lets go of the file; it makes nothing durable.
func (f *File) Close() error {
	if f.direct != nil {
		return errors.Join(f.direct.Close(), f.f.Close())
	}
	return f.f.Close()
}

func retryInterrupted(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
