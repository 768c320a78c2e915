package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/site"
	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/config"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
)

// installed are three sites in this process, on addresses of their own.
type installed struct {
	t     *testing.T
	net   string            // first three numbers of their addresses
	files map[string]string // a site's configuration
	stop  map[string]func() // ends a site as loss of power does, and waits
}

// loopbackNet is the first three parts of loopback addresses that no other test uses now.
func loopbackNet(t *testing.T) string {
	t.Helper()
	var b [2]byte
	if _, err := rand.Read(b[:]); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.%d.%d", 20+int(b[0])%200, b[1])
}

// installation runs the three sample files on addresses of its own, each site in this process, and returns their paths.
func installation(t *testing.T) map[string]string {
	return installationOf(t, func(string, string) string { return "" }).files
}

// installationOf does so with more in each file.
func installationOf(t *testing.T, more func(site, net string) string) *installed {
	t.Helper()
	var b [2]byte
	if _, err := rand.Read(b[:]); err != nil {
		t.Fatal(err)
	}
	in := &installed{t: t, net: fmt.Sprintf("127.%d.%d", 20+int(b[0])%200, b[1]), files: map[string]string{}, stop: map[string]func(){}}
	dir := t.TempDir()
	for _, s := range []string{"a", "b", "w"} {
		sample, err := os.ReadFile("../../deploy/examples/site-" + s + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		text := strings.NewReplacer("127.0.0.1", in.net+".1", "127.0.11.", in.net+".1", "127.0.12.", in.net+".2", "256MiB", "16MiB", "hold_down: 30s", "hold_down: 1s").Replace(string(sample))
		in.files[s] = filepath.Join(dir, "site-"+s+".yaml")
		if err := os.WriteFile(in.files[s], []byte(text+more(s, in.net)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		var wg sync.WaitGroup
		for _, stop := range in.stop {
			wg.Go(stop)
		}
		wg.Wait()
	})
	for s := range in.files {
		in.start(s)
	}
	return in
}

// start runs a site, anew when it was stopped.
func (in *installed) start(s string) {
	in.t.Helper()
	cfg, err := config.Load(in.files[s])
	if err != nil {
		in.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(in.t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := site.Run(ctx, cfg, site.Options{Logger: slog.New(slog.DiscardHandler)}); err != nil {
			in.t.Errorf("site %s: %v", s, err)
		}
	}()
	in.stop[s] = func() {
		cancel()
		<-ended
	}
}

// command runs a command that must succeed and decodes its JSON.
func command[T any](t *testing.T, args ...string) T {
	t.Helper()
	var v T
	o := holdfast(t.Context(), append(args, "--output", "json")...)
	if o.code != 0 {
		t.Fatalf("%v: exit %d: %v %s", args, o.code, o.err, o.stderr)
	}
	if err := json.Unmarshal([]byte(o.stdout), &v); err != nil {
		t.Fatalf("%v: %v: %s", args, err, o.stdout)
	}
	return v
}

// awaitGroup asks until a group serves at a site with its other copy in sync.
func awaitGroup(t *testing.T, file string, serving domain.SiteID) groupView {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	var last string
	for {
		o := holdfast(ctx, "group", "show", "erp", "--config", file, "--output", "json")
		var v groupView
		if (o.code == 0 || o.code == 4) && json.Unmarshal([]byte(o.stdout), &v) == nil {
			c := v.Copies[serving]
			if c.Serving && len(c.Targets) == 1 && c.Targets[0].InSync && c.Targets[0].State == api.TargetStreaming {
				return v
			}
		}
		last = fmt.Sprint(o.stdout, o.err)
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("group erp does not serve in sync at site %s: %s", serving, last)
		}
	}
}

func TestCommandLineRunsAnInstallation(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: three sites for some ten seconds; run without -short")
	}
	files := installation(t)
	v := awaitGroup(t, files["a"], "a")
	if v.Desired.Site != "a" || v.Desired.Epoch == 0 {
		t.Errorf("desired %+v", v.Desired)
	}
	if list := command[api.GroupList](t, "group", "list", "--config", files["a"]); len(list.Groups) != 1 || len(list.Plans) != 1 {
		t.Errorf("group list %+v", list)
	}
	run := command[api.Run](t, "run", "start", "--plan", "main", "--kind", "switchover", "--from", "a", "--to", "b", "--reason", "a test", "--by", "tester", "--config", files["a"])
	if run.State != api.StepDone || run.By != "tester" || run.Leader != "b" {
		t.Errorf("run %+v", run)
	}
	moved := awaitGroup(t, files["b"], "b")
	if moved.Desired.Epoch <= v.Desired.Epoch {
		t.Errorf("epoch %s after %s", moved.Desired.Epoch, v.Desired.Epoch)
	}
	if runs := command[api.RunList](t, "run", "list", "--site", "b", "--config", files["a"]); len(runs.Runs) == 0 {
		t.Error("run list is empty")
	}
	if shown := command[api.Run](t, "run", "show", string(run.ID), "--site", "b", "--config", files["a"]); len(shown.Steps) != len(run.Steps) {
		t.Errorf("run show %+v", shown)
	}
	st := command[map[string][]siteStatus](t, "status", "--config", files["w"])
	if len(st["sites"]) != 3 {
		t.Errorf("status %+v", st)
	}
	for _, s := range st["sites"] {
		if !s.Reachable || len(s.Problems) > 0 {
			t.Errorf("status of site %s: %+v", s.Site, s)
		}
	}
	for _, args := range [][]string{{"status"}, {"group", "list"}, {"group", "show", "erp"}, {"run", "list", "--site", "b"}, {"run", "show", string(run.ID), "--site", "b"}} {
		if o := holdfast(t.Context(), append(args, "--config", files["a"])...); o.code != 0 || !strings.Contains(o.stdout, "erp") && !strings.Contains(o.stdout, "switchover") {
			t.Errorf("%v: exit %d %v: %s", args, o.code, o.err, o.stdout)
		}
	}
	checkRefusals(t, files)
	checkEvents(t, files["a"])
}

func checkRefusals(t *testing.T, files map[string]string) {
	t.Helper()
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"group", "show", "crm"}, "crm"},
		{[]string{"run", "show", "01ARZ3NDEKTSV4RRFFQ69G5FAV"}, "01ARZ3NDEKTSV4RRFFQ69G5FAV"},
		{[]string{"group", "list", "--site", "z"}, "site"},
		{[]string{"run", "start", "--plan", "nightly", "--kind", "switchover", "--from", "b", "--reason", "x"}, "nightly"},
		{[]string{"run", "start", "--plan", "main", "--kind", "sideways", "--reason", "x"}, "sideways"},
	} {
		o := holdfast(t.Context(), append(c.args, "--config", files["a"])...)
		if o.code == 0 || !strings.Contains(o.err.Error(), c.want) {
			t.Errorf("%v: exit %d, %v; want an error that names %q", c.args, o.code, o.err, c.want)
		}
	}
}

