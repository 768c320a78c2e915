//go:build e2e

package initiators

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const (
	mib       = int64(1) << 20
	diskMiB   = 256
	bootAt    = 1 * mib // the FAT partition with the boot loader, the kernel and the initrd
	bootBytes = 63 * mib
	rootAt    = 64 * mib // the ext4 partition with the root file system
	rootBytes = diskMiB*mib - rootAt
)

// TestQEMUBootsFromTheTarget boots as a machine without any other disk does: the firmware reads the boot sector, the boot
// loader the kernel, and the kernel its root file system, all over iSCSI with header digests.
func TestQEMUBootsFromTheTarget(t *testing.T) {
	need(t, "syslinux", "mformat", "mcopy", "mkfs.ext4", "e2fsck", "debugfs", "qemu-img")
	s := serve(t, fmt.Sprintf("%dMiB", diskMiB))
	command(t, "qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", bootDisk(t), s.url())
	g := boot(t, machine{memoryMiB: 256, disks: []string{iscsiDisk(s, ",file.header-digest=crc32c")}})
	if out := g.run("cat /proc/mounts"); !strings.Contains(out, "/dev/vda2 / ext4") {
		t.Errorf("the root is not on the disk:\n%s", out)
	}
	g.run("seq 1 100000 >/written && sync")
	g.run("[ $(cat /sys/block/vda/serial) = disk0 ]")
	g.healthy()
	g.off()
	if log := s.running.said(); !strings.Contains(log, "header_digest=true") {
		t.Errorf("no session had header digests:\n%s", log)
	}
	s.stop()
	root := filepath.Join(t.TempDir(), "root.img")
	command(t, "dd", "if="+s.file, "of="+root, "bs=1M", fmt.Sprintf("skip=%d", rootAt/mib), "status=none", "conv=sparse")
	command(t, "e2fsck", "-f", "-n", root)
	if out := command(t, "debugfs", "-R", "cat /written", root); !strings.Contains(out, "\n99999\n100000\n") {
		t.Errorf("what the guest wrote is not in the volume's file: %d bytes", len(out))
	}
}

// bootDisk makes a disk that boots by itself: an MBR, SYSLINUX on FAT, and a root file system on ext4.
func bootDisk(t *testing.T) string {
	t.Helper()
	disk, at := filepath.Join(t.TempDir(), "disk.img"), fmt.Sprint(bootAt)
	r := newTree(t)
	initrd := r.initrd()
	writeBootSector(t, disk)
	config := filepath.Join(t.TempDir(), "syslinux.cfg")
	if err := os.WriteFile(config, []byte("DEFAULT linux\nLABEL linux\nLINUX /vmlinuz\nINITRD /initrd\nAPPEND console=ttyS0 quiet panic=-1 no_timer_check hf.root=/dev/vda2\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	image := disk + "@@" + at
	command(t, "mformat", "-i", image, "-T", fmt.Sprint(bootBytes/512), "-h", "255", "-s", "63", "-H", fmt.Sprint(bootAt/512), "::")
	command(t, "syslinux", "--install", "--offset", at, disk)
	command(t, "mcopy", "-i", image, r.kernel(), "::/vmlinuz")
	command(t, "mcopy", "-i", image, initrd, "::/initrd")
	command(t, "mcopy", "-i", image, config, "::/syslinux.cfg")
	r.file("etc/on-disk", "", 0o644)
	if err := os.Remove(filepath.Join(r.dir, "modules/list")); err != nil { // loaded already
		t.Fatal(err)
	}
	root := filepath.Join(t.TempDir(), "root.img")
	command(t, "mkfs.ext4", "-q", "-F", "-d", r.dir, root, fmt.Sprintf("%dM", rootBytes/mib))
	command(t, "dd", "if="+root, "of="+disk, "bs=1M", fmt.Sprintf("seek=%d", rootAt/mib), "status=none", "conv=notrunc,sparse")
	return disk
}

// writeBootSector makes the disk's file, with a boot sector that has two partitions, the first of them active.
func writeBootSector(t *testing.T, disk string) {
	t.Helper()
	code, err := os.ReadFile("/usr/lib/syslinux/mbr/mbr.bin")
	if err != nil {
		need(t, "mbr.bin of package syslinux-common")
	}
	sector := make([]byte, 512)
	copy(sector[:440], code)
	for i, p := range []struct {
		active, kind byte
		at, bytes    int64
	}{{0x80, 0x0e, bootAt, bootBytes}, {0, 0x83, rootAt, rootBytes}} {
		e := sector[446+16*i:]
		e[0], e[4] = p.active, p.kind
		copy(e[1:4], "\xfe\xff\xff") // by LBA alone
		copy(e[5:8], "\xfe\xff\xff")
		binary.LittleEndian.PutUint32(e[8:], uint32(p.at/512))
		binary.LittleEndian.PutUint32(e[12:], uint32(p.bytes/512))
	}
	sector[510], sector[511] = 0x55, 0xaa
	f, err := os.Create(disk)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(sector); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(diskMiB * mib); err != nil {
		t.Fatal(err)
	}
}
