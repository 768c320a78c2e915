package guest

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/failover/workload"
	"github.com/holdfast-dr/holdfast/services/failover/workload/applog"
)

func need(t *testing.T, names ...string) {
	t.Helper()
	for _, n := range names {
		if _, err := exec.LookPath(tool(n)); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("%s is not installed", n)
			}
			t.Skipf("SKIPPED: %s not installed", n)
		}
	}
}

// volume is a disk in memory that fails after a number of writes.
type volume struct {
	b    []byte
	left int
}

var errCut = errors.New("cut")

func (v *volume) Read(_ context.Context, p []byte, off int64) error { copy(p, v.b[off:]); return nil }
func (v *volume) Write(_ context.Context, p []byte, off int64, _ bool) error {
	if v.left--; v.left < 0 {
		return errCut
	}
	copy(v.b[off:], p)
	return nil
}
func (v *volume) Flush(context.Context) error { return nil }
func (v *volume) Capacity() int64             { return int64(len(v.b)) }

func TestFormatIsWholeOrAbsent(t *testing.T) {
	need(t, "mkfs.ext4", "e2fsck")
	v := &volume{b: make([]byte, 16<<20)}
	for cut := 0; ; cut++ {
		v.left = cut
		err := Format(t.Context(), v)
		if err == nil {
			break
		}
		if !errors.Is(err, errCut) {
			t.Fatal(err)
		}
		if !blank(v.b[:superblockEnd]) {
			t.Fatalf("cut after %d writes left a superblock", cut)
		}
	}
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, v.b, 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := run(t.Context(), "e2fsck", "-fn", image); err != nil {
		t.Fatal(err, out)
	}
	before := bytes.Clone(v.b)
	v.left = 0
	if err := Format(t.Context(), v); err != nil || !bytes.Equal(before, v.b) {
		t.Fatal("a formatted volume was touched", err)
	}
}

func TestFormatRefusesWhatIsNotBlank(t *testing.T) {
	v := &volume{b: make([]byte, 16<<20), left: 100}
	copy(v.b[512:], "EFI PART")
	if err := Format(t.Context(), v); !errors.Is(err, domain.ErrRefused) {
		t.Fatal(err)
	}
	if err := Format(t.Context(), &volume{b: make([]byte, 4096)}); !errors.Is(err, domain.ErrInvalid) {
		t.Fatal(err)
	}
}

func TestVerifyDiskFindsTheLogAndTheDamage(t *testing.T) {
	need(t, "mkfs.ext4", "e2fsck", "debugfs")
	v := &volume{b: make([]byte, 16<<20), left: 1000}
	if err := Format(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	image, log := filepath.Join(t.TempDir(), "image"), filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(image, v.b, 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	vm, err := workload.Boot(t.Context(), workload.Spec{VM: "erp-1", Site: "a", Instance: "x", Epoch: 257}, []workload.Disk{logFile{f: f, size: 1 << 20}}, workload.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	for range 7 {
		if _, err := vm.Append(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
	}
	f.Close()
	if out, err := run(t.Context(), "debugfs", "-w", "-R", "write "+log+" "+LogFile, image); err != nil {
		t.Fatal(err, out)
	}
	before, _ := os.ReadFile(image)
	rep, err := VerifyDisk(t.Context(), image)
	if err != nil || !rep.PrefixOK || rep.LastSeq != 7 {
		t.Fatalf("%+v %v", rep, err)
	}
	after, _ := os.ReadFile(image)
	if !bytes.Equal(before, after) {
		t.Fatal("the disk itself was changed")
	}
	// Damage in the inode table is the file system's, damage in the data the log's.
	hurt := bytes.Clone(before)
	at := bytes.Index(hurt, []byte("HFRC")) // the first record
	hurt[at+300] ^= 1
	check := func(b []byte) (applog.Report, error) {
		if err := os.WriteFile(image, b, 0o644); err != nil {
			t.Fatal(err)
		}
		return VerifyDisk(t.Context(), image)
	}
	if rep, err = check(hurt); err != nil || rep.PrefixOK {
		t.Fatalf("damaged data: %+v %v", rep, err)
	}
	hurt = bytes.Clone(before)
	clear(hurt[4096:8192]) // group descriptors
	if _, err = check(hurt); !errors.Is(err, ErrFileSystem) {
		t.Fatalf("damaged file system: %v", err)
	}
}

func TestModulesComeAfterWhatTheyDependOn(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("modules.dep", `k/virtio_ring.ko: 
k/virtio.ko: k/virtio_ring.ko
k/virtio_pci.ko: k/virtio_pci_modern_dev.ko k/virtio.ko k/virtio_ring.ko
k/virtio_pci_modern_dev.ko:
k/virtio_blk.ko: k/virtio.ko k/virtio_ring.ko
k/net-failover.ko: k/failover.ko
k/failover.ko:
k/virtio_net.ko: k/net-failover.ko k/failover.ko k/virtio.ko k/virtio_ring.ko
`)
	if _, err := moduleFiles(dir); !errors.Is(err, domain.ErrNotFound) {
		t.Fatal("ext4 is nowhere", err)
	}
	write("modules.builtin", "kernel/fs/ext4/ext4.ko\n")
	got, err := moduleFiles(dir)
	if err != nil {
		t.Fatal(err)
	}
	before := func(a, b string) {
		if slices.Index(got, "k/"+a+".ko") > slices.Index(got, "k/"+b+".ko") {
			t.Errorf("%s after %s in %q", a, b, got)
		}
	}
	before("virtio_ring", "virtio")
	before("virtio", "virtio_pci")
	before("virtio_pci_modern_dev", "virtio_pci")
	before("failover", "net-failover")
	before("net-failover", "virtio_net")
	if len(got) != 8 {
		t.Errorf("%q", got)
	}
	if _, err := moduleFiles(dir, agentModules...); !errors.Is(err, domain.ErrNotFound) || !strings.Contains(err.Error(), "virtio_console") {
		t.Fatal(err)
	}
}

func TestArchiveIsWhatCpioReads(t *testing.T) {
	need(t, "cpio")
	var b bytes.Buffer
	a := &archive{w: &b}
	a.entry("dev", typeDir|0o755, 0, 0, 0, nil)
	a.entry("dev/console", typeChar|0o600, 5, 1, 0, nil)
	a.entry("odd", typeFile|0o644, 0, 0, 5, strings.NewReader("12345"))
	if err := a.close(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "cpio", "-itv", "--quiet")
	cmd.Stdin = &b
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatal(err, string(out))
	}
	for _, want := range []string{"crw-------", "5,   1", "dev/console", "drwxr-xr-x", "-rw-r--r--", "odd"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	short := &archive{w: &b}
	short.entry("short", typeFile|0o644, 0, 0, 10, strings.NewReader("123"))
	if err := short.close(); err == nil {
		t.Error("a file that shrank was archived")
	}
}

func TestConfigFitsTheCommandLine(t *testing.T) {
	c := Config{Spec: workload.Spec{VM: "erp-1", Group: "erp", Site: "a", Host: "h1", Instance: "0123456789abcdef", Epoch: 257}, Volumes: []domain.VolumeID{"data", "wal"}, WallNS: 5}
	p, err := c.Parameter()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseConfig("console=ttyS0 " + p + "\n")
	if err != nil || got.VM != "erp-1" || got.Epoch != 257 || !slices.Equal(got.Volumes, c.Volumes) {
		t.Fatalf("%+v %v", got, err)
	}
	if _, err := ParseConfig("console=ttyS0"); !errors.Is(err, domain.ErrNotFound) {
		t.Fatal(err)
	}
}
