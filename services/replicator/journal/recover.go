package journal

import (
	"context"
	"errors"
	"fmt"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/journal/vfs"
)

// Open recovers the journal at path. It verifies every frame from tail to head, and reads the rest of the ring once to
// tell a torn tail (normal) from damage in the middle (*CorruptError). ErrMismatch for another group's or size's file.
// What it found it makes durable, and both superblocks are written anew. Nothing is written when it fails, except that
// an unfinished Truncate or Reset is finished first.
func Open(ctx context.Context, fs FS, path string, cfg Config) (*Journal, *Recovered, error) {
	file, err := fs.Open(path)
	if err != nil {
		return nil, nil, fmt.Errorf("open journal %s: %w", path, err)
	}
	j, rec, err := openFile(ctx, file, path, cfg)
	if err != nil {
		return nil, nil, fmt.Errorf("open journal %s: %w", path, errors.Join(err, file.Close()))
	}
	return j, rec, nil
}

func openFile(ctx context.Context, file vfs.File, path string, cfg Config) (*Journal, *Recovered, error) {
	size, err := file.Size()
	if err != nil {
		return nil, nil, err
	}
	if cfg.SizeBytes == 0 {
		cfg.SizeBytes = size
	}
	if err := cfg.validate(); err != nil {
		return nil, nil, err
	}
	if size != cfg.SizeBytes {
		return nil, nil, fmt.Errorf("file of %d bytes, want %d: %w", size, cfg.SizeBytes, ErrMismatch)
	}
	j := newJournal(path, file, size, cfg.seam)
	if !j.seam.noOpenSync {
		// After a mere kill the page cache may show frames that the disk does not have yet.
		if err := file.Sync(); err != nil {
			return nil, nil, err
		}
	}
	lost, err := j.loadSuper(cfg.Group)
	if err != nil {
		return nil, nil, err
	}
	if err := j.ring.wipe(j.super.wipeFrom, j.super.wipeTo); err != nil {
		return nil, nil, err
	}
	torn, err := j.recover(ctx)
	if err != nil {
		return nil, nil, err
	}
	next := j.super.clone()
	next.wipeFrom, next.wipeTo = 0, 0
	if err := j.commitSuper(next, 2, 0); err != nil {
		return nil, nil, err
	}
	return j, &Recovered{State: j.State(), Torn: torn, LostSuperblock: lost, frames: j.recovered}, nil
}

// loadSuper takes the newer of the superblocks that are whole.
func (j *Journal) loadSuper(group domain.GroupID) (lost bool, err error) {
	var found []superblock
	var reasons []error
	for slot := range int64(2) {
		if err := whole(j.ring.file.ReadAt, j.slot, slot*slotSize, "read"); err != nil {
			return false, err
		}
		s, err := decodeSuper(j.slot)
		if err == nil {
			err = s.plausible(j.ring.size, slot, j.seam.oneSuperblock)
		}
		switch {
		case errors.Is(err, ErrMismatch):
			return false, err
		case err != nil:
			reasons = append(reasons, fmt.Errorf("superblock at %d: %w", slot*slotSize, err))
		case !j.seam.oneSuperblock || slot == 0:
			found = append(found, s)
		}
	}
	if len(found) == 0 {
		return false, &CorruptError{Path: j.path, Reason: "no superblock is whole: " + fmt.Sprint(errors.Join(reasons...))}
	}
	j.super = found[0]
	if len(found) == 2 && found[1].gen > found[0].gen {
		j.super = found[1]
	}
	if j.super.group != group {
		return false, fmt.Errorf("journal of group %s, want %s: %w", j.super.group, group, ErrMismatch)
	}
	if want := j.ring.size + ringOffset; j.super.fileSize != want {
		return false, fmt.Errorf("journal made for %d bytes, file has %d: %w", j.super.fileSize, want, ErrMismatch)
	}
	return len(found) == 1, nil
}

// plausible holds the numbers of a superblock against each other, so that no later arithmetic can go wrong.
func (s *superblock) plausible(ringSize, slot int64, anySlot bool) error {
	aligned := (s.tail.pos|s.epochPos|s.head|s.wipeFrom|s.wipeTo)%PageSize == 0
	ordered := s.tail.pos <= s.head && s.head-s.tail.pos <= ringSize && s.epochPos <= s.head &&
		s.wipeFrom <= s.wipeTo && s.wipeTo-s.wipeFrom <= ringSize && s.wipeTo < 1<<62
	if !aligned || !ordered || (int64(s.gen%2) != slot && !anySlot) {
		return errors.New("superblock contradicts itself")
	}
	return nil
}

