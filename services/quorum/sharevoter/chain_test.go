package sharevoter_test

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
	"github.com/holdfast-dr/holdfast/services/quorum/sharevoter"
)

func open(t *testing.T, share string) *sharevoter.Chain {
	t.Helper()
	c, err := sharevoter.Open(share, "test", "erp")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func record(hb uint64) core.Record {
	return core.Record{Promised: domain.NewEpoch(0, 1, 1), VHolder: "a", G: time.Second, HB: hb}
}

func TestOfManyRacingClientsOneWins(t *testing.T) {
	share := t.TempDir()
	for round, clients := range []int{1000, 100, 100} {
		expect := uint64(round)
		var won, lost atomic.Int32
		var winner atomic.Uint64
		var wg sync.WaitGroup
		start := make(chan struct{})
		for i := range clients {
			c := open(t, share)
			wg.Go(func() {
				<-start
				switch how, err := c.Swap(expect, record(uint64(i))); {
				case err != nil:
					t.Errorf("client %d: %v", i, err)
				case how == core.SwapWon:
					won.Add(1)
					winner.Store(uint64(i))
				case how == core.SwapLost:
					lost.Add(1)
				}
			})
		}
		close(start)
		wg.Wait()
		if won.Load() != 1 || int(lost.Load()) != clients-1 {
			t.Fatalf("version %d: %d won, %d lost of %d", expect+1, won.Load(), lost.Load(), clients)
		}
		if version, rec, err := open(t, share).Read(); err != nil || version != expect+1 || rec.HB != winner.Load() {
			t.Fatalf("reads version %d of client %d, %v; client %d won version %d", version, rec.HB, err, winner.Load(), expect+1)
		}
	}
	left, err := filepath.Glob(filepath.Join(share, "test", "erp", ".temp-*"))
	if err != nil || len(left) != 0 {
		t.Errorf("temporary files left: %v, %v", left, err)
	}
}

func TestNothingWrittenReadsAsVersionZero(t *testing.T) {
	version, rec, err := open(t, t.TempDir()).Read()
	if err != nil || version != 0 || rec.Promised != 0 {
		t.Errorf("version %d, %+v, %v", version, rec, err)
	}
}

func TestAChainIsPrunedAndASlowClientStillLoses(t *testing.T) {
	share := t.TempDir()
	c := open(t, share)
	const last = 4 * sharevoter.Keep
	for v := range uint64(last) {
		if how, err := c.Swap(v, record(v)); how != core.SwapWon || err != nil {
			t.Fatalf("version %d: %v, %v", v+1, how, err)
		}
	}
	files, err := filepath.Glob(filepath.Join(share, "test", "erp", "v*"))
	if err != nil || len(files) > 2*sharevoter.Keep {
		t.Errorf("%d versions are kept, %v", len(files), err)
	}
	for _, expect := range []uint64{0, 1, sharevoter.Keep, last - 1} {
		if how, err := c.Swap(expect, record(999)); how != core.SwapLost || err != nil {
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
	if how, err := c.Swap(0, record(1)); how != core.SwapWon {
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
	if _, _, err := c.Read(); !errors.Is(err, domain.ErrUnavailable) {
		t.Errorf("read: %v", err)
	}
	if how, err := c.Swap(0, record(1)); how != core.SwapUnknown || !errors.Is(err, domain.ErrUnavailable) {
		t.Errorf("swap: %v, %v", how, err)
	}
}

func TestConformProbesAndLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	if err := sharevoter.Conform(dir, "main"); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(filepath.Join(dir, "main"))
	if err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := sharevoter.Conform(filepath.Join(dir, "file"), "main"); !errors.Is(err, domain.ErrUnavailable) {
		t.Errorf("a share that is no folder: %v", err)
	}
}
