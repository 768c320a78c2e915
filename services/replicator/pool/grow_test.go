package pool

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/holdfast-dr/holdfast/services/replicator/blockfile"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

// forgetful is a file whose next fdatasync fails, once, as the kernel tells of a page that it could not write.
type forgetful struct {
	medium
	fails *atomic.Int32
}

func (f forgetful) Sync() error {
	if f.fails.Add(-1) == 0 {
		return errors.New("injected: input/output error")
	}
	return f.medium.Sync()
}

func TestAFlushThatFailsWhileAVolumeGrowsEndsTheVolume(t *testing.T) {
	for _, c := range []struct {
		name  string
		syncs int32 // which one fails
	}{{"the longer file's", 1}, {"the one that is served", 2}} {
		t.Run(c.name, func(t *testing.T) {
			var fails atomic.Int32
			f := &fakeFront{units: map[string]target.Unit{}}
			p, err := Open(t.TempDir(), Options{Create: true, Front: f, openMedium: func(path string, mode blockfile.Mode) (medium, error) {
				m, err := openFile(path, mode)
				return forgetful{m, &fails}, err
			}})
			if err != nil {
				t.Fatal(err)
			}
			must(t, p, Request{Verb: VerbCreate, Name: "a", SizeBytes: mib})
			u := f.units["a"]
			write(t, u, 0, make([]byte, 4096)) // answered, and not durable yet
			fails.Store(c.syncs)
			_, err = p.Do(t.Context(), Request{Verb: VerbResize, Name: "a", SizeBytes: 2 * mib})
			if c.syncs == 1 && (!errors.Is(err, target.ErrMedium) || !strings.Contains(err.Error(), "check the disk")) {
				t.Errorf("grow: %v", err)
			}
			done := make(chan error, 1)
			u.Submit(&target.Command{Op: target.OpFlush}, func(err error) { done <- err })
			if err := <-done; !errors.Is(err, target.ErrMedium) {
				t.Errorf("a flush after one that failed: %v", err)
			}
			if _, err := p.Do(t.Context(), Request{Verb: VerbResize, Name: "a", SizeBytes: 2 * mib}); c.syncs == 1 && !errors.Is(err, target.ErrMedium) {
				t.Errorf("growing it again: %v", err)
			}
			if reply, err := p.Do(t.Context(), Request{Verb: VerbShow, Name: "a"}); err != nil || reply.Volumes[0].Error == "" {
				t.Errorf("the list does not say so: %+v %v", reply, err)
			}
			_ = p.Close() // which says what ended the volume
			if p, err = Open(p.dir, Options{}); err != nil {
				t.Fatal(err)
			}
			if err := p.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}
