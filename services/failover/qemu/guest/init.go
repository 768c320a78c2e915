package guest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/failover/workload"
	"github.com/holdfast-dr/holdfast/services/failover/workload/applog"
	"github.com/holdfast-dr/holdfast/services/failover/workload/ledger"
)

// IsInit reports whether this process is PID 1 of a guest: then main calls GuestInit and nothing else.
func IsInit() bool { return os.Getpid() == 1 && os.Args[0] == "/init" }

// GuestInit is PID 1 of the guest: it serves the workload until "poweroff" is read from the console, and powers the
// machine off. It returns an error only where it is not PID 1 of a guest.
func GuestInit() error {
	if !IsInit() {
		return fmt.Errorf("guest init: process %d is not the init of a guest", os.Getpid())
	}
	con := &console{w: os.Stdout}
	if err := live(context.Background(), con); err != nil { //nolint:forbidigo // PID 1 has nobody to get one from
		con.say("HF-FAIL %s", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	unix.Sync()
	con.say("HF-OFF")
	return unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// console writes whole lines to the serial line.
type console struct {
	mu sync.Mutex
	w  *os.File
}

// say writes a line and returns when it has left the machine.
func (c *console) say(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Fprintf(c.w, format+"\n", args...)
	_ = unix.IoctlSetInt(int(c.w.Fd()), unix.TCSBRK, 1) // tcdrain
}

// keep is the workload's ledger: the host writes the lines down.
func (c *console) keep(l ledger.Line) error {
	if l.Kind == ledger.KindAck {
		c.say("HF-ACK %d %d %s %d", l.Seq, l.ClockNS, l.Hash, l.Bytes)
	}
	return nil
}

func live(ctx context.Context, con *console) error {
	if err := mountSystem(); err != nil {
		return err
	}
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	cfg, err := ParseConfig(string(line))
	if err != nil {
		return err
	}
	setWall(cfg.WallNS)
	if err := loadModules(); err != nil {
		return err
	}
	if err := networkUp(); err != nil {
		return fmt.Errorf("bring the network up: %w", err)
	}
	disks, unmount, err := mountDisks(ctx, cfg)
	defer unmount()
	if err != nil {
		return err
	}
	actx, cancel := context.WithCancel(ctx)
	var agent sync.WaitGroup
	agent.Go(func() { runAgent(actx, con) })
	defer agent.Wait() // it has no file system open when they are unmounted
	defer cancel()
	return serve(ctx, con, cfg, disks)
}

// serve runs the workload until the console says poweroff.
func serve(ctx context.Context, con *console, cfg Config, disks []workload.Disk) error {
	vm, err := workload.Boot(ctx, cfg.Spec, disks, workload.Deps{Ledger: con.keep})
	if err != nil {
		return err
	}
	defer vm.Halt()
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", ":80")
	if err != nil {
		return err
	}
	stop := make(chan struct{})
	go func() {
		defer close(stop)
		for s := bufio.NewScanner(os.Stdin); s.Scan(); {
			if strings.TrimSpace(s.Text()) == "poweroff" {
				return
			}
		}
	}()
	signal.Ignore(unix.SIGINT, unix.SIGHUP)
	con.say("HF-READY %d", vm.Status().LastSeq)
	return vm.Serve(ctx, ln, stop, func() time.Duration { return time.Second })
}

func mountSystem() error {
	for _, m := range []struct{ what, where, kind string }{{"proc", "/proc", "proc"}, {"sysfs", "/sys", "sysfs"}, {"devtmpfs", "/dev", "devtmpfs"}} {
		if err := unix.Mount(m.what, m.where, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.where, err)
		}
	}
	return nil
}

// setWall sets the wall clock from the host's, which was read when this machine's boot clock began.
func setWall(hostNS int64) {
	if hostNS == 0 {
		return
	}
	ts := unix.NsecToTimespec(hostNS + int64(clock.Now()))
	_ = unix.ClockSettime(unix.CLOCK_REALTIME, &ts) // it only dates records
}

func loadModules() error {
	list, err := os.ReadFile(moduleList)
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(string(list)) {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		_ = f.Close()
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("load %s: %w", name, err)
		}
	}
	return nil
}

// mountDisks mounts the file system of each volume and opens its log.
func mountDisks(ctx context.Context, cfg Config) (disks []workload.Disk, unmount func(), err error) {
	var undo []func()
	unmount = func() {
		for _, u := range undo {
			u()
		}
	}
	for i, volume := range cfg.Volumes {
		dev := "/dev/vd" + string(rune('a'+i))
		dir := fmt.Sprintf("/mnt/%d", i)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, unmount, err
		}
		if err := awaitDevice(ctx, dev); err != nil {
			return nil, unmount, err
		}
		serial, err := os.ReadFile("/sys/block/" + filepath.Base(dev) + "/serial")
		if err != nil {
			return nil, unmount, fmt.Errorf("read the serial of disk %s: %w", dev, err)
		}
		if string(serial) != DiskSerial(volume) {
			return nil, unmount, fmt.Errorf("disk %s has serial %q, want that of volume %s", dev, serial, volume)
		}
		if err := unix.Mount(dev, dir, "ext4", unix.MS_NOATIME, "errors=remount-ro"); err != nil {
			return nil, unmount, fmt.Errorf("mount %s: %w", dev, err)
		}
		f, err := openLog(dir)
		if err != nil {
			return nil, unmount, fmt.Errorf("open the log on %s: %w", dev, err)
		}
		undo = append(undo, func() {
			_ = f.f.Close() // every write was synced
			_ = unix.Unmount(dir, 0)
		})
		disks = append(disks, f)
	}
	return disks, unmount, nil
}

// DiskSerial is the serial number under which the guest sees a volume, the same at every site.
func DiskSerial(v domain.VolumeID) string { return string(v[:min(len(v), 20)]) }

// awaitDevice waits for a device node; the kernel makes it shortly after the driver is loaded.
func awaitDevice(ctx context.Context, dev string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := os.Stat(dev); err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", dev, ctx.Err())
		}
	}
}

// logFile is the log as a file: durable means fsynced.
type logFile struct {
	f    *os.File
	size int64
}

func openLog(dir string) (logFile, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return logFile{}, err
	}
	f, err := os.OpenFile(dir+LogFile, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return logFile{}, err
	}
	d, err := os.Open(dir)
	if err == nil {
		err = errors.Join(d.Sync(), d.Close())
	}
	// What the file system can hold of data, with room for its own needs.
	return logFile{f: f, size: int64(st.Blocks) * st.Bsize / 10 * 8}, err
}

// ReadAt implements io.ReaderAt.
func (l logFile) ReadAt(p []byte, off int64) (int, error) { return l.f.ReadAt(p, off) }

// WriteDurable implements workload.Disk.
func (l logFile) WriteDurable(_ context.Context, p []byte, off int64) error {
	if _, err := l.f.WriteAt(p, off); err != nil {
		return err
	}
	return l.f.Sync()
}

// Size implements workload.Disk.
func (l logFile) Size() int64 { return l.size }

// BlockSize implements workload.Disk.
func (l logFile) BlockSize() int { return applog.MinRecordSize }
