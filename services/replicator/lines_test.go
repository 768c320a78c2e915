package replicator_test

import (
	"bytes"
	"log/slog"
	"net"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/api"
)

// TestWithoutAPortForLinesChangesComeThroughNATSUntilThereIsOne: the replicator starts, says what it lacks, and takes lines by itself once
// the port is free; the primary sends by them from then on.
func TestWithoutAPortForLinesChangesComeThroughNATSUntilThereIsOne(t *testing.T) {
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	address := other.Addr().String()
	w := newWorld(t)
	var log logged
	w.log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	w.start("a")
	w.lines = address
	w.start("b")
	missing := func() string {
		st, err := call[api.ReplicatorStatus](w, "b", api.VerbStatus, api.GroupRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return st.NoLines
	}
	if why := missing(); !strings.Contains(why, address) || !strings.Contains(why, "replication.listen") {
		t.Errorf("the status says %q", why)
	}
	if said := log.line("lines are not taken"); !strings.Contains(said, "level=ERROR") || !strings.Contains(said, address) || !strings.Contains(said, "free the port") {
		t.Errorf("the log says %q", said)
	}
	goes := func(way string) {
		w.until("b is in sync, by "+way, func() bool {
			st, err := call[api.ReplicatorStatus](w, "a", api.VerbStatus, api.GroupRequest{Group: "erp"})
			return err == nil && len(st.Groups[0].Targets) == 1 && st.Groups[0].Targets[0].InSync && st.Groups[0].Targets[0].Way == way
		})
	}
	disk := w.promote("a", 257)
	if err := disk.Write(t.Context(), bytes.Repeat([]byte("x"), 4096), 0, true); err != nil {
		t.Fatal(err)
	}
	goes(api.WayNATS)
	if log.line("no line to the target") != "" || log.line("line begins") != "" {
		t.Error("a line is offered where nobody listens")
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	w.until("lines are taken", func() bool { return missing() == "" })
	if log.line("lines are taken") == "" {
		t.Error("the log does not say that it is over")
	}
	goes(api.WayLine)
	if err := disk.Write(t.Context(), bytes.Repeat([]byte("y"), 4096), 4096, true); err != nil {
		t.Fatal(err)
	}
}
