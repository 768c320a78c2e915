//go:build e2e

package initiators

import (
	"testing"
)

// fileSystem is how one is made, checked, and what it needs in the guest.
type fileSystem struct {
	name     string
	programs []string
	modules  []string
	make     string
	check    string
}

var fileSystems = []fileSystem{
	{"ext4", []string{"mkfs.ext4", "e2fsck"}, nil, "mkfs.ext4 -q /dev/sda", "e2fsck -f -n /dev/sda"},
	{"xfs", []string{"mkfs.xfs", "xfs_repair"}, []string{"xfs"}, "mkfs.xfs -q -f /dev/sda", "xfs_repair -n /dev/sda"},
	{"btrfs", []string{"mkfs.btrfs", "btrfs"}, []string{"btrfs"}, "mkfs.btrfs -q -f /dev/sda", "btrfs check --check-data-csum /dev/sda"},
}

// TestFileSystems makes, fills, trims and checks each file system over the kernel's initiator, and looks at the volume's
// file: what is deleted and trimmed in the guest is given back on the host.
func TestFileSystems(t *testing.T) {
	s := serve(t, "768MiB", withCHAP(t)...)
	l := bootInitiator(t, s, 512, func(r *tree) {
		for _, f := range fileSystems {
			r.program(f.programs...)
			r.load(f.modules...)
		}
		r.program("fstrim")
	})
	l.login()
	for _, f := range fileSystems {
		t.Run(f.name, func(t *testing.T) { l.exercise(t, f) })
	}
	l.logout()
	l.healthy()
	l.off()
}

// exercise takes one file system through its life on the volume.
func (l *linuxInitiator) exercise(t *testing.T, f fileSystem) {
	const data = 96 * mib
	l.run("blkdiscard /dev/sda && sync")
	if n := l.s.allocated(); n > mib {
		t.Errorf("%d bytes are allocated after the whole volume was discarded", n)
	}
	l.run(f.make)
	l.run("mount -t " + f.name + " /dev/sda /mnt && df -k /mnt")
	empty := l.s.allocated()
	l.run("mkdir /mnt/keep /mnt/drop && i=0; while [ $i -lt 30 ]; do seq $i 3 20000 >/mnt/keep/$i; i=$((i+1)); done")
	l.run("dd if=/dev/urandom of=/tmp/random bs=1M count=8 2>/dev/null && for i in $(seq 12); do cp /tmp/random /mnt/drop/$i || exit 1; done; sync")
	full := l.s.allocated()
	if full < empty+data {
		t.Errorf("%d bytes were written, and %d more are allocated", data, full-empty)
	}
	l.run("rm -r /mnt/drop && sync && /sbin/fstrim -v /mnt && sync")
	trimmed := l.s.allocated()
	if trimmed > full-data*9/10 {
		t.Errorf("of %d bytes deleted and trimmed, %d were given back", data, full-trimmed)
	}
	t.Logf("allocated: empty %d MiB, full %d MiB, trimmed %d MiB", empty/mib, full/mib, trimmed/mib)
	l.run("umount /mnt && echo 3 >/proc/sys/vm/drop_caches")
	l.run(f.check)
	l.run("mount -t " + f.name + " /dev/sda /mnt")
	l.run("i=0; while [ $i -lt 30 ]; do seq $i 3 20000 | cmp - /mnt/keep/$i || exit 1; i=$((i+1)); done")
	l.run("umount /mnt")
}
