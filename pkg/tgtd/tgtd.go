// Package tgtd starts Debian's tgt for tests: a real iSCSI target that is not ours, on one file.
package tgtd

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// Target is a running tgtd.
type Target struct {
	URL string // iscsi://127.0.0.1:PORT/IQN/1

	cmd     *exec.Cmd
	control string
	port    int
	file    string

	user, secret string // of CHAP; empty: none
}

const iqn = "iqn.2026-11.test:tgt"

// Need ends the test where the tool is missing: skipped, or failed where CI=true.
func Need(t testing.TB, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err == nil {
			continue
		}
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is not installed", tool)
		}
		t.Skipf("SKIPPED: %s not installed", tool)
	}
}

// Start serves file, which is made with the given size unless it exists, until the end of the test.
func Start(t testing.TB, file string, size int64) *Target {
	t.Helper()
	Need(t, "tgtd", "tgtadm")
	if _, err := os.Stat(file); err != nil {
		f, err := os.Create(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	tg := &Target{file: file, port: freePort(t), control: strconv.Itoa(1000 + rand.IntN(30000))}
	tg.URL = fmt.Sprintf("iscsi://127.0.0.1:%d/%s/1", tg.port, iqn)
	tg.start(t)
	t.Cleanup(tg.Kill)
	return tg
}

func freePort(t testing.TB) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port
}

func (tg *Target) start(t testing.TB) {
	t.Helper()
	tg.cmd = exec.Command("tgtd", "-f", "-C", tg.control, "--iscsi", "portal=127.0.0.1:"+strconv.Itoa(tg.port))
	log, err := os.Create(filepath.Join(t.TempDir(), "tgtd.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }() // tgtd has its own
	tg.cmd.Stdout, tg.cmd.Stderr = log, log
	if err := tg.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	// tgtd does not say when it is ready: ask until it answers.
	for exec.CommandContext(ctx, "tgtadm", "-C", tg.control, "--lld", "iscsi", "--mode", "sys", "--op", "show").Run() != nil {
		if ctx.Err() != nil {
			t.Fatal("tgtd did not become ready in 10 s")
		}
		time.Sleep(20 * time.Millisecond)
	}
	tg.admin(t, "--op", "new", "--mode", "target", "--tid", "1", "-T", iqn)
	tg.admin(t, "--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", "1", "-b", tg.file)
	for _, digest := range []string{"HeaderDigest", "DataDigest"} { // off unless allowed
		tg.admin(t, "--op", "update", "--mode", "target", "--tid", "1", "--name", digest, "--value", "CRC32C,None")
	}
	if tg.user != "" {
		tg.admin(t, "--op", "new", "--mode", "account", "--user", tg.user, "--password", tg.secret)
		tg.admin(t, "--op", "bind", "--mode", "account", "--tid", "1", "--user", tg.user)
	}
	tg.admin(t, "--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL")
}

// Guard lets in only who knows the CHAP secret, from the next login on. It may be called again with another secret.
func (tg *Target) Guard(t testing.TB, user, secret string) {
	t.Helper()
	if tg.user != "" {
		tg.admin(t, "--op", "unbind", "--mode", "account", "--tid", "1", "--user", tg.user)
		tg.admin(t, "--op", "delete", "--mode", "account", "--user", tg.user)
	}
	tg.user, tg.secret = user, secret
	tg.admin(t, "--op", "new", "--mode", "account", "--user", user, "--password", secret)
	tg.admin(t, "--op", "bind", "--mode", "account", "--tid", "1", "--user", user)
}

func (tg *Target) admin(t testing.TB, args ...string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "tgtadm", append([]string{"-C", tg.control, "--lld", "iscsi"}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("tgtadm %v: %v: %s", args, err, out)
	}
}

// Kill ends tgtd as kill -9 does.
func (tg *Target) Kill() {
	if tg.cmd == nil {
		return
	}
	_ = tg.cmd.Process.Kill()
	_ = tg.cmd.Wait()
	tg.cmd = nil
}

// Restart serves the same file on the same port again.
func (tg *Target) Restart(t testing.TB) {
	t.Helper()
	tg.Kill()
	tg.start(t)
}
