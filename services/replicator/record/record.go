// Package record keeps a few bytes in one small file that is replaced as a whole: whenever the power goes or the process
// is killed, the old or the new is found, whole. What is damaged is an error, never taken for nothing.
//
// A save writes a new file beside the old one, makes it durable, renames it over the old one and makes the name durable.
// The file is one or more pages: magic, length and CRC-32C of the content, the content, zeroes to the end of the page.
package record

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/journal/vfs"
)

const (
	magic     = "HFRECORD1\n"
	headerLen = 32
	// MaxLen bounds the content, in bytes.
	MaxLen = 1 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// File is one record. Its methods are for one goroutine at a time.
type File struct {
	FS   vfs.FS
	Path string
}

// Load returns what was saved last, nil when nothing ever was. A damaged file is domain.ErrInvalid and names the mend.
func (f File) Load() (content []byte, err error) {
	there, err := f.FS.Exists(f.Path)
	if err != nil || !there {
		return nil, err
	}
	file, err := f.FS.Open(f.Path)
	if err != nil {
		return nil, fmt.Errorf("open record %s: %w", f.Path, err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	size, err := file.Size()
	if err != nil {
		return nil, fmt.Errorf("read record %s: %w", f.Path, err)
	}
	if size < vfs.PageSize || size > MaxLen+2*vfs.PageSize || size%vfs.PageSize != 0 {
		return nil, f.damaged(fmt.Sprintf("it has %d bytes", size))
	}
	page := vfs.Aligned(int(size))
	if _, err := file.ReadAt(page, 0); err != nil {
		return nil, fmt.Errorf("read record %s: %w", f.Path, err)
	}
	n := binary.BigEndian.Uint32(page[len(magic):])
	switch {
	case !bytes.HasPrefix(page, []byte(magic)):
		return nil, f.damaged("it does not begin as a record does")
	case int64(n) > size-headerLen:
		return nil, f.damaged(fmt.Sprintf("%d bytes of content in a file of %d", n, size))
	case crc32.Checksum(page[headerLen:headerLen+n], castagnoli) != binary.BigEndian.Uint32(page[len(magic)+4:]):
		return nil, f.damaged("its checksum is wrong")
	}
	return page[headerLen : headerLen+n], nil
}

func (f File) damaged(how string) error {
	return fmt.Errorf("record %s is damaged (%s); restore the file, or move it away if what it kept may be forgotten: %w", f.Path, how, domain.ErrInvalid)
}

// Save replaces the content, durably on return. After an error the old or the new is there.
func (f File) Save(content []byte) error {
	if len(content) > MaxLen {
		return fmt.Errorf("save record %s: %d bytes, at most %d: %w", f.Path, len(content), MaxLen, domain.ErrInvalid)
	}
	page := vfs.Aligned((headerLen + len(content) + vfs.PageSize - 1) / vfs.PageSize * vfs.PageSize)
	copy(page, magic)
	binary.BigEndian.PutUint32(page[len(magic):], uint32(len(content)))
	binary.BigEndian.PutUint32(page[len(magic)+4:], crc32.Checksum(content, castagnoli))
	copy(page[headerLen:], content)
	next := f.Path + ".new"
	file, err := f.FS.Create(next)
	if err != nil {
		return fmt.Errorf("save record %s: %w", f.Path, err)
	}
	_, err = file.WriteAt(page, 0)
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err == nil {
		err = f.FS.Rename(next, f.Path)
	}
	if err != nil {
		return fmt.Errorf("save record %s: %w", f.Path, err)
	}
	return nil
}
