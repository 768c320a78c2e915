package replicator_test

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/chap"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/initiator"
	"github.com/holdfast-dr/holdfast/services/replicator"
)

const (
	chapUser  = "main-a"
	oldSecret = "the old secret here"
	newSecret = "the new secret here"
)

// secretFile writes a secret as a rotation does, by rename.
func secretFile(t *testing.T, path string, mode os.FileMode, lines ...string) {
	t.Helper()
	tmp := path + ".new"
	if err := errors.Join(os.WriteFile(tmp, []byte(strings.Join(lines, "\n")+"\n"), mode), os.Chmod(tmp, mode), os.Rename(tmp, path)); err != nil {
		t.Fatal(err)
	}
}

// logged is a log that a test reads while it is written.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) line(part string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.b.String()) {
		if strings.Contains(line, part) {
			return line
		}
	}
	return ""
}

// guarded is a replicated volume of two sites whose logins want CHAP, served at a: its URL, and the secret's file.
func guarded(t *testing.T) (w *world, url, file string, log *logged) {
	t.Helper()
	w, log = newWorld(t), &logged{}
	file = filepath.Join(t.TempDir(), "secret")
	secretFile(t, file, 0o600, oldSecret)
	w.chap = chap.Settings{User: chapUser, SecretFile: file}
	w.log = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelWarn}))
	w.start("a")
	w.start("b")
	r, err := call[api.PromoteReply](w, "a", api.VerbPromote, api.PromoteRequest{Group: "erp", Epoch: 257, InSync: w.q.grant("a", 257)})
	if err != nil {
		t.Fatal(err)
	}
	if url = r.Disks[0].URL; strings.Contains(url, "%") || strings.Contains(url, "@") {
		t.Fatalf("credentials travel on the bus: %s", url)
	}
	return w, url, file, log
}

func login(t *testing.T, url string, c initiator.CHAP) (*initiator.Session, error) {
	t.Helper()
	s, err := initiator.Dial(t.Context(), url, initiator.Options{Name: "iqn.2026-11.test:host", CHAP: c})
	if err == nil {
		t.Cleanup(func() { _ = s.Close() })
	}
	return s, err
}

func TestReplicatedVolumeIsServedToTheRightCHAPSecretOnly(t *testing.T) {
	_, url, _, log := guarded(t)
	disk, err := login(t, url, initiator.CHAP{User: chapUser, Secret: oldSecret})
	if err != nil {
		t.Fatal(err)
	}
	if err := disk.Write(t.Context(), make([]byte, 4096), 0, false); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]initiator.CHAP{
		"wrong secret":                     {User: chapUser, Secret: newSecret},
		"wrong user":                       {User: "main-b", Secret: oldSecret},
		"missing":                          {},
		"mutual, which the target has not": {User: chapUser, Secret: oldSecret, MutualUser: "target", MutualSecret: newSecret},
	} {
		if _, err := login(t, url, c); !errors.Is(err, initiator.ErrAuth) {
			t.Errorf("%s: want %v, got %v", name, initiator.ErrAuth, err)
		}
	}
	line := log.line("login refused")
	for _, want := range []string{"level=WARN", "initiator=iqn.2026-11.test:host", "address=127.0.0.1:", "target=iqn.", "CHAP"} {
		if !strings.Contains(line, want) {
			t.Errorf("the log does not say %s: %q", want, line)
		}
	}
	if log.line(oldSecret) != "" || log.line(newSecret) != "" {
		t.Error("a secret is in the log")
	}
}

