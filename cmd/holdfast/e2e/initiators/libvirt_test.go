//go:build e2e

package initiators

import (
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// hypervisor is a libvirtd of the test's own. It runs as an ordinary user, so that its sockets, its configuration and its
// logs are in a folder of the test; the daemons of the machine, if it has any, are not touched.
type hypervisor struct {
	t    *testing.T
	dir  string
	user *syscall.Credential // nil: the test's own
}

const nobody = 65534

func startLibvirt(t *testing.T) *hypervisor {
	t.Helper()
	need(t, "libvirtd", "virtlogd", "virsh", "qemu-system-x86_64")
	dir, err := os.MkdirTemp("", "hf-virt-") // short: sockets are in it
	if err != nil {
		t.Fatal(err)
	}
	h := &hypervisor{t: t, dir: dir}
	for _, d := range []string{"run", "config", "data", "cache"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if os.Geteuid() == 0 {
		h.user = &syscall.Credential{Uid: nobody, Gid: nobody}
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	h.own()
	for _, daemon := range []string{"virtlogd", "libvirtd"} {
		cmd := exec.Command(daemon, "-p", filepath.Join(dir, daemon+".pid"))
		h.prepare(cmd)
		p := launch(t, cmd)
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("%s said:\n%s", daemon, p.said())
			}
		})
	}
	h.until("uri")
	return h
}

// own hands the folder to the hypervisor's user.
func (h *hypervisor) own() {
	if h.user == nil {
		return
	}
	err := filepath.Walk(h.dir, func(name string, _ os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(name, int(h.user.Uid), int(h.user.Gid))
	})
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *hypervisor) prepare(cmd *exec.Cmd) {
	cmd.Dir = h.dir
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "HOME=" + h.dir, "XDG_RUNTIME_DIR=" + h.dir + "/run", "XDG_CONFIG_HOME=" + h.dir + "/config",
		"XDG_DATA_HOME=" + h.dir + "/data", "XDG_CACHE_HOME=" + h.dir + "/cache"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: h.user}
}

// virsh runs one command of libvirt's shell.
func (h *hypervisor) virsh(args ...string) (string, error) {
	h.t.Helper()
	return try(h.t, h.prepare, "virsh", append([]string{"-q", "-c", "qemu:///session?socket=" + h.dir + "/run/libvirt/libvirt-sock"}, args...)...)
}

func (h *hypervisor) must(args ...string) string {
	h.t.Helper()
	out, err := h.virsh(args...)
	if err != nil {
		h.t.Fatalf("virsh %v: %v\n%s", args, err, out)
	}
	return out
}

// until asks again until the daemon answers: its socket is there before it is.
func (h *hypervisor) until(args ...string) {
	h.t.Helper()
	var out string
	var err error
	for begun := time.Now(); time.Since(begun) < patience; {
		if out, err = h.virsh(args...); err == nil {
			return
		}
	}
	h.t.Fatalf("libvirtd does not answer: %s", out)
}

func (h *hypervisor) file(name, text string) string {
	h.t.Helper()
	name = filepath.Join(h.dir, name)
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		h.t.Fatal(err)
	}
	return name
}

const secretID = "0b1c7d9e-55aa-4b6c-9d53-0a6f3f0c1e01"

// secret sets what libvirt logs in with.
func (h *hypervisor) secret(value string) {
	h.t.Helper()
	h.must("secret-define", h.file("secret.xml", fmt.Sprintf("<secret ephemeral='yes' private='yes'><uuid>%s</uuid><usage type='iscsi'><target>holdfast</target></usage></secret>", secretID)))
	h.must("secret-set-value", "--secret", secretID, "--base64", base64.StdEncoding.EncodeToString([]byte(value)))
}

// domain is a guest whose disk libvirt attaches over iSCSI with the secret.
func (h *hypervisor) domain(s *target, kernel, initrd string) string {
	var serial strings.Builder
	for i := range 2 {
		fmt.Fprintf(&serial, "<serial type='unix'><source mode='connect' path='%s/shell%d'/><target port='%d'/></serial>", h.dir, i, i+1)
	}
	return fmt.Sprintf(`<domain type='qemu'><name>holdfast-e2e</name><memory unit='MiB'>256</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type><kernel>%s</kernel><initrd>%s</initrd><cmdline>console=ttyS0 panic=-1 quiet no_timer_check</cmdline></os>
<features><acpi/></features><cpu mode='maximum'/><on_reboot>destroy</on_reboot>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator><controller type='usb' model='none'/><memballoon model='none'/>
<disk type='network' device='disk'><driver name='qemu' type='raw' cache='none' error_policy='stop' rerror_policy='stop' discard='unmap'/>
<source protocol='iscsi' name='%s/0'><host name='127.0.0.1' port='%s'/><auth username='%s'><secret type='iscsi' uuid='%s'/></auth>
<initiator><iqn name='iqn.2026-11.dev.holdfast:libvirt'/></initiator></source><target dev='vda' bus='virtio'/></disk>
<controller type='virtio-serial'/><channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
<serial type='file'><source path='%s/console'/><target port='0'/></serial>%s</devices></domain>`,
		kernel, initrd, s.name, s.port(), chapUser, secretID, h.dir, serial.String())
}

