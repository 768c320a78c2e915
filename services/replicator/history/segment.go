package history

import (
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"iter"
	"maps"
	"path/filepath"
	"slices"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/journal/vfs"
)

// A segment is a file of whole pages: a first page, then batches one after the other. A batch is {magic u32, count u32,
// number u64, nonce 16 bytes, payload pages u32, CRC32C u32}, 32 zero bytes, count entries of {block u64, CRC32C u32, page
// u32}, zeroes up to a whole page, then the payload. block is the volume in the upper 16 bits and the block's number in
// the lower 48; page is 1 for the payload's first page, 0 for a block of zeroes, which has none. The nonce is the file's
// own: no content of a volume can pass for a batch.
const (
	segmentMagic = 0x31554648 // "HFU1"
	batchMagic   = 0x31424648 // "HFB1"
	headerSize   = 64
	entrySize    = 16
	nonceSize    = 16
	// batchBlocks bounds one batch.
	batchBlocks = 1024
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrDamaged is what a disk gave back that is not what was written.
var ErrDamaged = errors.New("damaged")

// slot is where a block is.
type slot struct {
	block uint64
	page  uint32 // of the file; 0: the block is zeroes
	crc   uint32
}

func blockOf(volume int, off int64) uint64 { return uint64(volume)<<48 | uint64(off/BlockSize) }

func volumeOf(block uint64) (volume int, off int64) {
	return int(block >> 48), int64(block&(1<<48-1)) * BlockSize
}

// segment is one undo file. Its index is changed under the history's mu; an open one has a map, a closed one a list.
type segment struct {
	seq    uint64
	point  Point
	hidden bool // no checkpoint any more; to be merged into the one before
	pins   int  // views that begin here
	left   bool // the base is on its way back to before it: nobody reads from here
	gone   bool

	// into is the segment that this one is being merged into, merged how many of its blocks that has.
	into   *segment
	merged int

	f      vfs.File
	nonce  [nonceSize]byte
	size   int64  // durable bytes
	number uint64 // of the next batch
	open   map[uint64]slot
	sorted []slot
}

func segmentName(seq uint64) string { return fmt.Sprintf("%012d.undo", seq) }

func (h *History) path(seq uint64) string { return filepath.Join(h.cfg.Dir, segmentName(seq)) }

func isMissing(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// createSegment makes an empty segment. Its name is durable with the next save of the list.
func (h *History) createSegment(seq uint64, p Point) (*segment, error) {
	f, err := h.cfg.FS.Create(h.path(seq))
	if err != nil {
		return nil, err
	}
	s := &segment{seq: seq, point: p, f: f, size: BlockSize, number: 1, open: map[uint64]slot{}}
	if _, err := rand.Read(s.nonce[:]); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	page := vfs.Aligned(BlockSize)
	binary.LittleEndian.PutUint32(page, segmentMagic)
	binary.LittleEndian.PutUint64(page[8:], seq)
	copy(page[16:], s.nonce[:])
	binary.LittleEndian.PutUint32(page[32:], crc32.Checksum(page[:32], castagnoli))
	if _, err := f.WriteSync(page, 0); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return s, nil
}

// openSegment reads a segment's index. Of the last one all that is whole counts, of another one exactly what was durable
// when it was listed.
func (h *History) openSegment(l listed, last bool) (*segment, error) {
	f, err := h.cfg.FS.Open(h.path(l.Seq))
	if err != nil {
		return nil, err
	}
	s := &segment{seq: l.Seq, point: l.Point, hidden: l.Hidden, f: f, size: BlockSize, number: 1, open: map[uint64]slot{}}
	err = s.read(l, last)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("segment %s: %w", h.path(l.Seq), err), f.Close())
	}
	if !last {
		s.close(s.sort())
	}
	return s, nil
}

func (s *segment) read(l listed, last bool) error {
	if last { // after a kill the page cache may show what the disk does not have
		if err := s.f.Sync(); err != nil {
			return err
		}
	}
	end, err := s.f.Size()
	if err != nil {
		return err
	}
	page := vfs.Aligned(BlockSize)
	if err := readFull(s.f, page, 0); err != nil {
		return err
	}
	if binary.LittleEndian.Uint32(page) != segmentMagic || binary.LittleEndian.Uint64(page[8:]) != l.Seq ||
		crc32.Checksum(page[:32], castagnoli) != binary.LittleEndian.Uint32(page[32:]) {
		return fmt.Errorf("its first page: %w", ErrDamaged)
	}
	copy(s.nonce[:], page[16:])
	if !last {
		end = l.Bytes
	}
	return s.readBatches(end, l, last)
}

