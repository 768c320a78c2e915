package pool

import (
	"errors"
	"io/fs"
	"os"
	"strings"
)

const keptSuffix = ".kept"

// keptRecord is what initiators asked a volume to keep through a loss of power. It is named by the volume's id, so that a
// new volume of an old name begins without.
type keptRecord struct {
	Bytes []byte `json:"bytes"`
}

func (p *Pool) keptPath(id string) string { return p.path("volumes", id+keptSuffix) }

// Kept is what Keep kept last, nil when nothing was.
func (u *unit) Kept() ([]byte, error) {
	r, err := readRecord[keptRecord](u.kept, "kept")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return r.Bytes, err
}

// Keep replaces it, durably on return.
func (u *unit) Keep(b []byte) error { return writeRecord(u.kept, "kept", keptRecord{Bytes: b}) }

// dropKept removes what was kept for volumes that are gone.
func (p *Pool) dropKept() error {
	entries, err := os.ReadDir(p.path("volumes"))
	if err != nil {
		return err
	}
	there := map[string]bool{}
	for _, v := range p.sorted() {
		there[v.rec.ID] = true
	}
	for _, e := range entries {
		if id, ok := strings.CutSuffix(e.Name(), keptSuffix); ok && !there[id] {
			if err := removeFile(p.path("volumes", e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}
