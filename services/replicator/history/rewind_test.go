package history

import (
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/journal/vfs"
)

func TestWithoutRoomTheWayBackWaitsAndLosesNoCheckpoint(t *testing.T) {
	b := newBench(t, roomy)
	for i := range 8 {
		b.take(domain.LSN(i + 1))
		b.write(0, byte(i+1), byte(i+1))
	}
	b.h.Leave(4)
	err := b.h.Restore(4, func(_ int, off int64, data []byte) error {
		if data == nil {
			data = zeroes[:]
		}
		_, err := b.base.WriteAt(data, off)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.base.Sync(); err != nil {
		t.Fatal(err)
	}
	b.disk.Capacity = 1
	for range 2 {
		if err := b.h.Rewind(4); !vfs.IsFull(err) {
			t.Fatalf("without room: %v", err)
		}
	}
	b.disk.Capacity = 0
	if err := b.h.Rewind(4); err != nil {
		t.Fatal(err)
	}
	b.h.Close()
	b.open(roomy)
	if list := b.h.List(); len(list) != 4 || list[3].LSN != 4 || len(b.lost) != 0 {
		t.Fatalf("%+v, lost %v", list, b.lost)
	}
	for lsn := range 4 {
		if got, err := b.first(domain.LSN(lsn + 1)); err != nil || got != byte(lsn) {
			t.Fatalf("checkpoint %d holds %d, %v", lsn+1, got, err)
		}
	}
}

func TestAPastIsOutlivedOnceNobodyCouldWantIt(t *testing.T) {
	b := newBench(t, Keep{Age: time.Hour, Count: 100, Bytes: 1 << 30})
	now := time.Unix(1e9, 0)
	if b.h.Outlived(time.Time{}, now) {
		t.Fatal("there is none")
	}
	if err := b.h.Take(Point{LSN: 1, Epoch: 1, Time: now, Kind: KindCrash}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		since, now time.Duration
		is         bool
	}{{0, time.Minute, false}, {0, 61 * time.Minute, true}, {30 * time.Minute, 61 * time.Minute, false}, {30 * time.Minute, 91 * time.Minute, true}, {-time.Hour, time.Minute, false}} {
		if got := b.h.Outlived(now.Add(c.since), now.Add(c.now)); got != c.is {
			t.Errorf("taken over after %v, at %v: %v", c.since, c.now, got)
		}
	}
	v, err := b.h.View(1)
	if err != nil {
		t.Fatal(err)
	}
	if b.h.Outlived(now, now.Add(100*time.Hour)) {
		t.Fatal("somebody reads it")
	}
	v.Close()
}
