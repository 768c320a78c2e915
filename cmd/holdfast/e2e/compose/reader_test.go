//go:build e2e_compose

package compose

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/holdfast-dr/holdfast/pkg/access"
	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// seen is what a reader was told, by the events' ids.
type seen struct {
	mu  sync.Mutex
	ids map[string]string // and their subjects
}

func (s *seen) take(m *nats.Msg) {
	var e struct{ ID string }
	_ = json.Unmarshal(m.Data, &e)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ids[e.ID] = m.Subject
}

func (s *seen) all() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.ids)
}

// outsider follows a switchover at all three sites with nothing but each site's reader, and then tries all it must not do.
func (f *fleet) outsider(ctx context.Context, t *testing.T) {
	readers, ops := map[domain.SiteID]*seen{}, map[domain.SiteID]*nats.Conn{}
	before := map[domain.SiteID]map[string]uint64{}
	for id, p := range f.places {
		got := &seen{ids: map[string]string{}}
		nc := f.as(t, p, "reader")
		if _, err := nc.Subscribe("hf.v1.evt.>", got.take); err != nil {
			t.Fatal(err)
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
		readers[id], ops[id] = got, f.as(t, p, "operator")
		var err error
		if before[id], _, err = f.stored(ctx, p, ops[id]); err != nil {
			t.Fatal(err)
		}
	}
	example := f.subscriber(ctx, t, f.places["a"])
	f.moved(ctx, t)
	for id, p := range f.places {
		f.sameEvents(ctx, t, p, ops[id], before[id], readers[id])
	}
	wctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := await(wctx, "the subscriber of deploy/examples to print the switchover", 100*time.Millisecond, func() (bool, string) {
		text := example()
		return strings.Contains(text, "hf.v1.run.completed") && strings.Contains(text, "hf.v1.group.lease_released"), text
	}); err != nil {
		t.Error(err)
	}
	for _, p := range f.places {
		f.readerMayNot(ctx, t, p, ops[p.id])
	}
}

// moved moves the group to the other site and back, as an operator does.
func (f *fleet) moved(ctx context.Context, t *testing.T) {
	t.Helper()
	from, err := f.serving(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		to := other(from)
		if err := f.watch.exec(ctx, nil, "run", "start", "--plan", plan, "--kind", api.RunSwitchover, "--from", string(from), "--to", string(to),
			"--reason", "outsiders follow it", "--by", "e2e", "--timeout", "60s"); err != nil {
			t.Fatal(err)
		}
		if err := f.whole(ctx, to); err != nil {
			t.Fatal(err)
		}
		from = to
	}
}

// sameEvents wants the reader to have been told what the site stored since, no less and no more.
func (f *fleet) sameEvents(ctx context.Context, t *testing.T, p *place, op *nats.Conn, before map[string]uint64, got *seen) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	n := 0
	if err := await(ctx, "the reader of site "+string(p.id)+" to be told what is stored", 500*time.Millisecond, func() (bool, string) {
		now, _, err := f.stored(ctx, p, op)
		if err != nil {
			return false, err.Error()
		}
		told := got.all()
		maps.DeleteFunc(told, func(id, _ string) bool { _, known := before[id]; return known })
		maps.DeleteFunc(now, func(id string, _ uint64) bool { _, known := before[id]; return known })
		n = len(now)
		missing := slices.DeleteFunc(slices.Collect(maps.Keys(now)), func(id string) bool { _, ok := told[id]; return ok })
		return len(missing) == 0 && len(told) == len(now), fmt.Sprintf("%d stored, %d told, not told: %v", len(now), len(told), missing)
	}); err != nil {
		t.Error(err)
	}
	if n == 0 && p.data() {
		t.Errorf("site %s stored no event of the switchover", p.id)
	}
	t.Logf("site %s: the reader was told all %d events", p.id, n)
}