func TestCHAPSecretIsChangedWithoutEndingASession(t *testing.T) {
	_, url, file, log := guarded(t)
	before, err := login(t, url, initiator.CHAP{User: chapUser, Secret: oldSecret})
	if err != nil {
		t.Fatal(err)
	}
	try := func(stage, secret string, want error) {
		t.Helper()
		if _, err := login(t, url, initiator.CHAP{User: chapUser, Secret: secret}); !errors.Is(err, want) {
			t.Errorf("%s: want %v, got %v", stage, want, err)
		}
		if err := before.Write(t.Context(), make([]byte, 4096), 0, false); err != nil {
			t.Errorf("%s: the session of before: %v", stage, err)
		}
	}
	try("before", newSecret, initiator.ErrAuth)
	secretFile(t, file, 0o600, newSecret, oldSecret)
	try("while it is changed, the new one", newSecret, nil)
	try("while it is changed, the old one", oldSecret, nil)
	secretFile(t, file, 0o644, "readable by everyone")
	try("with a damaged file", oldSecret, nil)
	if line := log.line("chmod 600"); !strings.Contains(line, file) {
		t.Errorf("the damaged file is not told: %q", line)
	}
	secretFile(t, file, 0o600, newSecret)
	try("afterwards, the new one", newSecret, nil)
	try("afterwards, the old one", oldSecret, initiator.ErrAuth)
}

func TestGuardedVolumeFailsOverToTheSecretOfTheOtherSite(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	secrets := map[domain.SiteID]string{"a": oldSecret, "b": newSecret}
	for site, secret := range secrets {
		file := filepath.Join(dir, string(site))
		secretFile(t, file, 0o600, secret)
		w.chap = chap.Settings{User: "main-" + string(site), SecretFile: file}
		w.start(site)
	}
	as := func(site domain.SiteID) {
		w.login = func() initiator.CHAP { return initiator.CHAP{User: "main-" + string(site), Secret: secrets[site]} }
	}
	as("a")
	disk := w.promote("a", 257)
	w.until("b follows a", func() bool {
		st, err := call[api.ReplicatorStatus](w, "a", api.VerbStatus, api.GroupRequest{Group: "erp"})
		return err == nil && len(st.Groups[0].Targets) == 1 && st.Groups[0].Targets[0].InSync
	})
	data := bytes.Repeat([]byte("a"), 8192)
	if err := disk.Write(t.Context(), data, 0, true); err != nil {
		t.Fatal(err)
	}
	w.stop["a"]()
	as("b")
	got := make([]byte, len(data))
	if err := w.promote("b", 514).Read(t.Context(), got, 0); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("the write of the lost site: %v", err)
	}
}

func TestReplicatorDoesNotStartWithABadCHAPSecret(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	for name, c := range map[string]struct {
		write func()
		says  string
	}{
		"missing":  {func() {}, "no such file"},
		"readable": {func() { secretFile(t, file, 0o644, oldSecret) }, "run chmod 600 " + file},
		"short":    {func() { secretFile(t, file, 0o600, "short") }, "at least 12"},
	} {
		_ = os.Remove(file)
		c.write()
		err := replicator.Run(t.Context(), replicator.Config{Site: "a", DataDir: t.TempDir(), ISCSIListen: "127.0.0.1:0", CHAP: chap.Settings{User: "u", SecretFile: file}}, replicator.Deps{})
		if !errors.Is(err, domain.ErrInvalid) || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestMutualCHAPProvesTheReplicatorToTheHost(t *testing.T) {
	w := newWorld(t)
	file, mutual := filepath.Join(t.TempDir(), "secret"), filepath.Join(t.TempDir(), "mutual")
	secretFile(t, file, 0o600, oldSecret)
	secretFile(t, mutual, 0o600, "the target's own secret", "the target's old secret")
	w.chap = chap.Settings{User: chapUser, SecretFile: file, MutualUser: "target", MutualSecretFile: mutual}
	host, err := chap.Open(w.chap, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.login = host.Initiator
	w.start("a")
	disk := w.promote("a", 257)
	if err := disk.Write(t.Context(), make([]byte, 4096), 0, false); err != nil {
		t.Fatal(err)
	}
	// An impostor knows the initiator's secret and not the target's.
	wrong := host.Initiator()
	wrong.MutualSecret, wrong.MutualOld = "another secret altogether", ""
	r, err := call[api.PromoteReply](w, "a", api.VerbPromote, api.PromoteRequest{Group: "erp", Epoch: 257, InSync: w.q.grant("a", 257)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := login(t, r.Disks[0].URL, wrong); !errors.Is(err, initiator.ErrAuth) || !strings.Contains(err.Error(), "did not prove itself") {
		t.Errorf("a target that does not know the secret: %v", err)
	}
}
