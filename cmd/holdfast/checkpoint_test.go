package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

func TestAnExportIsTheVolumeAndSparse(t *testing.T) {
	const size = 5<<20 + 4096
	volume := make([]byte, size)
	copy(volume[8192:], bytes.Repeat([]byte{7}, 4096))
	copy(volume[size-4096:], bytes.Repeat([]byte{8}, 4096))
	f, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	read := func(off, n int64) (api.CheckpointPiece, error) {
		p := api.CheckpointPiece{SizeBytes: size}
		if part := volume[off : off+n]; bytes.Count(part, []byte{0}) < len(part) {
			p.Data = part
		}
		return p, nil
	}
	if n, err := exportTo(f, read); err != nil || n != size {
		t.Fatalf("%d, %v", n, err)
	}
	if got, err := os.ReadFile(f.Name()); err != nil || !bytes.Equal(got, volume) {
		t.Fatalf("not the volume: %v", err)
	}
	var st syscall.Stat_t
	if err := syscall.Fstat(int(f.Fd()), &st); err != nil || st.Blocks*512 > 1<<20 {
		t.Fatalf("it takes %d bytes, %v", st.Blocks*512, err)
	}
}

func TestACheckpointIsNamedByItsNumber(t *testing.T) {
	if at, err := checkpointNamed([]string{"erp", "1042"}); err != nil || at.Group != "erp" || at.Checkpoint != 1042 {
		t.Fatalf("%+v, %v", at, err)
	}
	for _, bad := range []string{"", "0", "-1", "x", "18446744073709551615"} {
		if _, err := checkpointNamed([]string{"erp", bad}); !errors.Is(err, domain.ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
