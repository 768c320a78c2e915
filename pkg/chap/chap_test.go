package chap_test

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/chap"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/initiator"
)

const (
	oldSecret = "the old secret here"
	newSecret = "the new secret here"
)

// file writes a file whole, as a rotation does: by rename.
func file(t *testing.T, path, text string, mode os.FileMode) string {
	t.Helper()
	tmp := path + ".new"
	if err := errors.Join(os.WriteFile(tmp, []byte(text), mode), os.Chmod(tmp, mode), os.Rename(tmp, path)); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFilesAreHeldToTheirRules(t *testing.T) {
	dir := t.TempDir()
	good := file(t, filepath.Join(dir, "good"), oldSecret+"\n", 0o600)
	for name, c := range map[string]struct {
		text string
		mode os.FileMode
		want []string // secrets; none: refused, with says
		says string
	}{
		"one line":         {oldSecret, 0o600, []string{oldSecret}, ""},
		"two lines":        {newSecret + "\n" + oldSecret + "\n", 0o600, []string{newSecret, oldSecret}, ""},
		"of another OS":    {newSecret + "\r\n" + oldSecret + "\r\n", 0o400, []string{newSecret, oldSecret}, ""},
		"exactly 96 bits":  {"twelve bytes\n", 0o600, []string{"twelve bytes"}, ""},
		"88 bits":          {"elevenbytes\n", 0o600, nil, "line 1 has 11 bytes: RFC 7143 wants at least 12"},
		"a short old one":  {newSecret + "\nshort\n", 0o600, nil, "line 2 has 5 bytes"},
		"an empty line":    {newSecret + "\n\n" + oldSecret, 0o600, nil, "line 2 has 0 bytes"},
		"three lines":      {newSecret + "\n" + oldSecret + "\n" + oldSecret, 0o600, nil, "more than two lines"},
		"empty":            {"", 0o600, nil, "line 1 has 0 bytes"},
		"readable by all":  {oldSecret, 0o604, nil, "(mode 0604): run chmod 600 "},
		"readable by many": {oldSecret, 0o640, nil, "(mode 0640): run chmod 600 "},
		"no text":          {oldSecret + "\x00", 0o600, nil, "no text"},
		"much too long":    {strings.Repeat("x", 5000), 0o600, nil, "not a small plain file"},
	} {
		path := file(t, filepath.Join(dir, "secret"), c.text, c.mode)
		got, err := chap.Read(chap.Settings{User: "u", SecretFile: path})
		if c.want != nil {
			if err != nil || !slices.Equal(got.Secrets, c.want) {
				t.Errorf("%s: %q, %v", name, got.Secrets, err)
			}
			continue
		}
		if !errors.Is(err, domain.ErrInvalid) || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: want the file and %q, got %v", name, c.says, err)
		}
		if _, err := chap.Read(chap.Settings{User: "u", SecretFile: good, MutualUser: "t", MutualSecretFile: path}); err == nil {
			t.Errorf("%s is taken as the target's secret", name)
		}
	}
	if _, err := chap.Read(chap.Settings{User: "u", SecretFile: filepath.Join(dir, "none")}); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "mode 0600") {
		t.Errorf("a missing file: %v", err)
	}
	if _, err := chap.Read(chap.Settings{User: "u", SecretFile: good, MutualUser: "t", MutualSecretFile: good}); !errors.Is(err, domain.ErrInvalid) {
		t.Errorf("the same secret for both directions: %v", err)
	}
}

func TestAChangedFileIsTakenAtOnceAndADamagedOneIsTold(t *testing.T) {
	path := file(t, filepath.Join(t.TempDir(), "secret"), oldSecret, 0o600)
	mutual := file(t, filepath.Join(t.TempDir(), "mutual"), "target's old secret", 0o600)
	var log bytes.Buffer
	s, err := chap.Open(chap.Settings{User: "u", SecretFile: path, MutualUser: "t", MutualSecretFile: mutual}, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	file(t, path, newSecret+"\n"+oldSecret, 0o600)
	file(t, mutual, "target's new secret\ntarget's old secret", 0o600)
	want := initiator.CHAP{User: "u", Secret: newSecret, MutualUser: "t", MutualSecret: "target's new secret", MutualOld: "target's old secret"}
	if got := s.Initiator(); got != want {
		t.Fatalf("got %+v", got)
	}
	file(t, path, "oops", 0o600)
	for range 3 {
		if got := s.Initiator(); got != want {
			t.Fatalf("a damaged file changed the secret: %+v", got)
		}
	}
	if n := strings.Count(log.String(), path); n != 1 {
		t.Errorf("told %d times:\n%s", n, log.String())
	}
	if strings.Contains(log.String(), "oops") {
		t.Error("a secret is in the log")
	}
	file(t, path, newSecret, 0o600)
	if got := s.Current().Secrets; !slices.Equal(got, []string{newSecret}) {
		t.Errorf("got %q", got)
	}
}

func TestNoUserIsNoCredentials(t *testing.T) {
	s, err := chap.Open(chap.Settings{}, nil)
	if s != nil || err != nil || s.Initiator() != (initiator.CHAP{}) {
		t.Fatal(s, err)
	}
}
