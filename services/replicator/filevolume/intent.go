package filevolume

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/durable"
	"github.com/holdfast-dr/holdfast/services/replicator/blockfile"
)

const (
	intentHeader = 4096
	intentMagic  = "HFINTEN2"
	sectorBytes  = 512 // what a disk writes as a whole or not at all
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// besidePath is where what belongs to a volume's file is kept: beside it, by whatever symbolic link that was named, so that
// there is one for one file.
func besidePath(volume, suffix string) string {
	if real, err := filepath.EvalSymlinks(volume); err == nil {
		volume = real
	}
	return volume + suffix
}

func intentPath(volume string) string { return besidePath(volume, ".intent") }

// fileID tells one file from another that takes its name, or from a copy of it: its inode, and when that was made (0 where
// the file system does not say). A number of a device is none of it: it may change with each start of the machine.
type fileID struct{ inode, born uint64 }

func identifyFile(path string) (fileID, error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_INO|unix.STATX_BTIME, &st); err != nil {
		return fileID{}, fmt.Errorf("identify %s: %w", path, err)
	}
	id := fileID{inode: st.Ino}
	if st.Mask&unix.STATX_BTIME != 0 {
		id.born = uint64(st.Btime.Sec)*1e9 + uint64(st.Btime.Nsec)
	}
	return id, nil
}

// intention is an atomic write that is to be carried out: data at off, of the file id, over sectors with the check sums old.
type intention struct {
	off  int64
	data []byte
	id   fileID
	old  []uint32
}

// sums are the CRC32C of each sector.
func sums(b []byte) []uint32 {
	out := make([]uint32, 0, len(b)/sectorBytes)
	for ; len(b) >= sectorBytes; b = b[sectorBytes:] {
		out = append(out, crc32.Checksum(b[:sectorBytes], castagnoli))
	}
	return out
}

// tableBytes is the room of the old sectors' sums for n bytes of data, in whole pages.
func tableBytes(n int64) int64 {
	return (n/sectorBytes*4 + intentHeader - 1) / intentHeader * intentHeader
}

// encode is a header page {magic, offset, length, inode, birth, CRC32C of what follows, CRC32C of these}, the sums of the
// old sectors, and the payload.
func (in *intention) encode() []byte {
	table := tableBytes(int64(len(in.data)))
	b := make([]byte, intentHeader+table+int64(len(in.data)))
	copy(b, intentMagic)
	le := binary.LittleEndian
	le.PutUint64(b[8:], uint64(in.off))
	le.PutUint64(b[16:], uint64(len(in.data)))
	le.PutUint64(b[24:], in.id.inode)
	le.PutUint64(b[32:], in.id.born)
	for i, sum := range in.old {
		le.PutUint32(b[intentHeader+4*i:], sum)
	}
	copy(b[intentHeader+table:], in.data)
	le.PutUint32(b[40:], crc32.Checksum(b[intentHeader:], castagnoli))
	le.PutUint32(b[44:], crc32.Checksum(b[:44], castagnoli))
	return b
}

// decodeIntention gives what an intent says; nil for one that is cleared or torn.
func decodeIntention(b []byte) *intention {
	le := binary.LittleEndian
	if len(b) < intentHeader || string(b[:8]) != intentMagic || le.Uint32(b[44:]) != crc32.Checksum(b[:44], castagnoli) {
		return nil
	}
	in := &intention{off: int64(le.Uint64(b[8:])), id: fileID{le.Uint64(b[24:]), le.Uint64(b[32:])}}
	n := int64(le.Uint64(b[16:]))
	if n <= 0 || n > maxAtomicBytes || n%sectorBytes != 0 || in.off < 0 || int64(len(b)) < intentHeader+tableBytes(n)+n {
		return nil
	}
	b = b[:intentHeader+tableBytes(n)+n] // a longer one may have been there before
	if le.Uint32(b[40:]) != crc32.Checksum(b[intentHeader:], castagnoli) {
		return nil
	}
	for i := range n / sectorBytes {
		in.old = append(in.old, le.Uint32(b[intentHeader+4*i:]))
	}
	in.data = b[intentHeader+tableBytes(n):]
	return in
}

