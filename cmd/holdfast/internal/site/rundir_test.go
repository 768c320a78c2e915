package site

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/config"
)

func memoryFolder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp(sharedMemory, "holdfast-test-")
	if err != nil {
		t.Skipf("SKIPPED: no shared memory: %v", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func TestVoterRemembersOnlyWhereNobodyElseCanWrite(t *testing.T) {
	dir := memoryFolder(t)
	var said bytes.Buffer
	log := slog.New(slog.NewTextHandler(&said, nil))
	got := voterMemory(config.Config{Cluster: "main", Site: "a", RunDir: dir}, log)
	if got != filepath.Join(dir, "votes") || said.Len() > 0 {
		t.Fatalf("%q %s", got, said.String())
	}
	if again := voterMemory(config.Config{RunDir: dir}, log); again != got {
		t.Fatalf("a second time: %q %s", again, said.String())
	}
	if err := os.Chmod(got, 0o777); err != nil {
		t.Fatal(err)
	}
	if open := voterMemory(config.Config{RunDir: dir}, log); open != "" || !strings.Contains(said.String(), "set run_dir") {
		t.Fatalf("a folder that everybody can write is used: %q %s", open, said.String())
	}
}

func TestVoterDoesNotTrustAFolderThatOutlivesTheMachine(t *testing.T) {
	dir, err := os.MkdirTemp(".", "disk-") // beside the sources: a disk
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := private(filepath.Join(dir, "x")); err == nil || !strings.Contains(err.Error(), "not in memory") {
		t.Fatal(err)
	}
}

func TestInstallationsOnOneMachineDoNotShareTheirVoters(t *testing.T) {
	_ = memoryFolder(t)
	log := slog.New(slog.DiscardHandler)
	a := voterMemory(config.Config{Cluster: "main", Site: "a", DataDir: t.TempDir()}, log)
	b := voterMemory(config.Config{Cluster: "main", Site: "a", DataDir: t.TempDir()}, log)
	defer func() { _, _ = os.RemoveAll(filepath.Dir(a)), os.RemoveAll(filepath.Dir(b)) }()
	if a == "" || a == b {
		t.Fatalf("%q and %q", a, b)
	}
}
