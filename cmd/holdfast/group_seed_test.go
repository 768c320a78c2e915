package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// seedable writes a file of site b that knows no group, and has its replicator keep its copies where that file says.
func (r *replicas) seedable() string {
	r.t.Helper()
	text, err := os.ReadFile(r.file)
	if err != nil {
		r.t.Fatal(err)
	}
	data := r.t.TempDir()
	r.dirs["b"] = filepath.Join(data, "replicator")
	head, _, _ := strings.Cut(string(text), "\ngroups:")
	file := filepath.Join(r.t.TempDir(), "site-b.yaml")
	head = strings.NewReplacer("\nsite: a\n", "\nsite: b\n", "data_dir: ./state-a", "data_dir: "+data).Replace(head)
	if err := os.WriteFile(file, []byte(head+"\n"), 0o600); err != nil {
		r.t.Fatal(err)
	}
	return file
}

// TestASiteThatBecameATargetLaterIsSeeded: the file of the site knows nothing of the group, the sites that run do.
func TestASiteThatBecameATargetLaterIsSeeded(t *testing.T) {
	r := newReplicas(t, domain.ModeAsync)
	file := r.seedable()
	r.start("a")
	disk := r.promote("a", 257)
	content := bytes.Repeat([]byte("carried."), 1<<17)
	if err := disk.Write(t.Context(), content, 1<<20, true); err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(r.dirs["a"], "erp", "data.img")
	r.until("a's volume shows the write", func() bool {
		raw, err := os.ReadFile(image)
		return err == nil && bytes.Equal(raw[1<<20:][:len(content)], content)
	})
	o := holdfast(t.Context(), "group", "seed", "erp", "--volume", "data="+image, "--config", file)
	if o.code != 0 || !strings.Contains(o.stdout, "start the replicator of site b") {
		t.Fatalf("exit %d, %v: %s", o.code, o.err, o.stdout)
	}
	r.start("b")
	r.follows("a")
	if ts := r.target("a", "b"); ts.Resync == nil || ts.Resync.CompareTotal == 0 || ts.ResyncBytes != 0 {
		t.Fatalf("%d bytes were sent: %+v", ts.ResyncBytes, ts.Resync)
	}
	for args, want := range map[string]struct {
		code int
		says string
	}{
		"group seed erp --volume data=" + image + " --config " + r.file: {2, "is no target"}, // site a, the group's home
		"group seed crm --volume data=" + image + " --config " + file:   {1, "no site knows it"},
		"group seed erp --config " + file:                               {2, "--volume VOLUME=FILE"},
	} {
		if o := holdfast(t.Context(), strings.Fields(args)...); o.code != want.code || o.err == nil || !strings.Contains(o.err.Error(), want.says) {
			t.Errorf("%s: exit %d, %v", args, o.code, o.err)
		}
	}
}

func TestASeedTellsHowFarItIsEveryFewSeconds(t *testing.T) {
	var out bytes.Buffer
	at := time.Unix(0, 0)
	p := &seedProgress{w: &out, volume: "data", now: func() time.Time { return at }, began: at, told: at}
	for i := range int64(11) {
		p.tell(i<<20, 20<<20) // 1 MiB a second
		at = at.Add(time.Second)
	}
	if got, want := out.String(), "volume data: 5MiB of 20MiB, 1.0 MiB/s, 15s left\nvolume data: 10MiB of 20MiB, 1.0 MiB/s, 10s left\n"; got != want {
		t.Errorf("told %q, want %q", got, want)
	}
}
