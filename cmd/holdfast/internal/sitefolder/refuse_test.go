package sitefolder_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/sitefolder"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/identity"
)

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// rewrite changes a file's text.
func rewrite(t *testing.T, from, to, old, now string) string {
	t.Helper()
	raw, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(raw), old) {
		t.Fatalf("%s has no %q", from, old)
	}
	return write(t, to, strings.ReplaceAll(string(raw), old, now))
}

func refused(t *testing.T, err, kind error, want ...string) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("want %v, got %v", kind, err)
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("the error does not name %q: %v", w, err)
		}
	}
}

func TestInitRefusesWhatCouldNotBecomeASiteAndNamesTheMend(t *testing.T) {
	s := made(t)
	other := t.TempDir()
	initSite(t, options(other, "a"))
	cardA, cardW := s.file("a", "a.card.json"), s.file("w", "w.card.json")
	twin := rewrite(t, cardA, s.file("twin.card.json"), `"site": "a"`, `"site": "z"`)
	for _, c := range []struct {
		name   string
		change func(*sitefolder.Options)
		want   []string
	}{
		{"folder of a site", func(o *sitefolder.Options) { o.Dir = s.a }, []string{"folder of a site already", "site join", "site rotate"}},
		{"folder in use", func(o *sitefolder.Options) { o.Dir = s.root }, []string{"not empty"}},
		{"no name", func(o *sitefolder.Options) { o.Name = "" }, []string{"--name"}},
		{"bad name", func(o *sitefolder.Options) { o.Name = "A 1" }, []string{"--name", "a-z"}},
		{"bad role", func(o *sitefolder.Options) { o.Role = "arbiter" }, []string{"--role", "data or witness"}},
		{"no address", func(o *sitefolder.Options) { o.Address = "" }, []string{"--address"}},
		{"bad port", func(o *sitefolder.Options) { o.Address = "192.0.2.9:99999" }, []string{"--address", "192.0.2.1:4222"}},
		{"an URL", func(o *sitefolder.Options) { o.Address = "tls://x:4222" }, []string{"--address", "HOST"}},
		{"everywhere", func(o *sitefolder.Options) { o.Address = "0.0.0.0" }, []string{"--listen"}},
		{"bad index", func(o *sitefolder.Options) { o.Index = 256 }, []string{"--index", "255"}},
		{"index of a peer", func(o *sitefolder.Options) { o.Index = 1 }, []string{"--index 1", "site a has that index"}},
		{"name of a peer", func(o *sitefolder.Options) { o.Name = "a" }, []string{"--name a"}},
		{"another cluster", func(o *sitefolder.Options) { o.Cluster = "second" }, []string{"--cluster second", "main"}},
		{"peer is no founder", func(o *sitefolder.Options) { o.Peers = []string{cardW} }, []string{"founded", "CA"}},
		{"peer twice", func(o *sitefolder.Options) { o.Peers = []string{cardA, cardA} }, []string{"twice"}},
		{"peers share an index", func(o *sitefolder.Options) { o.Peers = []string{cardA, twin} }, []string{"index"}},
		{"peer is garbage", func(o *sitefolder.Options) { o.Peers = []string{write(t, s.file("garbage"), "PK\x03")} }, []string{"garbage", "not a whole card"}},
		{"peer is half a card", func(o *sitefolder.Options) { o.Peers = []string{write(t, s.file("half"), `{"format": "1.0"}`)} }, []string{"half", "not a site's card"}},
		{"peer is missing", func(o *sitefolder.Options) { o.Peers = []string{s.file("none.json")} }, []string{"none.json"}},
		{"peer of a newer holdfast", func(o *sitefolder.Options) {
			o.Peers = []string{rewrite(t, cardA, s.file("newer"), `"format": "1.0"`, `"format": "2.0"`)}
		}, []string{"2.0", "upgrade"}},
		{"half a CA", func(o *sitefolder.Options) { o.Peers, o.CACert = nil, "ca.pem" }, []string{"--ca-key"}},
		{"own CA and peer", func(o *sitefolder.Options) { o.CACert, o.CAKey = "x", "y" }, []string{"--ca-cert", "founds"}},
		{"own CA missing", func(o *sitefolder.Options) { o.Peers, o.CACert, o.CAKey = nil, s.file("no.pem"), "y" }, []string{"--ca-cert", "no.pem"}},
		{"own CA's key is another's", func(o *sitefolder.Options) {
			o.Peers, o.CACert, o.CAKey = nil, s.file("a", "ca", "ca.pem"), filepath.Join(other, "a", "ca", "ca.key")
		}, []string{"belong together"}},
		{"own CA is no CA", func(o *sitefolder.Options) {
			o.Peers, o.CACert, o.CAKey = nil, s.file("a", "secrets", "nats", "server.pem"), s.file("a", "secrets", "nats", "server.key")
		}, []string{"not one of an authority"}},
		{"witness with hosts", func(o *sitefolder.Options) { o.Role, o.Hosts = domain.SiteWitness, []string{"h1"} }, []string{"--host-id"}},
		{"bad host", func(o *sitefolder.Options) { o.Hosts = []string{"H1"} }, []string{"--host-id"}},
		{"groups missing", func(o *sitefolder.Options) { o.Groups = s.file("no.yaml") }, []string{"--groups", "no.yaml"}},
		{"groups with more", func(o *sitefolder.Options) { o.Groups = write(t, s.file("more.yaml"), "nats: {listen: x}\n") }, []string{"more.yaml:1", "nats", "hosts, groups and plans"}},
		{"groups with a mistake", func(o *sitefolder.Options) {
			o.Groups = write(t, s.file("bad.yaml"), strings.Replace(groups, "size: 64MiB", "size: 64", 1))
		}, []string{"bad.yaml", "size", "unit"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := options(s.root, "c", cardA)
			c.change(&o)
			_, err := sitefolder.Init(o)
			if err == nil {
				t.Fatal("no error")
			}
			refused(t, err, kindOf(err), c.want...)
			if kind := kindOf(err); kind == nil {
				t.Errorf("the error has no kind that scripts can see: %v", err)
			}
			if _, err := os.Stat(s.file("c")); !os.IsNotExist(err) {
				t.Error("it left a folder behind")
			}
		})
	}
}

