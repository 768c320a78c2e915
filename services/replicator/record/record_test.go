package record

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/journal/faultdisk"
	"github.com/holdfast-dr/holdfast/services/replicator/journal/vfs"
)

func content(n int) []byte { return bytes.Repeat([]byte{byte(n)}, n*1500) }

func load(t *testing.T, f File) []byte {
	t.Helper()
	b, err := f.Load()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestWhatWasSavedIsLoaded(t *testing.T) {
	f := File{FS: vfs.OS(), Path: filepath.Join(t.TempDir(), "r")}
	if b := load(t, f); b != nil {
		t.Fatalf("%d bytes of nothing", len(b))
	}
	for _, want := range [][]byte{content(1), content(9), {}, content(3)} {
		if err := f.Save(want); err != nil {
			t.Fatal(err)
		}
		if got := load(t, f); !bytes.Equal(got, want) {
			t.Fatalf("%d bytes, want %d", len(got), len(want))
		}
	}
	if err := f.Save(make([]byte, MaxLen+1)); !errors.Is(err, domain.ErrInvalid) {
		t.Fatal(err)
	}
}

// TestKilledAnywhereInASaveTheOldOrTheNewIsThere cuts the power, and kills the process, at each moment of a save. What a
// save returned from is there for certain.
func TestKilledAnywhereInASaveTheOldOrTheNewIsThere(t *testing.T) {
	for _, kill := range []bool{false, true} {
		outcomes := map[string]int{}
		for seed := range uint64(200) {
			for moment := 1; ; moment++ {
				disk := faultdisk.New(seed)
				f := File{FS: disk, Path: "r"}
				if err := f.Save(content(1)); err != nil {
					t.Fatal(err)
				}
				disk.CutAfter(moment)
				saved := f.Save(content(2)) == nil
				disk.Restart(kill)
				got := load(t, f)
				isNew := bytes.Equal(got, content(2))
				if !isNew && (saved || !bytes.Equal(got, content(1))) {
					t.Fatalf("seed %d, moment %d: %d bytes, saved %v", seed, moment, len(got), saved)
				}
				outcomes[fmt.Sprintf("new %v", isNew)]++
				if err := f.Save(content(3)); err != nil || !bytes.Equal(load(t, f), content(3)) {
					t.Fatalf("seed %d, moment %d: the next save: %v", seed, moment, err)
				}
				if saved {
					break
				}
			}
		}
		if len(outcomes) != 2 {
			t.Errorf("the cut never came where it decides: %v", outcomes)
		}
	}
}

func TestSaveThatFailsLeavesTheOld(t *testing.T) {
	for _, call := range []faultdisk.Call{faultdisk.Write, faultdisk.Sync, faultdisk.Rename} {
		disk := faultdisk.New(1)
		f := File{FS: disk, Path: "r"}
		if err := f.Save(content(1)); err != nil {
			t.Fatal(err)
		}
		disk.Hook = func(c faultdisk.Call, _ string, _ int64, _ int) faultdisk.Fault {
			if c == call {
				return faultdisk.Fault{Err: syscall.EIO}
			}
			return faultdisk.Fault{}
		}
		if err := f.Save(content(2)); !errors.Is(err, syscall.EIO) {
			t.Errorf("%s: %v", call, err)
		}
		disk.Hook = nil
		disk.Restart(false)
		if !bytes.Equal(load(t, f), content(1)) {
			t.Errorf("%s: the old content is gone", call)
		}
	}
}

func TestDamagedRecordIsAnErrorThatNamesItAndTheMend(t *testing.T) {
	for at := int64(0); at < headerLen+1500; at += 7 {
		if at >= int64(len(magic)+8) && at < headerLen {
			continue // reserved
		}
		disk := faultdisk.New(1)
		f := File{FS: disk, Path: "r"}
		if err := f.Save(content(1)); err != nil {
			t.Fatal(err)
		}
		disk.Corrupt("r", at, []byte{disk.Bytes("r")[at] ^ 0x10})
		if b, err := f.Load(); !errors.Is(err, domain.ErrInvalid) || b != nil || !strings.Contains(err.Error(), "move it away") {
			t.Fatalf("byte %d: %v", at, err)
		}
	}
}

// FuzzLoad: whatever a record's file holds, it is loaded whole or damaged, and what is loaded is so again after it was saved.
func FuzzLoad(f *testing.F) {
	disk := faultdisk.New(1)
	file := File{FS: disk, Path: "r"}
	if err := file.Save([]byte("content")); err != nil {
		f.Fatal(err)
	}
	whole := bytes.TrimRight(disk.Bytes("r"), "\x00")
	f.Add(whole, uint8(1))
	f.Add(append(bytes.Clone(whole[:len(magic)]), 0xff, 0xff, 0xff, 0xff), uint8(1))
	f.Add([]byte{}, uint8(0))
	f.Fuzz(func(t *testing.T, b []byte, pages uint8) {
		disk := faultdisk.New(1)
		r := File{FS: disk, Path: "r"}
		raw, err := disk.Create(r.Path)
		if err != nil {
			t.Fatal(err)
		}
		p := vfs.Aligned(int(pages) * vfs.PageSize)
		if copy(p, b); len(p) > 0 {
			_, err = raw.WriteSync(p, 0)
		}
		if err = errors.Join(err, raw.Close()); err != nil {
			t.Fatal(err)
		}
		got, err := r.Load()
		if err != nil {
			if !errors.Is(err, domain.ErrInvalid) {
				t.Fatalf("%v is not ErrInvalid", err)
			}
			return
		}
		if len(got) > len(p) {
			t.Fatalf("%d bytes out of %d", len(got), len(p))
		}
		if len(got) > MaxLen {
			return
		}
		got = bytes.Clone(got)
		if err := r.Save(got); err != nil {
			t.Fatal(err)
		}
		if again := load(t, r); !bytes.Equal(again, got) {
			t.Fatalf("%d bytes became %d", len(got), len(again))
		}
	})
}
