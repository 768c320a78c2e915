package journal

import (
	"errors"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// TestCommitterReaderAndCheckpointerShareAJournal runs what the engine runs: one appends and applies, one reads back
// for a target that lags, one checkpoints, one asks for the state. The ring is small, so that all meet.
func TestCommitterReaderAndCheckpointerShareAJournal(t *testing.T) {
	const total = 600
	j, disk := newTestJournal(t)
	a := NewApplier(j, []Volume{disk.Volume("volume0", 1<<20)})
	room := make(chan struct{}) // a checkpoint happened
	done := make(chan struct{})
	var wg sync.WaitGroup
	build := NewBuilder()
	wg.Go(func() { // committer
		defer close(done)
		for j.Next().FirstLSN <= total {
			frame := buildFrame(build, j.Next(), 1+int(j.Next().FirstLSN%3))
			err := j.Append(frame)
			if errors.Is(err, ErrFull) {
				<-room
				continue
			}
			f, decodeErr := Decode(frame)
			if err := errors.Join(err, decodeErr); err != nil {
				t.Error(err)
				return
			}
			if err := a.Apply(f, f.LastLSN); err != nil {
				t.Error(err)
				return
			}
		}
	})
	running := func() bool {
		select {
		case <-done:
			return false
		default:
			return true
		}
	}
	wg.Go(func() { // checkpointer
		for running() {
			if _, err := a.Checkpoint(1 << 62); err != nil {
				t.Error(err)
				return
			}
			select {
			case room <- struct{}{}:
			case <-done:
			case <-time.After(time.Millisecond): // the pace of checkpoints
			}
		}
	})
	wg.Go(func() { // reader
		for at := domain.LSN(1); running(); {
			frames, err := j.Read(at, 16*PageSize)
			if errors.Is(err, ErrNotRetained) {
				at = j.State().TailLSN
				continue
			}
			if err != nil {
				t.Error(err)
				return
			}
			if len(frames) == 0 {
				runtime.Gosched()
			}
			for _, b := range frames {
				f, err := Decode(b)
				if err != nil || f.FirstLSN > at {
					t.Errorf("read %d: %v", at, err)
					return
				}
				at = f.LastLSN + 1
			}
		}
	})
	wg.Go(func() { // status, and the engine's meta
		for ; running(); runtime.Gosched() {
			if st := j.State(); st.TailLSN > st.LastLSN+1 || st.ReleasedLSN > st.LastLSN {
				t.Errorf("%+v", st)
			}
			if err := j.SetMeta([]byte(time.Now().String())); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	if _, err := a.Checkpoint(1 << 62); err != nil {
		t.Fatal(err)
	}
	disk.Restart(false)
	if _, rec, err := Open(t.Context(), disk, testPath, testConfig); err != nil || rec.LastLSN < total {
		t.Fatalf("%v", err)
	}
}
