package blockfile

import "golang.org/x/sys/unix"

// FastZero says whether zeroing a range never means writing it: whether the file system is one that is known to do it in its
// own records, by a hole or by an extent that is not yet written.
func (f *File) FastZero(hole bool) bool {
	var fs unix.Statfs_t
	if err := retryInterrupted(func() error { return unix.Fstatfs(f.fd, &fs) }); err != nil || f.device {
		return false
	}
	switch int64(fs.Type) {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC:
		return true
	case unix.TMPFS_MAGIC:
		return hole
	}
	return false
}
