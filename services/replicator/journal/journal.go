package journal

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/journal/vfs"
)

// seam switches single safety measures off, so that the crash oracle can be shown to notice. All false in a program.
type seam struct {
	minSize         int64 // instead of MinSize
	ackEarly        bool  // Append returns before the disk has the frame
	noPayloadCRC    bool  // nothing read back is verified beyond its header
	monotonicEpochs bool  // recovery takes any epoch that does not fall
	noWipe          bool  // recovery leaves the torn frame's header where it is
	oneSuperblock   bool  // only slot A is used
	tailEarly       bool  // Checkpoint releases before it flushes the volumes
	tailInMemory    bool  // released space is used before a superblock says so
	noOpenSync      bool  // recovery trusts what it reads to be durable
}

// Journal is the write-ahead journal of one protection group at one site. Append has one caller at a time (the
// committer); every method may be called concurrently with the others.
type Journal struct {
	path string
	seam seam
	ring ring

	// Locked in this order. write: the frames and their order change. sb: the superblocks change. mu: the fields below.
	write, sb, mu sync.Mutex

	bounce []byte // under write: aligned copy of a frame that is not
	slot   []byte // under sb: a superblock being written

	super    superblock // as last written, except released
	slotTail [2]int64   // tail position in each slot: the older one bounds what may be overwritten
	index    frameIndex // retained frames, oldest first
	head     int64
	last     domain.LSN
	commit   domain.LSN
	next     Next
	history  uint64 // grows when frames are forgotten other than by release
	broken   error
	closed   bool
}

// usable is ErrBroken or ErrClosed, or nil. Call it under mu.
func (j *Journal) usable() error {
	if j.broken != nil {
		return j.broken
	}
	if j.closed {
		return fmt.Errorf("journal %s: %w", j.path, ErrClosed)
	}
	return nil
}

// fail breaks the journal for ever.
func (j *Journal) fail(what string, cause error) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.broken == nil {
		j.broken = fmt.Errorf("%s in journal %s: %w: %w", what, j.path, ErrBroken, cause)
	}
	return j.broken
}

// Append makes one encoded frame durable. On return without error it is; on ErrBroken it may or may not be.
// The bytes are verified first, payload too, and are not kept. Page-aligned bytes (a Builder's) are written in place,
// others (from the network) are copied first.
//
// Refused without effect: ErrBadFrame; domain.ErrStaleEpoch and ErrEpochNotRaised for an epoch below or above the
// journal's; ErrGap for a number, LSN or previous header that is not Next; ErrCut; ErrFull; ErrMismatch for a frame of
// another group. After an I/O failure ErrBroken, for ever.
func (j *Journal) Append(encoded []byte) error {
	j.write.Lock()
	defer j.write.Unlock()
	h, err := parseHeader(encoded)
	if err != nil {
		return fmt.Errorf("append to journal %s: %w", j.path, err)
	}
	group, _ := groupOf(encoded)
	if err := j.admit(&h, group); err != nil {
		return err
	}
	if err := walk(encoded, &h, true, nil); err != nil {
		return fmt.Errorf("append frame %d to journal %s: %w", h.number, j.path, err)
	}
	if err := j.makeRoom(int64(len(encoded))); err != nil {
		return err
	}
	if !vfs.IsAligned(encoded) {
		if len(j.bounce) < len(encoded) {
			j.bounce = vfs.Aligned(len(encoded))
		}
		encoded = j.bounce[:copy(j.bounce, encoded)]
	}
	put := j.ring.write
	if j.seam.ackEarly {
		put = j.ring.writeLoose
	}
	if err := put(encoded, j.head); err != nil {
		return j.fail(fmt.Sprintf("append frame %d", h.number), err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.push(refOf(&h, j.head))
	return nil
}

// admit holds the rules of order: who may append what.
func (j *Journal) admit(h *header, group []byte) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	n := &j.next
	switch err := j.usable(); {
	case err != nil:
		return err
	case string(group) != string(j.super.group):
		return fmt.Errorf("append a frame of group %s to journal %s: %w", group, j.path, ErrMismatch)
	case h.epoch < n.Epoch:
		return fmt.Errorf("append frame %d of epoch %s, journal is at %s: %w", h.number, h.epoch, n.Epoch, domain.ErrStaleEpoch)
	case h.epoch > n.Epoch:
		return fmt.Errorf("append frame %d of epoch %s, journal is at %s: %w", h.number, h.epoch, n.Epoch, ErrEpochNotRaised)
	case j.super.sealed:
		return fmt.Errorf("append frame %d of epoch %s: %w", h.number, h.epoch, ErrCut)
	case h.first != n.FirstLSN || n.Number != 0 && (h.number != n.Number || h.prevCRC != n.PrevHeaderCRC):
		return fmt.Errorf("append frame %d (LSN %d, after header %#x), want frame %d (LSN %d, after header %#x): %w",
			h.number, h.first, h.prevCRC, n.Number, n.FirstLSN, n.PrevHeaderCRC, ErrGap)
	}
	return nil
}

// push records a durable frame at head. Call it under mu.
func (j *Journal) push(r frameRef) {
	j.index.push(r)
	j.head, j.last, j.commit = r.end(), r.last, max(j.commit, r.commit)
	j.next = Next{Epoch: r.epoch, Number: r.number + 1, FirstLSN: r.last + 1, PrevHeaderCRC: r.crc}
}

// floor is the position below which the ring may be overwritten.
func (j *Journal) floor() int64 {
	if j.seam.tailInMemory {
		return j.tail(0).pos // Release dropped frames without a superblock
	}
	if j.seam.oneSuperblock {
		return j.slotTail[0]
	}
	return min(j.slotTail[0], j.slotTail[1])
}

// fits reports whether size more bytes fit the ring. One page always stays free: recovery wipes the page at the head,
// which must not be the tail's.
func (j *Journal) fits(size int64) bool { return size <= j.room() }

// room is how many bytes of frames fit. Call it under mu.
func (j *Journal) room() int64 { return j.ring.size - PageSize - (j.head - j.floor()) }

// Room is how many bytes of frames are sure to fit now.
func (j *Journal) Room() int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.room()
}

