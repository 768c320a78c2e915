package initiator

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

// Identity is what a logical unit says of itself.
type Identity struct {
	Vendor, Product, Revision string
	Serial                    string // unit serial number, VPD page 80h; empty where there is none
	BlockSize                 int    // bytes
	Blocks                    uint64
}

// maxTransfer is the most one command moves, in bytes. Larger reads and writes are cut into several, in flight at once.
const maxTransfer = 512 << 10

// Identity is the unit's, as read when the session was opened.
func (s *Session) Identity() Identity { return s.id }

// Serial is the unit serial number.
func (s *Session) Serial() string { return s.id.Serial }

// Capacity is the size in bytes.
func (s *Session) Capacity() int64 { return int64(s.id.Blocks) * int64(s.id.BlockSize) }

// BlockSize is the logical block length in bytes.
func (s *Session) BlockSize() int { return s.id.BlockSize }

// ReadAt implements io.ReaderAt; any offset and length will do. It is bounded by Options.Timeout.
func (s *Session) ReadAt(p []byte, off int64) (int, error) {
	n, end := len(p), s.Capacity()
	if off < 0 {
		return 0, fmt.Errorf("read %s at %d: %w", s.url, off, domain.ErrInvalid)
	}
	if off >= end {
		return 0, io.EOF
	}
	p = p[:min(int64(n), end-off)]
	if err := s.Read(s.life, p, off); err != nil {
		return 0, err
	}
	if len(p) < n {
		return len(p), io.EOF
	}
	return n, nil
}

