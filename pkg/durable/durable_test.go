package durable_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/durable"
)

func TestAWriteThatIsStoppedLeavesTheOldContentOrTheNew(t *testing.T) {
	steps := []durable.Step{durable.Written, durable.Synced, durable.Renamed, durable.DirSynced}
	stop := errors.New("stop")
	for i, last := range steps {
		path := filepath.Join(t.TempDir(), "file")
		if err := durable.WriteFile(path, []byte("old, and longer"), 0o600); err != nil {
			t.Fatal(err)
		}
		var seen []durable.Step
		err := durable.WriteFileAt(path, []byte("new"), 0o600, func(s durable.Step) error {
			seen = append(seen, s)
			if s == last {
				return stop
			}
			return nil
		})
		if !errors.Is(err, stop) || len(seen) != i+1 || seen[i] != last {
			t.Errorf("%s: %v after %v", last, err, seen)
		}
		want := "old, and longer"
		if i >= 2 {
			want = "new"
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", last, got, err)
		}
		if err := durable.WriteFile(path, []byte("next"), 0o600); err != nil {
			t.Errorf("%s: the next write: %v", last, err)
		}
		left, err := os.ReadDir(filepath.Dir(path))
		if err != nil || len(left) != 1 {
			t.Errorf("%s: left %v, %v", last, left, err)
		}
	}
}

func TestWhatCannotBeWrittenIsAnError(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	if err := durable.WriteFile(filepath.Join(missing, "file"), nil, 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("write: %v", err)
	}
	if err := durable.SyncDir(missing); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("sync: %v", err)
	}
}
