//go:build unix

package identity

import (
	"os"
	"path/filepath"
	"syscall"
)

// adopt gives what root has made to the owner of the folder it is in: the services run as that user, and a file of a rotation
// must be theirs from its first moment. Anybody else's files are their own already.
func adopt(path string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	st, err := os.Stat(filepath.Dir(path))
	if err != nil {
		return err
	}
	owner, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	return os.Lchown(path, int(owner.Uid), int(owner.Gid))
}
