package faultdisk

import (
	"fmt"
	"io"
	"slices"

	"github.com/holdfast-dr/holdfast/services/replicator/journal/vfs"
)

// handle is one open file; it dies with the life it was opened in.
type handle struct {
	disk  *Disk
	data  *data
	path  string
	life  int
	align int64
}

var _ vfs.File = (*handle)(nil)
var _ vfs.FS = (*Disk)(nil)

// alive is nil while the handle may be used. Call it under the disk's mu.
func (h *handle) alive() error {
	if h.disk.off || h.life != h.disk.life || !h.data.open {
		return fmt.Errorf("%s: %w", h.path, ErrOff)
	}
	return nil
}

// aligned is the rule of O_DIRECT, for handles that have it.
func (h *handle) aligned(p []byte, off int64) error {
	if h.align == vfs.PageSize && !vfs.IsAligned(p) || off%h.align != 0 || int64(len(p))%h.align != 0 {
		return fmt.Errorf("%s: %d bytes at %d are not aligned", h.path, len(p), off)
	}
	return nil
}

// ReadAt implements vfs.File.
func (h *handle) ReadAt(p []byte, off int64) (int, error) {
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	if err := h.alive(); err != nil {
		return 0, err
	}
	if err := h.aligned(p, off); err != nil {
		return 0, err
	}
	if f := h.disk.fault(Read, h.path, off, len(p)); f.Err != nil || f.Short {
		return copy(p[:f.Bytes], h.data.view[off:]), f.Err
	}
	n := 0
	if off < int64(len(h.data.view)) {
		n = copy(p, h.data.view[off:])
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt implements vfs.File.
func (h *handle) WriteAt(p []byte, off int64) (int, error) {
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	n, err := h.put(Write, p, off)
	if err != nil {
		return n, err
	}
	return n, h.disk.moment()
}

// WriteSync implements vfs.File.
func (h *handle) WriteSync(p []byte, off int64) (int, error) {
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	n, err := h.put(WriteSync, p, off)
	if err != nil || n < len(p) {
		return n, err
	}
	if err := h.disk.moment(); err != nil {
		return 0, err
	}
	h.settle(off/SectorSize, (off+int64(n))/SectorSize)
	return n, h.disk.moment()
}

// put makes the write visible and pending.
func (h *handle) put(call Call, p []byte, off int64) (int, error) {
	if err := h.alive(); err != nil {
		return 0, err
	}
	if err := h.aligned(p, off); err != nil {
		return 0, err
	}
	f := h.disk.fault(call, h.path, off, len(p))
	n := len(p)
	if f.Err != nil || f.Short {
		n = f.Bytes / SectorSize * SectorSize
	}
	if err := h.disk.grow(h.data, off+int64(n)); err != nil {
		return 0, err
	}
	kept := slices.Clone(p[:n])
	copy(h.data.view[off:], kept)
	h.data.pending = slices.Grow(h.data.pending, n/SectorSize)
	for at := 0; at < n; at += SectorSize {
		h.data.pending = append(h.data.pending, version{sector: (off + int64(at)) / SectorSize, bytes: kept[at:][:SectorSize]})
	}
	return n, f.Err
}

// settle makes the sectors [from, to) durable as they are seen.
func (h *handle) settle(from, to int64) {
	copy(h.data.durable[from*SectorSize:to*SectorSize], h.data.view[from*SectorSize:])
	h.data.pending = slices.DeleteFunc(h.data.pending, func(v version) bool { return from <= v.sector && v.sector < to })
}

// Sync implements vfs.File.
func (h *handle) Sync() error {
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	if err := h.alive(); err != nil {
		return err
	}
	if f := h.disk.fault(Sync, h.path, 0, 0); f.Err != nil {
		return f.Err
	}
	if err := h.disk.moment(); err != nil {
		return err
	}
	h.settle(0, int64(len(h.data.view))/SectorSize)
	return h.disk.moment()
}

// Allocate implements vfs.File.
func (h *handle) Allocate(size int64) error {
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	if err := h.alive(); err != nil {
		return err
	}
	if f := h.disk.fault(Allocate, h.path, 0, int(size)); f.Err != nil {
		return f.Err
	}
	return h.disk.grow(h.data, size)
}

// Size implements vfs.File.
func (h *handle) Size() (int64, error) {
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	return int64(len(h.data.view)), h.alive()
}

// Close implements vfs.File.
func (h *handle) Close() error {
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	if h.life == h.disk.life {
		h.data.open = false
	}
	return nil
}

// Volume is a block device on the disk, of whole sectors, with a write cache.
type Volume struct{ h *handle }

// Volume opens the device of that name, and makes it, durable and full of zeroes, when there is none.
func (d *Disk) Volume(path string, size int64) *Volume {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.files[path]
	if f == nil {
		f = &data{durable: make([]byte, size), view: make([]byte, size)}
		d.files[path] = f
	}
	f.open = true
	return &Volume{h: &handle{disk: d, data: f, path: path, life: d.life, align: SectorSize}}
}

// ReadAt reads what a reader sees.
func (v *Volume) ReadAt(p []byte, off int64) (int, error) { return v.h.ReadAt(p, off) }

// WriteAt writes whole sectors into the cache.
func (v *Volume) WriteAt(p []byte, off int64) (int, error) { return v.h.WriteAt(p, off) }

// Zero writes zeroes into the cache.
func (v *Volume) Zero(off, length int64) error {
	_, err := v.h.WriteAt(make([]byte, length), off)
	return err
}

// Unmap is Zero: an unmapped range reads as zeroes.
func (v *Volume) Unmap(off, length int64) error { return v.Zero(off, length) }

// Sync flushes the cache.
func (v *Volume) Sync() error { return v.h.Sync() }
