package journal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// realDirs are directories on a file system that most likely has O_DIRECT, and on one that has not.
func realDirs(t testing.TB) map[string]string {
	t.Helper()
	dirs := map[string]string{"disk": t.TempDir()}
	if st, err := os.Stat("/dev/shm"); err == nil && st.IsDir() {
		dir, err := os.MkdirTemp("/dev/shm", "journal-")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		dirs["tmpfs"] = dir
	}
	return dirs
}

func TestJournalOnRealFiles(t *testing.T) {
	cfg := Config{Group: "erp", SizeBytes: MinSize}
	for name, dir := range realDirs(t) {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, "erp.journal")
			j, err := Create(t.Context(), OS(), path, cfg)
			if err != nil {
				t.Fatal(err)
			}
			if err := j.RaiseEpoch(epoch1, "a", 1); err != nil {
				t.Fatal(err)
			}
			if _, _, err := Open(t.Context(), OS(), path, cfg); !errors.Is(err, syscall.EWOULDBLOCK) {
				t.Fatalf("opened twice: %v", err)
			}
			for lap := 0; lap < 3*MinSize; lap += 400 * PageSize {
				n := 300 + lap%97
				err := j.Append(frameFor(j.Next(), n))
				if errors.Is(err, ErrFull) {
					if err = j.Release(j.State().LastLSN); err == nil {
						err = j.Append(frameFor(j.Next(), n))
					}
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			// A slice that is not aligned, as from the network.
			raw := append(make([]byte, 1, 64<<10), frameFor(j.Next(), 2)...)
			if err := j.Append(raw[1:]); err != nil {
				t.Fatal(err)
			}
			want := j.State()
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			j, rec, err := Open(t.Context(), OS(), path, Config{Group: "erp"})
			if err != nil {
				t.Fatal(err)
			}
			if rec.LastLSN != want.LastLSN || rec.TailLSN != want.TailLSN || rec.Next != want.Next {
				t.Fatalf("recovered %+v, was %+v", rec.State, want)
			}
			lsns(t, rec)
			if frames, err := j.Read(want.TailLSN, 8<<20); err != nil || len(frames) == 0 {
				t.Fatalf("%d frames, %v", len(frames), err)
			}
			if _, err := Create(t.Context(), OS(), path, cfg); !errors.Is(err, ErrExists) {
				t.Fatalf("%v", err)
			}
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(path, MinSize/2); err != nil {
				t.Fatal(err)
			}
			if _, _, err := Open(t.Context(), OS(), path, cfg); !errors.Is(err, ErrMismatch) {
				t.Fatalf("half the file: %v", err)
			}
		})
	}
}

func TestCreateOnAFullFileSystemLeavesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "erp.journal")
	_, err := Create(t.Context(), OS(), path, Config{Group: "erp", SizeBytes: 1 << 50})
	if err == nil {
		t.Fatal("a pebibyte was found")
	}
	entries, readErr := os.ReadDir(filepath.Dir(path))
	if readErr != nil || len(entries) != 0 {
		t.Fatalf("%v left behind, %v", entries, readErr)
	}
	t.Log(err)
}

// benchJournal is a journal of 256 MiB on the real disk.
func benchJournal(b *testing.B, path string) *Journal {
	b.Helper()
	j, err := Create(context.Background(), OS(), path, Config{Group: "erp", SizeBytes: 256 << 20})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _, _ = j.Close(), os.Remove(path) })
	if err := j.RaiseEpoch(epoch1, "a", 1); err != nil {
		b.Fatal(err)
	}
	return j
}

// BenchmarkAppend writes frames of `depth` writes of 4 KiB each: what a group commit makes of that queue depth.
func BenchmarkAppend(b *testing.B) {
	for name, dir := range realDirs(b) {
		for _, depth := range []int{1, 8, 32, 128} {
			b.Run(fmt.Sprintf("%s/qd%d", name, depth), func(b *testing.B) {
				benchAppend(b, benchJournal(b, filepath.Join(dir, fmt.Sprintf("%d.journal", depth))), depth)
			})
		}
	}
}

func benchAppend(b *testing.B, j *Journal, depth int) {
	b.Helper()
	build, data := NewBuilder(), make([]byte, PageSize)
	for i := range data {
		data[i] = byte(i)
	}
	b.SetBytes(int64(depth) * PageSize)
	b.ReportAllocs()
	var last domain.LSN
	for b.Loop() {
		next := j.Next()
		build.Reset("erp", next.Epoch, next.Number, next.FirstLSN)
		for i := range depth {
			build.Add(0, OpWrite, int64(i)*PageSize, PageSize, data)
		}
		frame := build.Finish(last, next.PrevHeaderCRC, time.Unix(1, 0))
		err := j.Append(frame)
		if errors.Is(err, ErrFull) {
			if err = j.Release(last); err == nil {
				err = j.Append(frame)
			}
		}
		if err != nil {
			b.Fatal(err)
		}
		last = next.FirstLSN + domain.LSN(depth) - 1
	}
	b.ReportMetric(float64(b.N*depth)/b.Elapsed().Seconds(), "writes/s")
}
