package blockfile

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Mode is how a file's blocks travel.
type Mode string

// The modes.
const (
	// Cached goes through the machine's page cache.
	Cached Mode = "cached"
	// Direct goes past it (O_DIRECT). Transfers that are not whole blocks of 4 KiB still go through it, which the kernel
	// keeps in step.
	Direct Mode = "direct"
)

// ParseMode reads a mode; empty is Cached.
func ParseMode(s string) (Mode, error) {
	switch Mode(s) {
	case "", Cached:
		return Cached, nil
	case Direct:
		return Direct, nil
	}
	return "", fmt.Errorf("--io %q: use cached or direct: %w", s, domain.ErrInvalid)
}

const directAlign = 4096

// bounces are aligned buffers for transfers whose memory is not.
var bounces = sync.Pool{New: func() any { return new([]byte) }}

// openDirect opens the file a second time, past the page cache. A file system without that (tmpfs) is domain.ErrInvalid.
func (f *File) openDirect() error {
	d, err := os.OpenFile(f.path, os.O_RDWR|unix.O_DIRECT, 0)
	if err == nil {
		if _, err = d.ReadAt(aligned(directAlign), 0); !errors.Is(err, unix.EINVAL) {
			f.direct = d
			return nil
		}
		err = errors.Join(err, d.Close())
	}
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("its file system has no direct I/O; use --io cached: %w", domain.ErrInvalid)
	}
	return err
}

func aligned(n int) []byte {
	raw := make([]byte, n+directAlign)
	skip := -int(uintptr(unsafe.Pointer(unsafe.SliceData(raw)))) & (directAlign - 1)
	return raw[skip : skip+n : skip+n]
}

// past reports whether a transfer goes past the page cache.
func (f *File) past(p []byte, off int64) bool {
	return f.direct != nil && off%directAlign == 0 && len(p)%directAlign == 0 && len(p) > 0
}

// bounce calls f with memory that O_DIRECT takes: p itself, or a buffer.
func bounce(p []byte, f func(q []byte) (int, error)) (int, error) {
	if uintptr(unsafe.Pointer(unsafe.SliceData(p)))%directAlign == 0 {
		return f(p)
	}
	buf := bounces.Get().(*[]byte)
	defer bounces.Put(buf)
	if len(*buf) < len(p) {
		*buf = aligned(len(p))
	}
	return f((*buf)[:len(p)])
}

func (f *File) readPast(p []byte, off int64) (int, error) {
	return bounce(p, func(q []byte) (int, error) {
		n, err := f.direct.ReadAt(q, off)
		if unsafe.SliceData(q) != unsafe.SliceData(p) {
			copy(p, q[:n])
		}
		return n, err
	})
}

func (f *File) writePast(p []byte, off int64) (int, error) {
	return bounce(p, func(q []byte) (int, error) {
		if unsafe.SliceData(q) != unsafe.SliceData(p) {
			copy(q, p)
		}
		return f.direct.WriteAt(q, off)
	})
}
