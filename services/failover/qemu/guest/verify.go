package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/holdfast-dr/holdfast/pkg/initiator"
	"github.com/holdfast-dr/holdfast/services/failover/workload/applog"
)

// ErrFileSystem means that e2fsck found the file system damaged even after its journal was replayed.
var ErrFileSystem = errors.New("the file system is damaged")

// VerifyDisk judges a guest's disk, an image file or an iscsi:// URL, as a crash or a promotion left it: on a copy, the
// journal is replayed, e2fsck -fn must find nothing, and the log is taken out and scanned. The disk itself is only read.
func VerifyDisk(ctx context.Context, disk string) (applog.Report, error) {
	return VerifyDiskWith(ctx, disk, applog.Options{})
}

// VerifyDiskWith is VerifyDisk with options for the scan.
func VerifyDiskWith(ctx context.Context, disk string, o applog.Options) (applog.Report, error) {
	dir, err := os.MkdirTemp("", "holdfast-verify-")
	if err != nil {
		return applog.Report{}, fmt.Errorf("verify %s: %w", disk, err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	r, err := verify(ctx, disk, dir, o)
	if err != nil {
		return r, fmt.Errorf("verify %s: %w", disk, err)
	}
	return r, nil
}

func verify(ctx context.Context, disk, dir string, o applog.Options) (applog.Report, error) {
	image, log := filepath.Join(dir, "image"), filepath.Join(dir, "log")
	if err := copyDisk(ctx, disk, image); err != nil {
		return applog.Report{}, err
	}
	// Exit status 1 of e2fsck means that it changed something: here, that there was a journal to replay.
	if out, err := run(ctx, "e2fsck", "-E", "journal_only", "-y", image); err != nil && exitCode(err) != 1 {
		return applog.Report{}, fmt.Errorf("replay the journal: %w: %w: %s", ErrFileSystem, err, out)
	}
	if out, err := run(ctx, "e2fsck", "-f", "-n", image); err != nil {
		return applog.Report{}, fmt.Errorf("e2fsck -fn: %w: %w: %s", ErrFileSystem, err, out)
	}
	if out, err := run(ctx, "debugfs", "-R", "dump "+LogFile+" "+log, image); err != nil {
		return applog.Report{}, fmt.Errorf("take the log out: %w: %s", err, out)
	}
	f, err := os.Open(log)
	if err != nil {
		return applog.Report{}, fmt.Errorf("take the log out: %w", err)
	}
	defer func() { _ = f.Close() }()
	return applog.ScanWith(f, o)
}

func run(ctx context.Context, name string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, tool(name), args...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func exitCode(err error) int {
	var e *exec.ExitError
	if errors.As(err, &e) {
		return e.ExitCode()
	}
	return -1
}

// copyDisk copies a disk into a sparse file.
func copyDisk(ctx context.Context, disk, image string) error {
	src, size, closeSrc, err := openDisk(ctx, disk)
	if err != nil {
		return err
	}
	defer func() { _ = closeSrc() }()
	dst, err := os.Create(image)
	if err != nil {
		return err
	}
	defer func() { _ = dst.Close() }() // after an error; the end checks it
	buf := make([]byte, copyBytes)
	for off := int64(0); off < size; off += copyBytes {
		n, err := src.ReadAt(buf, off)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if blank(buf[:n]) {
			continue
		}
		if _, err := dst.WriteAt(buf[:n], off); err != nil {
			return err
		}
	}
	return errors.Join(dst.Truncate(size), dst.Close())
}

func openDisk(ctx context.Context, disk string) (io.ReaderAt, int64, func() error, error) {
	if strings.HasPrefix(disk, "iscsi://") {
		s, err := initiator.Dial(ctx, disk, initiator.Options{})
		if err != nil {
			return nil, 0, nil, err
		}
		return s, s.Capacity(), s.Close, nil
	}
	f, err := os.Open(disk)
	if err != nil {
		return nil, 0, nil, err
	}
	info, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return nil, 0, nil, err
	}
	return f, info.Size(), f.Close, nil
}