// makeRoom finds space for a frame, if need be by writing a superblock for what was released already.
func (j *Journal) makeRoom(size int64) error {
	j.mu.Lock()
	ok, late := j.fits(size), j.floor() < j.super.tail.pos
	j.mu.Unlock()
	if !ok && late {
		j.sb.Lock()
		defer j.sb.Unlock()
		j.mu.Lock()
		next := j.super.clone()
		j.mu.Unlock()
		if err := j.commitSuper(next, 1, 0); err != nil {
			return err
		}
		j.mu.Lock()
		ok = j.fits(size)
		j.mu.Unlock()
	}
	if !ok {
		return fmt.Errorf("append %d bytes to journal %s: %w", size, j.path, ErrFull)
	}
	return nil
}

// tail is the tail record once the oldest k frames are gone. Call it under mu.
func (j *Journal) tail(k int) tailRecord {
	if k < j.index.len() {
		r := j.index.at(k)
		return tailRecord{pos: r.pos, epoch: r.epoch, number: r.number, first: r.first, prevCRC: r.prevCRC}
	}
	return tailRecord{pos: j.head, epoch: j.next.Epoch, number: j.next.Number, first: j.next.FirstLSN,
		prevCRC: j.next.PrevHeaderCRC, any: j.next.Number == 0}
}

// commitSuper writes next with the present head, and the tail once drop frames are gone, to the older slot, then, when
// copies is 2, to the other too; on success it is the journal's superblock and the frames are dropped. Call it under sb.
func (j *Journal) commitSuper(next superblock, copies, drop int) error {
	for i := range copies {
		j.mu.Lock()
		if err := j.usable(); err != nil {
			j.mu.Unlock()
			return err
		}
		next.gen = j.super.gen + 1
		next.head, next.last, next.commit, next.tail = j.head, j.last, j.commit, j.tail(drop)
		j.mu.Unlock()
		slot := int64(next.gen % 2)
		if j.seam.oneSuperblock {
			slot = 0
		}
		if err := whole(j.ring.file.WriteSync, next.encode(j.slot), slot*slotSize, "write"); err != nil {
			return j.fail("write superblock", err)
		}
		j.mu.Lock()
		if i == 0 {
			j.index.drop(drop)
			drop = 0
		}
		next.released = max(next.released, j.super.released)
		j.super, j.slotTail[slot] = next.clone(), next.tail.pos
		j.mu.Unlock()
	}
	return nil
}

// Release says that the volumes are flushed up to and including upto, and that no target needs the frames up to there:
// they may be overwritten. The caller guarantees it. It costs one superblock write when a whole frame is released
// (two when the ring is half full), and nothing else; a crash before the write only means that more is replayed.
// Releasing what is released already is no error; more than LastLSN is domain.ErrInvalid.
func (j *Journal) Release(upto domain.LSN) error {
	j.sb.Lock()
	defer j.sb.Unlock()
	j.mu.Lock()
	if err := j.usable(); err != nil {
		j.mu.Unlock()
		return err
	}
	if upto > j.last {
		j.mu.Unlock()
		return fmt.Errorf("release journal %s up to LSN %d, last is %d: %w", j.path, upto, j.last, domain.ErrInvalid)
	}
	j.super.released = max(j.super.released, upto)
	j.commit = max(j.commit, upto)
	k := j.index.endingBy(upto)
	next, copies := j.super.clone(), 1
	if j.head-j.floor() > j.ring.size/2 {
		copies = 2
	}
	j.mu.Unlock()
	if k == 0 {
		return nil
	}
	if j.seam.tailInMemory {
		j.mu.Lock()
		defer j.mu.Unlock()
		j.index.drop(k)
		return nil
	}
	return j.commitSuper(next, copies, k)
}

