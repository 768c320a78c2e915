package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/audit"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
	"github.com/holdfast-dr/holdfast/services/replicator/group"
)

// TestWhatWasKeptAsideIsListedExportedAndDiscardedOnCommand lets two sites diverge and goes through every command.
func TestWhatWasKeptAsideIsListedExportedAndDiscardedOnCommand(t *testing.T) {
	r := newReplicas(t, domain.ModeAsync)
	kept := r.diverge()
	run := func(args ...string) outcome {
		return holdfast(t.Context(), append(args, "--config", r.file, "--output", "json")...)
	}
	o := run("quarantine", "list", "erp")
	var list quarantines
	if o.code != 0 || json.Unmarshal([]byte(o.stdout), &list) != nil || len(list.Items) != 1 || list.Items[0].Writes != 2 || list.Items[0].Extents != nil {
		t.Fatalf("list: %d %v %s", o.code, o.err, o.stdout)
	}
	id := list.Items[0].ID
	o = run("quarantine", "show", id)
	var item api.Quarantined
	if o.code != 0 || json.Unmarshal([]byte(o.stdout), &item) != nil || len(item.Extents) != 2 || item.Extents[0].Offset != 1<<20 || item.Extents[0].Time.IsZero() {
		t.Fatalf("show: %d %v %s", o.code, o.err, o.stdout)
	}
	dir := filepath.Join(t.TempDir(), "kept")
	o = run("quarantine", "export", id, dir)
	var done group.ExportMap
	if o.code != 0 || json.Unmarshal([]byte(o.stdout), &done) != nil || len(done.Extents) != 2 || done.Images[0].Size != replicaBytes {
		t.Fatalf("export: %d %v %s", o.code, o.err, o.stdout)
	}
	img, err := os.ReadFile(filepath.Join(dir, "data.img"))
	if err != nil || !bytes.Equal(img[1<<20:][:len(kept)], kept) || !bytes.Equal(img[2<<20:][:len(kept)], kept) || bytes.Contains(img[:1<<20], kept[:512]) {
		t.Fatalf("the image does not hold what was written and nothing else: %v", err)
	}
	for _, c := range []struct {
		code int
		want string
		args []string
	}{
		{2, "not empty", []string{"quarantine", "export", id, dir}},
		{1, "no site keeps", []string{"quarantine", "show", "erp-e1-1-1"}},
		{2, "--why", []string{"quarantine", "discard", id, "--yes"}},
		{3, "export them first", []string{"quarantine", "discard", id, "--why", "a test"}},
		{2, "no data site", []string{"quarantine", "list", "--site", "w"}},
	} {
		if o := run(c.args...); o.code != c.code || !strings.Contains(o.err.Error(), c.want) {
			t.Errorf("%v: exit %d, want %d: %v", c.args, o.code, c.code, o.err)
		}
	}
	if o = run("quarantine", "discard", id, "--yes", "--why", "a test", "--by", "kim"); o.code != 0 {
		t.Fatalf("discard: %d %v", o.code, o.err)
	}
	if _, err := os.Stat(item.Path); !os.IsNotExist(err) {
		t.Errorf("the folder is still there: %v", err)
	}
	if o = run("quarantine", "list"); !strings.Contains(o.stdout, `"items": []`) {
		t.Errorf("after the discard: %s", o.stdout)
	}
	r.recorded("a", id)
	r.stop["b"]()
	if o = run("quarantine", "list"); o.code != 4 || !strings.Contains(o.stdout, "site b") {
		t.Errorf("with a site that does not answer: exit %d, %s", o.code, o.stdout)
	}
}

// diverge makes a write two blocks that b never had, b go on without them, and a come back. It gives a block's content.
func (r *replicas) diverge() []byte {
	r.t.Helper()
	ctx := r.t.Context()
	r.start("a")
	r.start("b")
	disk := r.promote("a", 257)
	if err := disk.Write(ctx, make([]byte, 4096), 0, false); err != nil {
		r.t.Fatal(err)
	}
	r.follows("a")
	r.stop["b"]()
	kept := bytes.Repeat([]byte("diverged"), 1024)
	for _, off := range []int64{1 << 20, 2 << 20} {
		if err := disk.Write(ctx, kept, off, false); err != nil {
			r.t.Fatal(err)
		}
	}
	r.stop["a"]()
	r.start("b")
	if err := r.promote("b", 514).Write(ctx, bytes.Repeat([]byte("b"), 4096), 1<<20, false); err != nil {
		r.t.Fatal(err)
	}
	r.start("a")
	r.follows("b")
	return kept
}

// recorded finds the discard of an item in a site's audit, the refused one too, and its event.
func (r *replicas) recorded(site domain.SiteID, id string) {
	r.t.Helper()
	local := r.dial(site).Local()
	r.until("the discard and its refusal are in the audit", func() bool {
		subjects, err := local.Subjects(r.t.Context(), api.StreamAudit, audit.Filter(site))
		var done, refused bool
		for subject := range subjects {
			rec, lerr := local.Last(r.t.Context(), api.StreamAudit, subject)
			var e audit.Entry
			if lerr != nil || json.Unmarshal(rec.Data, &e) != nil {
				continue
			}
			done = done || e.What == "quarantine_discarded."+id && e.Why == "a test" && e.Claimed == "kim" && e.From != ""
			refused = refused || e.What == "quarantine_discard_refused."+id && strings.Contains(e.Why, "export them first")
		}
		return err == nil && done && refused
	})
	ctx, cancel := context.WithTimeout(r.t.Context(), 10*time.Second)
	defer cancel()
	var told bool
	err := local.FollowEvents(ctx, nil, bus.FromStart, func(_ context.Context, e event.Event, _ event.Fact) {
		if e.Type == "hf.v1.group.quarantine_discarded" {
			told = true
			cancel()
		}
	})
	if !told {
		r.t.Errorf("no event: %v", err)
	}
}
