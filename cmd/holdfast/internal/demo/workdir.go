package demo

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

func workDir(o Options) (string, func(), error) {
	if o.Dir == "" {
		dir, err := os.MkdirTemp("", "holdfast-demo-")
		if err != nil {
			return "", nil, fmt.Errorf("make the demo's folder: %w", err)
		}
		if err := roomIn(dir, roomNeeded); err != nil {
			return "", nil, errors.Join(err, os.Remove(dir))
		}
		if o.Keep {
			return dir, func() {}, nil
		}
		return dir, func() { _ = os.RemoveAll(dir) }, nil
	}
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return "", nil, fmt.Errorf("make the demo's folder: %w", err)
	}
	entries, err := os.ReadDir(o.Dir)
	if err != nil {
		return "", nil, fmt.Errorf("look into the demo's folder: %w", err)
	}
	if len(entries) > 0 {
		return "", nil, fmt.Errorf("folder %s is not empty: %w: name an empty or new one, so that nothing of yours is overwritten", o.Dir, domain.ErrInvalid)
	}
	if err := roomIn(o.Dir, roomNeeded); err != nil {
		return "", nil, err
	}
	return o.Dir, func() {
		if o.Keep {
			return
		}
		for _, pattern := range []string{"site-*", "host-*"} {
			names, _ := os.ReadDir(o.Dir)
			for _, n := range names {
				if strings.HasPrefix(n.Name(), strings.TrimSuffix(pattern, "*")) {
					_ = os.RemoveAll(o.Dir + "/" + n.Name())
				}
			}
		}
	}, nil
}

// roomNeeded is what the sites' journals, which are reserved in full, and what a scenario writes come to, with something to spare.
const roomNeeded = 384 << 20

// roomIn refuses a folder whose file system would be full in the middle of the demo.
func roomIn(dir string, need uint64) error {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return fmt.Errorf("look for room in %s: %w", dir, err)
	}
	if have := st.Bavail * uint64(st.Bsize); have < need {
		return fmt.Errorf("folder %s has %d MiB of free space, the demo needs %d MiB: make room, or name a folder elsewhere with --dir: %w", dir, have>>20, need>>20, syscall.ENOSPC)
	}
	return nil
}
