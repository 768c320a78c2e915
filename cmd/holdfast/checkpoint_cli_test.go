package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
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
	checkLimit(t, run, lsn, then)
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

// checkLimit gives an open checkpoint room for one block, and checks that it takes no more and says so.
func checkLimit(t *testing.T, run func(out any, args ...string) outcome, lsn string, disk *initiator.Session) {
	t.Helper()
	for _, bad := range []string{"20", "0B"} {
		if o := run(nil, "open", "erp", lsn, "--site", "b", "--limit", bad); o.code == 0 || !strings.Contains(o.err.Error(), "20GiB") {
			t.Fatalf("--limit %s: exit %d, %v", bad, o.code, o.err)
		}
	}
	var opened api.CheckpointOpened
	if o := run(&opened, "open", "erp", lsn, "--site", "b", "--limit", "4KiB"); o.code != 0 || opened.LimitBytes != 4096 {
		t.Fatalf("exit %d, %v: %+v", o.code, o.err, opened)
	}
	if err := disk.Write(t.Context(), numberedBlock(4), 0, false); err != nil {
		t.Fatal(err)
	}
	if err := disk.Write(t.Context(), numberedBlock(5), 4096, false); err == nil {
		t.Fatal("more was taken than the limit")
	}
	var list api.CheckpointList
	o := run(&list, "list", "erp", "--site", "b")
	if i := slices.IndexFunc(list.Checkpoints, func(p api.Checkpoint) bool { return len(p.Disks) > 0 }); i < 0 || list.Checkpoints[i].WrittenBytes != 4096 || list.Checkpoints[i].Refuses == "" ||
		!strings.Contains(openText(list.Checkpoints[i]), "open, 4KiB of 4KiB, full") {
		t.Fatalf("it is not said: %s", o.stdout)
	}
}

func TestALimitThatAnOlderReplicatorDoesNotKnowIsNotTakenForOne(t *testing.T) {
	req := api.CheckpointOpenRequest{Group: "erp", Checkpoint: 5, LimitBytes: 4096}
	if err := limited(req, api.CheckpointOpened{}); !errors.Is(err, domain.ErrRefused) {
		t.Errorf("%v", err)
	}
	if err := limited(req, api.CheckpointOpened{LimitBytes: 4096}); err != nil {
		t.Error(err)
	}
	if err := limited(api.CheckpointOpenRequest{}, api.CheckpointOpened{LimitBytes: 4096}); err != nil { // it was open with one
		t.Error(err)
	}
}