// eventSink is the standard output of event watch: it checks each line, and ends the watch when every wanted type was told.
type eventSink struct {
	t       *testing.T
	missing map[string]bool
	whole   func()
}

// Write gets one line at a time.
func (s *eventSink) Write(line []byte) (int, error) {
	e, fact, err := event.Decode(bytes.TrimSpace(line))
	if err != nil || fact == nil || e.SpecVersion != "1.0" || !strings.HasPrefix(e.Subject, "hf.v1.evt.") {
		s.t.Errorf("not an event of the catalogue: %s (%v)", line, err)
	}
	delete(s.missing, strings.TrimPrefix(e.Type, "hf.v1."))
	if len(s.missing) == 0 {
		s.whole()
	}
	return len(line), nil
}

// checkEvents reads what event watch prints as CloudEvents until the whole of a move was told.
func checkEvents(t *testing.T, file string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	sink := &eventSink{t: t, missing: map[string]bool{}, whole: cancel}
	for _, want := range []string{"group.epoch_granted", "group.promoted", "group.demoted", "run.completed", "vm.started", "name.changed"} {
		sink.missing[want] = true
	}
	root := newRoot()
	root.SetArgs([]string{"event", "watch", "--all", "--config", file, "--output", "json"})
	root.SetOut(sink)
	if err := root.ExecuteContext(ctx); err != nil {
		t.Errorf("event watch: %v", err)
	}
	if len(sink.missing) > 0 {
		t.Errorf("never told: %v", sink.missing)
	}
}
