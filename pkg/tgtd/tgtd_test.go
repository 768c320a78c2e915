package tgtd

import (
	"bytes"
	"crypto/rand"
	"errors"
	"path/filepath"
	"sync"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/initiator"
)

func TestInitiatorAgainstTgt(t *testing.T) {
	tg := Start(t, filepath.Join(t.TempDir(), "disk"), 64<<20)
	for name, o := range map[string]initiator.Options{"plain": {}, "digests": {HeaderDigest: true, DataDigest: true}} {
		t.Run(name, func(t *testing.T) {
			s, err := initiator.Dial(t.Context(), tg.URL, o)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if s.Capacity() != 64<<20 {
				t.Fatalf("%+v", s.Identity())
			}
			want, got := make([]byte, 5<<20), make([]byte, 5<<20)
			rand.Read(want)
			if err := s.Write(t.Context(), want, 1<<20, true); err != nil {
				t.Fatal(err)
			}
			if err := s.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := s.Read(t.Context(), got, 1<<20); err != nil || !bytes.Equal(got, want) {
				t.Fatal("read differs", err)
			}
		})
	}
}

func TestReplayRidesOutAKilledTarget(t *testing.T) {
	tg := Start(t, filepath.Join(t.TempDir(), "disk"), 16<<20)
	s, err := initiator.Dial(t.Context(), tg.URL, initiator.Options{Replay: true, Timeout: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	plain, err := initiator.Dial(t.Context(), tg.URL, initiator.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	if err := s.Write(t.Context(), make([]byte, 4096), 0, true); err != nil {
		t.Fatal(err)
	}
	tg.Kill()
	<-plain.Done()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			if err := s.Write(t.Context(), bytes.Repeat([]byte{byte(i + 1)}, 4096), int64(i)*4096, true); err != nil {
				t.Error(err)
			}
		})
	}
	tg.Restart(t)
	wg.Wait()
	got := make([]byte, 8*4096)
	if err := s.Read(t.Context(), got, 0); err != nil {
		t.Fatal(err)
	}
	for i := range 8 {
		if got[i*4096] != byte(i+1) {
			t.Errorf("block %d holds %d", i, got[i*4096])
		}
	}
	if err := plain.Flush(t.Context()); !errors.Is(err, initiator.ErrBroken) {
		t.Errorf("without replay: %v, want ErrBroken", err)
	}
}
