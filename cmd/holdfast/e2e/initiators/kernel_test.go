//go:build e2e

package initiators

import (
	"fmt"
	"strings"
	"testing"
)

// linuxInitiator is a guest with open-iscsi: the kernel's initiator, and the daemon that recovers its sessions.
type linuxInitiator struct {
	*guest
	s *target
}

// iscsidConf asks for everything the protocol has to offer. The guest reaches the host at 10.0.2.2.
const iscsidConf = `node.startup = manual
node.session.auth.authmethod = CHAP
node.session.auth.username = ` + chapUser + `
node.session.auth.password = ` + chapSecret + `
discovery.sendtargets.auth.authmethod = CHAP
discovery.sendtargets.auth.username = ` + chapUser + `
discovery.sendtargets.auth.password = ` + chapSecret + `
node.session.timeo.replacement_timeout = 180
node.conn[0].timeo.login_timeout = 30
node.conn[0].timeo.logout_timeout = 30
node.conn[0].timeo.noop_out_interval = 5
node.conn[0].timeo.noop_out_timeout = 15
node.session.initial_login_retry_max = 20
node.session.cmds_max = 128
node.session.queue_depth = 32
node.conn[0].iscsi.HeaderDigest = CRC32C
node.conn[0].iscsi.DataDigest = CRC32C
`

// bootInitiator boots a guest with open-iscsi and further programs. The guest has no disk of QEMU's.
func bootInitiator(t *testing.T, s *target, memoryMiB int, prepare func(*tree)) *linuxInitiator {
	t.Helper()
	r := newTree(t)
	r.program("iscsid", "iscsiadm", "iscsistart")
	r.load("iscsi_tcp", "sd_mod")
	r.file("etc/iscsi/initiatorname.iscsi", "InitiatorName=iqn.2026-11.dev.holdfast:linux\n", 0o644)
	r.file("etc/iscsi/iscsid.conf", iscsidConf, 0o600)
	r.file("etc/passwd", "root:x:0:0::/root:/bin/sh\n", 0o644)
	r.mkdir("run/lock/iscsi")
	r.mkdir("var")
	r.link("/run/lock", "var/lock")
	if prepare != nil {
		prepare(r)
	}
	l := &linuxInitiator{guest: boot(t, machine{memoryMiB: memoryMiB, kernel: r.kernel(), initrd: r.initrd()}), s: s}
	l.run("iscsid")
	return l
}

func (l *linuxInitiator) portal() string { return "10.0.2.2:" + l.s.port() }

// record makes the record of the target. Discovery would name the address that the target was reached at, which is the
// host's loopback: the guest has another way there.
func (l *linuxInitiator) record() {
	l.t.Helper()
	l.run(fmt.Sprintf("iscsiadm -m node -o new -T %s -p %s", l.s.name, l.portal()))
}

func (l *linuxInitiator) node(args string) string {
	return fmt.Sprintf("iscsiadm -m node -T %s -p %s %s", l.s.name, l.portal(), args)
}

// login logs in and waits for the disk.
func (l *linuxInitiator) login() {
	l.t.Helper()
	l.record()
	l.run(l.node("--login"))
	l.run("until [ -b /dev/sda ] && [ $(blockdev --getsize64 /dev/sda) -gt 0 ]; do usleep 100000; done")
}

// logout unmounts and logs out; the disk must be gone.
func (l *linuxInitiator) logout() {
	l.t.Helper()
	l.run("if grep -q ' /mnt ' /proc/mounts; then umount /mnt; fi")
	l.run(l.node("--logout"))
	l.run("until [ ! -b /dev/sda ]; do usleep 100000; done")
}

// TestLinuxInitiator works as an administrator of a Linux host does: discovery, login with CHAP and both digests, a file
// system, logout, login again, what was written.
func TestLinuxInitiator(t *testing.T) {
	s := serve(t, "512MiB", withCHAP(t)...)
	l := bootInitiator(t, s, 256, func(r *tree) { r.program("mkfs.ext4", "e2fsck") })
	if out := l.run("iscsiadm -m discovery -t sendtargets -p " + l.portal()); !strings.Contains(out, s.name) {
		t.Errorf("discovery found\n%s", out)
	}
	l.login()
	session := l.run("iscsiadm -m session -P 3")
	for _, want := range []string{"HeaderDigest: CRC32C", "DataDigest: CRC32C", "iSCSI Session State: LOGGED_IN", "Attached scsi disk sda"} {
		if !strings.Contains(session, want) {
			t.Errorf("the session has no %q:\n%s", want, session)
		}
	}
	if out := l.run("cat /sys/block/sda/device/vendor /sys/block/sda/queue/discard_max_bytes"); !strings.HasPrefix(out, "HOLDFAST") || strings.HasSuffix(out, "\n0") {
		t.Errorf("the disk is %q", out)
	}
	l.run("mkfs.ext4 -q /dev/sda && mount /dev/sda /mnt")
	l.run("seq 1 200000 >/mnt/numbers && sync")
	l.logout()
	l.run(l.node("--login"))
	l.run("until mount -o ro /dev/sda /mnt 2>/dev/null; do usleep 100000; done")
	l.run("seq 1 200000 | cmp - /mnt/numbers")
	l.logout()
	l.run(l.node("--login"))
	l.run("until [ -b /dev/sda ]; do usleep 100000; done")
	l.run("e2fsck -f -n /dev/sda")
	l.logout()
	l.healthy()
	l.run(l.node("-o update -n node.session.auth.password -v not-the-secret-at-all -n node.session.initial_login_retry_max -v 1"))
	if out, code := l.shells[0].try(l.node("--login")); code == 0 || !strings.Contains(out, "authorization failure") {
		t.Errorf("a wrong secret: exit status %d\n%s", code, out)
	}
	l.iscsistart()
	l.off()
	if log := s.running.said(); strings.Count(log, `reason="logged out"`) != 3 {
		t.Errorf("the target did not see three logouts:\n%s", log)
	}
}

// iscsistart logs in as an initrd does for a root on iSCSI: by one command, without a daemon or records.
func (l *linuxInitiator) iscsistart() {
	l.t.Helper()
	l.run("iscsiadm -k 0 && until ! pidof iscsid; do usleep 100000; done")
	l.run(fmt.Sprintf("iscsistart -i iqn.2026-11.dev.holdfast:start -t %s -g 1 -a 10.0.2.2 -p %s -u %s -w '%s' -P node.conn[0].iscsi.HeaderDigest=CRC32C -P node.conn[0].iscsi.DataDigest=CRC32C",
		l.s.name, l.s.port(), chapUser, chapSecret))
	l.run("until mount -o ro /dev/sda /mnt 2>/dev/null; do usleep 100000; done")
	l.run("seq 1 200000 | cmp - /mnt/numbers && umount /mnt")
}
