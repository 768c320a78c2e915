package main

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// TestVolumesDocIsTrue executes the blocks of docs/operations/volumes.md as they stand, but for the port.
func TestVolumesDocIsTrue(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the binary")
	}
	doc, err := os.ReadFile("../../docs/operations/volumes.md")
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	var script strings.Builder
	script.WriteString("trap 'kill %1' EXIT\n")
	n := 0
	for _, b := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(string(doc), -1) {
		n++
		if tool, ok := strings.CutPrefix(strings.SplitN(b[1], "\n", 2)[0], "# needs "); ok {
			if _, err := exec.LookPath(tool); err != nil {
				t.Logf("SKIPPED: a block, as %s is not installed", tool)
				continue
			}
		}
		script.WriteString(strings.ReplaceAll(b[1], "127.0.0.1:3260", addr))
	}
	if n < 6 {
		t.Fatalf("%d blocks found", n)
	}
	script.WriteString("[ \"$(holdfast volume list --output json | tr -d '\\n ')\" != '{\"volumes\":[]}' ] # what was imported stays\ncat urls log\n")
	dir := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(dir, "bin", "holdfast"), ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	c := exec.CommandContext(t.Context(), "bash", "--norc", "-euxm", "-c", script.String())
	c.Dir = dir
	c.Env = append(os.Environ(), "PATH="+filepath.Join(dir, "bin")+":"+os.Getenv("PATH"))
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	for _, want := range []string{"iqn.2026-11.dev.holdfast:", "20GiB", "snapshot", "P99", "depend on it"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("it does not print %q:\n%s", want, out)
		}
	}
}
