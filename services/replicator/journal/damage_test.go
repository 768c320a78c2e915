package journal

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/journal/faultdisk"
)

// threeFrames is a closed journal with frames 1, 2 and 3 of two pages of payload each, 12 KiB apart.
func threeFrames(t *testing.T) *faultdisk.Disk {
	t.Helper()
	j, disk := newTestJournal(t)
	for range 3 {
		mustAppend(t, j, 2)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	return disk
}

const frameBytes = 3 * PageSize

func TestDamagedLastFrameIsATornTail(t *testing.T) {
	for name, at := range map[string]int64{"header": 30, "entries": 140, "payload": PageSize + 5, "end of payload": frameBytes - 1} {
		t.Run(name, func(t *testing.T) {
			disk := threeFrames(t)
			disk.Corrupt(testPath, ringOffset+2*frameBytes+at, []byte{0xee})
			j, rec, err := Open(t.Context(), disk, testPath, testConfig)
			if err != nil {
				t.Fatal(err)
			}
			if rec.LastLSN != 4 || rec.Torn == nil && name != "header" {
				t.Fatalf("%+v", rec)
			}
			if rec.Torn != nil && (rec.Torn.Number != 3 || rec.Torn.Offset != ringOffset+2*frameBytes) {
				t.Fatalf("torn %+v", rec.Torn)
			}
			mustAppend(t, j, 1)
			if _, rec = reopen(t, j, disk); rec.LastLSN != 5 || rec.Torn != nil {
				t.Fatalf("%+v", rec)
			}
		})
	}
}

func TestDamagedMiddleIsAnErrorThatNamesItAndChangesNothing(t *testing.T) {
	for name, at := range map[string]int64{"magic": 0, "header": 30, "entries": 140, "payload": PageSize + 5} {
		t.Run(name, func(t *testing.T) {
			disk := threeFrames(t)
			disk.Corrupt(testPath, ringOffset+frameBytes+at, []byte{0xee})
			before := disk.Bytes(testPath)
			_, _, err := Open(t.Context(), disk, testPath, testConfig)
			var c *CorruptError
			if !errors.As(err, &c) || !errors.Is(err, ErrCorrupt) {
				t.Fatalf("%v", err)
			}
			if c.Path != testPath || c.Offset != ringOffset+frameBytes || c.Number != 2 || !strings.Contains(err.Error(), "whole folder aside") {
				t.Fatalf("%+v", c)
			}
			if !bytes.Equal(before, disk.Bytes(testPath)) {
				t.Fatal("the damaged file was changed")
			}
		})
	}
}

func TestLostFrameThatTheSuperblockKnowsIsAnError(t *testing.T) {
	j, disk := newTestJournal(t)
	for range 3 {
		mustAppend(t, j, 2)
	}
	if err := errors.Join(j.Release(2), j.Close()); err != nil {
		t.Fatal(err)
	}
	disk.Corrupt(testPath, ringOffset+2*frameBytes, make([]byte, frameBytes)) // the last frame: nothing comes after it
	var c *CorruptError
	if _, _, err := Open(t.Context(), disk, testPath, testConfig); !errors.As(err, &c) || c.Number != 3 {
		t.Fatalf("%v", err)
	}
}

func TestEitherSuperblockIsEnough(t *testing.T) {
	for slot := range int64(2) {
		j, disk := newTestJournal(t)
		for range 30 { // several laps, with releases
			mustAppend(t, j, 2)
			if st := j.State(); st.LastLSN > 4 {
				if err := j.Release(st.LastLSN - 3); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := errors.Join(j.RaiseEpoch(epoch2, "b", j.State().LastLSN+1), j.SetMeta([]byte("m")), j.Close()); err != nil {
			t.Fatal(err)
		}
		want := j.State()
		disk.Corrupt(testPath, slot*slotSize+20, []byte{0xee, 0xee})
		j, rec, err := Open(t.Context(), disk, testPath, testConfig)
		if err != nil {
			t.Fatal(err)
		}
		if !rec.LostSuperblock || rec.LastLSN != want.LastLSN || rec.Epoch != epoch2 || string(rec.Meta) != "m" || rec.Next != want.Next {
			t.Fatalf("slot %d lost: %+v, want %+v", slot, rec.State, want)
		}
		lsns(t, rec)
		if _, rec = reopen(t, j, disk); rec.LostSuperblock {
			t.Fatal("it was not mended")
		}
	}
}

func TestOlderSuperblockAloneNeverLosesWhatTheNewerReleased(t *testing.T) {
	// The superblock that names the newest tail rots; what the older one still names must not have been overwritten.
	j, disk := newTestJournal(t)
	for i := range 200 {
		err := j.Append(frameFor(j.Next(), 1+i%3))
		if errors.Is(err, ErrFull) {
			if err := j.Release(j.State().LastLSN); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		rotten := faultdisk.New(1)
		copyFile(t, disk, rotten)
		rotten.Corrupt(testPath, int64(j.super.gen%2)*slotSize+20, []byte{0xee, 0xee})
		_, rec, err := Open(t.Context(), rotten, testPath, testConfig)
		if err != nil || rec.LastLSN != j.State().LastLSN {
			t.Fatalf("step %d: %v", i, err)
		}
		lsns(t, rec)
	}
}

func copyFile(t *testing.T, from, to *faultdisk.Disk) {
	t.Helper()
	b := from.Bytes(testPath)
	f, err := to.Create(testPath)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Allocate(int64(len(b))), f.Close()); err != nil {
		t.Fatal(err)
	}
	to.Corrupt(testPath, 0, b)
}

func TestNoSuperblockAndWrongFilesAreNamed(t *testing.T) {
	disk := threeFrames(t)
	open := func(change func(c *Config)) error {
		cfg := testConfig
		change(&cfg)
		_, _, err := Open(t.Context(), disk, testPath, cfg)
		return err
	}
	if err := open(func(c *Config) { c.Group = "crm" }); !errors.Is(err, ErrMismatch) || !strings.Contains(err.Error(), "erp") {
		t.Errorf("other group: %v", err)
	}
	if err := open(func(c *Config) { c.SizeBytes += PageSize }); !errors.Is(err, ErrMismatch) {
		t.Errorf("other size: %v", err)
	}
	longer := faultdisk.New(1)
	copyFile(t, disk, longer)
	longer.Volume("x", 0)
	f, err := longer.Open(testPath)
	if err != nil {
		t.Fatal(err)
	}
	size, _ := f.Size()
	if err := errors.Join(f.Allocate(size+PageSize), f.Close()); err != nil {
		t.Fatal(err)
	}
	grown := testConfig
	grown.SizeBytes = 0
	if _, _, err := Open(t.Context(), longer, testPath, grown); !errors.Is(err, ErrMismatch) {
		t.Errorf("file that grew: %v", err)
	}
	disk.Corrupt(testPath, 40, []byte{0xee})
	disk.Corrupt(testPath, slotSize+40, []byte{0xee})
	if err := open(func(*Config) {}); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "no superblock") {
		t.Errorf("no superblock: %v", err)
	}
	if _, _, err := Open(t.Context(), disk, "nowhere", testConfig); err == nil {
		t.Error("a file that does not exist was opened")
	}
}

func TestGuestDataThatLooksLikeFramesIsOnlyData(t *testing.T) {
	j, disk := newTestJournal(t)
	var older []byte
	for range 2 {
		older = append(older, bytes.Clone(frameFor(j.Next(), 1))...)
		mustAppend(t, j, 1)
	}
	b := NewBuilder()
	next := j.Next()
	b.Reset("erp", next.Epoch, next.Number, next.FirstLSN)
	b.Add(0, OpWrite, 0, int64(len(older)), older) // a copy of this journal, on a protected volume
	if err := j.Append(b.Finish(0, next.PrevHeaderCRC, time.Unix(2, 0))); err != nil {
		t.Fatal(err)
	}
	disk.Corrupt(testPath, ringOffset+4*PageSize+20, []byte{0xee}) // and then its frame is torn
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if _, rec, err := Open(t.Context(), disk, testPath, testConfig); err != nil || rec.LastLSN != 2 {
		t.Fatalf("%v", err)
	}
}

// breaking makes the nth call of a kind on the journal's file fail.
func breaking(disk *faultdisk.Disk, call faultdisk.Call, nth int, f faultdisk.Fault) {
	disk.Hook = func(c faultdisk.Call, path string, _ int64, _ int) faultdisk.Fault {
		if c == call && strings.HasPrefix(path, testPath) {
			if nth--; nth == 0 {
				return f
			}
		}
		return faultdisk.Fault{}
	}
}

func TestFailedWriteBreaksTheJournalForEver(t *testing.T) {
	for name, fault := range map[string]faultdisk.Fault{
		"EIO": {Err: syscall.EIO}, "ENOSPC": {Err: syscall.ENOSPC, Bytes: PageSize}, "short write": {Short: true, Bytes: PageSize},
		"short write with an error": {Err: io.ErrShortWrite, Bytes: 2 * PageSize}, "whole write, failed flush": {Err: syscall.EIO, Bytes: 3 * PageSize},
	} {
		t.Run(name, func(t *testing.T) {
			j, disk := newTestJournal(t)
			mustAppend(t, j, 2)
			breaking(disk, faultdisk.WriteSync, 1, fault)
			frame := frameFor(j.Next(), 2)
			if err := j.Append(frame); !errors.Is(err, ErrBroken) {
				t.Fatalf("%v", err)
			}
			if fault.Err != nil && !errors.Is(j.State().Broken, fault.Err) {
				t.Fatalf("the cause is lost: %v", j.State().Broken)
			}
			disk.Hook = nil // the disk is well again, and nobody may believe it
			for what, err := range map[string]error{"append": j.Append(frame), "release": j.Release(1), "raise": j.RaiseEpoch(epoch2, "b", 3),
				"truncate": j.Truncate(1), "reset": j.Reset(9, epoch2, []LineageEntry{{epoch2, 1, "a"}}), "meta": j.SetMeta(nil)} {
				if !errors.Is(err, ErrBroken) {
					t.Errorf("%s: %v", what, err)
				}
			}
			if frames, err := j.Read(1, 1<<20); err != nil || len(frames) != 1 {
				t.Errorf("what is durable can still be read: %d, %v", len(frames), err)
			}
			if _, rec := reopen(t, j, disk); rec.LastLSN != 2 && rec.LastLSN != 4 {
				t.Fatalf("last %d", rec.LastLSN)
			}
		})
	}
}

func TestFailedSuperblockBreaksTheJournal(t *testing.T) {
	for what, do := range map[string]func(j *Journal) error{
		"release":  func(j *Journal) error { return j.Release(2) },
		"raise":    func(j *Journal) error { return j.RaiseEpoch(epoch2, "b", 3) },
		"truncate": func(j *Journal) error { return j.Truncate(1) },
		"reset":    func(j *Journal) error { return j.Reset(1, epoch1, []LineageEntry{{epoch1, 1, "a"}}) },
		"meta":     func(j *Journal) error { return j.SetMeta([]byte("x")) },
	} {
		for nth := 1; nth <= 2; nth++ {
			j, disk := newTestJournal(t)
			mustAppend(t, j, 2)
			breaking(disk, faultdisk.WriteSync, nth, faultdisk.Fault{Err: syscall.EIO})
			if err := do(j); !errors.Is(err, ErrBroken) && (what != "release" || nth == 1) {
				t.Errorf("%s, write %d: %v", what, nth, err)
			}
			disk.Hook = nil
			if err := j.Append(frameFor(j.Next(), 1)); !errors.Is(err, ErrBroken) && (what != "release" || nth == 1) {
				t.Errorf("append after %s: %v", what, err)
			}
		}
	}
}

func TestFailedReadIsNotDamage(t *testing.T) {
	disk := threeFrames(t)
	for nth := 1; ; nth++ {
		breaking(disk, faultdisk.Read, nth, faultdisk.Fault{Err: syscall.EIO})
		j, _, err := Open(t.Context(), disk, testPath, testConfig)
		if err == nil {
			if nth < 4 {
				t.Fatalf("only %d reads", nth)
			}
			disk.Hook = nil
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			return
		}
		if !errors.Is(err, syscall.EIO) || errors.Is(err, ErrCorrupt) {
			t.Fatalf("read %d: %v", nth, err)
		}
	}
}

func TestCreateLeavesNothingBehindWhenItFails(t *testing.T) {
	for name, prepare := range map[string]func(d *faultdisk.Disk){
		"disk full at once":  func(d *faultdisk.Disk) { d.Capacity = 10 * PageSize },
		"disk full later":    func(d *faultdisk.Disk) { breaking(d, faultdisk.Write, 1, faultdisk.Fault{Err: syscall.ENOSPC}) },
		"short write":        func(d *faultdisk.Disk) { breaking(d, faultdisk.Write, 1, faultdisk.Fault{Short: true}) },
		"failed flush":       func(d *faultdisk.Disk) { breaking(d, faultdisk.Sync, 1, faultdisk.Fault{Err: syscall.EIO}) },
		"failed superblock":  func(d *faultdisk.Disk) { breaking(d, faultdisk.WriteSync, 2, faultdisk.Fault{Err: syscall.EIO}) },
		"failed rename":      func(d *faultdisk.Disk) { breaking(d, faultdisk.Rename, 1, faultdisk.Fault{Err: syscall.EIO}) },
		"failed reservation": func(d *faultdisk.Disk) { breaking(d, faultdisk.Allocate, 1, faultdisk.Fault{Err: syscall.ENOSPC}) },
	} {
		t.Run(name, func(t *testing.T) {
			disk := faultdisk.New(1)
			prepare(disk)
			_, err := Create(t.Context(), disk, testPath, testConfig)
			if err == nil || strings.Contains(name, "full") && (!errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "no room")) {
				t.Fatalf("%v", err)
			}
			for _, path := range []string{testPath, testPath + ".creating"} {
				if there, _ := disk.Exists(path); there {
					t.Errorf("%s is left", path)
				}
			}
			disk.Hook, disk.Capacity = nil, 0
			if _, err := Create(t.Context(), disk, testPath, testConfig); err != nil {
				t.Fatalf("again: %v", err)
			}
			if _, err := Create(t.Context(), disk, testPath, testConfig); !errors.Is(err, ErrExists) {
				t.Fatalf("over the old one: %v", err)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Create(ctx, faultdisk.New(1), testPath, testConfig); !errors.Is(err, context.Canceled) {
		t.Fatalf("cancelled: %v", err)
	}
	for _, cfg := range []Config{{Group: "erp", SizeBytes: MinSize - PageSize}, {Group: "erp", SizeBytes: MinSize + 1}, {Group: "E", SizeBytes: MinSize}} {
		if _, err := Create(t.Context(), faultdisk.New(1), testPath, cfg); !errors.Is(err, domain.ErrInvalid) {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
}

func TestFailedVolumeFlushIsFinalAndReleasesNothing(t *testing.T) {
	j, disk := newTestJournal(t)
	a := NewApplier(j, []Volume{disk.Volume("volume0", 1<<20)})
	frame := frameFor(j.Next(), 2)
	f, err := Decode(frame)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Apply(f, 2); !errors.Is(err, domain.ErrRefused) {
		t.Fatalf("applied before it was durable: %v", err)
	}
	mustAppend(t, j, 2)
	if err := a.Apply(f, 1); err != nil || a.Applied() != 1 {
		t.Fatalf("%d, %v", a.Applied(), err)
	}
	if err := a.Apply(f, 9); err != nil || a.Applied() != 2 {
		t.Fatalf("%d, %v", a.Applied(), err)
	}
	disk.Hook = func(c faultdisk.Call, path string, _ int64, _ int) faultdisk.Fault {
		if c == faultdisk.Sync && path == "volume0" {
			return faultdisk.Fault{Err: syscall.EIO}
		}
		return faultdisk.Fault{}
	}
	if _, err := a.Checkpoint(2); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	disk.Hook = nil
	if _, err := a.Checkpoint(2); !errors.Is(err, syscall.EIO) {
		t.Fatalf("a second flush was believed: %v", err)
	}
	if err := a.Apply(f, 2); !errors.Is(err, syscall.EIO) || j.State().ReleasedLSN != 0 {
		t.Fatalf("%v, released %d", err, j.State().ReleasedLSN)
	}
}
