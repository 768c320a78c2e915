//go:build e2e

package serve

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

// need skips a test whose tool is not there, except under CI, where it fails.
func need(t *testing.T, tools ...string) {
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

// tool runs a command that must not hang, and returns what it printed.
func tool(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if ctx.Err() != nil {
		t.Fatalf("%s %v hung:\n%s", name, args, out)
	}
	return string(out), err
}

func succeed(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := tool(t, name, args...)
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return out
}

func TestQEMUReadsBackWhatItWrote(t *testing.T) {
	need(t, "qemu-io", "qemu-img")
	for _, durability := range []string{"cached", "strict"} {
		t.Run(durability, func(t *testing.T) {
			url, _ := start(t, Options{File: filepath.Join(t.TempDir(), "v.img"), Size: "256MiB", Listen: "127.0.0.1:0", Durability: durability})
			steps := []string{"write -P 0xaa 0 1M", "write -P 0x55 1M 48M", "write -z 64k 128k", "discard 512k 256k", "flush", "writev -P 0x11 4096 512 1024 2048",
				"read -P 0xaa 0 4k", "read -P 0x11 4096 3584", "read -P 0 64k 128k", "read -P 0 512k 256k", "read -P 0xaa 768k 256k", "read -P 0x55 1M 48M", "write -f -P 1 255M 1M", "read -P 1 255M 1M"}
			args := []string{"-t", "none", "-f", "raw"}
			for _, s := range steps {
				args = append(args, "-c", s)
			}
			for _, image := range [][]string{{url}, {"--image-opts"}} {
				all := append(append([]string{}, args...), image...)
				if image[0] == "--image-opts" {
					all = append([]string{"--image-opts", "-t", "none"}, args[4:]...)
					all = append(all, options(url)+",header-digest=crc32c")
				}
				if out := succeed(t, "qemu-io", all...); strings.Contains(out, "verification failed") || strings.Contains(out, "rror") {
					t.Errorf("%v:\n%s", image, out)
				}
			}
			for _, a := range [][]string{{"-w", "-c", "5000", "-d", "32", "-s", "4096"}, {"-c", "5000", "-d", "32", "-s", "4096"},
				{"-w", "-c", "1000", "-d", "1", "-s", "4096", "--flush-interval=10", "--no-drain"}, {"-w", "-c", "100", "-d", "8", "-s", "1048576"}} {
				succeed(t, "qemu-img", append(append([]string{"bench", "-t", "none", "-f", "raw"}, a...), url)...)
			}
		})
	}
}

// options is a URL in QEMU's long form.
func options(url string) string {
	part := strings.Split(url, "/")
	return fmt.Sprintf("driver=iscsi,transport=tcp,portal=%s,target=%s,lun=%s", part[2], part[3], part[4])
}

func TestLibiscsiToolsAndCHAP(t *testing.T) {
	need(t, "iscsi-ls", "iscsi-readcapacity16", "iscsi-inq")
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("right secret here\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	open, _ := start(t, Options{File: filepath.Join(t.TempDir(), "open.img"), Size: "64MiB", Listen: "127.0.0.1:0"})
	guarded, _ := start(t, Options{File: filepath.Join(t.TempDir(), "guarded.img"), Size: "64MiB", Listen: "127.0.0.1:0", CHAP: "vm1:" + secret})
	with := func(url, login string) string { return strings.Replace(url, "iscsi://", "iscsi://"+login, 1) }
	portal := func(url string) string { return strings.Join(strings.Split(url, "/")[:3], "/") }
	if out := succeed(t, "iscsi-ls", "-s", portal(open)); !strings.Contains(out, "Lun:0") || !strings.Contains(out, "DIRECT_ACCESS") {
		t.Errorf("iscsi-ls printed:\n%s", out)
	}
	if out := succeed(t, "iscsi-inq", open); !strings.Contains(out, "Vendor:HOLDFAST") {
		t.Errorf("iscsi-inq printed:\n%s", out)
	}
	for _, c := range []struct {
		url string
		ok  bool
	}{
		{open, true}, {guarded, false}, {with(guarded, "vm1%right secret here@"), true},
		{with(guarded, "vm1%wrong secret here@"), false}, {with(guarded, "vm2%right secret here@"), false},
	} {
		out, err := tool(t, "iscsi-readcapacity16", c.url)
		if (err == nil) != c.ok || strings.Contains(out, "Total size:67108864") != c.ok {
			t.Errorf("iscsi-readcapacity16 %s: %v\n%s", c.url, err, out)
		}
		if out, err = tool(t, "iscsi-ls", portal(c.url)); (err == nil) != c.ok || strings.Contains(out, "Target:") != c.ok {
			t.Errorf("iscsi-ls %s: %v\n%s", portal(c.url), err, out)
		}
	}
}
