//go:build !race

package journal

import (
	"testing"
	"time"
)

// The race detector allocates, so these are not built with it.

func TestBuilderDoesNotAllocate(t *testing.T) {
	b, data, now := NewBuilder(), make([]byte, 4096), time.Unix(1, 0)
	n := testing.AllocsPerRun(100, func() {
		b.Reset("erp", 1, 1, 1)
		for i := range 32 {
			b.Add(0, OpWrite, int64(i)*4096, 4096, data)
		}
		b.Finish(0, 0, now)
	})
	if n != 0 {
		t.Fatalf("%v allocations per frame", n)
	}
}

func TestAppendDoesNotAllocate(t *testing.T) {
	j, err := Create(t.Context(), nullFS{}, testPath, Config{Group: "erp", SizeBytes: MinSize})
	if err != nil {
		t.Fatal(err)
	}
	if err := j.RaiseEpoch(epoch1, "a", 1); err != nil {
		t.Fatal(err)
	}
	b, data, now := NewBuilder(), make([]byte, PageSize), time.Unix(1, 0)
	n := testing.AllocsPerRun(500, func() {
		next := j.Next()
		b.Reset("erp", next.Epoch, next.Number, next.FirstLSN)
		b.Add(0, OpWrite, 0, PageSize, data)
		if err := j.Append(b.Finish(0, next.PrevHeaderCRC, now)); err != nil {
			t.Fatal(err)
		}
	})
	if n >= 1 {
		t.Fatalf("%v allocations per append", n)
	}
}
