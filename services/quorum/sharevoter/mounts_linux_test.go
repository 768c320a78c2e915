package sharevoter_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/quorum/passivetest"
	"github.com/holdfast-dr/holdfast/services/quorum/sharevoter"
)

// mounts are the two mounts of one share that HOLDFAST_SHARE_MOUNTS names, or two of a local folder made here.
func mounts(t *testing.T) []sharevoter.Share {
	t.Helper()
	if given := os.Getenv("HOLDFAST_SHARE_MOUNTS"); given != "" {
		var out []sharevoter.Share
		for dir := range strings.SplitSeq(given, ":") {
			out = append(out, sharevoter.Share{Dir: dir})
		}
		return out
	}
	behind := t.TempDir()
	var out []sharevoter.Share
	for _, name := range []string{"one", "two"} {
		at := filepath.Join(t.TempDir(), name)
		if err := os.Mkdir(at, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount(behind, at, "", unix.MS_BIND, ""); err != nil {
			if os.Getenv("CI") == "" {
				t.Skipf("SKIPPED: a folder cannot be mounted twice here: %v: run it as root", err)
			}
			t.Fatalf("mount a folder: %v", err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(at, 0); err != nil {
				t.Errorf("unmount %s: %v", at, err)
			}
		})
		out = append(out, sharevoter.Share{Dir: at, Local: true})
	}
	return out
}

func TestAShareSeenThroughTwoMountsIsAPassiveVoter(t *testing.T) {
	seen := mounts(t)
	for _, s := range seen {
		if err := s.Conform("suite"); err != nil {
			t.Fatal(err)
		}
	}
	clients, next := 1000, 0
	if testing.Short() {
		clients = 100
	}
	passivetest.Run(t, clients, func(t *testing.T, cluster string, group domain.GroupID) passivetest.Records {
		next++
		c, err := seen[next%len(seen)].Open(cluster, group)
		if err != nil {
			t.Fatal(err)
		}
		return c
	})
}
