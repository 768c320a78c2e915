package guest

import (
	"fmt"
	"io"
)

// archive writes a cpio archive in the "newc" format, as the kernel unpacks it
// (Documentation/driver-api/early-userspace/buffer-format.rst).
type archive struct {
	w   io.Writer
	ino int
	err error
}

const (
	typeDir  = 0o040000
	typeFile = 0o100000
	typeChar = 0o020000
	typeLink = 0o120000
)

// entry begins a member; exactly size bytes follow through body.
func (a *archive) entry(name string, mode, major, minor int, size int64, body io.Reader) {
	if a.err != nil {
		return
	}
	a.ino++
	head := fmt.Sprintf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		a.ino, mode, 0, 0, 1, 0, size, 0, 0, major, minor, len(name)+1, 0, name)
	a.write([]byte(head))
	a.pad(int64(len(head)))
	if body == nil || a.err != nil {
		return
	}
	n, err := io.Copy(a.w, body)
	switch {
	case err != nil:
		a.err = fmt.Errorf("write %s into the initrd: %w", name, err)
	case n != size:
		a.err = fmt.Errorf("write %s into the initrd: %d bytes, expected %d", name, n, size)
	}
	a.pad(size)
}

func (a *archive) write(b []byte) {
	if a.err == nil {
		_, a.err = a.w.Write(b)
	}
}

func (a *archive) pad(n int64) { a.write(make([]byte, -n&3)) }

// close writes the end of the archive.
func (a *archive) close() error {
	a.entry("TRAILER!!!", 0, 0, 0, 0, nil)
	return a.err
}
