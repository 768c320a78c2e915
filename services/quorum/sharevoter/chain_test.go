package sharevoter_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
	"github.com/holdfast-dr/holdfast/services/quorum/passivetest"
	"github.com/holdfast-dr/holdfast/services/quorum/sharevoter"
)

func open(t *testing.T, share string) *sharevoter.Chain {
	t.Helper()
	c, err := sharevoter.Share{Dir: share, Local: true}.Open("test", "erp")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestAShareIsAPassiveVoter(t *testing.T) {
	share := t.TempDir()
	passivetest.Run(t, 1000, func(t *testing.T, cluster string, group domain.GroupID) passivetest.Records {
		c, err := sharevoter.Share{Dir: share, Local: true}.Open(cluster, group)
		if err != nil {
			t.Fatal(err)
		}
		return c
	})
	left, err := filepath.Glob(filepath.Join(share, "*", "*", ".temp-*"))
	if err != nil || len(left) != 0 {
		t.Errorf("temporary files left: %v, %v", left, err)
	}
}

func TestAChainIsPrunedAndASlowClientStillLoses(t *testing.T) {
	share := t.TempDir()
	c := open(t, share)
	const last = 4 * sharevoter.Keep
	for v := range uint64(last) {
		if how, err := c.Swap(v, passivetest.Record(v)); how != core.SwapWon || err != nil {
			t.Fatalf("version %d: %v, %v", v+1, how, err)
		}
	}
	files, err := filepath.Glob(filepath.Join(share, "test", "erp", "v*"))
	if err != nil || len(files) > 2*sharevoter.Keep {
		t.Errorf("%d versions are kept, %v", len(files), err)
	}
	for _, expect := range []uint64{0, 1, sharevoter.Keep, last - 1} {
		if how, err := c.Swap(expect, passivetest.Record(999)); how != core.SwapLost || err != nil {
			t.Errorf("a client %d versions behind: %v, %v", last-expect, how, err)
		}
	}
	if version, rec, err := c.Read(); err != nil || version != last || rec.HB == 999 {
		t.Errorf("reads version %d, hb %d, %v", version, rec.HB, err)
	}
}

func TestACorruptVersionIsAnError(t *testing.T) {
	share := t.TempDir()
	c := open(t, share)
	if how, err := c.Swap(0, passivetest.Record(1)); how != core.SwapWon {
		t.Fatal(how, err)
	}
	files, _ := filepath.Glob(filepath.Join(share, "test", "erp", "v*"))
	if err := os.WriteFile(files[0], []byte("holdfast-share-1 00000000\n{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Read(); !errors.Is(err, sharevoter.ErrCorrupt) || !errors.Is(err, domain.ErrRefused) {
		t.Errorf("read: %v, want corrupt", err)
	}
}

func TestAShareThatIsGoneIsUnavailable(t *testing.T) {
	share := t.TempDir()
	c := open(t, share)
	if err := os.RemoveAll(share); err != nil {
		t.Fatal(err)
	}
	passivetest.Unavailable(t, c)
}

func TestConformProbesAndLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	if err := (sharevoter.Share{Dir: dir, Local: true}).Conform("main"); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(filepath.Join(dir, "main"))
	if err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := (sharevoter.Share{Dir: filepath.Join(dir, "file"), Local: true}).Conform("main"); !errors.Is(err, domain.ErrUnavailable) {
		t.Errorf("a share that is no folder: %v", err)
	}
}

// A share that is not mounted leaves its mount point, an empty folder of the local disk, where each site would have a vote of its own.
func TestAMountPointWithoutItsShareGetsNoVote(t *testing.T) {
	point := t.TempDir()
	share := sharevoter.Share{Dir: point}
	if _, err := share.Open("test", "erp"); !errors.Is(err, sharevoter.ErrNotMounted) || !errors.Is(err, domain.ErrUnavailable) || !strings.Contains(err.Error(), point) {
		t.Errorf("open: %v", err)
	}
	if err := share.Conform("test"); !errors.Is(err, sharevoter.ErrNotMounted) {
		t.Errorf("probe: %v", err)
	}
	if left, err := os.ReadDir(point); err != nil || len(left) != 0 {
		t.Errorf("it was written to: %v, %v", left, err)
	}
	gone := sharevoter.Share{Dir: filepath.Join(point, "never-made"), Local: true}
	if _, err := gone.Open("test", "erp"); !errors.Is(err, domain.ErrUnavailable) {
		t.Errorf("a folder that is not there: %v", err)
	}
	if _, err := os.Stat(gone.Dir); err == nil {
		t.Error("the share's folder was made")
	}
}
