// Package faultdisk is a disk in memory that does what disks do at the worst moment: a power cut keeps an arbitrary
// subset of the sectors that were written and not flushed, some of them torn; a kill keeps everything visible and
// nothing durable; calls fail, write short, or find no room. It is for tests: everything follows from one seed.
package faultdisk

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"

	"github.com/holdfast-dr/holdfast/services/replicator/journal/vfs"
)

// SectorSize is what survives a power cut as a whole, unless it is torn.
const SectorSize = 512

// ErrOff is what every call returns from the cut until Restart, and handles from before it for ever.
var ErrOff = errors.New("power is off")

// Call is a kind of call a Fault may meet.
type Call string

// The calls.
const (
	Read      Call = "read"
	Write     Call = "write"
	WriteSync Call = "write-sync"
	Sync      Call = "sync"
	Allocate  Call = "allocate"
	Rename    Call = "rename"
)

// Fault is the answer to one call. The zero value lets it be.
type Fault struct {
	// Err is returned, after Bytes of the transfer were done.
	Err error
	// Short makes the transfer end after Bytes without an error.
	Short bool
	Bytes int
}

// Disk is a file system in memory. The zero value is not usable; see New.
type Disk struct {
	// Hook, when set, may make a call fail. It runs under the disk's lock.
	Hook func(call Call, path string, off int64, n int) Fault
	// Capacity bounds the sum of the files' sizes in bytes; 0 is no bound.
	Capacity int64

	mu    sync.Mutex
	rng   *rand.Rand
	files map[string]*data
	life  int // grows with every Restart: handles of earlier lives are dead
	fuse  int // calls until the cut; 0 is none
	off   bool
}

// data is one file: what the disk has for certain, what a reader sees, and the order of what lies between.
type data struct {
	durable, view []byte
	pending       []version
	open          bool
}

// version is one sector as one write left it.
type version struct {
	sector int64
	bytes  []byte
}

// New makes an empty disk. seed decides what survives a cut.
func New(seed uint64) *Disk {
	return &Disk{rng: rand.New(rand.NewPCG(seed, 0xd15c)), files: map[string]*data{}}
}

// CutAfter arms the power cut: it comes in the middle of the nth moment from now. A write has one moment (written, not
// flushed), a durable write and a sync have two (before and after it is durable, both before the caller knows).
func (d *Disk) CutAfter(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fuse = n
}

// Cut cuts the power now.
func (d *Disk) Cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.off = true
}

// IsOff reports whether the power is off.
func (d *Disk) IsOff() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.off
}

// moment counts towards the cut, and says whether the power is off. Call it under mu.
func (d *Disk) moment() error {
	if d.fuse > 0 && !d.off {
		d.fuse--
		d.off = d.fuse == 0
	}
	if d.off {
		return ErrOff
	}
	return nil
}

// Restart ends a life. After a kill only the process is gone: everything written is still seen, and still not durable.
// Otherwise the power was gone: of every sector written and not flushed, the old content, any version written since, or
// a torn mixture of two is found.
func (d *Disk) Restart(kill bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.life++
	d.fuse, d.off = 0, false
	for _, name := range d.names() {
		f := d.files[name]
		f.open = false
		if !kill {
			d.lose(f)
		}
	}
}

// names is in a fixed order, so that a seed replays.
func (d *Disk) names() []string {
	var out []string
	for n := range d.files {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

// lose decides sector by sector what a power cut left, with a different bias each time.
func (d *Disk) lose(f *data) {
	survive := []float64{0, 0.1, 0.5, 0.9, 1}[d.rng.IntN(5)]
	tear := []float64{0, 0.2}[d.rng.IntN(2)]
	for _, v := range f.pending {
		at := f.durable[v.sector*SectorSize:][:SectorSize]
		switch p := d.rng.Float64(); {
		case p >= survive:
		case d.rng.Float64() < tear:
			cut := 1 + d.rng.IntN(SectorSize-1)
			if d.rng.IntN(2) == 0 {
				copy(at[:cut], v.bytes[:cut])
			} else {
				copy(at[cut:], v.bytes[cut:])
			}
		default:
			copy(at, v.bytes)
		}
	}
	f.pending = f.pending[:0]
	copy(f.view, f.durable)
}

// Bytes is what a reader sees of a file, as a copy; nil when there is none.
func (d *Disk) Bytes(path string) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	if f := d.files[path]; f != nil {
		return slices.Clone(f.view)
	}
	return nil
}

// Corrupt changes bytes behind everyone's back, durably: rot.
func (d *Disk) Corrupt(path string, off int64, b []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.files[path]
	copy(f.view[off:], b)
	copy(f.durable[off:], b)
}

// fault asks the hook. Call it under mu.
func (d *Disk) fault(call Call, path string, off int64, n int) Fault {
	if d.Hook == nil {
		return Fault{}
	}
	return d.Hook(call, path, off, n)
}

// Create implements vfs.FS.
func (d *Disk) Create(path string) (vfs.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.off {
		return nil, ErrOff
	}
	if f := d.files[path]; f != nil && f.open {
		return nil, fmt.Errorf("create %s: %w", path, syscall.EWOULDBLOCK)
	}
	d.files[path] = &data{open: true}
	return &handle{disk: d, data: d.files[path], path: path, life: d.life, align: vfs.PageSize}, nil
}

// Open implements vfs.FS.
func (d *Disk) Open(path string) (vfs.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.files[path]
	switch {
	case d.off:
		return nil, ErrOff
	case f == nil:
		return nil, fmt.Errorf("open %s: %w", path, fs.ErrNotExist)
	case f.open:
		return nil, fmt.Errorf("open %s: %w", path, syscall.EWOULDBLOCK)
	}
	f.open = true
	return &handle{disk: d, data: f, path: path, life: d.life, align: vfs.PageSize}, nil
}

// Exists implements vfs.FS.
func (d *Disk) Exists(path string) (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.off {
		return false, ErrOff
	}
	return d.files[path] != nil, nil
}

// Rename implements vfs.FS; it is atomic.
func (d *Disk) Rename(oldPath, newPath string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.moment(); err != nil {
		return err
	}
	if f := d.fault(Rename, oldPath, 0, 0); f.Err != nil {
		return f.Err
	}
	d.files[newPath] = d.files[oldPath]
	delete(d.files, oldPath)
	return d.moment()
}

// Remove implements vfs.FS.
func (d *Disk) Remove(path string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.off {
		return ErrOff
	}
	if d.files[path] == nil {
		return fmt.Errorf("remove %s: %w", path, fs.ErrNotExist)
	}
	delete(d.files, path)
	return nil
}

// used is the sum of the sizes. Call it under mu.
func (d *Disk) used() int64 {
	var n int64
	for _, f := range d.files {
		n += int64(len(f.view))
	}
	return n
}

// grow makes a file at least size long. Call it under mu.
func (d *Disk) grow(f *data, size int64) error {
	more := size - int64(len(f.view))
	if more <= 0 {
		return nil
	}
	if d.Capacity > 0 && d.used()+more > d.Capacity {
		return syscall.ENOSPC
	}
	f.view = append(f.view, make([]byte, more)...)
	f.durable = append(f.durable, make([]byte, more)...)
	return nil
}
