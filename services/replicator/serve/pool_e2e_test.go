//go:build e2e

package serve

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/pool"
)

// qemuOn runs qemu-io's commands on a unit, none of which may fail or find other data than it says.
func qemuOn(t *testing.T, url string, steps ...string) {
	t.Helper()
	args := []string{"-t", "none", "-f", "raw"}
	if strings.HasPrefix(steps[0], "read") && !slices.ContainsFunc(steps, func(s string) bool { return !strings.HasPrefix(s, "read") }) {
		args = append(args, "-r") // it would not open a snapshot otherwise
	}
	for _, s := range steps {
		args = append(args, "-c", s)
	}
	if out := succeed(t, "qemu-io", append(args, url)...); strings.Contains(out, "verification failed") || strings.Contains(out, "rror") {
		t.Errorf("%v:\n%s", steps, out)
	}
}

func TestQEMUOnSnapshotsClonesAndImages(t *testing.T) {
	need(t, "qemu-io", "qemu-img")
	for _, mode := range []string{"cached", "direct"} {
		t.Run(mode, func(t *testing.T) {
			dir, files := filepath.Join(t.TempDir(), "pool"), t.TempDir()
			qcow, back := filepath.Join(files, "in.qcow2"), filepath.Join(files, "out.qcow2")
			succeed(t, "qemu-img", "create", "-q", "-f", "qcow2", qcow, "100M")
			succeed(t, "qemu-io", "-f", "qcow2", "-c", "write -P 7 1M 1M", qcow)
			command(t, dir, pool.Request{Verb: pool.VerbCreate, Name: "db", SizeBytes: 64 << 20})
			start(t, Options{Pool: dir, Listen: "127.0.0.1:0", IO: mode})
			db := command(t, dir, pool.Request{Verb: pool.VerbShow, Name: "db"})
			qemuOn(t, db.URL, "write -P 1 0 16M", "write -P 2 8704 512", "flush")
			s1 := command(t, dir, pool.Request{Verb: pool.VerbSnapshot, Name: "db", New: "s1"})
			qemuOn(t, db.URL, "write -P 3 1M 1M", "write -P 4 512 1024", "discard 4M 1M", "write -z 6M 512k", "flush")
			c := command(t, dir, pool.Request{Verb: pool.VerbClone, Name: "s1", New: "c"})
			qemuOn(t, c.URL, "read -P 1 1M 15M", "write -P 5 2M 64k", "read -P 5 2M 64k", "read -P 0 16M 48M")
			inDB := []string{"read -P 1 0 512", "read -P 4 512 1024", "read -P 1 1536 7168", "read -P 2 8704 512", "read -P 3 1M 1M", "read -P 0 4M 1M",
				"read -P 0 6M 512k", "read -P 1 2M 2M", "read -P 0 16M 48M"}
			qemuOn(t, s1.URL, "read -P 1 1M 15M", "read -P 2 8704 512")
			qemuOn(t, db.URL, inDB...)
			command(t, dir, pool.Request{Verb: pool.VerbDelete, Name: "c", Yes: true})
			command(t, dir, pool.Request{Verb: pool.VerbDelete, Name: "s1", Yes: true})
			qemuOn(t, db.URL, inDB...)
			command(t, dir, pool.Request{Verb: pool.VerbImport, Name: "image", File: qcow})
			command(t, dir, pool.Request{Verb: pool.VerbExport, Name: "image", File: back, Format: "qcow2"})
			if out := succeed(t, "qemu-img", "compare", "-f", "qcow2", "-F", "qcow2", qcow, back); !strings.Contains(out, "identical") {
				t.Error(out)
			}
			zero := command(t, dir, pool.Request{Verb: pool.VerbCreate, Name: "zero", SizeBytes: 64 << 20})
			qemuOn(t, zero.URL, "write -P 0 0 32M", "write -P 0 40M 4k", "flush", "read -P 0 0 64M")
			if now := command(t, dir, pool.Request{Verb: pool.VerbShow, Name: "zero"}); now.AllocatedBytes > 64<<10 {
				t.Errorf("zeroes took %d bytes", now.AllocatedBytes)
			}
			for _, bench := range [][]string{{"-w", "-c", "5000", "-d", "32", "-s", "4096"}, {"-c", "5000", "-d", "32", "-s", "4096"}, {"-w", "-c", "100", "-d", "8", "-s", "1048576"}} {
				succeed(t, "qemu-img", append(append([]string{"bench", "-t", "none", "-f", "raw", "--pattern=170"}, bench...), db.URL)...)
			}
		})
	}
}

