//go:build e2e

package initiators

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// machine is a guest as it is to be started.
type machine struct {
	memoryMiB      int
	kernel, initrd string // empty: it boots from its first disk
	disks          []string
}

// guest is a running QEMU, and the lines into it.
type guest struct {
	*process
	t       *testing.T
	dir     string
	shells  [2]*shell
	monitor *monitor
}

// boot starts a guest and returns when its shells answer.
func boot(t *testing.T, m machine) *guest {
	t.Helper()
	need(t, "qemu-system-x86_64")
	dir, err := os.MkdirTemp("", "hf-guest-") // short: sockets are in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	g := &guest{t: t, dir: dir}
	lines := []func(){}
	args := []string{"-n", "10", "qemu-system-x86_64", "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", fmt.Sprint(m.memoryMiB),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-device", "virtio-rng-pci",
		"-chardev", "file,id=console,path=" + g.consoleFile(), "-serial", "chardev:console",
		"-netdev", "user,id=net0", "-device", "virtio-net-pci,netdev=net0,romfile="}
	for i := range g.shells {
		name := filepath.Join(dir, fmt.Sprintf("shell%d", i))
		g.shells[i] = listenShell(t, name, g.consoleFile())
		args = append(args, "-chardev", fmt.Sprintf("socket,id=shell%d,path=%s", i, name), "-serial", fmt.Sprintf("chardev:shell%d", i))
		lines = append(lines, g.shells[i].ready)
	}
	g.monitor = listenMonitor(t, filepath.Join(dir, "qmp"))
	args = append(args, "-chardev", "socket,id=qmp,path="+filepath.Join(dir, "qmp"), "-mon", "chardev=qmp,mode=control")
	if m.kernel != "" {
		args = append(args, "-kernel", m.kernel, "-initrd", m.initrd, "-append", "console=ttyS0 panic=-1 quiet loglevel=6 no_timer_check")
	}
	for i, d := range m.disks {
		args = append(args, "-blockdev", d+fmt.Sprintf(",node-name=disk%d", i),
			"-device", fmt.Sprintf("virtio-blk-pci,drive=disk%d,bootindex=%d,serial=disk%d,werror=stop,rerror=stop,discard=on", i, i+1, i))
	}
	g.process = launch(t, exec.Command("nice", args...))
	for _, ready := range lines {
		ready()
	}
	return g
}

func (g *guest) consoleFile() string { return filepath.Join(g.dir, "console") }

// console is what the kernel printed so far.
func (g *guest) console() string {
	b, err := os.ReadFile(g.consoleFile())
	if err != nil {
		g.t.Fatal(err)
	}
	return string(b)
}

// iscsiDisk is a volume of a target as QEMU's own initiator attaches it; options are further ones of its iSCSI driver.
func iscsiDisk(s *target, options string) string { return iscsiVolume(s.listen, s.name, options) }

// iscsiVolume is the same of any target.
func iscsiVolume(portal, name, options string) string {
	return fmt.Sprintf("driver=raw,cache.direct=on,discard=unmap,file.driver=iscsi,file.transport=tcp,file.portal=%s,file.target=%s,file.lun=0,file.initiator-name=iqn.2026-11.dev.holdfast:guest%s",
		portal, name, options)
}

// run has the guest do a command on its first shell, and returns what it printed. Its failure is the test's.
func (g *guest) run(command string) string {
	g.t.Helper()
	out, code := g.shells[0].try(command)
	if code != 0 {
		g.t.Fatalf("in the guest: %s: exit status %d\n%s\nconsole:\n%s", command, code, out, g.console())
	}
	return strings.TrimSpace(out)
}

var diskErrors = regexp.MustCompile(`(?m)^.*(I/O error|EXT4-fs error|EXT4-fs warning|Remounting filesystem|Aborting journal|XFS .*(error|rror number)|Buffer I/O|HF-FAIL|Medium Error|Hardware Error|BTRFS error|hung_task|blocked for more).*$`)

// healthy fails the test where the guest's kernel complained of a disk.
func (g *guest) healthy() {
	g.t.Helper()
	if found := diskErrors.FindAllString(g.console()+g.run("dmesg"), -1); found != nil {
		g.t.Errorf("the guest saw errors:\n%s", strings.Join(found, "\n"))
	}
}

// off powers the guest off and waits until QEMU has ended.
func (g *guest) off() {
	g.t.Helper()
	g.shells[0].send("sync; umount -a -r; poweroff -f")
	await(g.t, g.done, "the guest's power-off")
}