// Read gives encoded frames from the one that holds `from` on, for a target that lags: at least one if there is any,
// then as many as fit maxBytes. Nothing, without error, when from is after LastLSN; ErrNotRetained when it was released.
// They are read from the file and verified (*CorruptError); the bytes are the caller's.
func (j *Journal) Read(from domain.LSN, maxBytes int) ([][]byte, error) {
	j.mu.Lock()
	refs, history, err := j.span(max(from, 1), int64(maxBytes))
	j.mu.Unlock()
	if err != nil || len(refs) == 0 {
		return nil, err
	}
	start, end := refs[0].pos, refs[len(refs)-1].end()
	buf := vfs.Aligned(int(end - start))
	if err := j.ring.read(buf, start); err != nil {
		return nil, fmt.Errorf("read journal %s: %w", j.path, err)
	}
	j.mu.Lock()
	intact := j.history == history && j.floor() <= start
	j.mu.Unlock()
	if !intact {
		return nil, fmt.Errorf("read journal %s from LSN %d: %w", j.path, from, ErrNotRetained)
	}
	out := make([][]byte, 0, len(refs))
	for _, r := range refs {
		b, err := j.verified(buf[r.pos-start:r.end()-start:r.end()-start], r)
		if err != nil {
			return nil, err
		}
		out = append(out, b)
	}
	return out, nil
}

// span copies the references Read will read. Call it under mu.
func (j *Journal) span(from domain.LSN, maxBytes int64) ([]frameRef, uint64, error) {
	if err := j.usable(); err != nil && !errors.Is(err, ErrBroken) {
		return nil, 0, err
	}
	if from > j.last {
		return nil, 0, nil
	}
	if j.index.len() == 0 || from < j.index.at(0).first {
		return nil, 0, fmt.Errorf("read journal %s from LSN %d: %w", j.path, from, ErrNotRetained)
	}
	var refs []frameRef
	for i, total := j.index.endingBy(from-1), int64(0); i < j.index.len(); i++ {
		r := j.index.at(i)
		if total += r.size; len(refs) > 0 && total > maxBytes {
			break
		}
		refs = append(refs, r)
	}
	return refs, j.history, nil
}

// verified holds bytes read back against what was appended, and encodes a frame that was cut anew.
func (j *Journal) verified(b []byte, r frameRef) ([]byte, error) {
	h, err := parseHeader(b)
	if err == nil && h.crc != r.crc {
		err = bad("header CRC %#x, appended was %#x", h.crc, r.crc)
	}
	if err == nil {
		err = walk(b, &h, !j.seam.noPayloadCRC, nil)
	}
	if err == nil && r.last < h.last() {
		b, err = cutFrame(b, r.last)
	}
	if err != nil {
		return nil, &CorruptError{Path: j.path, Offset: j.ring.offset(r.pos), Number: r.number, Reason: err.Error()}
	}
	return b, nil
}

// cutFrame is the frame in b with its changes up to last only.
func cutFrame(b []byte, last domain.LSN) ([]byte, error) {
	f, err := Decode(b)
	if err != nil {
		return nil, err
	}
	f.Entries = f.Entries[:last+1-f.FirstLSN]
	f.CommitLSN = min(f.CommitLSN, last)
	return Encode(f)
}

// State is a snapshot. It copies lineage and meta; Next is for every frame.
func (j *Journal) State() State {
	j.mu.Lock()
	defer j.mu.Unlock()
	s := State{
		Group: j.super.group, Epoch: j.super.epoch, Lineage: slices.Clone(j.super.lineage), TailLSN: j.last + 1,
		LastLSN: j.last, ReleasedLSN: j.super.released, CommitLSN: j.commit, Next: j.next, Cut: j.super.sealed,
		UsedBytes: j.head - j.floor(), SizeBytes: j.ring.size - PageSize, Meta: slices.Clone(j.super.meta), Broken: j.broken,
	}
	if j.index.len() > 0 {
		s.TailLSN = j.index.at(0).first
	}
	return s
}

// Next says what the next frame must carry. It does not allocate.
func (j *Journal) Next() Next {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.next
}

// Close closes the file. It flushes nothing: what was acknowledged is durable already. Closing twice is no error.
func (j *Journal) Close() error {
	j.write.Lock()
	defer j.write.Unlock()
	j.sb.Lock()
	defer j.sb.Unlock()
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return nil
	}
	j.closed = true
	return j.ring.file.Close()
}