// readBatches reads them up to end. The last one of the last segment may have been under way when the power went.
func (s *segment) readBatches(end int64, l listed, last bool) error {
	var tail []slot
	at := s.size
	for s.size < end {
		slots, next, err := s.readBatch(s.size, s.number)
		if errors.Is(err, ErrDamaged) {
			err = s.endsAt(end, l, last, err)
			if err == nil {
				break
			}
		}
		if err != nil {
			return err
		}
		for _, x := range slots {
			s.open[x.block] = x
		}
		tail, at = slots, s.size
		s.size, s.number = next, s.number+1
	}
	switch {
	case !last && s.size != end:
		return fmt.Errorf("it has %d bytes, want %d: %w", s.size, end, ErrDamaged)
	case !last || s.size <= l.Bytes:
		return nil
	}
	if err := s.verify(tail); !errors.Is(err, ErrDamaged) {
		return err
	}
	for _, x := range tail {
		delete(s.open, x.block)
	}
	s.size, s.number = at, s.number-1
	return nil
}

// endsAt tells the torn end of the last segment from damage: nothing that was written later may follow.
func (s *segment) endsAt(end int64, l listed, last bool, why error) error {
	if !last || s.size < l.Bytes {
		return fmt.Errorf("batch %d at %d: %w", s.number, s.size, why)
	}
	page := vfs.Aligned(BlockSize)
	for at := s.size + BlockSize; at < end; at += BlockSize {
		if err := readFull(s.f, page, at); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		} else if err != nil {
			return err
		}
		if h := parseBatch(page); h.magic == batchMagic && h.nonce == s.nonce && h.number > s.number {
			return fmt.Errorf("batch %d at %d, and batch %d after it is there: %w", s.number, s.size, h.number, why)
		}
	}
	return nil
}

type batchHeader struct {
	magic, count uint32
	number       uint64
	nonce        [nonceSize]byte
	pages, crc   uint32
}

func parseBatch(b []byte) (h batchHeader) {
	le := binary.LittleEndian
	h = batchHeader{magic: le.Uint32(b), count: le.Uint32(b[4:]), number: le.Uint64(b[8:]), pages: le.Uint32(b[32:]), crc: le.Uint32(b[36:])}
	copy(h.nonce[:], b[16:])
	return h
}

func batchHead(count int) int64 {
	return (int64(headerSize+count*entrySize) + BlockSize - 1) / BlockSize * BlockSize
}

// readBatch reads the head of the batch at `at`, and says where the next begins. ErrDamaged when it is not whole.
func (s *segment) readBatch(at int64, number uint64) (slots []slot, next int64, err error) {
	page := vfs.Aligned(BlockSize)
	if err := readFull(s.f, page, at); err != nil {
		return nil, 0, torn(err)
	}
	h := parseBatch(page)
	if h.magic != batchMagic || h.nonce != s.nonce || h.number != number || h.count == 0 || h.count > batchBlocks || h.pages > h.count {
		return nil, 0, fmt.Errorf("no batch %d: %w", number, ErrDamaged)
	}
	head := vfs.Aligned(int(batchHead(int(h.count))))
	if err := readFull(s.f, head, at); err != nil {
		return nil, 0, torn(err)
	}
	if headCRC(head) != h.crc {
		return nil, 0, fmt.Errorf("checksum of the head: %w", ErrDamaged)
	}
	first := uint32((at + int64(len(head))) / BlockSize)
	for i := range int(h.count) {
		e := head[headerSize+i*entrySize:]
		x := slot{block: binary.LittleEndian.Uint64(e), crc: binary.LittleEndian.Uint32(e[8:]), page: binary.LittleEndian.Uint32(e[12:])}
		if x.page > h.pages {
			return nil, 0, fmt.Errorf("page %d of %d: %w", x.page, h.pages, ErrDamaged)
		}
		if x.page > 0 {
			x.page += first - 1
		}
		slots = append(slots, x)
	}
	return slots, at + int64(len(head)) + int64(h.pages)*BlockSize, nil
}

// headCRC is the checksum of a batch's head, itself counting as zeroes.
func headCRC(head []byte) uint32 {
	var none [4]byte
	c := crc32.Update(crc32.Checksum(head[:36], castagnoli), castagnoli, none[:])
	return crc32.Update(c, castagnoli, head[40:])
}

