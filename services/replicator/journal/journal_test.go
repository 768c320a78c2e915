package journal

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/journal/faultdisk"
)

const testPath = "erp.journal"

var (
	testConfig = Config{Group: "erp", SizeBytes: ringOffset + 16*PageSize, seam: seam{minSize: PageSize}}
	epoch1     = domain.NewEpoch(0, 1, 1)
	epoch2     = domain.NewEpoch(0, 2, 2)
	epoch3     = domain.NewEpoch(0, 3, 1)
)

// newTestJournal is a journal of 64 KiB in epoch1 on a disk of its own.
func newTestJournal(t *testing.T) (*Journal, *faultdisk.Disk) {
	t.Helper()
	disk := faultdisk.New(1)
	j, err := Create(t.Context(), disk, testPath, testConfig)
	if err != nil {
		t.Fatal(err)
	}
	if err := j.RaiseEpoch(epoch1, "a", 1); err != nil {
		t.Fatal(err)
	}
	return j, disk
}

// frameFor makes the next frame: n writes of one page each, filled with their LSN.
func frameFor(next Next, n int) []byte {
	return buildFrame(newBuilder(headerLen(n), int64(n)*PageSize, n), next, n)
}

func buildFrame(b *Builder, next Next, n int) []byte {
	b.Reset("erp", next.Epoch, max(next.Number, 1), next.FirstLSN)
	for i := range n {
		b.Add(0, OpWrite, int64(i)*PageSize, PageSize, bytes.Repeat([]byte{byte(next.FirstLSN) + byte(i)}, PageSize))
	}
	return b.Finish(next.FirstLSN-1, next.PrevHeaderCRC, time.Unix(1, 0))
}

func mustAppend(t *testing.T, j *Journal, n int) {
	t.Helper()
	if err := j.Append(frameFor(j.Next(), n)); err != nil {
		t.Fatal(err)
	}
}

func reopen(t *testing.T, j *Journal, disk *faultdisk.Disk) (*Journal, *Recovered) {
	t.Helper()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j, rec, err := Open(t.Context(), disk, testPath, testConfig)
	if err != nil {
		t.Fatal(err)
	}
	return j, rec
}

// lsns lists what Frames gives: first and last LSN, and the entries' count, per frame.
func lsns(t *testing.T, r *Recovered) string {
	t.Helper()
	var out string
	for f, err := range r.Frames() {
		if err != nil {
			t.Fatal(err)
		}
		out += fmt.Sprintf("%d-%d(%d) ", f.FirstLSN, f.LastLSN, len(f.Entries))
	}
	return out
}

