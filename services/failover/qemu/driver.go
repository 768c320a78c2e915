// Package qemu is the VM driver that boots a real Linux guest in QEMU, its disks over iSCSI by QEMU's own initiator.
// See package guest for what runs inside.
//
// A guest has no gate of its own: the host agent kills QEMU (SIGKILL) before the lease ends, and the epoch at the
// storage is the fence behind that. Where the host agent's process dies, QEMU dies with it (PR_SET_PDEATHSIG).
//
// For an application-consistent checkpoint the driver freezes the guest's file systems by the QEMU guest agent (package qga), on a
// port that only the driver has the other end of.
//
// A disk error stops the guest's processors instead of reaching it (werror=stop); QEMU's initiator reconnects by itself,
// and the driver lets the guest go on every second until it can.
package qemu

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/initiator"
	"github.com/holdfast-dr/holdfast/services/failover/hostagent"
	"github.com/holdfast-dr/holdfast/services/failover/qemu/guest"
	"github.com/holdfast-dr/holdfast/services/failover/workload"
)

// Driver implements hostagent.Driver.
type Driver struct {
	// Cache is the folder the initrd is kept in, shared by the hosts of a machine; empty means each VM's own.
	Cache string
	// Exe becomes the guest's init; empty means the running binary. Its main calls guest.GuestInit
	// where guest.IsInit.
	Exe string
	// MemoryMiB is the guest's memory. 0 means 256.
	MemoryMiB int
	// HeaderDigest makes QEMU insist on CRC32C header digests.
	HeaderDigest bool
	// BootTimeout bounds a guest's way to its service. 0 means 2 min: emulation on a busy machine is slow.
	BootTimeout time.Duration
	// CHAP is what the host proves itself with to its site's volumes; nil: the credentials of the URL, if it has any. QEMU
	// takes it once, when a VM starts. It has no mutual CHAP: a driver that is given one starts no VM.
	CHAP   func() initiator.CHAP
	Logger *slog.Logger // nil: silent
}

const (
	program        = "qemu-system-x86_64"
	defaultMemory  = 256
	defaultTimeout = 2 * time.Minute
	// ConsoleFile is the guest's console in the VM's folder.
	ConsoleFile = "console.log"
)

// Name implements hostagent.Driver.
func (*Driver) Name() string { return "qemu" }

// Check says what is missing for this driver on this machine; nil when nothing is. The error wraps domain.ErrNotFound.
func (d *Driver) Check() error {
	if _, err := exec.LookPath(program); err != nil {
		return fmt.Errorf("%s is not installed (package qemu-system-x86): %w", program, domain.ErrNotFound)
	}
	matches, err := filepath.Glob("/usr/lib/*/qemu/block-iscsi.so")
	if err != nil || len(matches) == 0 {
		return fmt.Errorf("QEMU's iSCSI driver is not installed (package qemu-block-extra): %w", domain.ErrNotFound)
	}
	for _, tool := range []string{"mkfs.ext4", "e2fsck", "debugfs"} {
		if _, err := os.Stat("/sbin/" + tool); err != nil {
			return fmt.Errorf("%s is not installed (package e2fsprogs): %w", tool, domain.ErrNotFound)
		}
	}
	_, err = guest.FindKernel()
	return err
}

// Start implements hostagent.Driver: it formats blank disks, boots the guest and returns when its service listens.
func (d *Driver) Start(ctx context.Context, spec hostagent.Spec) (hostagent.Instance, error) {
	i, err := d.start(ctx, spec)
	if err != nil {
		return nil, fmt.Errorf("start VM %s: %w", spec.VM, err)
	}
	return i, nil
}

func (d *Driver) start(ctx context.Context, spec hostagent.Spec) (*instance, error) {
	if err := d.Check(); err != nil {
		return nil, err
	}
	if d.CHAP != nil && d.CHAP().MutualSecret != "" {
		return nil, fmt.Errorf("log in to volumes: %w: QEMU's initiator cannot ask the target to prove itself: leave out iscsi.chap.mutual_user and mutual_secret_file of this host", domain.ErrInvalid)
	}
	for _, disk := range spec.Disks {
		if err := d.format(ctx, disk); err != nil {
			return nil, err
		}
	}
	args, err := d.arguments(spec)
	if err != nil {
		return nil, err
	}
	log := d.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	i, err := launch(ctx, spec, args, log)
	if err != nil {
		return nil, err
	}
	timeout := cmp.Or(d.BootTimeout, defaultTimeout)
	t := time.NewTimer(timeout)
	defer t.Stop()
	select {
	case <-i.ready:
		return i, nil
	case <-i.done:
		return nil, errors.Join(ctx.Err(), i.Err())
	case <-t.C:
		i.Kill("the guest did not come up")
		return nil, fmt.Errorf("the guest's service did not listen within %s; see %s", timeout, filepath.Join(spec.Dir, ConsoleFile))
	}
}