// WriteAt implements io.WriterAt for whole blocks, without FUA. It is bounded by Options.Timeout.
func (s *Session) WriteAt(p []byte, off int64) (int, error) {
	if err := s.Write(s.life, p, off, false); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Read fills p from byte offset off; any offset and length will do within the disk.
func (s *Session) Read(ctx context.Context, p []byte, off int64) error {
	if err := s.within("read", off, len(p)); err != nil || len(p) == 0 {
		return err
	}
	bs := int64(s.id.BlockSize)
	start, end := off/bs*bs, (off+int64(len(p))+bs-1)/bs*bs
	buf := p
	if end-start != int64(len(p)) {
		buf = make([]byte, end-start)
	}
	err := s.pieces(len(buf), func(from, to int) error {
		lba, blocks := s.blocks(start+int64(from), to-from)
		r, err := s.exec(ctx, iscsi.Read16CDB(lba, blocks), buf[from:to], nil, true)
		if err == nil && r.status == iscsi.StatusGood && r.got != to-from {
			return fmt.Errorf("the target sent %d of %d bytes", r.got, to-from)
		}
		return statusError(r, err)
	})
	if err != nil {
		return fmt.Errorf("read %s at %d: %w", s.url, off, err)
	}
	if len(buf) != len(p) {
		copy(p, buf[off-start:])
	}
	return nil
}

// Write writes whole blocks at byte offset off; with fua they are durable when it returns. A write that fails with an
// error that wraps ErrAmbiguous may have happened, wholly or in part.
func (s *Session) Write(ctx context.Context, p []byte, off int64, fua bool) error {
	if err := s.aligned("write", off, int64(len(p))); err != nil || len(p) == 0 {
		return err
	}
	out := append([]byte(nil), p...)
	err := s.pieces(len(out), func(from, to int) error {
		lba, blocks := s.blocks(off+int64(from), to-from)
		return statusError(s.exec(ctx, iscsi.Write16CDB(lba, blocks, fua), nil, out[from:to], true))
	})
	if err != nil {
		return fmt.Errorf("write %s at %d: %w", s.url, off, err)
	}
	return nil
}

// Flush makes every write that returned before it was called durable (SYNCHRONIZE CACHE).
func (s *Session) Flush(ctx context.Context) error {
	if err := statusError(s.exec(ctx, iscsi.SyncCache16CDB(0, 0), nil, nil, true)); err != nil {
		return fmt.Errorf("flush %s: %w", s.url, err)
	}
	return nil
}

// CompareAndWrite writes the blocks of replace at off if the disk holds expect there, as one act. Errors: ErrMiscompare
// (nothing was written); ErrAmbiguous (it may have been: read to find out). expect and replace have the same length, at
// most 255 blocks.
func (s *Session) CompareAndWrite(ctx context.Context, off int64, expect, replace []byte) error {
	if err := s.aligned("compare and write", off, int64(len(expect))); err != nil {
		return err
	}
	lba, blocks := s.blocks(off, len(expect))
	if len(expect) != len(replace) || blocks == 0 || blocks > 255 {
		return fmt.Errorf("compare and write %s: lengths %d and %d: %w", s.url, len(expect), len(replace), domain.ErrInvalid)
	}
	out := append(append([]byte(nil), expect...), replace...)
	r, err := s.exec(ctx, iscsi.CompareAndWriteCDB(lba, byte(blocks)), nil, out, false)
	if err == nil && r.status == iscsi.StatusCheckCondition && r.sense.Key == iscsi.SenseMiscompare {
		return fmt.Errorf("compare and write %s at %d: %w", s.url, off, ErrMiscompare)
	}
	if err = statusError(r, err); err != nil {
		return fmt.Errorf("compare and write %s at %d: %w", s.url, off, err)
	}
	return nil
}

// Unmap gives whole blocks back; what they read as afterwards is the target's to say.
func (s *Session) Unmap(ctx context.Context, off, length int64) error {
	if err := s.aligned("unmap", off, length); err != nil || length == 0 {
		return err
	}
	lba, blocks := uint64(off/int64(s.id.BlockSize)), uint64(length/int64(s.id.BlockSize))
	if blocks > 1<<32-1 {
		return fmt.Errorf("unmap %s: %d blocks: %w", s.url, blocks, domain.ErrInvalid)
	}
	list := iscsi.UnmapList([]iscsi.Extent{{LBA: lba, Blocks: uint32(blocks)}})
	if err := statusError(s.exec(ctx, iscsi.UnmapCDB(uint16(len(list))), nil, list, true)); err != nil {
		return fmt.Errorf("unmap %s at %d: %w", s.url, off, err)
	}
	return nil
}

// pieces runs f over n bytes in parts of maxTransfer, at once, and joins the errors.
func (s *Session) pieces(n int, f func(from, to int) error) error {
	if n <= maxTransfer {
		return f(0, n)
	}
	var wg sync.WaitGroup
	errs := make([]error, (n+maxTransfer-1)/maxTransfer)
	for i := range errs {
		wg.Go(func() { errs[i] = f(i*maxTransfer, min((i+1)*maxTransfer, n)) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (s *Session) blocks(off int64, n int) (uint64, uint32) {
	return uint64(off / int64(s.id.BlockSize)), uint32(n / s.id.BlockSize)
}

func (s *Session) within(what string, off int64, n int) error {
	if off < 0 || int64(n) > s.Capacity()-off {
		return fmt.Errorf("%s %s: %d bytes at %d of a disk of %d: %w", what, s.url, n, off, s.Capacity(), domain.ErrInvalid)
	}
	return nil
}

func (s *Session) aligned(what string, off, n int64) error {
	bs := int64(s.id.BlockSize)
	if off < 0 || n < 0 || off%bs != 0 || n%bs != 0 || n > s.Capacity()-off {
		return fmt.Errorf("%s %s: %d bytes at %d: want whole blocks of %d within %d: %w", what, s.url, n, off, bs, s.Capacity(), domain.ErrInvalid)
	}
	return nil
}

// StatusError is a SCSI status other than GOOD, with the sense of a CHECK CONDITION.
type StatusError struct {
	Status iscsi.Status
	Sense  iscsi.Sense
}

// Error implements error.
func (e StatusError) Error() string {
	if e.Status == iscsi.StatusCheckCondition {
		return e.Sense.Error()
	}
	return fmt.Sprintf("SCSI status 0x%02x", byte(e.Status))
}

func statusError(r result, err error) error {
	if err != nil || r.status == iscsi.StatusGood {
		return err
	}
	return StatusError{Status: r.status, Sense: r.sense}
}

// executor runs one command; the session's own, or a new connection's before it is the session's.
type executor func(ctx context.Context, cdb iscsi.CDB, in []byte) (result, error)

func (s *Session) identify(ctx context.Context) (Identity, error) {
	return identify(ctx, func(ctx context.Context, cdb iscsi.CDB, in []byte) (result, error) {
		return s.exec(ctx, cdb, in, nil, true)
	})
}

// checkSame reads the identity through a connection that is not the session's yet.
func (s *Session) checkSame(ctx context.Context, c *conn) error {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	got, err := identify(ctx, func(ctx context.Context, cdb iscsi.CDB, in []byte) (result, error) {
		for {
			cmd := newCommand(cdb, in, nil, true)
			c.send(cmd)
			select {
			case r := <-cmd.done:
				if r.err != nil || !again(r) || r.status != iscsi.StatusCheckCondition {
					return r, r.err
				}
			case <-c.broken:
				return result{}, ErrBroken
			case <-ctx.Done():
				cmd.abandon()
				return result{}, ctx.Err()
			}
		}
	})
	if err == nil && got != s.id {
		err = fmt.Errorf("%w: was %+v, is %+v", ErrOtherDisk, s.id, got)
	}
	return err
}

func identify(ctx context.Context, exec executor) (Identity, error) {
	if err := statusError(exec(ctx, iscsi.TestUnitReadyCDB(), nil)); err != nil {
		return Identity{}, fmt.Errorf("test unit ready: %w", err)
	}
	b := make([]byte, 96)
	if err := statusError(exec(ctx, iscsi.InquiryCDB(96), b)); err != nil {
		return Identity{}, fmt.Errorf("inquiry: %w", err)
	}
	if b[0]&0x1f != 0 {
		return Identity{}, fmt.Errorf("inquiry: peripheral device type 0x%02x is no disk", b[0])
	}
	text := func(b []byte) string { return strings.Trim(string(b), " \x00") }
	id := Identity{Vendor: text(b[8:16]), Product: text(b[16:32]), Revision: text(b[32:36])}
	page := make([]byte, 255)
	r, err := exec(ctx, iscsi.InquiryVPDCDB(0x80, 255), page)
	switch {
	case err != nil:
		return Identity{}, fmt.Errorf("inquiry page 80h: %w", err)
	case r.status == iscsi.StatusGood && page[1] == 0x80:
		id.Serial = text(page[4 : 4+min(int(page[3]), len(page)-4)])
	}
	capacity := make([]byte, 32)
	if err := statusError(exec(ctx, iscsi.ReadCapacity16CDB(32), capacity)); err != nil {
		return Identity{}, fmt.Errorf("read capacity: %w", err)
	}
	id.Blocks = binary.BigEndian.Uint64(capacity) + 1
	id.BlockSize = int(binary.BigEndian.Uint32(capacity[8:]))
	if id.BlockSize < 512 || id.BlockSize > 64<<10 || id.BlockSize&(id.BlockSize-1) != 0 || id.Blocks == 0 || id.Blocks > 1<<46/uint64(id.BlockSize) {
		return Identity{}, fmt.Errorf("read capacity: %d blocks of %d bytes", id.Blocks, id.BlockSize)
	}
	return id, nil
}
