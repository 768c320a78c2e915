package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/initiator"
)

// TestACheckpointIsMadeListedExportedOpenedAndClosedByCommand asks real replicators, over NATS and iSCSI.
func TestACheckpointIsMadeListedExportedOpenedAndClosedByCommand(t *testing.T) {
	r := newReplicas(t, domain.ModeSync)
	r.start("a")
	r.start("b")
	disk := r.promote("a", 257)
	run := func(out any, args ...string) outcome {
		o := holdfast(t.Context(), append([]string{"checkpoint"}, append(args, "--config", r.file, "--output", "json")...)...)
		if out != nil && o.code == 0 {
			if err := json.Unmarshal([]byte(o.stdout), out); err != nil {
				t.Fatalf("%v: %v: %s", args, err, o.stdout)
			}
		}
		return o
	}
	if err := disk.Write(t.Context(), numberedBlock(1), 8192, false); err != nil {
		t.Fatal(err)
	}
	r.follows("a")
	r.until("b keeps a history", func() bool {
		var l api.CheckpointList
		return run(&l, "list", "erp", "--site", "b").code == 0 && len(l.Checkpoints) > 0
	})
	if err := disk.Write(t.Context(), numberedBlock(2), 8192, false); err != nil {
		t.Fatal(err)
	}
	var made api.Checkpoint
	if o := run(&made, "create", "erp", "--label", "before the upgrade"); o.code != 0 || made.LSN == 0 {
		t.Fatalf("exit %d, %v: %s", o.code, o.err, o.stdout)
	}
	if err := disk.Write(t.Context(), numberedBlock(3), 8192, false); err != nil {
		t.Fatal(err)
	}
	lsn := strconv.FormatUint(uint64(made.LSN), 10)
	r.until("b lists it", func() bool {
		o := holdfast(t.Context(), "checkpoint", "list", "erp", "--site", "b", "--config", r.file)
		return strings.Contains(o.stdout, "before the upgrade") && strings.Contains(o.stdout, lsn)
	})
	file := filepath.Join(t.TempDir(), "data.img")
	if o := run(nil, "export", "erp", lsn, "data", file, "--site", "b"); o.code != 0 {
		t.Fatalf("exit %d, %v", o.code, o.err)
	}
	if got, err := os.ReadFile(file); err != nil || len(got) != replicaBytes || !bytes.Equal(got[8192:][:4096], numberedBlock(2)) {
		t.Fatalf("the export is not the volume as it was: %d bytes, %v", len(got), err)
	}
	var opened api.CheckpointOpened
	if o := run(&opened, "open", "erp", lsn, "--site", "b"); o.code != 0 || len(opened.Disks) != 1 {
		t.Fatalf("exit %d, %v: %s", o.code, o.err, o.stdout)
	}
	then, err := initiator.Dial(t.Context(), opened.Disks[0].URL, initiator.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = then.Close() }()
	got := make([]byte, 4096)
	if _, err := then.ReadAt(got, 8192); err != nil || !bytes.Equal(got, numberedBlock(2)) {
		t.Fatalf("what is served is not what was: %v", err)
	}
	if o := run(nil, "close", "erp", lsn, "--site", "b"); o.code != 0 {
		t.Fatalf("exit %d, %v", o.code, o.err)
	}
	if _, err := initiator.Dial(t.Context(), opened.Disks[0].URL, initiator.Options{}); err == nil {
		t.Fatal("it is served still")
	}
	if o := run(nil, "open", "erp", "999999", "--site", "b"); o.code == 0 || !strings.Contains(o.err.Error(), "holdfast checkpoint list") {
		t.Fatalf("one that is not there: exit %d, %v", o.code, o.err)
	}
	r.follows("a") // and replication went on
}
