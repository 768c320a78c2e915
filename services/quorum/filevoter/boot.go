package filevoter

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/holdfast-dr/holdfast/pkg/durable"
)

// memorySuffix is of the files in memory that remember records.
const memorySuffix = ".record"

// ForgetOtherBoots reports whether a service last ran in another boot, of this machine or of another one that had its folder,
// true also when that is not known. Then what a voter keeps in memory here is not of its last life, and is removed
// first (but not which record it stored last: a record that is older is one that was put back), and also does what else is to be forgotten then; nil: nothing.
func ForgetOtherBoots(dir, mirror, bootID string, also func() error) (bool, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return false, fmt.Errorf("quorum directory: %w", err)
	}
	path := filepath.Join(dir, "boot-id")
	last, err := os.ReadFile(path)
	if err == nil && strings.TrimSpace(string(last)) == bootID {
		return false, nil
	}
	if mirror != "" {
		old, _ := filepath.Glob(filepath.Join(mirror, "*")) // the pattern is well-formed
		for _, f := range old {
			if strings.HasSuffix(f, memorySuffix) {
				continue
			}
			if err := os.Remove(f); err != nil {
				return false, fmt.Errorf("forget what a voter of another boot kept in memory: %w", err)
			}
		}
	}
	if also != nil {
		if err := also(); err != nil {
			return false, err
		}
	}
	if err := durable.WriteFile(path, []byte(bootID+"\n"), 0o600); err != nil {
		return false, fmt.Errorf("note boot id: %w", err)
	}
	return true, nil
}
