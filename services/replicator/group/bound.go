package group

import (
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/services/replicator/layer"
)

// What is written to an open checkpoint takes room on the disk that the copy itself is on, with its ring, its history and its stages.
// So each has a bound: a limit of its own where one was given, and what the file system keeps free for replication. A write that
// would need new room beyond either is refused, as by a full disk; one to blocks that take room already is not, and nothing is ever
// read otherwise. Nothing has to be done when there is room again.

const (
	// boundLook is how many bytes are written, at most, between two looks at the room on the disk; less, the less of it is left.
	boundLook = 16 << 20
	// boundLasts is for how long a look counts: others write to that disk, too.
	boundLasts = time.Second
)

// defaultReserve is what of a file system is kept free by default of what is written to open checkpoints: 5 %, as the volumes of
// a copy have holes that its primary fills, and its history grows, until a person has seen that the disk becomes full; 1 GiB at
// least, or that would be seconds; but a quarter at most, or nothing could be written on a small one. The ring is laid out when it is
// made. All that a copy may ever need (every hole of its volumes, keep.bytes) is often more than its disk has, and then no checkpoint
// could be written to at all.
func defaultReserve(total uint64) int64 {
	return int64(min(max(1<<30, total/20), total/4))
}

// bound is how much may be written to an open checkpoint, over all its volumes.
type bound struct {
	// look tells how many bytes the disk can spare, and why not more.
	look func() (spare int64, why string)
	log  *slog.Logger
	calm time.Duration // the least time between two warnings

	mu      sync.Mutex
	limit   int64     // bytes; 0: none of its own
	held    int64     // bytes of blocks that take room
	spare   int64     // bytes that may be taken before the next look
	until   time.Time // the last look counts until then
	lacks   string    // why the last look was in vain; empty: it was not
	refuses string    // why the last one that wanted room had none
	told    time.Time // when that was told last
	warned  bool      // it was told of the refusal that goes on
}

// take counts n bytes as held, or says why there is no room for them. mu is held.
func (b *bound) take(n int64) error {
	why := b.short(n)
	b.tell(why)
	if why != "" {
		return fmt.Errorf("%s: %w", why, unix.ENOSPC)
	}
	b.held += n
	b.spare -= n
	return nil
}

// short is why there is no room for n more bytes; empty when there is. mu is held.
func (b *bound) short(n int64) string {
	if b.limit > 0 && b.held+n > b.limit {
		return fmt.Sprintf("%s are written to the open checkpoint, its limit is %s", sizeText(b.held), sizeText(b.limit))
	}
	now := time.Now()
	if now.Before(b.until) && (b.lacks != "" || n <= b.spare) {
		return b.lacks
	}
	spare, why := b.look()
	if n > spare {
		b.spare, b.lacks, b.until = 0, why, now.Add(roomEvery)
		return why
	}
	b.spare, b.lacks, b.until = max(n, min(boundLook, spare/8)), "", now.Add(boundLasts)
	return ""
}

// tell logs that writes begin to be refused, and that they no longer are: once each, and not again and again where a guest frees and
// writes a block in turn. mu is held.
func (b *bound) tell(why string) {
	before := b.refuses
	b.refuses = why
	switch {
	case why != "" && before == "" && time.Since(b.told) >= b.calm:
		b.told, b.warned = time.Now(), true
		b.log.Warn("writes to an open checkpoint are refused", "held", b.held, "limit", b.limit, "detail", why)
	case why == "" && before != "" && b.warned:
		b.warned = false
		b.log.Info("writes to an open checkpoint are taken again", "held", b.held, "limit", b.limit)
	}
}

// state is what is held, the limit, and why another block would be refused now.
func (b *bound) state() (held, limit int64, refuses string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.held, b.limit, b.short(layer.BlockSize)
}

// allow sets the limit.
func (b *bound) allow(limit int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.limit = limit
}

// boundFile is where an open checkpoint keeps what is written to a volume. It knows which blocks take room.
type boundFile struct {
	layer.Medium
	b *bound
	// hole is held alone to free blocks: a write beside that would take room which is counted as given back.
	hole sync.RWMutex
	// taken has a bit for each block that takes room, under b.mu. A write that failed is counted: part of it may be there.
	taken []uint64
}