func kindOf(err error) error {
	for _, kind := range []error{domain.ErrInvalid, domain.ErrRefused, domain.ErrConflict} {
		if errors.Is(err, kind) {
			return kind
		}
	}
	return nil
}

// card makes another site's card beside the three.
func card(t *testing.T, s trio, change func(*sitefolder.Options)) string {
	t.Helper()
	o := options(t.TempDir(), "c", s.file("a", "a.card.json"))
	o.Index = 7
	change(&o)
	return initSite(t, o).Card
}

func TestTheFounderRefusesCardsThatDoNotBelong(t *testing.T) {
	s := joined(t)
	other := t.TempDir()
	second := options(other, "a")
	second.Cluster = "second"
	initSite(t, second)
	before := contents(t, s.a)
	for _, c := range []struct {
		name, file string
		want       []string
	}{
		{"another cluster", initSite(t, options(other, "b", filepath.Join(other, "a", "a.card.json"))).Card, []string{"second", "main"}},
		{"name of another site", card(t, s, func(o *sitefolder.Options) { o.Name = "b"; o.Index = 9 }), []string{"site b", "another name"}},
		{"index of another site", card(t, s, func(o *sitefolder.Options) { o.Index = 2 }), []string{"index 2", "site b", "--index"}},
		{"its own name", filepath.Join(other, "a", "a.card.json"), []string{"site a", "site rotate"}},
		{"newer major", rewrite(t, card(t, s, func(*sitefolder.Options) {}), s.file("major.json"), `"format": "1.0"`, `"format": "2.0"`), []string{"2.0", "upgrade"}},
		{"garbage", write(t, s.file("garbage"), "hello"), []string{"garbage", "neither a card nor an installation"}},
		{"another JSON", write(t, s.file("other.json"), `{"format": "1.0", "name": "x"}`), []string{"other.json", "not a site's card"}},
		{"missing file", s.file("none.json"), []string{"none.json"}},
		{"another site's name on it", rewrite(t, card(t, s, func(*sitefolder.Options) {}), s.file("renamed.json"), `"site": "c"`, `"site": "d"`), []string{"made for \"c.", "changed on its way"}},
		{"tampered requests", rewrite(t, card(t, s, func(*sitefolder.Options) {}), s.file("tampered.json"), `\n`, `\nA`), []string{"sign c.", "request"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := sitefolder.Join(s.a, []string{c.file})
			if err == nil || kindOf(err) == nil {
				t.Fatalf("want a refusal with a kind, got %v", err)
			}
			refused(t, err, kindOf(err), c.want...)
			after := contents(t, s.a)
			for path := range before {
				if after[path] != before[path] {
					t.Errorf("%s has changed", path)
				}
			}
		})
	}
}

