package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
)

// watched is the output of a watch under way.
type watched struct {
	mu    sync.Mutex
	buf   bytes.Buffer
	grown chan struct{}
}

func (w *watched) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf.Write(p)
	select {
	case w.grown <- struct{}{}:
	default:
	}
	return len(p), nil
}

func (w *watched) lines() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Split(strings.TrimSuffix(w.buf.String(), "\n"), "\n")
}

// watchUntil runs holdfast event watch until its output has a line with the text, and returns every line.
func watchUntil(t *testing.T, config, text string, args ...string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	out := &watched{grown: make(chan struct{}, 1)}
	root := newRoot()
	root.SetArgs(append([]string{"event", "watch", "--config", config}, args...))
	root.SetOut(out)
	done := make(chan error, 1)
	go func() { done <- root.ExecuteContext(ctx) }()
	for {
		select {
		case <-out.grown:
			if strings.Contains(strings.Join(out.lines(), "\n"), text) {
				cancel()
				if err := <-done; err != nil {
					t.Errorf("%v: %v", args, err)
				}
				return out.lines()
			}
		case err := <-done:
			t.Fatalf("%v ended: %v: %q", args, err, out.lines())
		}
	}
}

// configOf is a site's file whose own server is the one given; the other sites cannot be reached.
func configOf(t *testing.T, url string) string {
	t.Helper()
	sample, err := os.ReadFile("../../deploy/examples/site-a.yaml")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	text := regexp.MustCompile(`nats://[0-9.:]+`).ReplaceAllStringFunc(string(sample), func(string) string {
		if n++; n == 1 {
			return url
		}
		return fmt.Sprintf("nats://127.0.0.1:%d", n)
	})
	path := filepath.Join(t.TempDir(), "site-a.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestWatchShowsWhatItsFiltersAskFor(t *testing.T) {
	s := plainSite(t)
	config := configOf(t, strings.TrimPrefix(s.env[0], "NATS_URL="))
	epoch := domain.NewEpoch(0, 1, 1)
	for i, f := range []event.Fact{
		event.LeaseChanged{Fact: "epoch_granted", Group: "erp", Site: "a", Epoch: epoch},
		event.LeaseChanged{Fact: "lease_lost", Group: "web", Site: "a", Epoch: epoch, Reason: "expired"},
		event.VMChanged{Fact: "started", Site: "a", Host: "a-h1", VM: api.HostVM{VM: "erp-db", Group: "erp", Epoch: epoch}},
		event.NameChanged{Fact: "changed", Name: "web.example.org", Type: "A", After: "10.0.0.1", Group: "web", Epoch: epoch},
		event.LeaseChanged{Fact: "epoch_granted", Group: "erp", Site: "a", Epoch: epoch.Next(1)},
		event.LeaseChanged{Fact: "epoch_granted", Group: "web", Site: "a", Epoch: epoch.Next(1)},
	} {
		s.events.Publish(t.Context(), fmt.Sprint("fact-", i), f)
	}
	granted := func(group, epoch string) string {
		return "group " + group + ": epoch granted epoch " + epoch + " at site a"
	}
	lost, started, changed := "group web: lease lost epoch 0.1.1 at site a (expired)", "vm erp-db started on host a-h1 of site a, epoch 0.1.1", "name web.example.org A changed: nothing -> 10.0.0.1"
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"--all"}, []string{granted("erp", "0.1.1"), lost, started, changed, granted("erp", "0.2.1"), granted("web", "0.2.1")}},
		{[]string{"--since", "1h", "--group", "erp"}, []string{granted("erp", "0.1.1"), started, granted("erp", "0.2.1")}},
		{[]string{"--since", "1h", "--entity", "vm,name"}, []string{started, changed}},
		{[]string{"--all", "--type", "group.epoch_granted", "--type", "hf.v1.name.changed", "--group", "web"}, []string{changed, granted("web", "0.2.1")}},
		{[]string{"--all", "--entity", "group", "--type", "group.lease_lost,vm.started"}, []string{lost}},
	} {
		lines := watchUntil(t, config, c.want[len(c.want)-1], c.args...)
		if len(lines) != len(c.want) {
			t.Errorf("%v: %q", c.args, lines)
			continue
		}
		for i, line := range lines {
			if !strings.HasSuffix(line, "  "+c.want[i]) || !strings.Contains(line, "  a/quorum ") {
				t.Errorf("%v: line %d is %q, want %q", c.args, i, line, c.want[i])
			}
		}
	}
	var e event.Event
	line := watchUntil(t, config, "fact-3", "--all", "--entity", "name", "--output", "json")[0]
	if err := json.Unmarshal([]byte(line), &e); err != nil || e.ID != "fact-3" || e.Type != "hf.v1.name.changed" {
		t.Errorf("%s: %v", line, err)
	}
}

func TestSinceLeavesOutWhatWasStoredBefore(t *testing.T) {
	s := plainSite(t)
	config := configOf(t, strings.TrimPrefix(s.env[0], "NATS_URL="))
	s.tell(t)
	watchUntil(t, config, "0.1.1", "--all")
	between := time.Now()
	for time.Since(between) < 5*time.Millisecond { // the server's own clock is the same
	}
	s.tell(t)
	lines := watchUntil(t, config, "0.2.1", "--since", between.UTC().Format(time.RFC3339Nano))
	if len(lines) != 1 {
		t.Errorf("%q", lines)
	}
}

func TestEventCommandsRefuseWhatCanNeverMatchAndNameTheMend(t *testing.T) {
	for want, args := range map[string][]string{
		"holdfast event catalogue lists all": {"event", "watch", "--type", "group.exploded"},
		"use one of disaster, declaration":   {"event", "watch", "--entity", "volume"},
		"no event is both":                   {"event", "watch", "--entity", "vm", "--type", "group.promoted"},
		"use a duration as 90m":              {"event", "watch", "--since", "yesterday"},
		"use one of them":                    {"event", "watch", "--since", "1h", "--all"},
		"use text, markdown":                 {"event", "catalogue", "--format", "html"},
		"use --format jsonschema":            {"event", "catalogue", "--type", "hf.v1.group.promoted"},
	} {
		if o := holdfast(t.Context(), args...); o.code != 2 || !strings.Contains(fmt.Sprint(o.err), want) {
			t.Errorf("%v: exit %d, %v", args, o.code, o.err)
		}
	}
}

func TestCataloguePrintsWhatIsInDocs(t *testing.T) {
	for format, path := range map[string]string{"markdown": "events.md", "asyncapi": "asyncapi.yaml", "jsonschema": "schemas/cloudevent.json"} {
		want, err := os.ReadFile("../../docs/" + path)
		if err != nil {
			t.Fatal(err)
		}
		if o := holdfast(t.Context(), "event", "catalogue", "--format", format); o.code != 0 || o.stdout != string(want) {
			t.Errorf("%s: exit %d, not docs/%s: run task generate", format, o.code, path)
		}
	}
	o := holdfast(t.Context(), "event", "catalogue")
	for _, d := range event.Catalogue() {
		if !strings.Contains(o.stdout, d.Type()+" ") {
			t.Errorf("%s is not listed", d.Type())
		}
	}
}
