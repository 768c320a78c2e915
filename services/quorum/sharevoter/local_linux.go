package sharevoter

import "golang.org/x/sys/unix"

// onLocalDisk reports whether a folder is on a file system that this machine has for itself, by the magic number of statfs(2). Cluster
// file systems (OCFS2, GFS2, Lustre, CephFS), NFS, SMB, 9P and FUSE are others.
func onLocalDisk(dir string) (bool, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return false, err
	}
	switch uint32(st.Type) {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.F2FS_SUPER_MAGIC, unix.TMPFS_MAGIC, unix.RAMFS_MAGIC, unix.OVERLAYFS_SUPER_MAGIC,
		unix.SQUASHFS_MAGIC, unix.MSDOS_SUPER_MAGIC, unix.EXFAT_SUPER_MAGIC, unix.REISERFS_SUPER_MAGIC, unix.BCACHEFS_SUPER_MAGIC, zfsMagic, jfsMagic:
		return true, nil
	}
	return false, nil
}

// Magic numbers that the package unix does not name.
const (
	zfsMagic = 0x2fc12fc1
	jfsMagic = 0x3153464a
)
