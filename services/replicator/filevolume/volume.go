// Package filevolume is a volume kept in files of its own: the storage of `holdfast volume serve`, without replication.
// The file is one, as Open opens it, or whatever a Store makes of several.
//
// Its promise depends on the durability it was opened with. Cached: a write is complete when the page cache has it and
// durable after a flush, or with FUA; the unit declares its write cache. Strict: a write is complete when it is
// durable; all writes that wait share one fdatasync. An fdatasync that fails makes the volume fail for good, since the
// kernel forgets the pages it could not write and a second fdatasync would say all is well.
package filevolume

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/durable"
	"github.com/holdfast-dr/holdfast/services/replicator/blockfile"
	"github.com/holdfast-dr/holdfast/services/replicator/journal/vfs"
	"github.com/holdfast-dr/holdfast/services/replicator/sparse"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
	"github.com/holdfast-dr/holdfast/services/replicator/whole"
)

// Create makes the file of a new volume of size bytes, all zeroes and sparse, and makes its name durable. It refuses a
// size that is not a positive multiple of 512 (domain.ErrInvalid) and a file that is there (domain.ErrConflict).
func Create(path string, size int64) error {
	if err := checkSize(size); err != nil {
		return fmt.Errorf("create volume %s: %w", path, err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil { // of another volume that had this name
		for _, old := range []string{intentPath(path), besidePath(path, sanitizeSuffix)} {
			if gone := os.Remove(old); gone != nil && !errors.Is(gone, fs.ErrNotExist) {
				return fmt.Errorf("create volume: remove what an old one left: %w", errors.Join(gone, f.Close(), os.Remove(path)))
			}
		}
	}
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("create volume %s: the file exists; open it, or choose another name: %w", path, domain.ErrConflict)
	}
	if err != nil {
		return fmt.Errorf("create volume: %w", err)
	}
	err = errors.Join(f.Truncate(size), f.Sync(), f.Close(), durable.SyncDir(filepath.Dir(path)))
	if err != nil {
		return errors.Join(fmt.Errorf("create volume %s: %w", path, err), os.Remove(path))
	}
	return nil
}

func checkSize(size int64) error {
	if size <= 0 || size%target.BlockSize != 0 {
		return fmt.Errorf("size %d is not a positive multiple of %d bytes: %w", size, target.BlockSize, domain.ErrInvalid)
	}
	return nil
}

// Store is where a volume keeps its blocks. Its methods may be called concurrently for ranges that do not overlap. It is
// a blockfile.File, or a chain of layers.
type Store interface {
	ReadAt(p []byte, off int64) (int, error)
	// TryRead fills p when that takes no disk, and says whether it did.
	TryRead(p []byte, off int64) bool
	WriteAt(p []byte, off int64) (int, error)
	Zero(off, n int64) error
	Unmap(off, n int64) error
	// Extent tells whether off takes space, and for how many bytes from there on that holds.
	Extent(off int64) (mapped bool, length int64, err error)
	// Sync makes everything durable that was written before. It is not called again after a failure.
	Sync() error
	Close() error
}

// loner is a store some of whose changes must be alone, as they first read what is beside them.
type loner interface{ Alone(off, n int64) bool }

// Identity is what initiators are told that a disk is.
type Identity struct {
	Serial  string
	NAA     [8]byte
	Product string
}

// Settings are what a volume is opened with.
type Settings struct {
	Name       string // for errors
	SizeBytes  int64
	Durability domain.Durability
	Identity   Identity
	ReadOnly   bool
	// DetectZeroes makes writes of zeroes take no space where that is cheap.
	DetectZeroes bool
	// Offload makes changes wait for the store in goroutines of their own: a store that waits for the disk would hold up the
	// commands behind them. How many there are is bounded by the initiators' windows.
	Offload bool
	// SanitizeRate is how many bytes a second a sanitize writes at most; 0: as many as it can.
	SanitizeRate int64
	// Full, when not nil, is told when there is no space left for a change, and when there is again.
	Full func(full bool)
}

// Volume is an open volume; it is a target.Unit.
type Volume struct {
	path     string
	store    Store
	alone    func(off, n int64) bool // nil when no change of the store need be alone
	size     atomic.Int64
	settings Settings
	sync     func() error // the store's; another one in tests

	order  sync.RWMutex         // held exclusively by compare and write, shared by other changes
	atomic sync.Mutex           // held by an atomic write, one at a time; before order
	span   atomic.Pointer[span] // what the atomic write at work has for itself; set under order
	whole  whole.Guard          // of atomic writes
	intent *intent              // of atomic writes; nil: they are not offered
	eraser
	failed atomic.Pointer[error]
	// syncing is held from an fdatasync until its outcome is known.
	syncing sync.Mutex
	full    atomic.Bool // what Full was told last
	reads   sync.WaitGroup

	mu      sync.Mutex
	waiting []func(error) // changes that want to be durable
	closed  bool
	work    chan struct{}
	ended   chan struct{}
	resized func()
}

var (
	_ target.Unit   = (*Volume)(nil)
	_ target.Mapper = (*Volume)(nil)

	_ target.Sanitizer = (*Volume)(nil)
)

// Open opens the volume in path, which must be a plain file or block device of exactly size bytes that no other process
// holds. Errors wrap domain.ErrInvalid (what it is), domain.ErrNotFound, or domain.ErrConflict (who holds it), and say the
// mend.
func Open(path string, size int64, durability domain.Durability) (*Volume, error) {
	return OpenWith(path, size, durability, blockfile.Cached)
}

// OpenWith is Open for a mode of I/O.
func OpenWith(path string, size int64, durability domain.Durability, mode blockfile.Mode) (*Volume, error) {
	return OpenSettings(path, Settings{SizeBytes: size, Durability: durability}, mode)
}

// OpenSettings is Open with what else of the settings is not the file's own: its name, its identity. Where a sanitize has
// begun and not ended it goes on.
func OpenSettings(path string, set Settings, mode blockfile.Mode) (*Volume, error) {
	set.Name, set.Identity, set.Offload = path, identify(path), mode == blockfile.Direct
	size := set.SizeBytes
	if err := set.check(); err != nil {
		return nil, fmt.Errorf("open volume %s: %w", path, err)
	}
	f, err := blockfile.Open(path, size, mode)
	if err != nil {
		return nil, fmt.Errorf("open volume %s: %w", path, err)
	}
	in, err := recoverIntent(path, f, size)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open volume %s: %w", path, err), f.Close())
	}
	var m *marker
	var unended *marked
	if in != nil { // what has no place beside it that lasts has no marker either
		m = markerOf(path, in.id)
		if unended, err = m.load(f, size); err != nil {
			return nil, errors.Join(fmt.Errorf("open volume %s: %w", path, err), in.close(), f.Close())
		}
	}
	v, err := New(f, set)
	if err == nil {
		v.intent, v.marker = in, m
		v.resume(unended)
	}
	return v, err
}

// resume goes on with a sanitize that has not ended; one that failed stays so.
func (v *Volume) resume(unended *marked) {
	if unended == nil {
		return
	}
	if s := v.begin(*unended); !unended.Failed {
		v.erasing.Go(func() { _ = v.carryOut(s) }) // its state tells
	}
}

func (s Settings) check() error {
	if s.Durability != domain.DurabilityStrict && s.Durability != domain.DurabilityCached {
		return fmt.Errorf("durability %q is neither strict nor cached: %w", s.Durability, domain.ErrInvalid)
	}
	return checkSize(s.SizeBytes)
}

// New is a volume on a store, which it closes with itself. It refuses settings that are not valid (domain.ErrInvalid).
func New(store Store, set Settings) (*Volume, error) {
	if err := set.check(); err != nil {
		return nil, fmt.Errorf("open volume %s: %w", set.Name, err)
	}
	v := &Volume{path: set.Name, store: store, settings: set, sync: store.Sync, work: make(chan struct{}, 1), ended: make(chan struct{})}
	v.closing = make(chan struct{})
	v.size.Store(set.SizeBytes)
	if l, ok := store.(loner); ok {
		v.alone = l.Alone
	}
	go v.commit()
	return v, nil
}

// identify derives the disk's names from the host and the path: stable while the file stays where it is.
func identify(path string) Identity {
	host, _ := os.Hostname()
	full, err := filepath.Abs(path)
	if err != nil {
		full = path
	}
	return IdentityOf(host + "\x00" + full)
}

// IdentityOf derives a disk's names from a text that no other disk has.
func IdentityOf(unique string) Identity {
	id := Identity{Product: "file volume"}
	sum := sha256.Sum256([]byte(unique))
	copy(id.NAA[:], sum[:8])
	id.NAA[0] = 0x30 | id.NAA[0]&0x0f // NAA 3: locally assigned
	id.Serial = fmt.Sprintf("%x", sum[8:18])
	return id
}

// Info describes the volume.
func (v *Volume) Info() target.UnitInfo {
	id := v.settings.Identity
	return target.UnitInfo{Sanitize: v.marker != nil, MaxAtomicBytes: v.intent.longest(), SizeBytes: v.size.Load(), Serial: id.Serial, NAA: id.NAA, Product: id.Product,
		WriteCache: v.settings.Durability == domain.DurabilityCached, ThinProvisioned: true, ReadOnly: v.settings.ReadOnly}
}

// Err is what made the volume fail for good, nil while it works.
func (v *Volume) Err() error {
	if p := v.failed.Load(); p != nil {
		return *p
	}
	return nil
}

// Submit carries out one command. Reads that the page cache can answer, and writes, complete inline unless they have to
// be durable.
func (v *Volume) Submit(c *target.Command, done func(error)) {
	if err := errors.Join(v.forbidden(), v.Err()); err != nil {
		done(err)
		return
	}
	switch {
	case c.Op == target.OpRead:
		v.read(c, done)
	case c.Op == target.OpFlush:
		v.whenDurable(done)
	case c.Atomic:
		v.reads.Go(func() { // it waits for the disk
			err := v.writeAtomic(c)
			v.tellFull(err)
			done(err)
		})
	default:
		if v.settings.Offload || v.inTheWay(c.Off, c.Len) != nil { // it waits
			v.reads.Go(func() { v.complete(c, done) })
			return
		}
		v.complete(c, done)
	}
}

