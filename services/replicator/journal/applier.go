package journal

import (
	"fmt"
	"sync"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/journal/vfs"
)

// Volume is where an Applier puts changes. Writes need not be durable before Sync; reads see them at once.
type Volume interface {
	// WriteAt writes all of p at off, in bytes.
	WriteAt(p []byte, off int64) (int, error)
	// Zero makes [off, off+length) read as zeroes, allocated.
	Zero(off, length int64) error
	// Unmap makes [off, off+length) read as zeroes and gives its space back.
	Unmap(off, length int64) error
	// Sync makes everything before it durable. An error is final.
	Sync() error
}

// Applier brings durable frames to the volumes in order, and checkpoints: flush the volumes, then release the
// journal. It holds the order of replication: a change reaches a volume only after the journal holds it durably, and
// the tail passes it only after the volume holds it durably. One goroutine applies; Checkpoint may run in another.
// The first failure is final: every later call returns it. But a volume that has no room (vfs.IsFull) may be written to again:
// what it did not take is in the journal, and nothing of it was called durable.
type Applier struct {
	journal *Journal
	volumes []Volume

	checkpoint sync.Mutex // one at a time

	mu      sync.Mutex // held while a frame is applied
	dirty   []bool     // volumes written to since their last flush
	applied domain.LSN
	flushed domain.LSN
	torn    bool // of the changes after applied a part may be there
	failed  error
}

// NewApplier applies to volumes, indexed by Entry.Volume, what the journal holds; it begins at the journal's
// ReleasedLSN. After Open, Replay comes first.
func NewApplier(j *Journal, volumes []Volume) *Applier {
	released := j.State().ReleasedLSN
	return &Applier{journal: j, volumes: volumes, dirty: make([]bool, len(volumes)), applied: released, flushed: released}
}

// SetVolumes gives it another list of volumes, for the changes applied from now on: those that both lists have are the same.
func (a *Applier) SetVolumes(volumes []Volume) {
	a.mu.Lock()
	defer a.mu.Unlock()
	dirty := make([]bool, len(volumes))
	copy(dirty, a.dirty)
	a.volumes, a.dirty = volumes, dirty
}

// Replay applies the recovered frames up to and including upto: LastLSN at a primary, CommitLSN at a target (anything
// not below what was applied before the crash). Until it returns the volumes may show a mixture.
func (a *Applier) Replay(r *Recovered, upto domain.LSN) error {
	for f, err := range r.Frames() {
		if err != nil {
			return fmt.Errorf("replay: %w", err)
		}
		if f.FirstLSN > upto {
			break
		}
		if err := a.Apply(f, upto); err != nil {
			return fmt.Errorf("replay: %w", err)
		}
	}
	return nil
}

// Apply brings the entries of f up to and including upto to the volumes; those applied before are skipped, so a call
// may be repeated and a frame may be applied in parts. f must be durable in the journal and must not leave a gap:
// domain.ErrRefused else.
func (a *Applier) Apply(f *Frame, upto domain.LSN) error {
	durable := a.journal.Next().FirstLSN - 1
	a.mu.Lock()
	defer a.mu.Unlock()
	upto = min(upto, f.LastLSN)
	switch {
	case a.failed != nil:
		return a.failed
	case upto <= a.applied:
		return nil
	case f.FirstLSN > a.applied+1 || upto > durable:
		return fmt.Errorf("apply frame %d (LSN %d to %d): applied is %d, durable %d: %w", f.Number, f.FirstLSN, upto,
			a.applied, durable, domain.ErrRefused)
	}
	for entries := f.Entries[a.applied+1-f.FirstLSN : upto+1-f.FirstLSN]; len(entries) > 0; {
		e, n := joined(entries)
		if err := a.apply(e); err != nil {
			err = fmt.Errorf("apply LSN %d: %w", a.applied+1, err)
			if a.torn = true; !vfs.IsFull(err) {
				a.failed = err
			}
			return err
		}
		a.applied, a.torn = a.applied+domain.LSN(n), false
		entries = entries[n:]
	}
	return nil
}

// joined is the first of entries, as one with those after it that go on where it ends, in the volume and in memory: one write
// does for n of them.
func joined(entries []Entry) (e Entry, n int) {
	e = entries[0]
	for n = 1; n < len(entries); n++ {
		next, end := &entries[n], len(e.Data)
		if e.Op != OpWrite || next.Op != OpWrite || next.Volume != e.Volume || next.Off != e.Off+e.Len || len(next.Data) == 0 ||
			cap(e.Data)-end < len(next.Data) || &e.Data[:end+1][end] != &next.Data[0] {
			break
		}
		e.Data, e.Len = e.Data[:end+len(next.Data)], e.Len+next.Len
	}
	return e, n
}

func (a *Applier) apply(e Entry) error {
	if e.Op == OpFlush || e.Op == OpMarker {
		return nil
	}
	if int(e.Volume) >= len(a.volumes) {
		return fmt.Errorf("volume %d of %d: %w", e.Volume, len(a.volumes), domain.ErrNotFound)
	}
	v := a.volumes[e.Volume]
	a.dirty[e.Volume] = true
	switch e.Op {
	case OpWrite:
		return whole(v.WriteAt, e.Data, e.Off, "write")
	case OpZero:
		return v.Zero(e.Off, e.Len)
	case OpUnmap:
		return v.Unmap(e.Off, e.Len)
	default:
		return fmt.Errorf("op %d: %w", e.Op, domain.ErrInvalid)
	}
}

// Applied is the last LSN the volumes show (not necessarily durably).
func (a *Applier) Applied() domain.LSN {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.applied
}

// Torn reports whether the volumes may show a part of the changes after Applied, because there was no room for all of it: then
// they are no prefix, until the next Apply that succeeds.
func (a *Applier) Torn() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.torn
}

// Checkpoint flushes the volumes written to since the last one, then releases the journal up to the smaller of what
// was applied before the flush and limit (what every target has, or has in its dirty bitmap). It gives the LSN up to
// which the volumes are durable.
func (a *Applier) Checkpoint(limit domain.LSN) (domain.LSN, error) {
	a.checkpoint.Lock()
	defer a.checkpoint.Unlock()
	a.mu.Lock()
	failed, applied, flush := a.failed, a.applied, a.takeDirty()
	a.mu.Unlock()
	if failed != nil {
		return 0, failed
	}
	if a.journal.seam.tailEarly {
		if err := a.journal.Release(min(applied, limit)); err != nil {
			return 0, a.fail(err)
		}
	}
	for i, v := range flush {
		if v == nil {
			continue
		}
		if err := v.Sync(); err != nil {
			return 0, a.fail(fmt.Errorf("flush volume %d: %w", i, err))
		}
	}
	a.mu.Lock()
	a.flushed = max(a.flushed, applied)
	flushed := a.flushed
	a.mu.Unlock()
	if err := a.journal.Release(min(applied, limit)); err != nil {
		return flushed, a.fail(err)
	}
	return flushed, nil
}

// takeDirty gives the volumes to flush by index, nil for the clean, and counts them clean. Call it under mu.
func (a *Applier) takeDirty() []Volume {
	flush := make([]Volume, len(a.volumes))
	for i, d := range a.dirty {
		if d {
			flush[i], a.dirty[i] = a.volumes[i], false
		}
	}
	return flush
}

func (a *Applier) fail(err error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.failed == nil {
		a.failed = fmt.Errorf("checkpoint: %w", err)
	}
	return a.failed
}