func TestOnlyTheFounderSignsAndSaysWhereTheCAShouldBe(t *testing.T) {
	s := joined(t)
	c := card(t, s, func(*sitefolder.Options) {})
	_, err := sitefolder.Join(s.b, []string{c})
	refused(t, err, domain.ErrRefused, "site b did not found", "where it was founded")
	offline := s.file("ca-offline")
	if err := os.Rename(s.file("a", "ca"), offline); err != nil {
		t.Fatal(err)
	}
	_, err = sitefolder.Join(s.a, []string{c})
	refused(t, err, domain.ErrRefused, s.file("a", "ca"), "bring its folder back")
	if err := os.Rename(offline, s.file("a", "ca")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(s.file("a", "ca", "ca.key")); err != nil {
		t.Fatal(err)
	}
	_, err = sitefolder.Join(s.a, []string{c})
	if err == nil || !strings.Contains(err.Error(), s.file("a", "ca", "ca.key")) {
		t.Errorf("want the missing key's path, got %v", err)
	}
}

func TestASiteRefusesInstallationsItMustNotTrust(t *testing.T) {
	s := joined(t)
	other := t.TempDir()
	initSite(t, options(other, "a"))
	initSite(t, options(other, "b", filepath.Join(other, "a", "a.card.json")))
	join(t, filepath.Join(other, "a"), filepath.Join(other, "b", "b.card.json"))
	serial2, err := os.ReadFile(s.file("a", "installation.json"))
	if err != nil {
		t.Fatal(err)
	}
	join(t, s.a, card(t, s, func(*sitefolder.Options) {}))
	join(t, s.b, s.file("a", "installation.json"))
	now := s.file("a", "installation.json")
	stranger := options(t.TempDir(), "d", s.file("a", "a.card.json"))
	stranger.Address, stranger.Index = "192.0.2.9", 9
	stranger.Name = "d"
	initSite(t, stranger)
	for _, c := range []struct {
		name, dir, file string
		want            []string
	}{
		{"another CA", s.b, filepath.Join(other, "a", "installation.json"), []string{"not signed by the CA"}},
		{"tampered", s.b, rewrite(t, now, s.file("tampered"), `"192.0.2.4"`, `"192.0.2.66"`), []string{"was changed"}},
		{"older serial", s.b, write(t, s.file("older"), string(serial2)), []string{"serial 2", "older", "3"}},
		{"newer major", s.b, rewrite(t, now, s.file("major"), `"format": "1.0"`, `"format": "2.0"`), []string{"2.0", "upgrade"}},
		{"without this site", stranger.Dir, now, []string{"site d is not in the installation"}},
		{"cut short", s.b, write(t, s.file("short"), string(serial2[:len(serial2)/2])), []string{"short", "copy the file again"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := contents(t, c.dir)
			_, err := sitefolder.Join(c.dir, []string{c.file})
			if err == nil || kindOf(err) == nil && !errors.Is(err, domain.ErrNotFound) {
				t.Fatalf("want a refusal with a kind, got %v", err)
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("the error does not name %q: %v", w, err)
				}
			}
			after := contents(t, c.dir)
			for path := range before {
				if after[path] != before[path] {
					t.Errorf("%s has changed", path)
				}
			}
		})
	}
}

func TestAnInstallationOfANewerMinorVersionIsTaken(t *testing.T) {
	s := made(t)
	path := s.file("b", "b.card.json")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var c map[string]any
	if err := json.Unmarshal(raw, &c); err != nil {
		t.Fatal(err)
	}
	c["format"], c["colour"] = "1.7", "blue"
	newer, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	join(t, s.a, write(t, s.file("newer.json"), string(newer)))
	join(t, s.b, s.file("a", "installation.json"))
	if _, err := identity.Open(s.file("b", "secrets"), "replicator"); err != nil {
		t.Error(err)
	}
}

func TestJoinTellsAConfigurationThatDoesNotFit(t *testing.T) {
	s := made(t)
	for _, c := range []struct{ name, old, now, want string }{
		{"another index", "{id: a, index: 1,", "{id: a, index: 7,", `index "7", the installation says "1"`},
		{"another role", "index: 1, role: data", "index: 1, role: witness", `role "witness", the installation says "data"`},
		{"list on one line", "sites:\n  - {", "sites: [{", "one on each line"},
		{"broken", "timing: default", "timing: [", "mend the syntax"},
	} {
		t.Run(c.name, func(t *testing.T) {
			defer keep(t, s.a)()
			path := s.file("a", "config", "site.yaml")
			rewrite(t, path, path, c.old, c.now)
			if c.name == "list on one line" {
				rewrite(t, path, path, `dns: "192.0.2.1:53"}`, `dns: "192.0.2.1:53"}]`)
			}
			_, err := sitefolder.Join(s.a, []string{s.file("b", "b.card.json")})
			refused(t, err, kindOf(err), c.want, "site.yaml")
		})
	}
}