// progress compares what the volume has with what the write was to change: how many sectors that it changes are still old,
// how many new, and how many neither.
func (in *intention) progress(have []byte) (old, young, foreign int) {
	now, want := sums(have), sums(in.data)
	for i := range now {
		switch {
		case now[i] == want[i] && want[i] == in.old[i]: // the write does not change it
		case now[i] == want[i]:
			young++
		case now[i] == in.old[i]:
			old++
		default:
			foreign++
		}
	}
	return old, young, foreign
}

// intent is where a volume's atomic writes are made durable first.
type intent struct {
	path    string
	id      fileID   // the volume's
	f       *os.File // nil before the first atomic write; under the volume's atomic
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
	if err := durable.SyncDir(filepath.Dir(in.path)); err != nil {
		return errors.Join(err, f.Close())
	}
	in.f = f
	return nil
}

// put makes an intention durable.
func (in *intent) put(what *intention) error {
	if err := in.open(); err != nil {
		return err
	}
	if _, err := in.f.WriteAt(what.encode(), 0); err != nil {
		return err
	}
	return in.f.Sync()
}

// clear says, durably, that there is nothing to carry out.
func (in *intent) clear() error {
	if err := in.open(); err != nil {
		return err
	}
	if _, err := in.f.WriteAt(make([]byte, intentHeader), 0); err != nil {
		return err
	}
	return in.f.Sync()
}

// recoverIntent ends what an atomic write intended when the power went. A block device has no place beside it that lasts, and
// so no atomic writes: nil.
func recoverIntent(path string, volume *blockfile.File, size int64) (*intent, error) {
	if volume.Device() {
		return nil, nil
	}
	id, err := identifyFile(path)
	if err != nil {
		return nil, err
	}
	in := &intent{path: intentPath(path), id: id, reserve: volume.Reserve}
	b, err := os.ReadFile(in.path)
	if errors.Is(err, fs.ErrNotExist) {
		return in, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read its intent: %w", err)
	}
	if what := decodeIntention(b); what != nil {
		if err := in.carryOut(what, volume, size); err != nil {
			return nil, errors.Join(fmt.Errorf("carry out its intent: %w", err), in.close())
		}
	}
	return in, nil
}

// carryOut ends a write that was never answered, so that none of it or all of it is right. A volume that has none of it, or
// all, is left as it is: it may be an older image, put in place beside the intent. One that has a part is the file the write
// stopped in, and gets the rest; where that is not certain nothing is written, and the person decides.
func (in *intent) carryOut(what *intention, volume *blockfile.File, size int64) error {
	n := int64(len(what.data))
	if what.off > size-n {
		return fmt.Errorf("%s is of a write at %d, beyond the end of this volume: %w; %s", in.path, what.off, domain.ErrConflict, in.mend())
	}
	have := make([]byte, n)
	old, young, foreign := 0, 0, 0
	if _, err := volume.ReadAt(have, what.off); err == nil {
		old, young, foreign = what.progress(have)
	} else {
		old, young = 1, 1 // a sector that the power cut left unreadable is mended by writing it
	}
	partly := old > 0 && young > 0
	switch {
	case foreign > 0:
		return fmt.Errorf("%s is of a write at %d, where the volume has what was there neither before that write nor after it: %w; %s",
			in.path, what.off, domain.ErrConflict, in.mend())
	case partly && what.id != in.id:
		return fmt.Errorf("%s is of another file, or of the one this is a copy of: %w; copy the volume again once it was served where it came from, or %s",
			in.path, domain.ErrConflict, in.mend())
	case partly:
		if _, err := volume.WriteAt(what.data, what.off); err != nil {
			return err
		}
	}
	if err := volume.Sync(); err != nil {
		return err
	}
	return in.clear()
}

func (in *intent) mend() string {
	return fmt.Sprintf("if the volume was restored or changed by other means since, remove %s", in.path)
}