func torn(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("the file ends: %w", ErrDamaged)
	}
	return err
}

func readFull(f vfs.File, p []byte, off int64) error {
	n, err := f.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// verify reads what slots name.
func (s *segment) verify(slots []slot) error {
	page := vfs.Aligned(BlockSize)
	for _, x := range slots {
		if err := s.load(x, page); err != nil {
			return err
		}
	}
	return nil
}

// load reads a block into page, which is one, aligned. ErrDamaged when it is not what was recorded.
func (s *segment) load(x slot, page []byte) error {
	if x.page == 0 {
		clear(page)
		return nil
	}
	if err := readFull(s.f, page, int64(x.page)*BlockSize); err != nil {
		return torn(err)
	}
	if crc32.Checksum(page, castagnoli) != x.crc {
		volume, off := volumeOf(x.block)
		return fmt.Errorf("block at %d of volume %d, of the checkpoint at LSN %d: %w", off, volume, s.point.LSN, ErrDamaged)
	}
	return nil
}

// batch is what is to be appended to a segment at once.
type batch struct {
	slots []slot // page counts within the batch, from 1
	data  []byte
}

// add takes a block; nil content is zeroes.
func (b *batch) add(block uint64, content []byte) {
	x := slot{block: block}
	if content != nil {
		b.data = append(b.data, content...)
		x.page, x.crc = uint32(len(b.data)/BlockSize), crc32.Checksum(content, castagnoli)
	}
	b.slots = append(b.slots, x)
}

// encode is the batch as it stands in the file.
func (b *batch) encode(s *segment) []byte {
	head := int(batchHead(len(b.slots)))
	out := vfs.Aligned(head + len(b.data))
	le := binary.LittleEndian
	le.PutUint32(out, batchMagic)
	le.PutUint32(out[4:], uint32(len(b.slots)))
	le.PutUint64(out[8:], s.number)
	copy(out[16:], s.nonce[:])
	le.PutUint32(out[32:], uint32(len(b.data)/BlockSize))
	for i, x := range b.slots {
		e := out[headerSize+i*entrySize:]
		le.PutUint64(e, x.block)
		le.PutUint32(e[8:], x.crc)
		le.PutUint32(e[12:], x.page)
	}
	le.PutUint32(out[36:], headCRC(out[:head]))
	copy(out[head:], b.data)
	return out
}

// append makes a batch durable behind what there is, and says where its blocks are.
func (s *segment) append(b *batch) ([]slot, int64, error) {
	out := b.encode(s)
	n, err := s.f.WriteSync(out, s.size)
	if err == nil && n < len(out) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return nil, 0, err
	}
	first := uint32((s.size + batchHead(len(b.slots))) / BlockSize)
	slots := slices.Clone(b.slots)
	for i := range slots {
		if slots[i].page > 0 {
			slots[i].page += first - 1
		}
	}
	return slots, int64(len(out)), nil
}

func (s *segment) find(block uint64) (slot, bool) {
	if s.open != nil {
		x, ok := s.open[block]
		return x, ok
	}
	i, ok := slices.BinarySearchFunc(s.sorted, block, func(x slot, b uint64) int { return cmp.Compare(x.block, b) })
	if !ok {
		return slot{}, false
	}
	return s.sorted[i], true
}

// sort is the index of an open segment as a list.
func (s *segment) sort() []slot {
	out := make([]slot, 0, len(s.open))
	for _, x := range s.open {
		out = append(out, x)
	}
	slices.SortFunc(out, func(a, b slot) int { return cmp.Compare(a.block, b.block) })
	return out
}

func (s *segment) close(sorted []slot) { s.open, s.sorted = nil, sorted }

// each is every block of the segment, in no order: sorting those of an open one takes a while.
func (s *segment) each() iter.Seq[slot] {
	if s.open != nil {
		return maps.Values(s.open)
	}
	return slices.Values(s.sorted)
}

// slots is every block of the segment, in order.
func (s *segment) slots() []slot {
	if s.open != nil {
		return s.sort()
	}
	return s.sorted
}

// drop lets go of the file; who reads a view of it finds out.
func (s *segment) drop() {
	s.gone = true
	_ = s.f.Close() // all that counts in it is durable
}

var errGone = fmt.Errorf("the checkpoint was given up: %w", domain.ErrNotFound)
