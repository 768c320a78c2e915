// Package vfs is the seam between the journal and the disk: the few file operations a journal needs, and the real
// ones. Package faultdisk has a disk that loses, tears and fails.
package vfs

import (
	"errors"
	"syscall"
	"unsafe"
)

// PageSize is the unit of every transfer, in bytes.
const PageSize = 4096

// FS is the file system a journal lives on.
type FS interface {
	// Create makes an empty file, or truncates the one there is, and opens it for one opener only.
	Create(path string) (File, error)
	// Open opens an existing file for reading and writing, for one opener only.
	Open(path string) (File, error)
	// Exists reports whether there is a file of that name.
	Exists(path string) (bool, error)
	// Rename replaces newPath by oldPath, durably on return.
	Rename(oldPath, newPath string) error
	// Remove deletes a file.
	Remove(path string) error
}

// File is one open file. Its methods may be called concurrently for ranges that do not overlap. Offset, length and
// address of every transfer are multiples of PageSize.
type File interface {
	// ReadAt reads len(p) bytes, or fails.
	ReadAt(p []byte, off int64) (int, error)
	// WriteAt writes p; it is durable after the next Sync.
	WriteAt(p []byte, off int64) (int, error)
	// WriteSync writes p and returns when it is durable; what WriteAt wrote before need not be. Not atomic: after a
	// crash any part of p may have been written.
	WriteSync(p []byte, off int64) (int, error)
	// Sync makes everything written durable. After an error nothing written since the last success can be trusted.
	Sync() error
	// Allocate reserves size bytes, so that a full disk shows at once. nil where the file system cannot.
	Allocate(size int64) error
	// Size is the length in bytes.
	Size() (int64, error)
	// Close closes the file; it makes nothing durable.
	Close() error
}

// Aligned allocates n zero bytes that begin on a page.
func Aligned(n int) []byte {
	raw := make([]byte, n+PageSize)
	skip := 0
	if r := int(uintptr(unsafe.Pointer(unsafe.SliceData(raw))) % PageSize); r != 0 {
		skip = PageSize - r
	}
	return raw[skip : skip+n : skip+n]
}

// IsAligned reports whether b begins on a page.
func IsAligned(b []byte) bool {
	return uintptr(unsafe.Pointer(unsafe.SliceData(b)))%PageSize == 0
}

// IsFull reports whether an error is a disk, or a quota, that has no room left. What failed with it may be done again.
func IsFull(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }
