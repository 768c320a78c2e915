package journal

import (
	"fmt"
	"slices"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// change runs fn with the frames and the superblocks locked, once the journal is known to be usable. fn gets a copy of
// the superblock to alter and commit.
func (j *Journal) change(fn func(next superblock) error) error {
	j.write.Lock()
	defer j.write.Unlock()
	j.sb.Lock()
	defer j.sb.Unlock()
	j.mu.Lock()
	err, next := j.usable(), j.super.clone()
	j.mu.Unlock()
	if err != nil {
		return err
	}
	return fn(next)
}

// RaiseEpoch makes the journal refuse every epoch below, durably, before it returns. The first frame of the epoch
// begins at firstLSN, which must be LastLSN+1 (ErrGap), and is numbered 1. (epoch, firstLSN, site) joins the lineage.
// A lower epoch is domain.ErrStaleEpoch; the journal's own epoch is no change and no error, so the call may repeat.
// domain.ErrRefused when MaxLineage epochs have frames in the ring: release some first.
func (j *Journal) RaiseEpoch(epoch domain.Epoch, site domain.SiteID, firstLSN domain.LSN) error {
	if epoch <= 0 || !domain.ValidToken(string(site)) {
		return fmt.Errorf("raise to epoch %d of site %q: %w", epoch, site, domain.ErrInvalid)
	}
	return j.change(func(next superblock) error {
		switch {
		case epoch < next.epoch:
			return fmt.Errorf("raise to epoch %s, journal is at %s: %w", epoch, next.epoch, domain.ErrStaleEpoch)
		case epoch == next.epoch:
			return nil
		case firstLSN != j.last+1:
			return fmt.Errorf("raise to epoch %s from LSN %d, last is %d: %w", epoch, firstLSN, j.last, ErrGap)
		}
		lineage, err := extend(next.lineage, LineageEntry{Epoch: epoch, First: firstLSN, Site: site}, j.tailLSN())
		if err != nil {
			return err
		}
		next.lineage = lineage
		next.epoch, next.epochPos, next.sealed, next.cut = epoch, j.head, false, 0
		return j.install(next, Next{Epoch: epoch, Number: 1, FirstLSN: firstLSN})
	})
}

// tailLSN is the first LSN retained. Call it under write and sb.
func (j *Journal) tailLSN() domain.LSN {
	if j.index.len() > 0 {
		return j.index.at(0).first
	}
	return j.last + 1
}

// install makes a change of epoch or extent durable in both superblocks, so that the loss of either takes nothing
// back. No frame can come in between: the caller holds the write lock.
func (j *Journal) install(next superblock, expect Next) error {
	j.mu.Lock()
	j.next = expect
	j.mu.Unlock()
	return j.commitSuper(next, 2, 0)
}

// extend adds e to the lineage and keeps the bound: the oldest goes first, as long as no frame from tail on needs it,
// else one that had no change at all.
func extend(lineage []LineageEntry, e LineageEntry, tail domain.LSN) ([]LineageEntry, error) {
	out := append(slices.Clone(lineage), e)
	if len(out) <= MaxLineage {
		return out, nil
	}
	if out[1].First <= tail {
		return out[1:], nil
	}
	for i := range len(out) - 1 {
		if out[i].First == out[i+1].First {
			return slices.Delete(out, i, i+1), nil
		}
	}
	return nil, fmt.Errorf("raise to epoch %s: %d epochs in the ring, release some first: %w", e.Epoch, MaxLineage, domain.ErrRefused)
}

// Truncate forgets every change after the given LSN, durably. It may cut inside a frame: the frame then counts as
// its kept entries only (Read and Frames give it so, encoded anew), and the journal goes on with a higher epoch only
// (RaiseEpoch; Append gives ErrCut), since a frame of the same epoch could not be chained to half a frame. The same
// holds when every change of the current epoch and some before it are forgotten; epochs that then begin later than
// after+1 leave the lineage, but lower epochs stay refused.
// Nothing happens when after is LastLSN or above. ErrNotRetained when it is below ReleasedLSN: the volumes hold the
// later state then, and only a resync and Reset go back. What is forgotten is overwritten with zeroes.
//
// It does not take back what was applied: the caller knows that the volumes hold nothing after the given LSN, as a
// target does that applied up to the commit LSN only. A former primary's volumes may hold everything up to LastLSN.
func (j *Journal) Truncate(after domain.LSN) error {
	return j.change(func(next superblock) error {
		if after >= j.last {
			return nil
		}
		if after < next.released {
			return fmt.Errorf("truncate journal %s after LSN %d, released is %d: %w", j.path, after, next.released, ErrNotRetained)
		}
		oldHead := j.head
		expect := j.forget(after, &next)
		next.wipeFrom, next.wipeTo = j.head, oldHead
		return j.installWiping(next, expect)
	})
}

// forget drops the frames after the given LSN from memory and says what comes next.
func (j *Journal) forget(after domain.LSN, next *superblock) Next {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.history++
	i := j.index.endingBy(after)
	r := j.index.ref(i)
	expect := Next{Epoch: next.epoch, Number: r.number, FirstLSN: after + 1, PrevHeaderCRC: r.prevCRC}
	next.sealed = r.first <= after || r.epoch != next.epoch
	if r.first <= after {
		r.last = after
		j.head = r.end()
		i++
	} else {
		j.head = r.pos
	}
	j.index.truncate(i)
	for n := len(next.lineage); n > 0 && next.lineage[n-1].First > after+1; n-- {
		next.lineage = next.lineage[:n-1]
	}
	next.cut = 0
	if next.sealed {
		next.cut, expect.Number, expect.PrevHeaderCRC = after, 1, 0
	}
	next.epochPos = min(next.epochPos, j.head)
	j.last, j.commit = after, min(j.commit, after)
	return expect
}

// installWiping installs a change that leaves frames behind which recovery could mistake for successors: the
// superblocks say so, the frames are overwritten, the superblocks say it is done. A crash in between wipes again.
func (j *Journal) installWiping(next superblock, expect Next) error {
	if err := j.install(next, expect); err != nil || next.wipeFrom == next.wipeTo {
		return err
	}
	if err := j.ring.wipe(next.wipeFrom, next.wipeTo); err != nil {
		return j.fail("overwrite forgotten frames", err)
	}
	next.wipeFrom, next.wipeTo = 0, 0
	return j.commitSuper(next, 2, 0)
}

// Reset empties the ring, durably, and goes on at last+1 in the given epoch, with the given lineage (its last entry is
// that epoch; what exceeds MaxLineage is dropped, oldest first). The volumes must hold, durably, exactly the state at
// `last`. The next frame may have any number (the source's). domain.ErrStaleEpoch for an epoch below the journal's.
// Going back within the same epoch overwrites the whole ring with zeroes; all other resets cost two small writes.
func (j *Journal) Reset(last domain.LSN, epoch domain.Epoch, lineage []LineageEntry) error {
	if err := checkLineage(last, epoch, lineage); err != nil {
		return err
	}
	return j.change(func(next superblock) error {
		if epoch < next.epoch {
			return fmt.Errorf("reset journal to epoch %s, it is at %s: %w", epoch, next.epoch, domain.ErrStaleEpoch)
		}
		next.lineage = slices.Clone(lineage[max(0, len(lineage)-MaxLineage):])
		if epoch == next.epoch && last < j.last {
			next.wipeFrom, next.wipeTo = j.head, j.head+j.ring.size
		}
		next.epoch, next.epochPos, next.released, next.sealed, next.cut = epoch, j.head, last, false, 0
		j.mu.Lock()
		j.history++
		j.index.clear()
		j.last, j.commit, j.super.released = last, last, last
		j.mu.Unlock()
		return j.installWiping(next, Next{Epoch: epoch, FirstLSN: last + 1})
	})
}

func checkLineage(last domain.LSN, epoch domain.Epoch, lineage []LineageEntry) error {
	if len(lineage) == 0 || lineage[len(lineage)-1].Epoch != epoch {
		return fmt.Errorf("reset journal to epoch %s: its lineage ends elsewhere: %w", epoch, domain.ErrInvalid)
	}
	for i, e := range lineage {
		if e.Epoch <= 0 || e.First == 0 || e.First > last+1 || !domain.ValidToken(string(e.Site)) ||
			i > 0 && (e.Epoch <= lineage[i-1].Epoch || e.First < lineage[i-1].First) {
			return fmt.Errorf("reset journal: lineage entry %d (epoch %s, LSN %d, site %q): %w", i, e.Epoch, e.First, e.Site, domain.ErrInvalid)
		}
	}
	return nil
}

// SetMeta stores up to MaxMeta opaque bytes in both superblocks, durably. They survive everything but Create.
func (j *Journal) SetMeta(meta []byte) error {
	if len(meta) > MaxMeta {
		return fmt.Errorf("store %d bytes of meta, at most %d fit: %w", len(meta), MaxMeta, domain.ErrInvalid)
	}
	j.sb.Lock()
	defer j.sb.Unlock()
	j.mu.Lock()
	next := j.super.clone()
	j.mu.Unlock()
	next.meta = slices.Clone(meta)
	return j.commitSuper(next, 2, 0)
}