// format checks that the disk is the one that was meant, and makes its file system when it is blank.
func (d *Driver) format(ctx context.Context, disk api.Disk) error {
	s, err := initiator.Dial(ctx, disk.URL, initiator.Options{HeaderDigest: d.HeaderDigest, Credentials: d.CHAP})
	if err != nil {
		return fmt.Errorf("open volume %s: %w", disk.Volume, hostagent.ExplainLogin(err, d.CHAP))
	}
	defer func() { _ = s.Close() }()
	if disk.Serial != "" && s.Serial() != disk.Serial {
		return fmt.Errorf("open volume %s: serial %q, want %q", disk.Volume, s.Serial(), disk.Serial)
	}
	if err := guest.Format(ctx, s); err != nil {
		return fmt.Errorf("volume %s: %w", disk.Volume, err)
	}
	return nil
}

// arguments is QEMU's command line. File descriptors 3 (QMP), 4 (the guest agent's port) and the standard ones (console) are the
// driver's.
func (d *Driver) arguments(spec hostagent.Spec) ([]string, error) {
	kernel, err := guest.FindKernel()
	if err != nil {
		return nil, err
	}
	exe, cache := cmp.Or(d.Exe, "/proc/self/exe"), cmp.Or(d.Cache, spec.Dir)
	initrd, err := guest.CachedInitrd(cache, kernel, exe)
	if err != nil {
		return nil, err
	}
	parameter, err := guestConfig(spec).Parameter()
	if err != nil {
		return nil, err
	}
	memory := cmp.Or(d.MemoryMiB, defaultMemory)
	// no_timer_check: on a host so busy that the timer's first ticks come late, Linux would panic while it looks for them.
	args := []string{
		"-name", string(spec.VM), "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", strconv.Itoa(memory),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", kernel.Image, "-initrd", initrd, "-append", "console=ttyS0 quiet panic=-1 no_timer_check " + parameter,
		"-chardev", "stdio,id=console,signal=off,logappend=on,logfile=" + escape(filepath.Join(spec.Dir, ConsoleFile)), "-serial", "chardev:console",
		"-chardev", "socket,id=qmp,fd=3", "-mon", "chardev=qmp,mode=control",
		"-chardev", "socket,id=qga,fd=4", "-device", "virtio-serial-pci", "-device", "virtserialport,chardev=qga,id=" + qgaPort + ",name=" + guest.AgentPort,
		"-netdev", "user,id=net0,hostfwd=tcp:" + net.JoinHostPort(spec.Address, strconv.Itoa(spec.Port)) + "-:80",
		"-device", "virtio-net-pci,netdev=net0,romfile=",
	}
	for n, disk := range spec.Disks {
		more, err := d.disk(n, spec, disk)
		if err != nil {
			return nil, err
		}
		args = append(args, more...)
	}
	return args, nil
}

// disk attaches one volume. The credentials, the host's own or those of the URL, are handed over in the block device's own
// options, the secret in a file.
func (d *Driver) disk(n int, spec hostagent.Spec, disk api.Disk) ([]string, error) {
	u, err := initiator.ParseURL(disk.URL)
	if err != nil {
		return nil, err
	}
	id := fmt.Sprintf("disk%d", n)
	file := map[string]any{
		"driver": "iscsi", "transport": "tcp", "portal": u.Address, "target": u.Target, "lun": u.LUN,
		"initiator-name": fmt.Sprintf("iqn.2026-11.dev.holdfast:%s:%s:%s", spec.Site, spec.Host, spec.VM),
	}
	if d.HeaderDigest {
		file["header-digest"] = "crc32c"
	}
	if d.CHAP != nil {
		c := d.CHAP()
		u.User, u.Secret = c.User, c.Secret
	}
	var args []string
	if u.User != "" {
		secret := filepath.Join(spec.Dir, id+".secret") // not on the command line, which everyone can read
		if err := os.WriteFile(secret, []byte(u.Secret), 0o600); err != nil {
			return nil, err
		}
		args = append(args, "-object", "secret,id="+id+"secret,file="+escape(secret))
		file["user"], file["password-secret"] = u.User, id+"secret"
	}
	block, err := json.Marshal(map[string]any{"driver": "raw", "node-name": id, "file": file, "cache": map[string]bool{"direct": true, "no-flush": false}})
	if err != nil {
		return nil, err
	}
	device := fmt.Sprintf("virtio-blk-pci,drive=%s,addr=0x%x,write-cache=on,werror=stop,rerror=stop,serial=%s", id, firstSlot+n, guest.DiskSerial(disk.Volume))
	return append(args, "-blockdev", string(block), "-device", device), nil
}

// firstSlot is the PCI slot of the first disk: the guest names its disks in the order of their slots.
const firstSlot = 0x10

func guestConfig(spec hostagent.Spec) guest.Config {
	c := guest.Config{
		Spec: workload.Spec{
			VM: spec.VM, Group: spec.Group, Site: spec.Site, Host: spec.Host, Instance: spec.Instance, Epoch: spec.Epoch,
		},
		WallNS: time.Now().UnixNano(),
	}
	for _, d := range spec.Disks {
		c.Volumes = append(c.Volumes, d.Volume)
	}
	return c
}

// escape doubles the commas of a value in QEMU's option syntax.
func escape(s string) string {
	var out []byte
	for i := range len(s) {
		if out = append(out, s[i]); s[i] == ',' {
			out = append(out, ',')
		}
	}
	return string(out)
}