// loop attaches a file as a block device; without the right to, the test is skipped, and fails under CI.
func loop(t *testing.T, size string) string {
	t.Helper()
	need(t, "losetup", "truncate")
	file := filepath.Join(t.TempDir(), "disk")
	succeed(t, "truncate", "-s", size, file)
	out, err := tool(t, "losetup", "--find", "--show", file)
	if err != nil && os.Geteuid() != 0 {
		t.Skipf("SKIPPED: only root attaches loop devices: %s", out)
	}
	if err != nil {
		t.Skipf("SKIPPED: no loop device here: %s", out) // a container without them
	}
	device := strings.TrimSpace(out)
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "-d", device).CombinedOutput(); err != nil {
			t.Errorf("detach %s: %v: %s", device, err, out)
		}
	})
	return device
}

func TestABlockDeviceIsServed(t *testing.T) {
	need(t, "qemu-io")
	device := loop(t, "32M")
	url, stop := start(t, Options{File: device, Listen: "127.0.0.1:0", IO: "direct"})
	steps := []string{"write -P 1 0 8M", "discard 1M 1M", "write -z 3M 1M", "write -P 2 4608 512", "flush", "read -P 1 0 4608", "read -P 2 4608 512", "read -P 0 1M 1M", "read -P 0 3M 1M"}
	qemuOn(t, url, steps...)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "pool")
	command(t, dir, pool.Request{Verb: pool.VerbCreate, Name: "dev", Device: device})
	_, stop = start(t, Options{Pool: dir, Listen: "127.0.0.1:0"})
	dev := command(t, dir, pool.Request{Verb: pool.VerbShow, Name: "dev"})
	if dev.SizeBytes != 32<<20 {
		t.Errorf("%+v", dev)
	}
	qemuOn(t, dev.URL, steps[5:]...)
	snap := command(t, dir, pool.Request{Verb: pool.VerbSnapshot, Name: "dev", New: "s"})
	qemuOn(t, dev.URL, "write -P 9 0 4k", "read -P 9 0 4k")
	qemuOn(t, snap.URL, "read -P 1 0 4608")
	command(t, dir, pool.Request{Verb: pool.VerbDelete, Name: "s", Yes: true}) // merged into the device
	qemuOn(t, dev.URL, "read -P 9 0 4k", "read -P 0 1M 1M")
	if _, err := pool.Call(t.Context(), dir, false, pool.Request{Verb: pool.VerbCreate, Name: "again", Device: device}); !errors.Is(err, domain.ErrConflict) {
		t.Errorf("a device in use was taken: %v", err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	command(t, dir, pool.Request{Verb: pool.VerbDelete, Name: "dev", Yes: true})
	if _, err := os.Stat(device); errors.Is(err, fs.ErrNotExist) {
		t.Error("the device is gone")
	}
}

// TestAFullPoolIsNotTheEnd fills a small file system, which is an error to the initiator; after space came back writes go on.
func TestAFullPoolIsNotTheEnd(t *testing.T) {
	need(t, "qemu-io", "mkfs.ext4")
	device := loop(t, "48M")
	succeed(t, "mkfs.ext4", "-q", device)
	mnt := t.TempDir()
	if err := unix.Mount(device, mnt, "ext4", 0, ""); err != nil {
		t.Skipf("SKIPPED: mount: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(mnt, 0); err != nil {
			t.Error(err)
		}
	})
	dir := filepath.Join(mnt, "pool")
	command(t, dir, pool.Request{Verb: pool.VerbCreate, Name: "db", SizeBytes: 64 << 20})
	_, stop := start(t, Options{Pool: dir, Listen: "127.0.0.1:0"})
	db := command(t, dir, pool.Request{Verb: pool.VerbShow, Name: "db"})
	qemuOn(t, db.URL, "write -P 1 0 8M", "flush")
	out, err := tool(t, "qemu-io", "-t", "none", "-f", "raw", "-c", "write -P 2 8M 48M", db.URL)
	if !strings.Contains(out, "No space left") && err == nil {
		t.Errorf("a full disk was told as: %s", out)
	}
	qemuOn(t, db.URL, "read -P 1 0 8M", "discard 8M 56M", "flush", "write -P 3 8M 4M", "flush", "read -P 3 8M 4M")
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}

// TestLibiscsiSuiteOnALayeredVolume holds a volume over a snapshot to what a plain file is held to.
func TestLibiscsiSuiteOnALayeredVolume(t *testing.T) {
	need(t, "iscsi-test-cu")
	dir := filepath.Join(t.TempDir(), "pool")
	command(t, dir, pool.Request{Verb: pool.VerbCreate, Name: "db", SizeBytes: 256 << 20})
	command(t, dir, pool.Request{Verb: pool.VerbSnapshot, Name: "db", New: "s"})
	start(t, Options{Pool: dir, Listen: "127.0.0.1:0"})
	db := command(t, dir, pool.Request{Verb: pool.VerbShow, Name: "db"})
	out, err := tool(t, "iscsi-test-cu", "-d", "-n", "-t", "ALL", db.URL)
	if err != nil || strings.Contains(out, "had failures:") || !strings.Contains(out, "asserts") {
		t.Errorf("%v\n%s", err, out)
	}
}
