package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// TestVerifyNamesAFlippedBitAndHealsItOnCommand flips a real bit of the target's volume file.
func TestVerifyNamesAFlippedBitAndHealsItOnCommand(t *testing.T) {
	r := newReplicas(t, domain.ModeSync)
	r.start("a")
	r.start("b")
	disk := r.promote("a", 257)
	content := bytes.Repeat([]byte("holdfast"), 4096)
	if err := disk.Write(t.Context(), content, 1<<20, false); err != nil {
		t.Fatal(err)
	}
	r.follows("a")
	image := filepath.Join(r.dirs["b"], "erp", "data.img")
	var raw []byte
	r.until("b's volume shows the write", func() bool {
		raw, _ = os.ReadFile(image)
		return bytes.Equal(raw[1<<20:][:len(content)], content)
	})
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{raw[1<<20+9000] ^ 16}, 1<<20+9000); err != nil {
		t.Fatal(err)
	}
	var out struct{ Targets []api.VerifyStatus }
	run := func(args ...string) outcome {
		o := holdfast(t.Context(), append([]string{"verify", "erp", "--config", r.file, "--output", "json"}, args...)...)
		out.Targets = nil
		_ = json.Unmarshal([]byte(o.stdout), &out)
		return o
	}
	o := run()
	if o.code != 1 || !strings.Contains(o.err.Error(), "--heal") || len(out.Targets) != 1 || len(out.Targets[0].Extents) != 1 ||
		out.Targets[0].Extents[0].Volume != "data" || out.Targets[0].Extents[0].Offset != 1<<20+8192 || out.Targets[0].Extents[0].Length != 4096 {
		t.Fatalf("exit %d, %v: %s", o.code, o.err, o.stdout)
	}
	if o := run("--heal"); o.code != 2 || !strings.Contains(o.err.Error(), "--why") {
		t.Fatalf("healing without a reason: exit %d, %v", o.code, o.err)
	}
	if o := run("--site", "w"); o.code != 1 || !strings.Contains(o.err.Error(), "no target") {
		t.Fatalf("no such target: exit %d, %v", o.code, o.err)
	}
	if o := run("--heal", "--why", "a test"); o.code != 0 || len(out.Targets) != 1 || out.Targets[0].Healed != 4096 {
		t.Fatalf("healing: exit %d, %v: %s", o.code, o.err, o.stdout)
	}
	if o := run(); o.code != 0 || out.Targets[0].Differ != 0 || out.Targets[0].Bytes != replicaBytes {
		t.Fatalf("after healing: exit %d, %v: %s", o.code, o.err, o.stdout)
	}
	if got, err := os.ReadFile(image); err != nil || !bytes.Equal(got, raw) {
		t.Fatalf("the target's image is not what it was: %v", err)
	}
}
