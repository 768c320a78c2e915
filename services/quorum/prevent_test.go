//go:build unix

package quorum

import (
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/api"
)

func TestWhatCannotBeReadPreventsAndEndsNothing(t *testing.T) {
	s := &service{cfg: Config{Dir: t.TempDir()}, log: slog.New(slog.DiscardHandler)}
	if s.readPrevented(); s.prevented.Load() {
		t.Fatal("prevented without a request")
	}
	if err := os.Mkdir(filepath.Join(s.cfg.Dir, preventFile), 0o700); err != nil { // no file: reading it fails for everybody
		t.Fatal(err)
	}
	if _, on, err := Prevented(s.cfg.Dir); !on || err == nil {
		t.Fatalf("%v, %v", on, err)
	}
	if s.readPrevented(); !s.prevented.Load() {
		t.Fatal("allowed by what cannot be read")
	}
	if err := SetPrevent(s.cfg.Dir, api.PreventRequest{}); err != nil {
		t.Fatal(err)
	}
	if s.readPrevented(); s.prevented.Load() {
		t.Fatal("prevented after it was allowed")
	}
}

// holdfast quorum prevent --offline is run as root, and the service of the folder is somebody else.
func TestWhatRootPreventsTheServiceCanRead(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: only root writes files for others")
	}
	const user = 65534
	owner := func(path string) uint32 {
		t.Helper()
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return st.Sys().(*syscall.Stat_t).Uid
	}
	data := t.TempDir()
	if err := os.Chown(data, user, user); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(data, "quorum")
	if err := SetPrevent(dir, api.PreventRequest{On: true, Why: "b was forced"}); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, filepath.Join(dir, preventFile)} {
		if got := owner(path); got != user {
			t.Errorf("%s belongs to %d, want %d", path, got, user)
		}
	}
	if req, on, err := Prevented(dir); err != nil || !on || req.Why != "b was forced" {
		t.Fatalf("%+v, %v, %v", req, on, err)
	}
}
