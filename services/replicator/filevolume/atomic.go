package filevolume

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/blockfile"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

// An atomic write (SBC-4, WRITE ATOMIC (16) command) is there as a whole or not at all, for readers and after a loss of
// power. A file system promises that for no more than a sector, so the write goes through an intent beside the volume:
//
//	intent durable -> volume written -> volume durable -> intent cleared, durably -> done
//
// Nothing else changes the volume from the first step to the last, so an intent that is found when the volume is opened
// can be carried out again: it brings back nothing that was overwritten later. A torn intent fails its check sum, and then
// the volume was not touched. The write is durable when it completes, in either durability class.
const (
	maxAtomicBytes = 1 << 20
	intentHeader   = 4096
	intentMagic    = "HFINTENT"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// intentPath is beside the volume's file, by whatever symbolic link that was named: there is one intent for one file.
func intentPath(volume string) string {
	if real, err := filepath.EvalSymlinks(volume); err == nil {
		volume = real
	}
	return volume + ".intent"
}

// encodeIntent is a header page {magic, offset, length, CRC32C of the payload, CRC32C of these} and the payload.
func encodeIntent(off int64, data []byte) []byte {
	b := make([]byte, intentHeader+len(data))
	copy(b, intentMagic)
	le := binary.LittleEndian
	le.PutUint64(b[8:], uint64(off))
	le.PutUint64(b[16:], uint64(len(data)))
	le.PutUint32(b[24:], crc32.Checksum(data, castagnoli))
	le.PutUint32(b[28:], crc32.Checksum(b[:28], castagnoli))
	copy(b[intentHeader:], data)
	return b
}

// decodeIntent gives what an intent says; false for one that is cleared, torn, or of no volume of this size.
func decodeIntent(b []byte, size int64) (off int64, data []byte, ok bool) {
	le := binary.LittleEndian
	if len(b) < intentHeader || string(b[:8]) != intentMagic || le.Uint32(b[28:]) != crc32.Checksum(b[:28], castagnoli) {
		return 0, nil, false
	}
	off, n := int64(le.Uint64(b[8:])), int64(le.Uint64(b[16:]))
	if n <= 0 || n > maxAtomicBytes || n > int64(len(b))-intentHeader || off < 0 || off > size-n {
		return 0, nil, false
	}
	data = b[intentHeader : intentHeader+n]
	return off, data, le.Uint32(b[24:]) == crc32.Checksum(data, castagnoli)
}

// intent is where a volume's atomic writes are made durable first.
type intent struct {
	path    string
	f       *os.File // nil before the first atomic write; under the volume's order
	reserve func(off, n int64) error
}

// longest is the longest atomic write, 0 without an intent.
func (in *intent) longest() int64 {
	if in == nil {
		return 0
	}
	return maxAtomicBytes
}

func (in *intent) close() error {
	if in == nil || in.f == nil {
		return nil
	}
	return in.f.Close()
}

// open opens the file, made if need be, its name durable.
func (in *intent) open() (err error) {
	if in.f != nil {
		return nil
	}
	f, err := os.OpenFile(in.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(in.path)); err != nil {
		return errors.Join(err, f.Close())
	}
	in.f = f
	return nil
}

// clear says, durably, that there is nothing to carry out.
func (in *intent) clear() error {
	if _, err := in.f.WriteAt(make([]byte, intentHeader), 0); err != nil {
		return err
	}
	return in.f.Sync()
}

// recoverIntent carries out again what an atomic write intended when the power went. A block device has no place beside
// it that lasts, and so no atomic writes: nil.
func recoverIntent(path string, volume *blockfile.File, size int64) (*intent, error) {
	if volume.Device() {
		return nil, nil
	}
	in := &intent{path: intentPath(path), reserve: volume.Reserve}
	b, err := os.ReadFile(in.path)
	if errors.Is(err, fs.ErrNotExist) {
		return in, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read its intent: %w", err)
	}
	off, data, ok := decodeIntent(b, size)
	if !ok {
		return in, nil
	}
	if _, err := volume.WriteAt(data, off); err != nil {
		return nil, fmt.Errorf("carry out its intent: %w", err)
	}
	if err := errors.Join(volume.Sync(), in.open()); err != nil {
		return nil, fmt.Errorf("carry out its intent: %w", err)
	}
	if err := in.clear(); err != nil {
		return nil, fmt.Errorf("clear its intent: %w", errors.Join(err, in.close()))
	}
	return in, nil
}

// writeAtomic carries out an atomic write.
func (v *Volume) writeAtomic(c *target.Command) error {
	v.order.Lock()
	defer v.order.Unlock()
	switch err := v.Err(); {
	case err != nil:
		return err
	case v.settings.ReadOnly:
		return fmt.Errorf("%v on volume %s: %w", c.Op, v.path, target.ErrReadOnly)
	case v.intent == nil || c.Len > maxAtomicBytes || c.Off < 0 || c.Off+c.Len > v.size.Load():
		return fmt.Errorf("atomic %v on volume %s: %w", c.Op, v.path, domain.ErrInvalid)
	}
	// Room first: a write that found none half way could not be taken back.
	if err := v.intent.reserve(c.Off, c.Len); err != nil {
		return v.fault("allocate", err)
	}
	if err := v.intend(c); err != nil {
		return v.fault("write intent of", err)
	}
	v.whole.Begin()
	_, err := v.store.WriteAt(c.Data, c.Off)
	if err != nil {
		_ = v.halfWritten(err) // before anybody reads the half of it
	}
	v.whole.End()
	if err == nil {
		err = v.flush()
	}
	if err == nil {
		err = v.intent.clear()
	}
	if err != nil {
		return v.halfWritten(err)
	}
	return nil
}

// halfWritten ends the volume in the middle of an atomic write.
func (v *Volume) halfWritten(err error) error {
	return v.fail(fmt.Errorf("write volume %s atomically: %w: %w; the volume stops, and finishes the write when it is opened again: check the disk; where you restore the volume instead, remove %s as well",
		v.path, target.ErrMedium, err, v.intent.path))
}

// intend makes an atomic write's intent durable. One that could not be made so must not be found later.
func (v *Volume) intend(c *target.Command) error {
	if err := v.intent.open(); err != nil {
		return err
	}
	_, err := v.intent.f.WriteAt(encodeIntent(c.Off, c.Data), 0)
	if err == nil {
		err = v.intent.f.Sync()
	}
	if err == nil {
		return nil
	}
	if undo := v.intent.clear(); undo != nil {
		return v.fail(fmt.Errorf("clear the intent of volume %s: %w: %w; the volume stops: check the disk", v.path, target.ErrMedium, undo))
	}
	return err
}