func newBoundFile(m layer.Medium, size int64, b *bound) *boundFile {
	return &boundFile{Medium: m, b: b, taken: make([]uint64, (size+64*layer.BlockSize-1)/(64*layer.BlockSize))}
}

// WriteAt implements layer.Medium. All of it is written or nothing where there is no room.
func (f *boundFile) WriteAt(p []byte, off int64) (int, error) {
	f.hole.RLock()
	defer f.hole.RUnlock()
	if err := f.take(off/layer.BlockSize, (off+int64(len(p))+layer.BlockSize-1)/layer.BlockSize); err != nil {
		return 0, err
	}
	return f.Medium.WriteAt(p, off)
}

// Zero implements layer.Medium.
func (f *boundFile) Zero(off, n int64) error { return f.Unmap(off, n) }

// Unmap implements layer.Medium: it gives room back.
func (f *boundFile) Unmap(off, n int64) error {
	f.hole.Lock()
	defer f.hole.Unlock()
	if err := f.Medium.Unmap(off, n); err != nil {
		return err
	}
	f.give((off+layer.BlockSize-1)/layer.BlockSize, (off+n)/layer.BlockSize)
	return nil
}

// take takes room for the blocks [first, end) that have none.
func (f *boundFile) take(first, end int64) error {
	f.b.mu.Lock()
	defer f.b.mu.Unlock()
	var lack int64
	for at := first; at < end; at++ {
		lack += int64(^f.taken[at/64] >> (at % 64) & 1)
	}
	if lack == 0 {
		return nil
	}
	if err := f.b.take(lack * layer.BlockSize); err != nil {
		return err
	}
	for at := first; at < end; at++ {
		f.taken[at/64] |= 1 << (at % 64)
	}
	return nil
}

// give counts the blocks [first, end) as taking no room.
func (f *boundFile) give(first, end int64) {
	f.b.mu.Lock()
	defer f.b.mu.Unlock()
	for at := first; at < end; at++ {
		f.b.held -= int64(f.taken[at/64]>>(at%64)&1) * layer.BlockSize
		f.taken[at/64] &^= 1 << (at % 64)
	}
}

// newBound is the bound of an open checkpoint.
func (g *Group) newBound(log *slog.Logger, limit int64) *bound {
	keep := g.cfg.CheckpointReserve
	if keep <= 0 {
		st, known := fileSystem(g.cfg.Dir)
		if keep = 1 << 30; known {
			keep = defaultReserve(st.Blocks * uint64(st.Bsize))
		}
	}
	resyncs := g.cfg.Owed
	if resyncs == nil {
		resyncs = g.Owed
	}
	look := func() (int64, string) {
		free, known := g.cfg.free(g.cfg.Dir)
		if !known {
			return boundLook, "" // as for a resync: where nothing is told of the room, nothing waits for it
		}
		owed := resyncs()
		why := fmt.Sprintf("%s are free on the disk of %s, and %s are kept for replication", sizeText(int64(free)), g.cfg.Dir, sizeText(keep+owed))
		return int64(free) - keep - owed, why
	}
	return &bound{look: look, log: log, calm: g.cfg.Timing.Progress, limit: limit}
}

// Owed is how many bytes of room a resync under way will take yet, by what its primary was told.
func (g *Group) Owed() int64 {
	g.mu.Lock()
	st, installs := g.stage, g.installs
	g.mu.Unlock()
	if st == nil {
		return installs
	}
	return max(0, st.wants.Load()-st.took.Load())
}

// openHold says, for whoever lacks room, what open checkpoints hold of it; empty when nothing.
func (g *Group) openHold() string {
	g.mu.Lock()
	var open []*overlay
	for _, o := range g.overlays {
		open = append(open, o)
	}
	g.mu.Unlock()
	var held int64
	for _, o := range open {
		n, _, _ := o.bound.state()
		held += n
	}
	if held == 0 {
		return ""
	}
	return fmt.Sprintf("; what was written to open checkpoints holds %s: holdfast checkpoint close gives it back", sizeText(held))
}
