package rates

import (
	"context"
	"encoding/binary"
	"hash/crc32"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/services/replicator/journal"
)

var noon = time.Date(2026, 11, 2, 12, 0, 0, 2e6, time.UTC)

func write(off, n int64) journal.Entry {
	return journal.Entry{Op: journal.OpWrite, Off: off, Len: n, Data: make([]byte, n)}
}

// began is a recorder of a file, as Run begins with it.
func began(t testing.TB, path string, at time.Time) *Recorder {
	t.Helper()
	r := Open(path)
	t.Cleanup(r.Close)
	if err := r.Fault(); err != nil {
		t.Fatal(err)
	}
	r.begin(at)
	return r
}

func sampled(t testing.TB, r *Recorder, at time.Time) {
	t.Helper()
	if err := r.sample(at); err != nil {
		t.Fatal(err)
	}
}

func TestEachSecondHasWhatWasWrittenInIt(t *testing.T) {
	r := began(t, filepath.Join(t.TempDir(), "rates"), noon)
	for i := range 3 {
		for range i {
			r.Frame([]journal.Entry{write(0, 4096), {Op: journal.OpUnmap, Len: 1 << 40}, {Op: journal.OpMarker}}, 8192)
		}
		sampled(t, r, noon.Add(time.Duration(i+1)*time.Second))
	}
	got := r.Hour(noon.Add(3 * time.Second))
	if len(got) != 3 {
		t.Fatalf("%d seconds", len(got))
	}
	for i, s := range got {
		want := Load{Writes: 2 * uint64(i), Bytes: 4096 * uint64(i), Frames: 8192 * uint64(i)}
		if s.Load != want || s.At != noon.Unix()+int64(i) {
			t.Errorf("second %d at %d: %+v, want %+v", i, s.At, s.Load, want)
		}
	}
	m := r.Week(noon.Add(3 * time.Second))
	if len(m) != 1 || m[0].Load != (Load{6, 12288, 24576}) || m[0].Seconds != 3 || m[0].Peak != 16384 {
		t.Errorf("minutes: %+v", m)
	}
}

func TestASampleThatComesLateIsSpreadAndLosesNothing(t *testing.T) {
	for _, c := range []struct {
		name  string
		after time.Duration
		slots int
	}{
		{"within the second", 900 * time.Millisecond, 0}, {"in time", time.Second, 1}, {"late", 7 * time.Second, 7},
		{"the process stood still", time.Hour, 1}, {"the clock was set back", -time.Hour, 1},
	} {
		r := began(t, filepath.Join(t.TempDir(), "rates"), noon)
		r.Frame([]journal.Entry{write(0, 512), write(0, 512), write(4096, 512)}, 10000)
		sampled(t, r, noon.Add(c.after))
		var sum Load
		got := r.Hour(noon.Add(c.after))
		for _, s := range got {
			sum = sum.plus(s.Load)
		}
		if len(got) != c.slots || c.slots > 0 && sum != (Load{3, 1536, 10000}) {
			t.Errorf("%s: %d slots with %+v", c.name, len(got), sum)
		}
	}
}

func TestTheRecordOutlivesItsProcessAndATornSlotIsNone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rates")
	r := began(t, path, noon)
	for i := range 130 {
		r.Frame([]journal.Entry{write(0, 4096)}, 8192)
		sampled(t, r, noon.Add(time.Duration(i+1)*time.Second))
	}
	end := noon.Add(130 * time.Second)
	hour, week := r.Hour(end), r.Week(end)
	again := began(t, path, end) // the other was killed: it closed nothing
	if got := again.Hour(end); len(got) != 130 || got[7] != hour[7] || got[129] != hour[129] {
		t.Errorf("%d seconds after a restart, want 130", len(got))
	}
	if got := again.Week(end); len(got) != 3 || got[0] != week[0] || got[0].Blocks != 60 || got[0].Unique != 1 {
		t.Errorf("minutes after a restart: %+v, want %+v", got, week)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s := again.seconds
	if _, err := f.WriteAt([]byte{1, 2, 3}, secondsOffset+s.index(noon.Unix())*slotBytes+9); err != nil {
		t.Fatal(err)
	}
	if got := began(t, path, end).Hour(end); len(got) != 129 {
		t.Errorf("%d seconds with one of 130 torn", len(got))
	}
}

func TestTheRecordIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rates")
	r := began(t, path, noon)
	end := noon
	for range 2*SecondsKept/60 + 3 {
		end = end.Add(time.Minute)
		r.Frame([]journal.Entry{write(0, 4096)}, 8192)
		sampled(t, r, end)
	}
	if got := r.Hour(end); len(got) != SecondsKept-1 && len(got) != SecondsKept || got[0].At < end.Unix()-SecondsKept {
		t.Errorf("%d seconds from %d", len(got), got[0].At)
	}
	if st, err := os.Stat(path); err != nil || st.Size() > fileBytes {
		t.Errorf("file: %d bytes, %v", st.Size(), err)
	}
}

func TestAFileThatCannotBeUsedCostsOnlyTheHistory(t *testing.T) {
	r := Open(t.TempDir()) // a folder
	defer r.Close()
	if r.Fault() == nil {
		t.Fatal("a folder was taken for a file")
	}
	r.begin(noon)
	r.Frame([]journal.Entry{write(0, 4096)}, 8192)
	sampled(t, r, noon.Add(time.Second))
	if got := r.Hour(noon.Add(time.Second)); len(got) != 1 || got[0].Writes != 1 {
		t.Errorf("recorded %+v", got)
	}
}

func TestAFileOfSomethingElseIsBegunAnew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rates")
	if err := os.WriteFile(path, make([]byte, fileBytes), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := began(t, path, noon).Hour(noon); len(got) != 0 {
		t.Errorf("%d seconds out of nothing", len(got))
	}
}

func TestTheSketchTellsHowOftenBlocksAreRewritten(t *testing.T) {
	for _, c := range []struct{ unique, times int64 }{{1, 1}, {1, 1000}, {100, 10}, {10000, 3}, {200000, 1}, {200000, 2}} {
		s := &sketch{}
		for range c.times {
			for b := int64(0); b < c.unique; b += 25 {
				s.touch(1, b*blockBytes, min(25, c.unique-b)*blockBytes)
			}
		}
		blocks, unique := s.count()
		if blocks != uint64(c.unique*c.times) || math.Abs(float64(unique)-float64(c.unique)) > 0.08*float64(c.unique) {
			t.Errorf("%d blocks %d times: told %d of %d", c.unique, c.times, unique, blocks)
		}
	}
}

func TestProfileTellsTheBurstsOfAGroup(t *testing.T) {
	var slots []Slot
	for i := range 100 { // 95 quiet seconds, 5 of a burst
		l := Load{Writes: 10, Bytes: 40960, Frames: 81920}
		if i >= 95 {
			l = Load{Writes: 1000, Bytes: 4096000, Frames: 8192000}
		}
		slots = append(slots, Slot{At: noon.Unix() + int64(i), Load: l, Seconds: 1, Peak: l.Frames, Blocks: 10, Unique: 1})
	}
	p := Profile(slots, time.Second)
	if p.Covered != 100 || p.Frames.P50 != 81920 || p.Frames.P95 != 81920 || p.Frames.Max != 8192000 || p.PeakSecond != 8192000 ||
		math.Abs(p.Writes.Mean-59.5) > 1e-9 || math.Abs(p.Rewritten-0.9) > 1e-9 {
		t.Errorf("%+v", p)
	}
	if p := Profile(nil, time.Second); p.Covered != 0 || p.Frames.Max != 0 {
		t.Errorf("of nothing: %+v", p)
	}
}

func TestRunSamplesWhileFramesAreCounted(t *testing.T) {
	r := Open(filepath.Join(t.TempDir(), "rates"))
	defer r.Close()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.Run(ctx, slog.New(slog.DiscardHandler))
	}()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for len(r.Hour(time.Now())) == 0 { // a second or two
		r.Frame([]journal.Entry{write(0, 4096)}, 8192)
		<-tick.C
	}
	cancel()
	<-ended
}

