package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
	"github.com/holdfast-dr/holdfast/pkg/identity"
	"github.com/holdfast-dr/holdfast/pkg/natsd"
)

// tellingSite is one site's NATS server and a publisher of events, as outsiders meet them.
type tellingSite struct {
	env    []string // for an example, with the reader's credentials where the site is secured
	dir    string   // of the site's secrets, "" where it is plain
	events *bus.Events
	told   int
}

func plainSite(t *testing.T) *tellingSite {
	t.Helper()
	srv, err := natsd.Start(natsd.Config{Site: "a", Listen: "127.0.0.1:0", StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Stop)
	s := &tellingSite{env: []string{"NATS_URL=" + srv.URL()}}
	s.connect(t, srv.URL(), nil)
	return s
}

func securedSite(t *testing.T) *tellingSite {
	t.Helper()
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := identity.Found(dir, identity.Spec{Cluster: "main", Site: "a", Role: domain.SiteData, Index: 1, Addresses: []string{"127.0.0.1"}}, identity.Options{})
	must(err)
	auth, err := identity.OpenAuthority(dir, identity.Options{})
	must(err)
	inst, err := auth.Admit()
	must(err)
	must(identity.Install(dir, inst))
	secrets := identity.SecretsDir(dir)
	conf, err := natsd.Conf(inst, "a", natsd.ConfFiles{Listen: "127.0.0.1:0", StoreDir: filepath.Join(dir, "nats"), Cert: filepath.Join(secrets, "nats", "server.pem"),
		Key: filepath.Join(secrets, "nats", "server.key"), CA: filepath.Join(secrets, "trust", "ca.pem")})
	must(err)
	must(os.WriteFile(filepath.Join(dir, "nats.conf"), []byte(conf), 0o600))
	srv, err := natsd.Start(natsd.Config{Site: "a", Listen: "127.0.0.1:0", StoreDir: filepath.Join(dir, "nats"), Conf: filepath.Join(dir, "nats.conf")})
	must(err)
	t.Cleanup(srv.Stop)
	creds, err := identity.Open(secrets, api.ServiceQuorum)
	must(err)
	s := &tellingSite{env: append([]string{"NATS_URL=" + srv.URL()}, credentialEnv(secrets, "reader")...), dir: secrets}
	s.connect(t, srv.URL(), creds)
	return s
}

// credentialEnv points an example at the files of a principal.
func credentialEnv(secrets, name string) []string {
	file := func(n string) string { return filepath.Join(secrets, name, n) }
	return []string{"CREDS=" + file("user.creds"), "CERT=" + file("client.pem"), "KEY=" + file("client.key"), "CA=" + filepath.Join(secrets, "trust", "ca.pem")}
}

func (s *tellingSite) connect(t *testing.T, url string, creds *identity.Credentials) {
	t.Helper()
	mesh, err := bus.Dial(bus.Config{Site: "a", Service: api.ServiceQuorum, URLs: map[domain.SiteID]string{"a": url}, Logger: slog.New(slog.DiscardHandler), Credentials: creds})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(mesh.Close)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := mesh.Local().AwaitConnected(ctx); err != nil {
		t.Fatal(err)
	}
	if err := mesh.Local().EnsureAssets(ctx); err != nil {
		t.Fatal(err)
	}
	s.events = bus.NewEvents(t.Context(), mesh.Local(), api.ServiceQuorum, slog.New(slog.DiscardHandler))
}

// tell publishes one more event and returns its id.
func (s *tellingSite) tell(t *testing.T) string {
	s.told++
	id := fmt.Sprintf("told-%d", s.told)
	s.events.Publish(t.Context(), id, event.LeaseChanged{Fact: "epoch_granted", Group: "erp", Site: "a", Epoch: domain.NewEpoch(0, s.told, 1)})
	return id
}

// tellUntil publishes events until one is heard on a channel of lines: a live subscription shows in nothing else.
func (s *tellingSite) tellUntil(t *testing.T, lines <-chan string, part string) string {
	t.Helper()
	limit := time.NewTimer(30 * time.Second)
	defer limit.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var last []string
	for {
		select {
		case line, ok := <-lines:
			if !ok {
				t.Fatalf("it ended: %q", last)
			}
			last = append(last, line)
			if strings.Contains(line, part) {
				return line
			}
		case <-tick.C:
			s.tell(t)
		case <-limit.C:
			t.Fatalf("%d events told, none heard: %q", s.told, last)
		}
	}
}

// startExample runs a program until the test ends; what it prints comes line by line, until it ends.
func startExample(t *testing.T, env []string, program string, args ...string) <-chan string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), env...)
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = in, in
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = in.Close()
	lines := make(chan string, 1000)
	go func() {
		defer close(lines)
		for sc := bufio.NewScanner(out); sc.Scan(); {
			lines <- sc.Text()
		}
	}()
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
		_ = out.Close()
	})
	return lines
}