// listen waits for a start of QEMU, which takes the serial lines' sockets with it when it fails.
func (h *hypervisor) listen() (shells [2]*shell) {
	h.t.Helper()
	for i := range shells {
		name := filepath.Join(h.dir, fmt.Sprintf("shell%d", i))
		_ = os.Remove(name)
		shells[i] = listenShell(h.t, name, filepath.Join(h.dir, "console"))
	}
	h.own()
	return shells
}

// killQEMU ends a guest that the test left behind: libvirt's end does not.
func (h *hypervisor) killQEMU() {
	b, err := os.ReadFile(filepath.Join(h.dir, "run/libvirt/qemu/run/holdfast-e2e.pid"))
	if err != nil {
		return // destroyed already
	}
	if pid, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// TestLibvirtLogsInWithASecret boots a domain whose disk is a volume that asks for CHAP, with the secret in libvirt's store;
// and sees a wrong one refused in words. What probes by libvirt and by the guest's agent say of it is true at each stage.
func TestLibvirtLogsInWithASecret(t *testing.T) {
	s := serve(t, "64MiB", withCHAP(t)...)
	h := startLibvirt(t)
	r := newTree(t)
	need(t, "qemu-ga")
	r.program("mkfs.ext4", "e2fsck", "qemu-ga")
	r.load("virtio_console")
	kernel, initrd := filepath.Join(h.dir, "kernel"), filepath.Join(h.dir, "initrd")
	command(t, "cp", r.kernel(), kernel)
	command(t, "cp", r.initrd(), initrd)
	h.file("console", "")
	h.must("define", h.file("domain.xml", h.domain(s, kernel, initrd)))

	refused := h.listen()
	h.secret("certainly not the secret")
	out, err := h.virsh("start", "holdfast-e2e")
	for _, sh := range refused {
		_ = sh.listen.Close() // only now: one that nobody refers to any more, the collector closes
	}
	if err == nil || !strings.Contains(strings.ToLower(out), "authentication") {
		t.Fatalf("a wrong secret: %v\n%s", err, out)
	}
	if log := s.running.said(); !strings.Contains(log, "login refused: give the initiator this target's CHAP user and secret") {
		t.Errorf("the target does not tell of the wrong secret:\n%s", log)
	}

	uri := "qemu:///session?socket=" + h.dir + "/run/libvirt/libvirt-sock"
	probe := func(reasons ...string) {
		t.Helper()
		well(t, probes(t,
			`{of: host/a-h1, kind: libvirt, timeout: 20s, target: "`+uri+`"}`,
			`{of: service/guest, kind: libvirt, timeout: 20s, target: "`+uri+`#holdfast-e2e"}`,
			`{of: service/guest, kind: guest-agent, timeout: 20s, target: "`+uri+`#holdfast-e2e"}`,
			`{of: service/none, kind: libvirt, timeout: 20s, target: "`+uri+`#nobody"}`), reasons...)
	}
	probe("", "does not run", "not running", "nobody")

	shells := h.listen()
	h.secret(chapSecret)
	t.Cleanup(h.killQEMU)
	h.must("start", "holdfast-e2e")
	for _, sh := range shells {
		sh.ready()
	}
	g := &guest{t: t, dir: h.dir, shells: shells}
	g.run("mkfs.ext4 -q /dev/vda && mount /dev/vda /mnt && seq 1 100000 >/mnt/written && umount /mnt")
	probe("", "", "agent", "nobody") // it runs, and no agent does in it
	g.run("qemu-ga -d -f /tmp/qga.pid -t /tmp -m virtio-serial -p /dev/vport*")
	h.until("qemu-agent-command", "holdfast-e2e", `{"execute":"guest-ping"}`) // it opens its port after it has left the shell
	probe("", "", "", "nobody")
	h.must("suspend", "holdfast-e2e")
	probe("", "does not run", "not running", "nobody")
	h.must("resume", "holdfast-e2e")
	if state := h.must("domstate", "holdfast-e2e"); !strings.Contains(state, "running") {
		t.Errorf("the domain is %s", state)
	}
	if errors := h.must("domblkerror", "holdfast-e2e"); strings.TrimSpace(errors) != "No errors found" {
		t.Errorf("libvirt tells of errors: %s", errors)
	}
	g.healthy()
	h.must("destroy", "holdfast-e2e")
	s.stop()
	command(t, "e2fsck", "-f", "-n", s.file)
	if out := command(t, "debugfs", "-R", "cat /written", s.file); !strings.Contains(out, "\n99999\n100000\n") {
		t.Errorf("what the guest wrote is not in the volume's file: %d bytes", len(out))
	}
}
