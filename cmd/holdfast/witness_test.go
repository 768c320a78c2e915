package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/identity"
)

// awaited is a log that tells when it holds a text.
type awaited struct {
	mu   sync.Mutex
	text bytes.Buffer
	want string
	seen chan struct{}
}

func (a *awaited) Write(b []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.text.Write(b)
	if a.want != "" && strings.Contains(a.text.String(), a.want) {
		a.want = ""
		close(a.seen)
	}
	return len(b), nil
}

func TestAWitnessIsMadeAndRuns(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "witness")
	run := func(ctx context.Context, log *awaited, args ...string) (string, error) {
		root, out := newRoot(), new(bytes.Buffer)
		root.SetArgs(args)
		root.SetOut(out)
		root.SetErr(log)
		err := root.ExecuteContext(ctx)
		return out.String(), err
	}
	told, err := run(t.Context(), new(awaited), "witness", "init", "--dir", dir, "--address", "127.0.0.1:7443")
	if err != nil || !strings.Contains(told, `witness: {url: "https://127.0.0.1:7443", ca: witness.pem}`) {
		t.Fatal(told, err)
	}
	if _, err := run(t.Context(), new(awaited), "witness", "init", "--dir", dir, "--address", "127.0.0.1:7443"); !errors.Is(err, domain.ErrConflict) {
		t.Errorf("made twice: %v", err)
	}
	founder := t.TempDir()
	if _, err := identity.Found(founder, identity.Spec{Cluster: "main", Site: "a", Role: domain.SiteData, Index: 1, Addresses: []string{"127.0.0.1"}, NATS: "tls://127.0.0.1:4222"}, identity.Options{}); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "witness.yaml")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	listed := strings.Replace(strings.Replace(string(text), "127.0.0.1:7443", "127.0.0.1:0", 1), "clusters: []", "clusters:\n  - {name: main, ca: "+identity.SecretsDir(founder)+"/trust/ca.pem}", 1)
	if err := os.WriteFile(file, []byte(listed), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	log, ended := &awaited{want: "witness ready", seen: make(chan struct{})}, make(chan error, 1)
	go func() {
		_, err := run(ctx, log, "witness", "run", "--config", file)
		ended <- err
	}()
	select {
	case <-log.seen:
	case err := <-ended:
		t.Fatalf("it ended: %v\n%s", err, log.text.String())
	case <-time.After(time.Minute):
		t.Fatal("it was not ready in a minute")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("at its end: %v", err)
	}
}