// scan is a walk along the chain of frames.
type scan struct {
	j      *Journal
	w      *window
	end    int64 // the ring's end as seen from the tail
	expect tailRecord
}

// recover finds the frames from tail to head, decides whether what ends them is a torn tail or damage, and takes the
// torn frame's header away, lest it join the payload of the frame that will be written there.
func (j *Journal) recover(ctx context.Context) (*Torn, error) {
	s := &scan{j: j, w: newWindow(j.ring, j.ring.size), end: j.super.tail.pos + j.ring.size, expect: j.super.tail}
	j.commit = max(j.super.released, j.super.commit)
	why, err := s.follow(ctx)
	if err != nil {
		return nil, err
	}
	at := s.expect
	if at.pos < j.super.head {
		return nil, s.corrupt(at.pos, fmt.Sprintf("%v, and the superblock says that all was durable up to LSN %d", why, j.super.last))
	}
	if err := s.seekSuccessor(ctx, why); err != nil {
		return nil, err
	}
	torn, err := s.clearHead(why)
	if err != nil {
		return nil, err
	}
	j.head, j.last = at.pos, at.first-1
	j.slotTail = [2]int64{j.super.tail.pos, j.super.tail.pos}
	j.next = Next{Epoch: j.super.epoch, Number: at.number, FirstLSN: at.first, PrevHeaderCRC: at.prevCRC}
	if at.any {
		j.next.Number, j.next.PrevHeaderCRC = 0, 0
	} else if at.epoch != j.super.epoch || j.super.sealed {
		j.next.Number, j.next.PrevHeaderCRC = 1, 0
	}
	return torn, nil
}

func (s *scan) corrupt(pos int64, reason string) error {
	return &CorruptError{Path: s.j.path, Offset: s.j.ring.offset(pos), Number: s.expect.number, Reason: reason}
}

// follow walks the chain and says why it ended. err is an I/O failure.
func (s *scan) follow(ctx context.Context) (why, err error) {
	sb := &s.j.super
	for !sb.sealed || s.expect.pos < sb.head {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		h, err := s.frame()
		if errors.Is(err, ErrBadFrame) {
			return err, nil
		}
		if err != nil {
			return nil, err
		}
		r := refOf(&h, s.expect.pos)
		i := sb.origin(r.first)
		r.last = min(r.last, sb.limit(i))
		r.commit = min(r.commit, r.last)
		s.j.index.push(r)
		s.j.commit = max(s.j.commit, r.commit)
		s.expect = tailRecord{pos: r.end(), epoch: r.epoch, number: r.number + 1, first: r.last + 1, prevCRC: r.crc}
		if n := sb.origin(r.last + 1); n != i && !s.j.seam.monotonicEpochs {
			s.expect.epoch, s.expect.number, s.expect.prevCRC = sb.lineage[n].Epoch, 1, 0
		}
	}
	return bad("the journal was cut here"), nil
}

// frame reads and verifies the frame expected at the scan's position.
func (s *scan) frame() (header, error) {
	pos, room := s.expect.pos, s.end-s.expect.pos
	if room < PageSize {
		return header{}, bad("the ring is full")
	}
	b, err := s.w.at(pos, PageSize, s.end)
	if err != nil {
		return header{}, err
	}
	h, err := parseFixed(b)
	if err != nil {
		return header{}, err
	}
	if err := s.follows(&h); err != nil {
		return header{}, err
	}
	if h.size() > room {
		return header{}, bad("frame of %d bytes, the ring has %d left", h.size(), room)
	}
	if b, err = s.w.at(pos, h.size(), s.end); err != nil {
		return header{}, err
	}
	if h, err = parseHeader(b); err != nil {
		return header{}, err
	}
	if group, _ := groupOf(b); string(group) != string(s.j.super.group) {
		return header{}, bad("group %q", group)
	}
	return h, walk(b, &h, !s.j.seam.noPayloadCRC, nil)
}

// follows holds a header against what must come at this place: from epochPos on exactly the current epoch, before it
// exactly the epoch the lineage has for this LSN. That epochs do not fall would not do: the header of a frame that was
// lost in an earlier crash, and the payload of the frame written there since, may make one whole frame.
func (s *scan) follows(h *header) error {
	e, sb := &s.expect, &s.j.super
	if s.j.seam.monotonicEpochs {
		return s.followsLoosely(h)
	}
	i := sb.origin(e.first)
	switch {
	case i < 0 || h.epoch != sb.lineage[i].Epoch || (h.epoch == sb.epoch) != (e.pos >= sb.epochPos):
		return bad("epoch %s at LSN %d", h.epoch, e.first)
	case h.first != e.first || h.first > sb.limit(i):
		return bad("first LSN %d, want %d", h.first, e.first)
	case !e.any && (h.number != e.number || h.prevCRC != e.prevCRC):
		return bad("frame %d after header %#x, want frame %d after header %#x", h.number, h.prevCRC, e.number, e.prevCRC)
	}
	return nil
}

