package group

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/extent"
	"github.com/holdfast-dr/holdfast/services/replicator/slots"
)

// Before a resync sends what it has to, its target is asked whether there is room for it: a disk that would be full in the middle
// costs hours, and keeps whatever else is on it from writing meanwhile. While there is none the resync waits, with nothing sent; both
// sites tell so, and it goes on when there is.

// freeBytes is the room on a file system for whoever is not root.
func freeBytes(dir string) (uint64, bool) {
	st, known := fileSystem(dir)
	return st.Bavail * uint64(st.Bsize), known
}

// fileSystem is what is told of the file system of a folder; false where nothing is.
func fileSystem(dir string) (st unix.Statfs_t, known bool) {
	if err := again(func() error { return unix.Statfs(dir, &st) }); err != nil || st.Bsize <= 0 || st.Blocks == 0 {
		return unix.Statfs_t{}, false
	}
	return st, true
}

// awaitRoom waits until the target has room for what is to be sent, or for ctx to end.
func (t *sender) awaitRoom(ctx context.Context, session uint64, set *extent.Set) error {
	need, err := t.s.st.mapped(set)
	if err != nil || need == 0 {
		return err
	}
	req := api.ResyncBegin{Group: t.s.st.group.ID, Epoch: t.s.epoch, Session: session, Need: uint64(need)}
	if req.Blocks = set.Encode(); len(req.Blocks) > maxDiverged {
		req.Blocks = nil
	}
	for waits := false; ; waits = true {
		cctx, cancel := context.WithTimeout(ctx, resyncTimeout)
		begun, err := bus.Call[api.ResyncBegun](cctx, t.conn, api.ServiceReplicator, api.VerbResyncBegin, req)
		cancel()
		if err != nil {
			return err
		}
		if begun.Lacks == "" {
			t.lacks(nil)
			return nil
		}
		err = fmt.Errorf("resync target %s waits: %s: %w", t.site, begun.Lacks, domain.ErrUnavailable)
		t.lacks(err)
		if !waits {
			t.s.log.Warn("resync waits for room at the target", "target", string(t.site), "bytes", need, "detail", begun.Lacks)
			t.s.g.publish(ctx, "target_stalled", t.s.epoch, t.ackedLSN(), t.site, err.Error())
		}
		req.Blocks = nil
		if !sleep(ctx, max(t.s.g.cfg.Timing.Retry, roomEvery)) {
			return ctx.Err()
		}
	}
}

// lacks keeps why nothing is sent, for the status; nil: it is.
func (t *sender) lacks(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.err = err
}

func (t *sender) ackedLSN() domain.LSN {
	acked, _ := t.progress()
	return acked
}

// mapped is how many bytes of a set of blocks take space in this copy's volumes: what does not is sent as zeroes, without content.
func (s *store) mapped(set *extent.Set) (n int64, err error) {
	for run := range set.Runs(0) {
		have, err := spaceOf(s.vols()[run.Volume], run)
		if err != nil {
			return 0, err
		}
		n += have
	}
	return n, nil
}

// spaceOf is how many bytes of a stretch of a volume take space.
func spaceOf(v *volume, run extent.Run) (n int64, err error) {
	for at, end := run.Off, run.Off+run.Len; at < end; {
		mapped, length, err := v.Extent(at)
		if err != nil {
			return 0, err
		}
		length = min(length, end-at)
		if mapped {
			n += length
		}
		at += length
	}
	return n, nil
}

// holdLasts is for how long what a primary was told of room counts when it does not ask again.
const holdLasts = 10 * time.Second

// roomFor answers whether there is room for what a primary is about to send.
func (g *Group) roomFor(req api.ResyncBegin) (api.ResyncBegun, error) {
	begun := api.ResyncBegun{TellsRoom: true}
	g.mu.Lock()
	st := g.stage
	g.mu.Unlock()
	if st == nil || st.epoch != req.Epoch || st.session != req.Session {
		return begun, fmt.Errorf("resync group %s: no such stage: %w", g.id, domain.ErrConflict)
	}
	if req.Need > domain.MaxVolumeBytes*slots.MaxSlots {
		return begun, fmt.Errorf("resync group %s of %d bytes: %w", g.id, req.Need, domain.ErrInvalid)
	}
	if len(req.Blocks) > 0 {
		wants, err := g.store.stageTakes(st, req.Blocks, int64(req.Need))
		if err != nil {
			return begun, fmt.Errorf("resync group %s: %w", g.id, err)
		}
		st.wants.Store(wants)
	}
	wants := max(st.wants.Load(), st.takes(int64(req.Need), 0))
	st.wants.Store(wants)
	free, known := g.cfg.free(g.cfg.Dir)
	if !known || free >= uint64(wants) {
		g.noMoreShort()
		return begun, nil
	}
	begun.Lacks = fmt.Sprintf("the copy of group %s needs %s on the disk of %s, %s are free: free %s there, or give it a larger disk; it goes on by itself",
		g.id, sizeText(wants), g.cfg.Dir, sizeText(int64(free)), sizeText(wants-int64(free))) + g.openHold()
	g.short(begun.Lacks)
	return begun, nil
}

// short tells that a resync waits for room, until noMoreShort, or until its primary has not asked for a while.
func (g *Group) short(detail string) {
	g.heldBy(api.HeldByDisk, detail)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shortage != nil {
		g.shortage.Stop()
	}
	g.shortage = time.AfterFunc(holdLasts, g.noMoreShort)
}

func (g *Group) noMoreShort() {
	g.mu.Lock()
	was := g.shortage
	g.shortage = nil
	g.mu.Unlock()
	if was != nil {
		was.Stop()
		g.letOn(api.HeldByDisk)
	}
}

// takes is how much room it takes to stage so many bytes and to install them, where so many bytes of the volumes take none yet.
func (st *stage) takes(bytes, holes int64) int64 {
	if st.direct != nil {
		return min(bytes, holes)
	}
	return bytes + min(bytes+st.resumed.bytes, holes)
}

// stageTakes is how much room the blocks of a set, of which so many bytes are sent with their content, take until they are the copy.
func (s *store) stageTakes(st *stage, blocks []byte, bytes int64) (int64, error) {
	set, err := extent.Decode(blocks, st.sizes)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", domain.ErrInvalid, err)
	}
	set.Union(st.resumed.set) // that will be installed, too
	var holes int64
	for run := range set.Runs(0) {
		have := int64(0)
		if run.Volume < st.shared {
			if have, err = spaceOf(s.vols()[run.Volume], run); err != nil {
				return 0, err
			}
		}
		holes += run.Len - have
	}
	return st.takes(bytes, holes), nil
}

// sizeText is an amount for people.
func sizeText(n int64) string {
	for _, u := range []struct {
		suffix string
		bytes  int64
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if n >= u.bytes {
			return fmt.Sprintf("%.1f %s", float64(n)/float64(u.bytes), u.suffix)
		}
	}
	return fmt.Sprintf("%d bytes", n)
}
