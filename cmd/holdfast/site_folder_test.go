package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/sitefolder"
)

func TestSiteFolderCommandsExitWithTheirCodeAndNameTheMend(t *testing.T) {
	dir := t.TempDir()
	at := func(parts ...string) string { return filepath.Join(append([]string{dir}, parts...)...) }
	must := func(args ...string) outcome {
		t.Helper()
		o := holdfast(t.Context(), append([]string{"site"}, args...)...)
		if o.code != 0 {
			t.Fatalf("%v: exit %d: %v", args, o.code, o.err)
		}
		return o
	}
	must("init", "--dir", at("a"), "--name", "a", "--role", "data", "--address", "192.0.2.1")
	made := must("init", "--dir", at("b"), "--name", "b", "--role", "data", "--address", "192.0.2.2", "--peer", at("a", "a.card.json"))
	for _, want := range []string{"trusts the CA on the card of site a", "fingerprint", "b.card.json"} {
		if !strings.Contains(made.stdout, want) {
			t.Errorf("init does not say %q:\n%s", want, made.stdout)
		}
	}
	must("join", "--dir", at("a"), at("b", "b.card.json"))
	older, err := os.ReadFile(at("a", "installation.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(at("older.json"), older, 0o600); err != nil {
		t.Fatal(err)
	}
	must("rotate", "--dir", at("a"))
	if o := must("join", "--dir", at("b"), at("a", "installation.json")); !strings.Contains(o.stdout, "docker-compose up -d") {
		t.Errorf("join does not say how to start:\n%s", o.stdout)
	}
	for _, file := range []string{at("a", "config", "site.yaml"), at("b", "config", "site.yaml")} {
		if o := holdfast(t.Context(), "config", "validate", file); o.code != 0 {
			t.Errorf("the file that was made is not valid: %v", o.err)
		}
	}
	if err := os.Chmod(at("b", "secrets", "chap", "secret"), 0o640); err != nil {
		t.Fatal(err)
	}
	if o := holdfast(t.Context(), "config", "validate", at("b", "config", "site.yaml")); o.code != 2 || !strings.Contains(o.err.Error(), "run chmod 600") {
		t.Errorf("a CHAP secret that others may read: exit %d, %v", o.code, o.err)
	}
	if err := os.Chmod(at("b", "secrets", "chap", "secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if v := command[sitefolder.View](t, "site", "show", "--dir", at("b")); len(v.Sites) != 2 || len(v.Problems) != 0 || v.Founder {
		t.Errorf("show says %+v", v)
	}
	if err := os.Chmod(at("a", "secrets", "dns", "client.key"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"no folder", []string{"init", "--name", "c"}, 2, "--dir"},
		{"no address", []string{"init", "--dir", at("c"), "--name", "c", "--role", "data"}, 2, "--address"},
		{"folder in use", []string{"init", "--dir", at("a"), "--name", "a", "--role", "data", "--address", "x"}, 2, "site rotate"},
		{"no files", []string{"join", "--dir", at("b")}, 2, "installation.json"},
		{"no site's folder", []string{"join", "--dir", dir, at("older.json")}, 2, "site init"},
		{"cards at another site", []string{"join", "--dir", at("b"), at("a", "a.card.json")}, 3, "founded"},
		{"older installation", []string{"join", "--dir", at("b"), at("older.json")}, 1, "older"},
		{"two acts at once", []string{"rotate", "--dir", at("a"), "--ca", "--retire"}, 2, "alone"},
		{"retire elsewhere", []string{"rotate", "--dir", at("b"), "--retire"}, 3, "founded"},
		{"spoiled secret", []string{"show", "--dir", at("a")}, 1, "chmod 600"},
		{"unknown output", []string{"show", "--dir", at("a"), "--output", "xml"}, 2, "json"},
		{"unknown subcommand", []string{"jion"}, 2, "did you mean join"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := holdfast(t.Context(), append([]string{"site"}, c.args...)...)
			if o.code != c.code || o.err == nil || !strings.Contains(o.err.Error(), c.want) {
				t.Errorf("exit %d, want %d with %q: %v", o.code, c.code, c.want, o.err)
			}
		})
	}
}
