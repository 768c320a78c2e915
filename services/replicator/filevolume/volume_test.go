package filevolume

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

const size = 1 << 20

func open(t *testing.T, d domain.Durability) *Volume {
	t.Helper()
	path := filepath.Join(t.TempDir(), "v.img")
	if err := Create(path, size); err != nil {
		t.Fatal(err)
	}
	v, err := Open(path, size, d)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Close(); err != nil && v.Err() == nil {
			t.Error(err)
		}
	})
	return v
}

func do(v *Volume, c target.Command) error {
	done := make(chan error, 1)
	v.Submit(&c, func(err error) { done <- err })
	return <-done
}

func read(t *testing.T, v *Volume, off int64, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	if err := do(v, target.Command{Op: target.OpRead, Off: off, Len: int64(n), Data: b}); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestEveryOperation(t *testing.T) {
	for _, d := range []domain.Durability{domain.DurabilityCached, domain.DurabilityStrict} {
		v := open(t, d)
		if v.Info().WriteCache != (d == domain.DurabilityCached) {
			t.Errorf("%s: write cache %v", d, v.Info().WriteCache)
		}
		ones := bytes.Repeat([]byte{1}, 8192)
		for _, c := range []target.Command{
			{Op: target.OpWrite, Off: 4096, Len: 8192, Data: ones},
			{Op: target.OpZero, Off: 4096 + 512, Len: 512},
			{Op: target.OpUnmap, Off: 8192, Len: 512},
			{Op: target.OpFlush},
			{Op: target.OpWrite, Off: 0, Len: 512, Data: ones[:512], FUA: true},
		} {
			if err := do(v, c); err != nil {
				t.Fatalf("%s: %v: %v", d, c.Op, err)
			}
		}
		want := append(bytes.Clone(ones[:512]), make([]byte, 3584)...)
		want = append(want, ones...)
		clear(want[4608:5120])
		clear(want[8192:8704])
		if !bytes.Equal(read(t, v, 0, len(want)), want) {
			t.Errorf("%s: content differs", d)
		}
		var mis *target.MiscompareError
		err := do(v, target.Command{Op: target.OpCompareAndWrite, Off: 0, Len: 1024, Compare: ones[:1024], Data: ones[:1024]})
		if !errors.As(err, &mis) || mis.Offset != 512 {
			t.Errorf("%s: %v", d, err)
		}
		if err := do(v, target.Command{Op: target.OpCompareAndWrite, Off: 0, Len: 512, Compare: ones[:512], Data: make([]byte, 512)}); err != nil {
			t.Error(err)
		}
		if !bytes.Equal(read(t, v, 0, 512), make([]byte, 512)) {
			t.Errorf("%s: compare and write did not write", d)
		}
	}
}

func TestOpenNamesTheFileAndTheMend(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "v.img")
	if err := Create(path, size); err != nil {
		t.Fatal(err)
	}
	if err := Create(path, size); !errors.Is(err, domain.ErrConflict) || !strings.Contains(err.Error(), path) {
		t.Errorf("created twice: %v", err)
	}
	held, err := Open(path, size, domain.DurabilityStrict)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	other := filepath.Join(dir, "other.img")
	if err := Create(other, size); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		path string
		size int64
		d    domain.Durability
		want error
		mend string
	}{
		"missing":     {filepath.Join(dir, "none"), size, domain.DurabilityStrict, domain.ErrNotFound, "create it"},
		"directory":   {dir, size, domain.DurabilityStrict, domain.ErrInvalid, "name a file"},
		"device":      {"/dev/null", size, domain.DurabilityStrict, domain.ErrInvalid, "plain file"},
		"wrong size":  {other, 2 * size, domain.DurabilityStrict, domain.ErrInvalid, "1048576 bytes"},
		"locked":      {path, size, domain.DurabilityStrict, domain.ErrConflict, "stop it"},
		"odd size":    {other, 1000, domain.DurabilityStrict, domain.ErrInvalid, "512"},
		"durability?": {other, size, "fast", domain.ErrInvalid, "strict nor cached"},
	} {
		_, err := Open(c.path, c.size, c.d)
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.path) || !strings.Contains(err.Error(), c.mend) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAFailedFlushIsTheEnd(t *testing.T) {
	for _, d := range []domain.Durability{domain.DurabilityCached, domain.DurabilityStrict} {
		v := open(t, d)
		var calls atomic.Int32
		v.sync = func() error { calls.Add(1); return syscall.EIO }
		if err := do(v, target.Command{Op: target.OpWrite, Len: 512, Data: make([]byte, 512), FUA: true}); !errors.Is(err, target.ErrMedium) {
			t.Fatalf("%s: %v", d, err)
		}
		v.sync = func() error { calls.Add(1); return nil } // as the kernel would say the second time
		for _, op := range []target.Op{target.OpFlush, target.OpWrite, target.OpRead} {
			if err := do(v, target.Command{Op: op, Len: 512, Data: make([]byte, 512)}); !errors.Is(err, target.ErrMedium) || !errors.Is(err, syscall.EIO) {
				t.Errorf("%s: %v after a failed flush: %v", d, op, err)
			}
		}
		if err := v.Close(); !errors.Is(err, syscall.EIO) {
			t.Errorf("%s: close: %v", d, err)
		}
		if calls.Load() != 1 {
			t.Errorf("%s: synced %d times", d, calls.Load())
		}
	}
}

