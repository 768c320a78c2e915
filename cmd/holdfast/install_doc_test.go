package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

const installDoc = "../../docs/operations/install.md"

// block is one block of commands of a document.
type block struct {
	line      int
	where     []string // machines
	condition string   // "with containers", "without containers", or nothing
	text      string
}

var blockHead = regexp.MustCompile(`^# at ((?:a|b|w)(?:(?:, | and )(?:a|b|w))*)(?:, (with containers|without containers))?$`)

// blocks are a document's shell blocks, in order. Each begins with the machines it is for.
func blocks(t *testing.T, path string) []block {
	t.Helper()
	doc, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out []block
	var open *block
	for i, line := range strings.Split(string(doc), "\n") {
		switch {
		case open == nil && line == "```sh":
			open = &block{line: i + 2}
		case open != nil && line == "```":
			first, _, _ := strings.Cut(open.text, "\n")
			m := blockHead.FindStringSubmatch(first)
			if m == nil {
				t.Fatalf("%s:%d: the block does not begin with the machine it is for: %q", path, open.line, first)
			}
			open.where, open.condition = regexp.MustCompile(`[abw]\b`).FindAllString(strings.ReplaceAll(m[1], "and", ""), -1), m[2]
			out = append(out, *open)
			open = nil
		case open != nil:
			open.text += line + "\n"
		}
	}
	if len(out) < 10 {
		t.Fatalf("%s has %d blocks", path, len(out))
	}
	return out
}

// machine is a shell in a folder of its own, as a person at that site would have it.
type machine struct {
	name, dir string
	in        io.Writer
	out       *bufio.Reader
	n         int
}

const blockDone = "@@ the block is done @@"

// newMachine starts the shell; path is searched first. Whatever it started ends with the test.
func newMachine(t *testing.T, ctx context.Context, dir, name, path string, env ...string) *machine {
	t.Helper()
	m := &machine{name: name, dir: filepath.Join(dir, name)}
	if err := os.MkdirAll(m.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(ctx, "bash", "--norc", "-eu")
	c.Dir = m.dir
	c.Env = append(os.Environ(), "PATH="+path+":"+os.Getenv("PATH"), "SITE="+name, configEnv+"=")
	c.Env = append(c.Env, env...)
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.Stderr = c.Stdout
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL)
		_ = c.Wait()
	})
	m.in, m.out = in, bufio.NewReader(out)
	return m
}

// run runs a block in the machine's shell, as it stands, and returns what it printed.
func (m *machine) run(t *testing.T, b block) string {
	t.Helper()
	m.n++
	script := filepath.Join(m.dir, fmt.Sprintf(".block-%d.sh", m.n))
	if err := os.WriteFile(script, []byte(b.text), 0o600); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(m.in, ". %s </dev/null\nprintf '\\n%s\\n'\n", script, blockDone)
	var said strings.Builder
	for {
		line, err := m.out.ReadString('\n')
		if strings.TrimSpace(line) == blockDone {
			return said.String()
		}
		said.WriteString(line)
		if err != nil {
			t.Fatalf("%s:%d: at %s the block failed:\n%s\n%s", installDoc, b.line, m.name, b.text, said.String())
		}
	}
}

// play runs the document's blocks at their machines, and gives each block's output to look.
func play(t *testing.T, machines map[string]*machine, condition string, look func(b block, site, said string)) {
	t.Helper()
	for _, b := range blocks(t, installDoc) {
		if b.condition != "" && b.condition != condition {
			continue
		}
		for _, site := range b.where {
			said := machines[site].run(t, b)
			t.Logf("at %s:\n%s%s", site, b.text, said)
			look(b, site, said)
		}
	}
}

// carrier puts an scp into a folder that carries files to the machine of an address.
func carrier(t *testing.T, bin, dir string, addresses map[string]string) {
	t.Helper()
	script := "#!/bin/bash\ncase \"$2\" in\n"
	for site, address := range addresses {
		script += fmt.Sprintf("%s:) cp -- \"$1\" %q/ ;;\n", address, filepath.Join(dir, site))
	}
	script += "*) echo \"scp: no machine at $2\" >&2; exit 1 ;;\nesac\n"
	if err := os.WriteFile(filepath.Join(bin, "scp"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
}

func bash(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("bash"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("bash is missing")
		}
		t.Skip("SKIPPED: bash is missing")
	}
}

// TestInstallDocIsTrueWithoutContainers runs docs/operations/install.md literally: three sites on this machine, secured,
// from nothing to a switchover, a rotation and the end.
func TestInstallDocIsTrueWithoutContainers(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: three sites for half a minute; run without -short")
	}
	bash(t)
	dir := t.TempDir()
	bin := filepath.Join(dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(bin, "holdfast"), ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	net := loopbackNet(t)
	addresses := map[string]string{"a": net + ".1", "b": net + ".2", "w": net + ".3"}
	carrier(t, bin, dir, addresses)
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	machines := map[string]*machine{}
	for site := range addresses {
		machines[site] = newMachine(t, ctx, dir, site, bin, "A="+addresses["a"], "B="+addresses["b"], "W="+addresses["w"], "VM_A="+net+".11", "VM_B="+net+".12")
	}
	seen := map[string]bool{}
	linked := regexp.MustCompile(`(?m)^[abw] +true `)
	last := ""
	play(t, machines, "without containers", func(b block, site, said string) {
		if site == "w" && strings.Contains(b.text, "hf status") {
			last = said
		}
		for what, want := range map[string]string{
			"hf run start":      "done",
			"config validate":   "valid: site " + site,
			"rotate --dir a --": "Retired",
			"site show":         "tls://" + addresses["w"],
		} {
			if strings.Contains(b.text, what) {
				seen[what] = true
				if !strings.Contains(said, want) {
					t.Errorf("line %d: %q is not in\n%s", b.line, want, said)
				}
			}
		}
	})
	if linked := linked.FindAllString(last, -1); len(linked) != 3 {
		t.Errorf("after the rotation only %q of three sites are linked:\n%s", linked, last)
	}
	if len(seen) != 4 {
		t.Errorf("the document shows only %v", seen)
	}
	for site := range addresses {
		if _, err := os.Stat(filepath.Join(dir, site, site)); !os.IsNotExist(err) {
			t.Errorf("site %s is not removed: %v", site, err)
		}
	}
}
