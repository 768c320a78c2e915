package pool

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

func TestImportAndExportKeepContentAndHoles(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "disk.raw")
	data := make([]byte, 8*mib+1000) // not whole blocks
	copy(data[mib:], bytes.Repeat([]byte{7}, 5000))
	copy(data[8*mib:], bytes.Repeat([]byte{8}, 1000))
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	p, f := served(t, filepath.Join(dir, "pool"), nil)
	defer p.Close()
	must(t, p, Request{Verb: VerbImport, Name: "a", File: file})
	want := append(bytes.Clone(data), make([]byte, 4096-1000)...)
	if !bytes.Equal(content(t, f.units["a"]), want) {
		t.Error("the imported volume differs")
	}
	reply, err := p.Do(t.Context(), Request{Verb: VerbShow, Name: "a"})
	if err != nil || reply.Volumes[0].AllocatedBytes > 64<<10 {
		t.Errorf("zeroes took space: %+v %v", reply, err)
	}
	must(t, p, Request{Verb: VerbSnapshot, Name: "a", New: "s"})
	write(t, f.units["a"], 4096, bytes.Repeat([]byte{9}, 4096))
	copy(want[4096:], bytes.Repeat([]byte{9}, 4096))
	for range 3 { // each freezes the volume, and leaves no more layers than the one before
		out := filepath.Join(dir, "out.raw")
		must(t, p, Request{Verb: VerbExport, Name: "a", File: out})
		got, err := os.ReadFile(out)
		if err != nil || !bytes.Equal(got, want) || !bytes.Equal(content(t, f.units["a"]), want) {
			t.Errorf("the export differs: %v", err)
		}
		if err := os.Remove(out); err != nil {
			t.Error(err)
		}
	}
	if reply, err = p.Do(t.Context(), Request{Verb: VerbShow, Name: "a"}); err != nil || reply.Volumes[0].Layers > 3 {
		t.Errorf("%+v %v", reply, err)
	}
	for _, c := range []struct {
		r    Request
		want error
		says string
	}{
		{Request{Verb: VerbExport, Name: "a", File: file}, domain.ErrConflict, "is there"},
		{Request{Verb: VerbExport, Name: "a", File: filepath.Join(dir, "x"), Format: "iso"}, domain.ErrInvalid, "qcow2"},
		{Request{Verb: VerbImport, Name: "b", File: filepath.Join(dir, "none")}, domain.ErrNotFound, "none"},
		{Request{Verb: VerbImport, Name: "b", File: file, Format: "iso"}, domain.ErrInvalid, "qcow2"},
		{Request{Verb: VerbImport, Name: "a", File: file}, domain.ErrConflict, "taken"},
	} {
		if _, err := p.Do(t.Context(), c.r); !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%+v: %v", c.r, err)
		}
	}
	t.Setenv("PATH", dir)
	if _, err := p.Do(t.Context(), Request{Verb: VerbExport, Name: "s", File: filepath.Join(dir, "x"), Format: "qcow2"}); err == nil || !strings.Contains(err.Error(), "qemu-utils") {
		t.Errorf("without qemu-img: %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, ".part*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
