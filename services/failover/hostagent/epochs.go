package hostagent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// epochs remembers the highest epoch seen for each group, on disk.
type epochs struct {
	path string

	mu   sync.Mutex
	seen map[domain.GroupID]domain.Epoch
}

// openEpochs reads what was seen. A damaged file is an error: a host that forgot must not guess.
func openEpochs(dir string) (*epochs, error) {
	e := &epochs{path: filepath.Join(dir, "epochs.json"), seen: map[domain.GroupID]domain.Epoch{}}
	b, err := os.ReadFile(e.path)
	if errors.Is(err, fs.ErrNotExist) {
		return e, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the epochs seen: %w", err)
	}
	if err := json.Unmarshal(b, &e.seen); err != nil {
		return nil, fmt.Errorf("read the epochs seen: %s is damaged: %w", e.path, err)
	}
	return e, nil
}

// raise remembers epoch for group, durably when it is new, and refuses a lower one than seen with domain.ErrStaleEpoch.
func (e *epochs) raise(group domain.GroupID, epoch domain.Epoch) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	seen := e.seen[group]
	switch {
	case epoch < seen:
		return fmt.Errorf("group %s: epoch %s after epoch %s: %w", group, epoch, seen, domain.ErrStaleEpoch)
	case epoch == seen:
		return nil
	}
	e.seen[group] = epoch
	if err := e.write(); err != nil {
		e.seen[group] = seen
		return fmt.Errorf("remember epoch %s of group %s: %w", epoch, group, err)
	}
	return nil
}

func (e *epochs) write() error {
	b, err := json.MarshalIndent(e.seen, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.Create(e.path + ".new")
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(e.path+".new", e.path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(e.path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