// buildExample builds an example as its reader would: alone, without the workspace.
func buildExample(t *testing.T, name string) string {
	t.Helper()
	if testing.Short() {
		t.Skip("SKIPPED: builds a module of its own; run without -short")
	}
	path := filepath.Join(t.TempDir(), name)
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", path, ".")
	cmd.Dir, cmd.Env = filepath.Join("..", "..", "deploy", "examples", name), append(os.Environ(), "GOWORK=off", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", name, err, out)
	}
	return path
}

func eachSite(t *testing.T, f func(t *testing.T, s *tellingSite)) {
	t.Run("plain", func(t *testing.T) { f(t, plainSite(t)) })
	t.Run("secured", func(t *testing.T) { f(t, securedSite(t)) })
}

func TestSubscriberExamplePrintsEvents(t *testing.T) {
	program := buildExample(t, "subscriber")
	eachSite(t, func(t *testing.T, s *tellingSite) {
		line := s.tellUntil(t, startExample(t, s.env, program), "hf.v1.group.epoch_granted")
		if !strings.Contains(line, "/site/a/quorum") || !strings.Contains(line, `"group":"erp"`) {
			t.Errorf("%q", line)
		}
	})
}

func TestShellExamplePrintsEvents(t *testing.T) {
	path := os.Getenv("PATH")
	if bin, err := filepath.Abs("../../.bin"); err == nil {
		path += string(os.PathListSeparator) + bin
	}
	t.Setenv("PATH", path)
	if _, err := exec.LookPath("nats"); err != nil {
		if os.Getenv("CI") != "" && !testing.Short() {
			t.Fatal("the nats tool is not installed: run task tools:nats")
		}
		t.Skip("SKIPPED: the nats tool is not installed: run task tools:nats")
	}
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	eachSite(t, func(t *testing.T, s *tellingSite) {
		line := s.tellUntil(t, startExample(t, s.env, "../../deploy/examples/shell/watch.sh", "hf.v1.evt.*.group.erp.>"), "{")
		if e, fact, err := event.Decode([]byte(line)); err != nil || fact == nil || e.Source != "/site/a/quorum" {
			t.Errorf("%q: %v", line, err)
		}
	})
}

// hook is where the webhook bridge posts to.
func hook(t *testing.T) (url string, bodies <-chan string) {
	t.Helper()
	got := make(chan string, 1000)
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- string(body)
	}))
	t.Cleanup(srv.Close)
	return srv.URL, got
}

func TestWebhookExamplePostsEventsLive(t *testing.T) {
	program := buildExample(t, "webhook")
	eachSite(t, func(t *testing.T, s *tellingSite) {
		url, bodies := hook(t)
		startExample(t, append(s.env, "WEBHOOK_URL="+url), program)
		if e, fact, err := event.Decode([]byte(s.tellUntil(t, bodies, "epoch_granted"))); err != nil || fact == nil {
			t.Errorf("%+v: %v", e, err)
		}
	})
}

// TestWebhookExamplePostsWhatWasStored: plain, or with the operator's credentials; the reader's are told that they may not.
func TestWebhookExamplePostsWhatWasStored(t *testing.T) {
	program := buildExample(t, "webhook")
	eachSite(t, func(t *testing.T, s *tellingSite) {
		first := s.tell(t)
		url, bodies := hook(t)
		more := []string{"WEBHOOK_URL=" + url, "STATE=" + filepath.Join(t.TempDir(), "position")}
		if s.dir != "" {
			for line := range startExample(t, append(s.env, more...), program) {
				if strings.Contains(line, "leave STATE unset") {
					break
				}
			}
			more = append(more, append(credentialEnv(s.dir, "operator"), "INBOX=_INBOX_a_operator")...)
		}
		startExample(t, append(s.env, more...), program)
		select {
		case body := <-bodies:
			if !strings.Contains(body, `"id":"`+first+`"`) {
				t.Errorf("the first is %s, not %s", body, first)
			}
		case <-time.After(30 * time.Second):
			t.Error("nothing is posted")
		}
	})
}