func TestCountingAFrameTakesNoMemory(t *testing.T) {
	r := Open(filepath.Join(t.TempDir(), "rates"))
	defer r.Close()
	frame := []journal.Entry{write(0, 4096), write(1<<20, 65536)}
	if n := testing.AllocsPerRun(1000, func() { r.Frame(frame, 81920) }); n != 0 {
		t.Errorf("%v allocations a frame", n)
	}
}

// BenchmarkFrame is what recording adds to a frame of one write of 4 KiB.
func BenchmarkFrame(b *testing.B) {
	r := Open(filepath.Join(b.TempDir(), "rates"))
	defer r.Close()
	frame := []journal.Entry{write(0, 4096)}
	b.ReportAllocs()
	for i := range b.N {
		frame[0].Off = int64(i&0xffff) * 4096
		r.Frame(frame, 8192)
	}
}

// BenchmarkFrameOf32 is the same for 32 writes of 4 KiB.
func BenchmarkFrameOf32(b *testing.B) {
	r := Open(filepath.Join(b.TempDir(), "rates"))
	defer r.Close()
	var frame []journal.Entry
	for i := range int64(32) {
		frame = append(frame, write(i<<20, 4096))
	}
	b.ReportAllocs()
	for range b.N {
		r.Frame(frame, 135168)
	}
}

// FuzzFile: whatever the file of a record holds, it is opened; a slot that is taken is read as it was written, and what is told of it
// is in order and of the time that was asked for. head is the file's beginning, slot one of its slots, at two places.
func FuzzFile(f *testing.F) {
	s := Slot{At: noon.Unix(), Load: Load{Writes: 3, Bytes: 12288, Frames: 24576}, Seconds: 1, Peak: 24576, Blocks: 9, Unique: 4}
	var b [slotBytes]byte
	s.encode(&b)
	second, minute := uint16(noon.Unix()%SecondsKept), uint16(noon.Unix()/60%MinutesKept)
	f.Add([]byte(fileMagic), b[:], second, minute)
	s.At, s.Seconds, s.Writes = 1<<62, 1<<31, 1<<63
	s.encode(&b)
	f.Add([]byte(fileMagic), b[:], uint16(s.At%SecondsKept), uint16(s.At/60%MinutesKept))
	f.Add([]byte("holdfast write rates 9"), b[:8], uint16(0), uint16(0))
	path := filepath.Join(f.TempDir(), "rates")
	f.Fuzz(func(t *testing.T, head, slot []byte, second, minute uint16) {
		file := make([]byte, fileBytes)
		copy(file, head)
		var b [slotBytes]byte
		copy(b[:], slot)
		for _, summed := range []bool{false, true} {
			if summed { // so that the fuzzer gets behind the checksum
				binary.LittleEndian.PutUint32(b[60:], crc32.Checksum(b[:60], castagnoli))
			}
			copy(file[secondsOffset+int(second)%SecondsKept*slotBytes:], b[:])
			copy(file[minutesOffset+int(minute)%MinutesKept*slotBytes:], b[:])
			if s, ok := decode(b[:]); ok {
				var again [slotBytes]byte
				if s.encode(&again); again != b {
					t.Fatalf("%x became %x", b, again)
				}
			}
			if err := os.WriteFile(path, file[:len(file)-len(slot)%2], 0o600); err != nil {
				t.Fatal(err)
			}
			r := Open(path)
			if err := r.Fault(); err != nil {
				t.Fatal(err)
			}
			told(t, r.Hour(noon), noon.Unix()-SecondsKept, noon.Unix())
			told(t, r.Week(noon), noon.Unix()-MinutesKept*60, noon.Unix())
			r.begin(noon)
			sampled(t, r, noon.Add(time.Second))
			r.Close()
		}
	})
}

// told holds slots to the time that was asked for.
func told(t *testing.T, slots []Slot, from, to int64) {
	t.Helper()
	for _, s := range slots {
		if s.At < from || s.At > to || s.Seconds == 0 {
			t.Fatalf("a slot of second %d, of %d seconds, between %d and %d", s.At, s.Seconds, from, to)
		}
		from = s.At + 1
	}
	_ = Profile(slots, time.Second)
}