// readerMayNot tries what the reader has no right to do; each is refused in words, and nothing comes of it.
func (f *fleet) readerMayNot(ctx context.Context, t *testing.T, p *place, op *nats.Conn) {
	t.Helper()
	var mu sync.Mutex
	var said []string
	nc := f.as(t, p, "reader", nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		mu.Lock()
		defer mu.Unlock()
		said = append(said, strings.ToLower(err.Error()))
	}))
	id := string(p.id)
	publish := []string{"hf.v1.evt." + id + ".group.erp.promoted", "hf.v1.api." + id + ".failover.run_start", "hf.v1.api." + id + ".quorum.status",
		"hf.v1.vote." + id + ".grant", "hf.v1.hb." + id + ".x", "hf.v1.pos.erp." + id, "hf.v1.cmd." + id + ".group.erp.promote", "hf.v1.audit." + id + ".x",
		"$JS.API.INFO", "$JS.API.STREAM.INFO.HF_EVENTS", "$JS." + id + ".API.STREAM.NAMES", "$JS.API.STREAM.DELETE.HF_EVENTS", "$JS.API.STREAM.PURGE.HF_EVENTS",
		"$KV.HF_DESIRED.group.erp", "$SYS.REQ.SERVER.PING", "$SYS.REQ.SERVER.PING.CONNZ", "$SYS.REQ.USER.INFO", "$SRV.PING", "_INBOX_" + id + "_operator.x"}
	subscribe := []string{">", "*.>", "hf.>", "hf.v1.>", "hf.v1.api.>", "hf.v1.vote.>", "hf.v1.hb.>", "hf.v1.pipe.>", "hf.v1.audit.>", "$JS.>", "$KV.>", "$SYS.>",
		"$SRV.>", "_INBOX.>", "_INBOX_" + id + "_operator.>"}
	forged := "e2e-forged-" + id
	for _, s := range publish {
		if err := nc.Publish(s, []byte(`{"id":"`+forged+`"}`)); err != nil {
			t.Fatal(err)
		}
	}
	heard := make(chan *nats.Msg, 1000)
	for _, s := range subscribe {
		if _, err := nc.ChanSubscribe(s, heard); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{}
	for _, s := range publish {
		s = strings.Replace(s, "$JS."+id+".", "$JS.", 1) // the server takes its own domain out before it looks
		want[`permissions violation for publish to "`+strings.ToLower(s)+`"`] = true
	}
	for _, s := range subscribe {
		want[`permissions violation for subscription to "`+strings.ToLower(s)+`"`] = true
	}
	wctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := await(wctx, "the reader of site "+id+" to be refused everything", 50*time.Millisecond, func() (bool, string) {
		mu.Lock()
		defer mu.Unlock()
		var left []string
		for w := range want {
			if !slices.ContainsFunc(said, func(s string) bool { return strings.Contains(s, w) }) {
				left = append(left, w)
			}
		}
		return len(left) == 0, strings.Join(left, "; ")
	}); err != nil {
		t.Error(err)
	}
	if len(heard) > 0 {
		t.Errorf("the reader of site %s was told something at %s", id, (<-heard).Subject)
	}
	if now, _, err := f.stored(ctx, p, op); err != nil || now[forged] != 0 {
		t.Errorf("the reader's event is stored as number %d (%v)", now[forged], err)
	}
}

// subscriber runs the example for outsiders with a site's reader, and gives what it has printed.
func (f *fleet) subscriber(ctx context.Context, t *testing.T, p *place) func() string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "subscriber")
	build := exec.CommandContext(ctx, "go", "build", "-o", bin, ".")
	build.Dir = "../../../../deploy/examples/subscriber"
	build.Env = append(os.Environ(), "GOWORK=off", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the subscriber: %v: %s", err, out)
	}
	out := filepath.Join(t.TempDir(), "out")
	file, err := os.Create(out)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	const name = prefix + "subscriber"
	cmd := exec.CommandContext(ctx, "docker", "run", "--rm", "--name", name, "--network", watchIn, "--user", f.in.uid, "--read-only", "--cap-drop", "ALL",
		"--volume", bin+":/subscriber:ro", "--volume", p.files("secrets", "reader")+":/reader:ro", "--volume", p.files("secrets", "trust")+":/trust:ro",
		"--env", "NATS_URL=tls://nats-"+string(p.id)+":4222", "--env", "CREDS=/reader/user.creds", "--env", "CERT=/reader/client.pem",
		"--env", "KEY=/reader/client.key", "--env", "CA=/trust/ca.pem", "--entrypoint", "/subscriber", image())
	cmd.Stdout, cmd.Stderr = file, file
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, _ = docker(context.WithoutCancel(ctx), "rm", "--force", name)
		_ = cmd.Wait()
	})
	monitor := f.as(t, p, access.Monitor)
	wctx, done := context.WithTimeout(ctx, 20*time.Second)
	defer done()
	if err := await(wctx, "the subscriber to be connected", 200*time.Millisecond, func() (bool, string) {
		all, err := f.connections(monitor)
		return slices.ContainsFunc(all, func(c connection) bool { return c.Name == "subscriber" }), fmt.Sprint(err)
	}); err != nil {
		t.Fatal(err)
	}
	return func() string {
		raw, err := os.ReadFile(out)
		if err != nil {
			return err.Error()
		}
		return string(raw)
	}
}
