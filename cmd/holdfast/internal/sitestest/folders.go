package sitestest

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
)

// makeFolders makes the sites' folders as their owners would, each on its own: init, exchange of public files, join. Then it edits what the
// options ask for.
func (s *Sites) makeFolders() {
	s.t.Helper()
	at := func(path ...string) string { return filepath.Join(append([]string{s.Dir}, path...)...) }
	if err := os.WriteFile(at("groups.yaml"), []byte(s.groups()), 0o600); err != nil {
		s.t.Fatal(err)
	}
	begin := func(id, role string, more ...string) []string {
		return append([]string{"init", "--dir", at(id), "--name", id, "--role", role, "--address", s.Address(id), "--embedded", "--groups", at("groups.yaml")}, more...)
	}
	for _, args := range [][]string{
		begin("a", "data"),
		begin("b", "data", "--peer", at("a", "a.card.json")),
		begin("w", "witness", "--peer", at("a", "a.card.json")),
		{"join", "--dir", at("a"), at("b", "b.card.json"), at("w", "w.card.json")},
		{"join", "--dir", at("b"), at("a", "installation.json")},
		{"join", "--dir", at("w"), at("a", "installation.json")},
	} {
		if out, err := exec.Command(s.o.Product, append([]string{"site"}, args...)...).CombinedOutput(); err != nil {
			s.t.Fatalf("holdfast site %v: %v\n%s", args, err, out)
		}
	}
	for _, id := range ids() {
		s.edit(id)
	}
}

// edit fits a site's file to the test.
func (s *Sites) edit(id string) {
	s.t.Helper()
	raw, err := os.ReadFile(s.Config(id))
	if err != nil {
		s.t.Fatal(err)
	}
	text := string(raw)
	change := func(pattern, with string) {
		re := regexp.MustCompile(`(?m)` + pattern)
		if !re.MatchString(text) {
			s.t.Fatalf("edit %s: nothing in it is like %s:\n%s", s.Config(id), pattern, text)
		}
		text = re.ReplaceAllString(text, with)
	}
	change(`^timing: .*$`, "timing: "+s.timing())
	if id != "w" {
		change(`^  size: 256MiB .*$`, "  size: 32MiB")
		change(`^  # VM hosts log in.*\n  chap: .*\n`, "") // what reads the disks has no secret
		if s.o.Separate != nil {
			change(`(driver: )embedded(, probe: "[^"]*")}`, "${1}"+s.o.Driver+"${2}, separate: true}")
		}
	}
	if err := os.WriteFile(s.Config(id), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}
