//go:build e2e

package replicator_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func needTools(t *testing.T, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err == nil {
			continue
		}
		if os.Getenv("CI") != "" {
			t.Fatalf("%s is not installed", tool)
		}
		t.Skipf("SKIPPED: %s not installed", tool)
	}
}

func runTool(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if ctx.Err() != nil {
		t.Fatalf("%s %v hung:\n%s", name, args, out)
	}
	return string(out), err
}

// TestRealInitiatorsNeedTheSecretOfAReplicatedVolume: libiscsi's tools with the secret in the URL, as they take it, QEMU with
// the secret in a file, as the VM driver gives it.
func TestRealInitiatorsNeedTheSecretOfAReplicatedVolume(t *testing.T) {
	needTools(t, "iscsi-ls", "iscsi-readcapacity16", "qemu-io")
	_, url, file, log := guarded(t)
	secretFile(t, file, 0o600, newSecret, oldSecret)
	with := func(login string) string { return strings.Replace(url, "iscsi://", "iscsi://"+login, 1) }
	for name, c := range map[string]struct {
		url string
		ok  bool
	}{
		"right":        {with(chapUser + "%" + newSecret + "@"), true},
		"old":          {with(chapUser + "%" + oldSecret + "@"), true},
		"wrong secret": {with(chapUser + "%the wrong secret here@"), false},
		"wrong user":   {with("main-b%" + newSecret + "@"), false},
		"missing":      {url, false},
	} {
		out, err := runTool(t, "iscsi-readcapacity16", c.url)
		if (err == nil) != c.ok || strings.Contains(out, fmt.Sprint("Total size:", 16<<20)) != c.ok {
			t.Errorf("iscsi-readcapacity16, %s: %v\n%s", name, err, out)
		}
		portal := strings.Join(strings.Split(c.url, "/")[:3], "/")
		if out, err = runTool(t, "iscsi-ls", portal); (err == nil) != c.ok || strings.Contains(out, "Target:") != c.ok {
			t.Errorf("iscsi-ls, %s: %v\n%s", name, err, out)
		}
	}
	if line := log.line("login refused"); !strings.Contains(line, "libiscsi") {
		t.Errorf("the refused login is not told: %q", line)
	}
	part := strings.Split(url, "/")
	for secret, ok := range map[string]bool{newSecret: true, "the wrong secret here": false} {
		held := filepath.Join(t.TempDir(), "held")
		if err := os.WriteFile(held, []byte(secret), 0o600); err != nil {
			t.Fatal(err)
		}
		args := []string{"--object", "secret,id=s,file=" + held, "--image-opts", "-t", "none",
			fmt.Sprintf("driver=iscsi,transport=tcp,portal=%s,target=%s,lun=%s,user=%s,password-secret=s", part[2], part[3], part[4], chapUser),
			"-c", "write -P 0xaa 0 64k", "-c", "read -P 0xaa 0 64k"}
		out, err := runTool(t, "qemu-io", args...)
		if (err == nil) != ok || strings.Contains(out, "read 65536/65536") != ok || strings.Contains(out, "verification failed") {
			t.Errorf("qemu-io, right secret %v: %v\n%s", ok, err, out)
		}
	}
}