// followsLoosely is the mutant's rule.
func (s *scan) followsLoosely(h *header) error {
	e := &s.expect
	same := h.epoch == e.epoch && (e.any || h.number == e.number && h.prevCRC == e.prevCRC)
	if h.first != e.first || !same && (h.epoch <= e.epoch || h.number != 1) {
		return bad("epoch %s at LSN %d", h.epoch, e.first)
	}
	return nil
}

// seekSuccessor looks through the rest of the ring for a header that only a successor of the missing frame can have:
// its LSN and number are beyond the missing one's in the same epoch, or its epoch is above any the superblock knows.
// There is one committer and one frame in flight, so the missing frame was durable then. Frames of earlier laps are
// below; frames that Truncate or Reset forgot were overwritten.
func (s *scan) seekSuccessor(ctx context.Context, why error) error {
	sb, e := &s.j.super, s.expect
	for pos := e.pos; pos < s.end; pos += PageSize {
		if pos%(1<<20) == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		b, err := s.w.at(pos, PageSize, s.end)
		if err != nil {
			return err
		}
		h, err := parseFixed(b)
		if err != nil {
			continue
		}
		later := h.epoch == sb.epoch && h.first > e.first && (e.any || h.number > e.number)
		if !later && h.epoch <= sb.epoch || pos+headerLen(h.count) > s.end {
			continue
		}
		if b, err = s.w.at(pos, headerLen(h.count), s.end); err != nil {
			return err
		}
		if _, err := parseHeader(b); err != nil {
			continue
		}
		if group, _ := groupOf(b); string(group) == string(sb.group) {
			return s.corrupt(e.pos, fmt.Sprintf("%v, and frame %d of epoch %s (LSN %d), which was written after it, is at offset %d",
				why, h.number, h.epoch, h.first, s.j.ring.offset(pos)))
		}
	}
	return nil
}

// clearHead overwrites the first page after the last frame, and reports the torn frame it belonged to, if one.
func (s *scan) clearHead(why error) (*Torn, error) {
	b, err := s.w.at(s.expect.pos, PageSize, s.end)
	if err != nil || allZero(b) || s.j.seam.noWipe || s.j.seam.monotonicEpochs {
		return nil, err
	}
	var torn *Torn
	if h, err := parseFixed(b); err == nil && h.epoch == s.j.super.epoch && h.first == s.expect.first {
		torn = &Torn{Offset: s.j.ring.offset(s.expect.pos), Number: s.expect.number, Reason: why.Error()}
		if s.expect.any {
			torn.Number = h.number
		}
	}
	return torn, s.j.ring.wipe(s.expect.pos, s.expect.pos+PageSize)
}

// recovered is Recovered.Frames: it follows the index by LSN and reads ahead up to the head of its beginning.
func (j *Journal) recovered(yield func(*Frame, error) bool) {
	j.mu.Lock()
	at, history, tail, head, last := j.last+1, j.history, j.head, j.head, j.last
	if j.index.len() > 0 {
		at, tail = j.index.at(0).first, j.index.at(0).pos
	}
	j.mu.Unlock()
	w := newWindow(j.ring, head-tail)
	for at <= last {
		f, next, err := j.recoveredAt(w, at, history, head)
		if !yield(f, err) || err != nil {
			return
		}
		at = next
	}
}

func (j *Journal) recoveredAt(w *window, at domain.LSN, history uint64, head int64) (*Frame, domain.LSN, error) {
	j.mu.Lock()
	i := j.index.endingBy(at - 1)
	gone := j.history != history || i == j.index.len() || j.index.at(i).first != at
	var r frameRef
	if !gone {
		r = j.index.at(i)
	}
	j.mu.Unlock()
	if gone {
		return nil, 0, fmt.Errorf("read recovered frame at LSN %d: %w", at, ErrNotRetained)
	}
	b, err := w.at(r.pos, r.size, head)
	if err != nil {
		return nil, 0, fmt.Errorf("read recovered frame at LSN %d: %w", at, err)
	}
	if b, err = j.verified(b, r); err != nil {
		return nil, 0, err
	}
	f, err := decode(b, !j.seam.noPayloadCRC)
	return f, r.last + 1, err
}
