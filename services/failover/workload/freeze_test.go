package workload

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/failover/workload/applog"
)

func TestAFrozenVMHasTheSameRecordsOnEveryVolumeAndTakesNone(t *testing.T) {
	disks := []*memory{newMemory(64 << 10), newMemory(64 << 10)}
	v := boot(t, specOf("a", 1), Deps{}, disks[0], disks[1])
	var wg sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				if _, err := v.Append(ctx, []byte("x")); err != nil && ctx.Err() == nil && !errors.Is(err, ErrFull) {
					t.Error(err)
				}
			}
		})
	}
	for range 20 {
		if err := v.Freeze(t.Context()); err != nil {
			t.Fatal(err)
		}
		var seqs [2]uint64
		for i, d := range disks {
			r, err := applog.Scan(d)
			if err != nil {
				t.Fatal(err)
			}
			seqs[i] = r.LastSeq
		}
		if seqs[0] != seqs[1] || seqs[0] != v.Status().LastSeq {
			t.Fatalf("frozen with %v, acknowledged %d", seqs, v.Status().LastSeq)
		}
		if !v.Thaw() {
			t.Fatal("it was not frozen until then")
		}
	}
	stop()
	wg.Wait()
	if v.Thaw() {
		t.Fatal("thawed twice")
	}
}

func TestAFrozenVMCanBeHalted(t *testing.T) {
	v := boot(t, specOf("a", 1), Deps{}, newMemory(64<<10))
	if err := v.Freeze(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := v.Freeze(ctx); !errors.Is(err, domain.ErrRefused) {
		t.Fatal("frozen twice:", err)
	}
	v.Halt()
	if err := v.Freeze(t.Context()); err == nil || v.Thaw() {
		t.Fatal("frozen without power:", err)
	}
}

func TestFreezingAndHaltingAtOnceEnds(t *testing.T) {
	for range 200 {
		v := boot(t, specOf("a", 1), Deps{}, newMemory(64<<10))
		var wg sync.WaitGroup
		wg.Go(func() { _ = v.Freeze(t.Context()) })
		wg.Go(v.Halt)
		wg.Wait()
	}
}