func TestStrictWritesShareAFlushAndWaitForIt(t *testing.T) {
	v := open(t, domain.DurabilityStrict)
	var syncs atomic.Int32
	entered, gate := make(chan struct{}, 16), make(chan struct{})
	v.sync = func() error { syncs.Add(1); entered <- struct{}{}; <-gate; return nil }
	var ended atomic.Int32
	var wg sync.WaitGroup
	submit := func(i int) {
		wg.Add(1)
		v.Submit(&target.Command{Op: target.OpWrite, Off: int64(i) * 512, Len: 512, Data: make([]byte, 512)}, func(err error) {
			if err != nil {
				t.Error(err)
			}
			ended.Add(1)
			wg.Done()
		})
	}
	submit(0)
	<-entered // the first one is being flushed alone
	for i := range 32 {
		submit(1 + i)
	}
	if ended.Load() != 0 {
		t.Fatal("a write was complete before it was durable")
	}
	close(gate)
	wg.Wait()
	if n := syncs.Load(); n != 2 {
		t.Fatalf("33 writes took %d flushes, want 2", n)
	}
}

func TestExtentsFollowUnmap(t *testing.T) {
	v := open(t, domain.DurabilityCached)
	if err := do(v, target.Command{Op: target.OpWrite, Off: 65536, Len: 65536, Data: bytes.Repeat([]byte{1}, 65536)}); err != nil {
		t.Fatal(err)
	}
	mapped, n, err := v.Extent(0, 1<<20)
	if err != nil || mapped || n != 65536 {
		t.Errorf("at 0: %v %d %v", mapped, n, err)
	}
	if mapped, n, err = v.Extent(65536, 1<<20); err != nil || !mapped || n != 65536 {
		t.Errorf("at 64 KiB: %v %d %v", mapped, n, err)
	}
	if mapped, n, err = v.Extent(131072, 1<<20); err != nil || mapped || n != size-131072 {
		t.Errorf("at 128 KiB: %v %d %v", mapped, n, err)
	}
}

func TestACloseSettlesWhatWasSubmitted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "v.img")
	if err := Create(path, size); err != nil {
		t.Fatal(err)
	}
	v, err := Open(path, size, domain.DurabilityStrict)
	if err != nil {
		t.Fatal(err)
	}
	var ended atomic.Int32
	for i := range 100 {
		v.Submit(&target.Command{Op: target.OpWrite, Off: int64(i) * 512, Len: 512, Data: bytes.Repeat([]byte{9}, 512)}, func(error) { ended.Add(1) })
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	if ended.Load() != 100 {
		t.Fatalf("%d of 100 settled", ended.Load())
	}
	b, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(b[:51200], bytes.Repeat([]byte{9}, 51200)) {
		t.Fatalf("content differs: %v", err)
	}
}

// punches counts what is given back.
type punches struct {
	Store
	n int
}

func (p *punches) Unmap(off, n int64) error { p.n++; return p.Store.Unmap(off, n) }

func TestZeroesTakeNoSpaceWhereThatIsCheap(t *testing.T) {
	v := open(t, domain.DurabilityCached)
	v.settings.DetectZeroes = true
	p := &punches{Store: v.store}
	v.store = p
	put := func(off int64, data []byte) {
		t.Helper()
		if err := do(v, target.Command{Op: target.OpWrite, Off: off, Len: int64(len(data)), Data: data}); err != nil {
			t.Fatal(err)
		}
	}
	ones, zero := bytes.Repeat([]byte{1}, 128<<10), make([]byte, 128<<10)
	put(0, zero)
	put(0, zero[:4096])
	if mapped, n, err := v.Extent(0, size); err != nil || mapped || n != size || p.n != 0 {
		t.Errorf("zeroes over a hole: %v %d %v, %d punches", mapped, n, err, p.n)
	}
	put(0, ones)
	put(0, zero[:4096]) // not worth a hole
	put(8192, zero[:512])
	if p.n != 0 {
		t.Errorf("%d punches for little", p.n)
	}
	put(64<<10, zero[:64<<10])
	if mapped, _, err := v.store.Extent(64 << 10); err != nil || mapped || p.n != 1 {
		t.Errorf("64 KiB of zeroes: %v %v, %d punches", mapped, err, p.n)
	}
	want := bytes.Clone(ones)
	clear(want[:4096])
	clear(want[8192:8704])
	clear(want[64<<10:])
	if !bytes.Equal(read(t, v, 0, len(want)), want) {
		t.Error("content differs")
	}
}