// keep gives back what makes a folder's files what they are now.
func keep(t *testing.T, dir string) func() {
	was := contents(t, dir)
	return func() {
		for path, what := range was {
			mode, text, ok := strings.Cut(what, "\n")
			if !ok {
				continue // a folder
			}
			write(t, path, text)
			if mode == "-rw-r--r--" {
				if err := os.Chmod(path, 0o644); err != nil {
					t.Fatal(err)
				}
			} else if err := os.Chmod(path, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestShowFindsEveryKindOfSpoiledSecret(t *testing.T) {
	s, now := joined(t), time.Now()
	for _, c := range []struct {
		name  string
		spoil func(t *testing.T, s trio)
		want  string
	}{
		{"readable by others", func(t *testing.T, s trio) {
			if err := os.Chmod(s.file("b", "secrets", "quorum", "client.key"), 0o644); err != nil {
				t.Fatal(err)
			}
		}, "chmod 600"},
		{"server key readable by others", func(t *testing.T, s trio) {
			if err := os.Chmod(s.file("b", "secrets", "nats", "server.key"), 0o640); err != nil {
				t.Fatal(err)
			}
		}, "chmod 600"},
		{"another's key", func(t *testing.T, s trio) {
			rewrite(t, s.file("b", "secrets", "dns", "client.key"), s.file("b", "secrets", "quorum", "client.key"), "PRIVATE", "PRIVATE")
		}, "quorum"},
		{"another's server key", func(t *testing.T, s trio) {
			rewrite(t, s.file("b", "secrets", "dns", "client.key"), s.file("b", "secrets", "nats", "server.key"), "PRIVATE", "PRIVATE")
		}, "nats"},
		{"missing credentials", func(t *testing.T, s trio) {
			if err := os.Remove(s.file("b", "secrets", "failover", "user.creds")); err != nil {
				t.Fatal(err)
			}
		}, "failover"},
		{"CHAP secret readable by others", func(t *testing.T, s trio) {
			if err := os.Chmod(s.file("b", "secrets", "chap", "secret"), 0o644); err != nil {
				t.Fatal(err)
			}
		}, "secrets/chap/secret"},
		{"CHAP secret too short", func(t *testing.T, s trio) { write(t, s.file("b", "secrets", "chap", "secret"), "short") }, "at least 12"},
		{"garbage", func(t *testing.T, s trio) { write(t, s.file("b", "secrets", "health", "client.pem"), "x") }, "health"},
	} {
		t.Run(c.name, func(t *testing.T) {
			defer keep(t, s.b)()
			c.spoil(t, s)
			v, err := sitefolder.Show(s.b, now)
			if err != nil {
				t.Fatal(err)
			}
			if len(v.Problems) != 1 || !strings.Contains(v.Problems[0], c.want) {
				t.Errorf("want one problem with %q, got %q", c.want, v.Problems)
			}
		})
	}
}

func TestShowWarnsBeforeCertificatesEnd(t *testing.T) {
	s := joined(t)
	v, err := sitefolder.Show(s.a, time.Now())
	if err != nil || len(v.Warnings) != 0 || len(v.Problems) != 0 || len(v.Sites) != 3 || !v.Founder {
		t.Fatalf("%+v %v", v, err)
	}
	v, err = sitefolder.Show(s.a, time.Now().Add(identity.Validity-29*24*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if text := strings.Join(v.Warnings, "\n"); !strings.Contains(text, "site w ends") || !strings.Contains(text, "in 28 days") || !strings.Contains(text, "a.quorum ends") {
		t.Errorf("warnings:\n%s", text)
	}
}

func TestShowTellsByWhomASiteIsReached(t *testing.T) {
	s := joined(t)
	path := s.file("a", "config", "site.yaml")
	rewrite(t, path, path, "{id: b, ", "{relay: 'b.example.org:4230', id: b, ")
	rewrite(t, path, path, "{id: w, ", "{via: b, id: w, ")
	v, err := sitefolder.Show(s.a, time.Now())
	if err != nil || len(v.Problems) > 0 {
		t.Fatal(err, v.Problems)
	}
	for _, site := range v.Sites {
		if want := map[domain.SiteID]domain.SiteID{"w": "b"}[site.Site]; site.Via != want {
			t.Errorf("site %s is reached via %q, want %q", site.Site, site.Via, want)
		}
	}
}
