package blockfile

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestFastZeroIsTrue asks the file system itself wherever FastZero says yes.
func TestFastZeroIsTrue(t *testing.T) {
	path := filepath.Join(t.TempDir(), "v.img")
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	v, err := Open(path, 0, Cached)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	for hole, mode := range map[bool]uint32{true: unix.FALLOC_FL_PUNCH_HOLE, false: unix.FALLOC_FL_ZERO_RANGE} {
		if !v.FastZero(hole) {
			t.Logf("hole %v: not known to be fast here", hole)
			continue
		}
		err := unix.Fallocate(v.fd, mode|unix.FALLOC_FL_KEEP_SIZE, 4096, 8192)
		if errors.Is(err, unix.EOPNOTSUPP) {
			t.Errorf("hole %v: said to be fast, and is not there", hole)
		}
	}
}