// complete makes a change, and durable where that was asked for.
func (v *Volume) complete(c *target.Command, done func(error)) {
	err := v.change(c)
	v.tellFull(err)
	if err == nil && (c.FUA || v.settings.Durability == domain.DurabilityStrict) {
		v.whenDurable(done)
		return
	}
	done(err)
}

// read answers from the page cache at once, or else from a goroutine of its own, so that a disk's latency does not hold
// up the commands behind this one. How many there are is bounded by the initiators' windows.
func (v *Volume) read(c *target.Command, done func(error)) {
	if seen := v.whole.Seen(); v.store.TryRead(c.Data, c.Off) && v.whole.Whole(seen) && v.Err() == nil {
		done(nil)
		return
	}
	v.reads.Go(func() { done(v.fault("read", v.readWhole(c))) })
}

// readWhole reads again what an atomic write may have been at while it was read.
func (v *Volume) readWhole(c *target.Command) error {
	seen := v.whole.Seen()
	_, err := v.store.ReadAt(c.Data, c.Off)
	if err == nil && !v.whole.Whole(seen) {
		v.whole.Hold()
		_, err = v.store.ReadAt(c.Data, c.Off)
		v.whole.Release()
	}
	if err != nil {
		return err
	}
	return v.Err() // what ended the volume may have left half of a write
}

func (v *Volume) change(c *target.Command) error {
	if v.settings.ReadOnly {
		return fmt.Errorf("%v on volume %s: %w", c.Op, v.path, target.ErrReadOnly)
	}
	if c.Op == target.OpCompareAndWrite {
		v.exclude(c.Off, c.Len)
		defer v.order.Unlock()
		return v.compareAndWrite(c)
	}
	v.share(c.Off, c.Len)
	if v.alone == nil || !v.alone(c.Off, c.Len) {
		defer v.order.RUnlock()
		return v.put(c)
	}
	v.order.RUnlock()
	v.exclude(c.Off, c.Len)
	defer v.order.Unlock()
	return v.put(c)
}

// put makes the change; order is held.
func (v *Volume) put(c *target.Command) error {
	if err := errors.Join(v.forbidden(), v.Err()); err != nil { // it ended, or its sanitize began, while this waited
		return err
	}
	if c.Off < 0 || c.Off+c.Len > v.size.Load() { // it was made smaller meanwhile
		return fmt.Errorf("%v beyond the end of volume %s: %w", c.Op, v.path, domain.ErrInvalid)
	}
	switch c.Op {
	case target.OpWrite:
		return v.fault("write", v.write(c.Data, c.Off))
	case target.OpZero:
		return v.fault("zero", v.store.Zero(c.Off, c.Len))
	case target.OpUnmap:
		return v.fault("unmap", v.store.Unmap(c.Off, c.Len))
	}
	return fmt.Errorf("%v on volume %s: %w", c.Op, v.path, domain.ErrInvalid)
}

func (v *Volume) compareAndWrite(c *target.Command) error {
	if err := errors.Join(v.forbidden(), v.Err()); err != nil { // it ended, or its sanitize began, while this waited
		return err
	}
	have := make([]byte, len(c.Compare))
	if _, err := v.store.ReadAt(have, c.Off); err != nil {
		return v.fault("read", err)
	}
	if at := target.Differs(have, c.Compare); at >= 0 {
		return &target.MiscompareError{Offset: int64(at)}
	}
	_, err := v.store.WriteAt(c.Data, c.Off)
	return v.fault("write", err)
}

func (v *Volume) fault(what string, err error) error {
	switch {
	case err == nil:
		return nil
	case vfs.IsFull(err):
		return fmt.Errorf("%s volume %s: %w: %w", what, v.path, target.ErrNoSpace, err)
	}
	return fmt.Errorf("%s volume %s: %w: %w", what, v.path, target.ErrMedium, err)
}

// tellFull tells Full of a change for the worse or better, once each.
func (v *Volume) tellFull(err error) {
	full := err != nil && errors.Is(err, target.ErrNoSpace)
	if (full || err == nil && v.full.Load()) && v.full.Swap(full) != full && v.settings.Full != nil {
		v.settings.Full(full)
	}
}

// Extent implements target.Mapper.
func (v *Volume) Extent(off, look int64) (mapped bool, length int64, err error) {
	mapped, length, err = v.store.Extent(off)
	if err == nil && !mapped && length >= target.BlockSize {
		return false, length &^ (target.BlockSize - 1), nil
	}
	if err == nil {
		end := min((off+length+target.BlockSize-1)&^(target.BlockSize-1), v.size.Load())
		mapped, length, err = sparse.Content(v.store, off, end, min(off+look&^(target.BlockSize-1), end))
	}
	return mapped, length, v.fault("map", err)
}
