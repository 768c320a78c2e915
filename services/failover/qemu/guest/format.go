package guest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Volume is a disk as the host writes a file system to it.
type Volume interface {
	Read(ctx context.Context, p []byte, off int64) error
	Write(ctx context.Context, p []byte, off int64, fua bool) error
	Flush(ctx context.Context) error
	Capacity() int64
}

const (
	copyBytes = 1 << 20
	// The superblock of ext4 is at byte 1024, its magic number 56 bytes into it.
	superblockEnd = 2048
	magicAt       = 1024 + 56
	magic         = 0xef53
)

// Format makes an ext4 file system on a blank volume with the host's mkfs.ext4, and leaves one that is there alone.
// It is whole or absent: the block with the superblock is written last. A volume that holds something else is refused
// with domain.ErrRefused.
func Format(ctx context.Context, v Volume) error {
	head := make([]byte, 64<<10)
	if v.Capacity() < 4<<20 {
		return fmt.Errorf("format a volume of %d bytes: %w: at least 4 MiB", v.Capacity(), domain.ErrInvalid)
	}
	if err := v.Read(ctx, head, 0); err != nil {
		return fmt.Errorf("format: %w", err)
	}
	switch {
	case binary.LittleEndian.Uint16(head[magicAt:]) == magic:
		return nil
	case !blank(head[:superblockEnd]):
		return fmt.Errorf("format: the volume holds something that is no ext4: %w", domain.ErrRefused)
	}
	dir, err := os.MkdirTemp("", "holdfast-mkfs-")
	if err != nil {
		return fmt.Errorf("format: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	image := filepath.Join(dir, "image")
	if err := mkfs(ctx, image, v.Capacity()); err != nil {
		return err
	}
	return copyImage(ctx, v, image)
}

func mkfs(ctx context.Context, image string, size int64) error {
	f, err := os.Create(image)
	if err != nil {
		return fmt.Errorf("format: %w", err)
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		return fmt.Errorf("format: %w", err)
	}
	out, err := exec.CommandContext(ctx, tool("mkfs.ext4"), "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard", image).CombinedOutput()
	if err != nil {
		return fmt.Errorf("format: mkfs.ext4: %w: %s", err, out)
	}
	return nil
}

// copyImage writes the image where the volume differs from it: a format that was cut may have left anything behind.
func copyImage(ctx context.Context, v Volume, image string) error {
	f, err := os.Open(image)
	if err != nil {
		return fmt.Errorf("format: %w", err)
	}
	defer func() { _ = f.Close() }()
	want, have := make([]byte, copyBytes), make([]byte, copyBytes)
	first := bytes.Clone(want[:4096])
	for off := int64(0); off < v.Capacity(); off += copyBytes {
		n := min(copyBytes, v.Capacity()-off)
		if _, err := f.ReadAt(want[:n], off); err != nil {
			return fmt.Errorf("format: read image: %w", err)
		}
		if err := v.Read(ctx, have[:n], off); err != nil {
			return fmt.Errorf("format: %w", err)
		}
		if off == 0 {
			copy(first, want)
			clear(want[:len(first)])
		}
		if bytes.Equal(want[:n], have[:n]) {
			continue
		}
		if err := v.Write(ctx, want[:n], off, false); err != nil {
			return fmt.Errorf("format: %w", err)
		}
	}
	if err := v.Flush(ctx); err != nil {
		return fmt.Errorf("format: %w", err)
	}
	if err := v.Write(ctx, first, 0, true); err != nil {
		return fmt.Errorf("format: %w", err)
	}
	return nil
}

func blank(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

// tool finds a program of e2fsprogs, which is in /sbin and so not in everyone's PATH.
func tool(name string) string {
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if p := filepath.Join(dir, name); fileExists(p) {
			return p
		}
	}
	return name
}

func fileExists(p string) bool {
	_, err := os.Stat(p)
	return err == nil
}
