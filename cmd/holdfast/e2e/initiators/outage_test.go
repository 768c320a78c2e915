//go:build e2e

package initiators

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

const (
	// outage is how long a killed target is away: the fault itself, within the ten seconds that a restart may take.
	outage  = 5 * time.Second
	outages = 3
)

// load writes files of known content, each flushed before it is acknowledged, several at a time, until /tmp/stop is there.
// Each is written over and over, so that a replay of an older write would be seen.
const load = `rm -f /tmp/stop; for w in 1 2 3 4; do ( n=0; until [ -e /tmp/stop ]; do n=$((n+1)); ` +
	`seq $n 7 60000 >/mnt/$w.new && sync /mnt/$w.new && mv /mnt/$w.new /mnt/$w && sync /mnt/$w && echo $n >/tmp/done.$w && echo ACK $w $n || { echo FAILED $w $n; exit 1; }; done ) & done; wait`

// checkLoad reads what load wrote last, from the disk.
const checkLoad = `sync; echo 3 >/proc/sys/vm/drop_caches; for w in 1 2 3 4; do n=$(cat /tmp/done.$w); seq $n 7 60000 | cmp - /mnt/$w || exit 1; done`

// TestLinuxInitiatorRidesOutAKilledTarget kills the target under the Linux kernel's initiator, which replays what was not
// answered.
func TestLinuxInitiatorRidesOutAKilledTarget(t *testing.T) {
	s := serve(t, "256MiB", withCHAP(t)...)
	l := bootInitiator(t, s, 256, func(r *tree) { r.program("mkfs.ext4", "e2fsck") })
	l.login()
	l.run("mkfs.ext4 -q /dev/sda && mount /dev/sda /mnt")
	rideOut(t, l.guest, s)
	if n := strings.Count(l.console()+l.run("dmesg"), "detected conn error"); n < outages {
		t.Errorf("the initiator noticed %d of %d outages", n, outages)
	}
	l.run("umount /mnt && e2fsck -f -n /dev/sda")
	l.logout()
	l.off()
}

// TestQEMURidesOutAKilledTarget kills the target under QEMU's initiator. Where an error comes through, it stops the guest
// instead of reaching it, and QEMU is told to go on.
func TestQEMURidesOutAKilledTarget(t *testing.T) {
	s := serve(t, "256MiB")
	r := newTree(t)
	r.program("mkfs.ext4", "e2fsck")
	g := boot(t, machine{memoryMiB: 256, kernel: r.kernel(), initrd: r.initrd(), disks: []string{iscsiDisk(s, ",file.header-digest=crc32c")}})
	g.run("mkfs.ext4 -q /dev/vda && mount /dev/vda /mnt")
	rideOut(t, g, s)
	t.Logf("errors stopped the guest %d times", g.monitor.stops())
	g.run("umount /mnt && e2fsck -f -n /dev/vda")
	g.off()
}

// rideOut kills the target again and again while the guest writes to /mnt. The guest must see no error, and its disk hold
// what it was told is there.
func rideOut(t *testing.T, g *guest, s *target) {
	t.Helper()
	writer := g.shells[1]
	writer.send(load)
	acks := func(n int) {
		for range n {
			if line := writer.until("", nil); !strings.HasPrefix(line, "ACK ") {
				t.Fatalf("the guest's writer printed %q\n%s", line, g.console())
			}
		}
	}
	for range outages {
		acks(10)
		s.running.kill()
		time.Sleep(outage)
		s.start()
		acks(10)
	}
	g.run("touch /tmp/stop")
	if out, code := writer.result(); code != 0 || strings.Contains(out, "FAILED") {
		t.Fatalf("the guest's writer: exit status %d\n%s", code, out)
	}
	if out, code := g.shells[0].try(checkLoad); code != 0 {
		t.Errorf("the disk has not what was written last: %s", out)
	}
	g.healthy()
	if t.Failed() {
		fmt.Println(s.running.said())
	}
}
