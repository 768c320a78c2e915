package filevolume

import (
	"bytes"
	"errors"
	"os"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

// sanitize carries one out to its end.
func sanitize(v *Volume, how target.Sanitization) (begun bool, err error) {
	done := make(chan error, 1)
	v.Sanitize(how, func() { begun = true }, func(err error) { done <- err })
	err = <-done
	return begun, err
}

func isMarked(v *Volume) bool {
	_, err := os.Stat(v.marker.Path)
	return err == nil
}

func TestSanitizeLeavesNothingOfWhatWasThere(t *testing.T) {
	for name, c := range map[string]struct {
		how  target.Sanitization
		want []byte // of the first two bytes of a block
	}{
		"block erase":        {target.Sanitization{}, []byte{0, 0}},
		"one pass":           {target.Sanitization{Pattern: []byte{0xab, 0x12}, Passes: 1}, []byte{0xab, 0x12}},
		"two, inverted":      {target.Sanitization{Pattern: []byte{0xab, 0x12}, Passes: 2, Invert: true}, []byte{0x54, 0xed}},
		"an odd pattern":     {target.Sanitization{Pattern: []byte{7, 8, 9}, Passes: 1}, []byte{7, 8}},
		"a block of pattern": {target.Sanitization{Pattern: bytes.Repeat([]byte{5, 6}, 256), Passes: 3, Invert: true}, []byte{5, 6}},
	} {
		t.Run(name, func(t *testing.T) {
			v := open(t, domain.DurabilityCached)
			secret := bytes.Repeat([]byte("secret!!"), 8192)
			for _, off := range []int64{0, size - 65536} {
				if err := do(v, target.Command{Op: target.OpWrite, Off: off, Len: 65536, Data: secret}); err != nil {
					t.Fatal(err)
				}
			}
			if err := atomically(v, 131072, secret); err != nil {
				t.Fatal(err)
			}
			if begun, err := sanitize(v, c.how); !begun || err != nil {
				t.Fatalf("begun %v: %v", begun, err)
			}
			got := read(t, v, 0, size)
			for at := 0; at < size; at += target.BlockSize {
				if !bytes.Equal(got[at:at+2], c.want) {
					t.Fatalf("block at %d begins with %x", at, got[at:at+2])
				}
			}
			if intent, err := os.ReadFile(v.intent.path); err != nil || bytes.Contains(intent, []byte("secret")) {
				t.Errorf("the intent still holds what was written: %v", err)
			}
			if isMarked(v) || v.SanitizeState() != (target.SanitizeState{}) {
				t.Error("it has not ended")
			}
			if mapped, n, err := v.Extent(0, size); c.how.Pattern == nil && (mapped || n != size || err != nil) {
				t.Errorf("erased blocks take space: %v %d %v", mapped, n, err)
			}
			if err := atomically(v, 0, secret); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestASanitizeGoesOnAfterAPowerCut cuts at each flush of a sanitize of three passes, with what was written since lost.
func TestASanitizeGoesOnAfterAPowerCut(t *testing.T) {
	v := open(t, domain.DurabilityCached)
	path := v.path
	secret := bytes.Repeat([]byte{9}, size)
	if err := do(v, target.Command{Op: target.OpWrite, Len: size, Data: secret, FUA: true}); err != nil {
		t.Fatal(err)
	}
	type cutAt struct{ volume, marker []byte }
	durable, flush := secret, v.sync
	var cuts []cutAt
	v.sync = func() error {
		marker, err := os.ReadFile(v.marker.Path)
		if err != nil {
			t.Errorf("blocks are written without a marker: %v", err)
		}
		cuts = append(cuts, cutAt{durable, marker})
		if v.SanitizeState().Running {
			for _, op := range []target.Op{target.OpRead, target.OpWrite, target.OpFlush, target.OpUnmap} {
				if err := do(v, target.Command{Op: op, Len: 512, Data: make([]byte, 512)}); !errors.Is(err, target.ErrSanitizing) {
					t.Errorf("%v meanwhile: %v", op, err)
				}
			}
			if err := atomically(v, 0, secret[:512]); !errors.Is(err, target.ErrSanitizing) {
				t.Errorf("an atomic write meanwhile: %v", err)
			}
		}
		err = flush()
		now, _ := os.ReadFile(path)
		durable = now
		return err
	}
	if _, err := sanitize(v, target.Sanitization{Pattern: []byte{1}, Passes: 3, Invert: true}); err != nil {
		t.Fatal(err)
	}
	v.sync = flush
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	if len(cuts) != 3 {
		t.Fatalf("%d flushes", len(cuts))
	}
	for i, c := range cuts {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteAt(c.volume, 0)
		}
		if err = errors.Join(err, f.Close(), os.WriteFile(path+sanitizeSuffix, c.marker, 0o600)); err != nil {
			t.Fatal(err)
		}
		again, err := Open(path, size, domain.DurabilityCached)
		if err != nil {
			t.Fatal(err)
		}
		again.erasing.Wait()
		if !bytes.Equal(read(t, again, 0, size), bytes.Repeat([]byte{1}, size)) || isMarked(again) {
			t.Errorf("cut %d: it did not go on to its end", i)
		}
		if err := again.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestCloseStopsASanitizeAndTheNextOpenGoesOn(t *testing.T) {
	v := open(t, domain.DurabilityCached)
	v.settings.SanitizeRate = 1 // the second MiB would take days
	v.size.Store(2 * size)
	if err := os.Truncate(v.path, 2*size); err != nil {
		t.Fatal(err)
	}
	begun, ended := make(chan struct{}), make(chan error, 1)
	v.Sanitize(target.Sanitization{Pattern: []byte{1}, Passes: 1}, func() { close(begun) }, func(err error) { ended <- err })
	<-begun
	if begun, err := sanitize(v, target.Sanitization{}); begun || !errors.Is(err, target.ErrSanitizing) {
		t.Errorf("a second one: %v %v", begun, err)
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, target.ErrSanitizing) {
		t.Errorf("it ended: %v", err)
	}
	again, err := Open(v.path, 2*size, domain.DurabilityCached)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	again.erasing.Wait()
	if !bytes.Equal(read(t, again, 0, 2*size), bytes.Repeat([]byte{1}, 2*size)) {
		t.Error("it did not go on")
	}
}

func TestASanitizeThatFailsKeepsTheVolumeShutUntilOneSucceedsOrItIsLeft(t *testing.T) {
	for _, mayLeave := range []bool{false, true} {
		v := open(t, domain.DurabilityCached)
		full := true
		v.store = failing{v.store, &full}
		if begun, err := sanitize(v, target.Sanitization{Pattern: []byte{1}, Passes: 1, MayLeave: mayLeave}); !begun || !errors.Is(err, target.ErrSanitizeFailed) {
			t.Fatalf("%v %v", begun, err)
		}
		failed := func(v *Volume) {
			t.Helper()
			if err := do(v, target.Command{Op: target.OpRead, Len: 512, Data: make([]byte, 512)}); !errors.Is(err, target.ErrSanitizeFailed) {
				t.Errorf("a read: %v", err)
			}
			if s := v.SanitizeState(); !s.Failed || s.Running || s.MayLeave != mayLeave {
				t.Errorf("%+v", s)
			}
		}
		failed(v)
		if err := v.Close(); err != nil {
			t.Fatal(err)
		}
		again, err := Open(v.path, size, domain.DurabilityCached)
		if err != nil {
			t.Fatal(err)
		}
		failed(again)
		if err := again.LeaveSanitize(); (err == nil) != mayLeave {
			t.Errorf("leave it, which may be: %v; %v", mayLeave, err)
		}
		if _, err := sanitize(again, target.Sanitization{}); err != nil {
			t.Error(err)
		}
		if !bytes.Equal(read(t, again, 0, size), make([]byte, size)) {
			t.Error("it is not erased")
		}
		if err := again.Close(); err != nil {
			t.Error(err)
		}
	}
}

// failing is a store on a full disk.
type failing struct {
	Store
	full *bool
}

func (f failing) WriteAt(p []byte, off int64) (int, error) {
	if *f.full {
		return 0, errors.New("injected: no space left")
	}
	return f.Store.WriteAt(p, off)
}

func TestASanitizeOfAnotherImageDoesNotGoOn(t *testing.T) {
	for name, change := range map[string]func(path string) error{
		"restored in place": func(path string) error {
			f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
			if err != nil {
				return err
			}
			_, err = f.Write(bytes.Repeat([]byte{8}, size))
			return errors.Join(err, f.Close())
		},
		"restored by another file": func(path string) error {
			if err := os.WriteFile(path+".new", bytes.Repeat([]byte{8}, size), 0o600); err != nil {
				return err
			}
			return os.Rename(path+".new", path)
		},
	} {
		v := open(t, domain.DurabilityCached)
		if err := v.Close(); err != nil {
			t.Fatal(err)
		}
		if err := v.marker.save(marked{Pattern: []byte{1}, Passes: 2, Done: size / 2}); err != nil {
			t.Fatal(err)
		}
		if err := change(v.path); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(v.path, size, domain.DurabilityCached); !errors.Is(err, domain.ErrConflict) {
			t.Errorf("%s: %v", name, err)
		}
		if b, err := os.ReadFile(v.path); err != nil || !bytes.Equal(b, bytes.Repeat([]byte{8}, size)) {
			t.Errorf("%s: it was written over", name)
		}
	}
}