func TestAppendTakesOnlyTheNextFrameOfTheEpoch(t *testing.T) {
	j, _ := newTestJournal(t)
	mustAppend(t, j, 2)
	next := j.Next()
	with := func(change func(n *Next)) []byte {
		n := next
		change(&n)
		return frameFor(n, 1)
	}
	other := NewBuilder()
	other.Reset("crm", next.Epoch, next.Number, next.FirstLSN)
	other.Add(0, OpFlush, 0, 0, nil)
	damaged := bytes.Clone(frameFor(next, 1))
	damaged[PageSize]++
	for _, tt := range []struct {
		name  string
		frame []byte
		want  error
	}{
		{"lower epoch", with(func(n *Next) { n.Epoch = domain.NewEpoch(0, 0, 1) }), domain.ErrStaleEpoch},
		{"higher epoch", with(func(n *Next) { n.Epoch = epoch2 }), ErrEpochNotRaised},
		{"number again", with(func(n *Next) { n.Number-- }), ErrGap},
		{"number skipped", with(func(n *Next) { n.Number++ }), ErrGap},
		{"LSN again", with(func(n *Next) { n.FirstLSN-- }), ErrGap},
		{"LSN skipped", with(func(n *Next) { n.FirstLSN++ }), ErrGap},
		{"other chain", with(func(n *Next) { n.PrevHeaderCRC++ }), ErrGap},
		{"other group", other.Finish(0, next.PrevHeaderCRC, time.Unix(1, 0)), ErrMismatch},
		{"damaged", damaged, ErrBadFrame},
		{"nothing", nil, ErrBadFrame},
	} {
		if err := j.Append(tt.frame); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
	if j.Next() != next {
		t.Fatal("a refused frame left a trace")
	}
	mustAppend(t, j, 1)
}

func TestRaisedEpochIsDurableAndLowerOnesAreRefused(t *testing.T) {
	j, disk := newTestJournal(t)
	mustAppend(t, j, 3)
	if err := j.RaiseEpoch(epoch2, "b", 5); !errors.Is(err, ErrGap) {
		t.Fatalf("epoch that skips an LSN: %v", err)
	}
	if err := j.RaiseEpoch(epoch2, "b", 4); err != nil {
		t.Fatal(err)
	}
	if err := j.RaiseEpoch(epoch2, "b", 4); err != nil {
		t.Fatalf("the same again: %v", err)
	}
	if err := j.RaiseEpoch(epoch1, "a", 4); !errors.Is(err, domain.ErrStaleEpoch) {
		t.Fatalf("lower: %v", err)
	}
	disk.Restart(false)
	j, rec, err := Open(t.Context(), disk, testPath, testConfig)
	if err != nil {
		t.Fatal(err)
	}
	want := []LineageEntry{{epoch1, 1, "a"}, {epoch2, 4, "b"}}
	if rec.Epoch != epoch2 || !slices.Equal(rec.Lineage, want) || rec.Next != (Next{Epoch: epoch2, Number: 1, FirstLSN: 4}) {
		t.Fatalf("recovered %+v", rec.State)
	}
	if err := j.RaiseEpoch(0, "a", 4); !errors.Is(err, domain.ErrInvalid) {
		t.Fatalf("epoch 0: %v", err)
	}
	mustAppend(t, j, 1)
	if _, rec = reopen(t, j, disk); lsns(t, rec) != "1-3(3) 4-4(1) " {
		t.Fatalf("frames %s", lsns(t, rec))
	}
}

func TestLineageKeepsTheNewestAndWhatTheRingNeeds(t *testing.T) {
	j, disk := newTestJournal(t)
	mustAppend(t, j, 1)
	for i := 2; i <= 3*MaxLineage; i++ { // all empty: the epochs with changes stay
		if err := j.RaiseEpoch(domain.NewEpoch(0, i, 1), "a", 2); err != nil {
			t.Fatal(err)
		}
	}
	st := j.State()
	if len(st.Lineage) != MaxLineage || st.Lineage[0].Epoch != epoch1 {
		t.Fatalf("%d entries from %s", len(st.Lineage), st.Lineage[0].Epoch)
	}
	if _, rec := reopen(t, j, disk); lsns(t, rec) != "1-1(1) " || !slices.Equal(rec.Lineage, st.Lineage) {
		t.Fatalf("recovered %+v", rec.State)
	}
}

func TestRingWrapsWithFramesOfAnySize(t *testing.T) {
	for n := 1; n <= 14; n++ {
		j, disk := newTestJournal(t)
		for range 40 {
			err := j.Append(frameFor(j.Next(), n))
			if errors.Is(err, ErrFull) {
				if err := j.Release(j.State().LastLSN); err != nil {
					t.Fatal(err)
				}
				mustAppend(t, j, n)
			} else if err != nil {
				t.Fatal(err)
			}
		}
		last := j.State()
		_, rec := reopen(t, j, disk)
		if rec.LastLSN != domain.LSN(40*n) || rec.TailLSN != last.TailLSN || rec.Next != last.Next {
			t.Fatalf("%d writes a frame: recovered %+v, was %+v", n, rec.State, last)
		}
		lsns(t, rec)
	}
}

func TestReleasedFramesAreNotGivenBack(t *testing.T) {
	j, disk := newTestJournal(t)
	for range 3 {
		mustAppend(t, j, 2)
	}
	if err := j.Release(7); !errors.Is(err, domain.ErrInvalid) {
		t.Fatalf("release what is not there: %v", err)
	}
	if err := j.Release(3); err != nil { // ends inside the second frame
		t.Fatal(err)
	}
	if err := j.Release(1); err != nil {
		t.Fatalf("release again: %v", err)
	}
	if _, err := j.Read(2, 1<<20); !errors.Is(err, ErrNotRetained) {
		t.Fatalf("read what was released: %v", err)
	}
	frames, err := j.Read(4, 1)
	if err != nil || len(frames) != 1 {
		t.Fatalf("%d frames, %v", len(frames), err)
	}
	if f, err := Decode(frames[0]); err != nil || f.FirstLSN != 3 {
		t.Fatalf("read 4 gives the frame from %d, %v", f.FirstLSN, err)
	}
	if frames, err = j.Read(3, 1<<20); err != nil || len(frames) != 2 {
		t.Fatalf("%d frames, %v", len(frames), err)
	}
	if frames, err = j.Read(7, 1<<20); err != nil || frames != nil {
		t.Fatalf("read ahead: %d frames, %v", len(frames), err)
	}
	if _, rec := reopen(t, j, disk); rec.TailLSN != 3 || lsns(t, rec) != "3-4(2) 5-6(2) " {
		t.Fatalf("recovered %+v", rec.State)
	}
}

func TestTruncateCutsBetweenAndInsideFrames(t *testing.T) {
	for after, want := range map[domain.LSN]struct {
		frames string
		cut    bool
	}{
		6: {"1-2(2) 3-4(2) 5-6(2) ", false}, 5: {"1-2(2) 3-4(2) 5-5(1) ", true}, 4: {"1-2(2) 3-4(2) ", false},
		3: {"1-2(2) 3-3(1) ", true}, 2: {"1-2(2) ", true}, 1: {"1-1(1) ", true}, 0: {"", true},
	} {
		t.Run(fmt.Sprint(after), func(t *testing.T) {
			j, disk := newTestJournal(t)
			mustAppend(t, j, 2)
			mustAppend(t, j, 2)
			if err := j.RaiseEpoch(epoch2, "b", 5); err != nil {
				t.Fatal(err)
			}
			mustAppend(t, j, 2)
			if err := j.Truncate(after); err != nil {
				t.Fatal(err)
			}
			j, rec := reopen(t, j, disk)
			if got := lsns(t, rec); got != want.frames || rec.LastLSN != after || rec.Cut != want.cut || rec.Epoch != epoch2 {
				t.Fatalf("%s, %+v", got, rec.State)
			}
			if want.cut {
				if err := j.Append(frameFor(j.Next(), 1)); !errors.Is(err, ErrCut) {
					t.Fatalf("append after a cut: %v", err)
				}
				if err := j.RaiseEpoch(epoch3, "a", after+1); err != nil {
					t.Fatal(err)
				}
			}
			mustAppend(t, j, 3)
			if _, rec = reopen(t, j, disk); lsns(t, rec) != want.frames+fmt.Sprintf("%d-%d(3) ", after+1, after+3) {
				t.Fatalf("after going on: %s", lsns(t, rec))
			}
		})
	}
}

func TestCutFrameIsReadAsAWholeSmallerOne(t *testing.T) {
	j, _ := newTestJournal(t)
	mustAppend(t, j, 3)
	if err := j.Truncate(2); err != nil {
		t.Fatal(err)
	}
	frames, err := j.Read(1, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	target, _ := newTestJournal(t)
	if err := target.Append(frames[0]); err != nil || target.State().LastLSN != 2 {
		t.Fatalf("the other site takes it as any frame: %v, %+v", err, target.State())
	}
}

func TestTruncateDoesNotGoBelowWhatWasReleased(t *testing.T) {
	j, _ := newTestJournal(t)
	mustAppend(t, j, 4)
	if err := j.Release(2); err != nil {
		t.Fatal(err)
	}
	if err := j.Truncate(1); !errors.Is(err, ErrNotRetained) {
		t.Fatal(err)
	}
	if err := j.Truncate(2); err != nil {
		t.Fatal(err)
	}
}

func TestResetGoesOnElsewhere(t *testing.T) {
	for _, last := range []domain.LSN{0, 1, 2, 4, 100} {
		for _, epoch := range []domain.Epoch{epoch1, epoch2} {
			j, disk := newTestJournal(t)
			mustAppend(t, j, 2)
			mustAppend(t, j, 2)
			lineage := []LineageEntry{{epoch, 1, "b"}}
			if err := j.SetMeta([]byte("kept")); err != nil {
				t.Fatal(err)
			}
			if err := j.Reset(last, epoch, lineage); err != nil {
				t.Fatal(err)
			}
			j, rec := reopen(t, j, disk)
			want := Next{Epoch: epoch, FirstLSN: last + 1}
			if rec.Next != want || rec.ReleasedLSN != last || lsns(t, rec) != "" || !slices.Equal(rec.Lineage, lineage) || string(rec.Meta) != "kept" {
				t.Fatalf("to %d in %s: %+v", last, epoch, rec.State)
			}
			from := Next{Epoch: epoch, Number: 77, FirstLSN: last + 1, PrevHeaderCRC: 12345} // the source's number
			if err := j.Append(frameFor(from, 1)); err != nil {
				t.Fatal(err)
			}
			mustAppend(t, j, 1)
			if _, rec = reopen(t, j, disk); rec.LastLSN != last+2 || rec.Next.Number != 79 {
				t.Fatalf("%+v", rec.State)
			}
		}
	}
	j, _ := newTestJournal(t)
	if err := j.Reset(5, epoch1, nil); !errors.Is(err, domain.ErrInvalid) {
		t.Fatalf("no lineage: %v", err)
	}
	if err := j.RaiseEpoch(epoch2, "b", 1); err != nil {
		t.Fatal(err)
	}
	if err := j.Reset(5, epoch1, []LineageEntry{{epoch1, 1, "a"}}); !errors.Is(err, domain.ErrStaleEpoch) {
		t.Fatalf("lower epoch: %v", err)
	}
}

func TestFullRingRefusesAndGoesOnAfterRelease(t *testing.T) {
	j, _ := newTestJournal(t)
	var err error
	for err == nil {
		err = j.Append(frameFor(j.Next(), 1))
	}
	if st := j.State(); !errors.Is(err, ErrFull) || st.UsedBytes > st.SizeBytes || st.SizeBytes-st.UsedBytes >= 2*PageSize {
		t.Fatalf("%v, %+v", err, st)
	}
	if err := j.Release(j.State().LastLSN); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, j, 14)
}

func TestClosedJournalSaysSo(t *testing.T) {
	j, _ := newTestJournal(t)
	frame := frameFor(j.Next(), 1)
	if err := errors.Join(j.Close(), j.Close()); err != nil {
		t.Fatal(err)
	}
	_, readErr := j.Read(1, 1)
	for _, err := range []error{j.Append(frame), j.Release(0), j.RaiseEpoch(epoch2, "a", 1), j.Truncate(0),
		j.Reset(0, epoch2, []LineageEntry{{epoch2, 1, "a"}}), j.SetMeta(nil), readErr} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%v", err)
		}
	}
}
