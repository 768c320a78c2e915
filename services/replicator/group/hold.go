package group

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/journal"
	"github.com/holdfast-dr/holdfast/services/replicator/journal/vfs"
)

// holds is what keeps a copy from writing on, by reason. A reason that goes on for Timing.Hold is told, once; so is its end.
type holds struct {
	mu sync.Mutex
	of map[string]*hold
}

type hold struct {
	api.Held
	told bool
}

// roomEvery is the time between two looks whether a full disk has room.
const roomEvery = 200 * time.Millisecond

// heldBy says that writing waits, for a reason; whoever waits says so again and again.
func (g *Group) heldBy(reason, detail string) {
	g.holds.mu.Lock()
	h := g.holds.of[reason]
	if h == nil {
		if g.holds.of == nil {
			g.holds.of = map[string]*hold{}
		}
		h = &hold{Held: api.Held{Reason: reason, Since: time.Now()}}
		g.holds.of[reason] = h
	}
	first := !h.told && time.Since(h.Since) >= g.cfg.Timing.Hold
	h.Detail = detail
	h.told = h.told || first
	g.holds.mu.Unlock()
	if first {
		g.log.Error("writing waits", "reason", reason, "detail", detail)
		g.publish(g.ctx, "held", g.store.fence(), g.store.last(), "", reason+": "+detail)
	}
}

// letOn says that nothing waits for that reason any more.
func (g *Group) letOn(reason string) {
	g.holds.mu.Lock()
	h := g.holds.of[reason]
	delete(g.holds.of, reason)
	g.holds.mu.Unlock()
	if h != nil && h.told {
		took := time.Since(h.Since).Round(100 * time.Millisecond)
		g.log.Info("writing goes on", "reason", reason, "waited", took)
		g.publish(g.ctx, "resumed", g.store.fence(), g.store.last(), "", fmt.Sprintf("%s: after %s", reason, took))
	}
}

// held lists what was told and goes on.
func (g *Group) held() []api.Held {
	g.holds.mu.Lock()
	defer g.holds.mu.Unlock()
	var out []api.Held
	for _, reason := range slices.Sorted(maps.Keys(g.holds.of)) {
		if h := g.holds.of[reason]; h.told {
			out = append(out, h.Held)
		}
	}
	return out
}

// roomy does what needs room on the disk, again and again while there is none, until ctx ends.
func (g *Group) roomy(ctx context.Context, do func() error) error {
	for {
		err := do()
		if !vfs.IsFull(err) {
			g.letOn(api.HeldByDisk)
			return err
		}
		g.heldBy(api.HeldByDisk, err.Error()+g.openHold())
		if !sleep(ctx, roomEvery) {
			return ctx.Err()
		}
	}
}

// failUnlessFull stops the group for good because of a failure of its disk, unless the disk is only full: then whoever asked may
// ask again.
func (g *Group) failUnlessFull(err error) error {
	if vfs.IsFull(err) {
		return fmt.Errorf("%w: free some space on the disk of %s: %w", domain.ErrUnavailable, g.cfg.Dir, err)
	}
	g.fail(err)
	return err
}

// untracked tells that the ring let go of what a site lacks, and that which blocks that is could not be noted.
func (g *Group) untracked(site domain.SiteID, upto domain.LSN, why error) {
	if errors.Is(why, journal.ErrCorrupt) {
		g.damageFound(why)
	}
	detail := fmt.Sprintf("which blocks it lacks could not be noted (%v): its next resync compares everything", why)
	g.log.Error("target overflowed", "target", string(site), "lsn", uint64(upto), "detail", detail)
	g.publish(g.ctx, "target_overflowed", g.store.fence(), upto, site, detail)
}

// damage is what was found damaged since the copy was opened.
type damage struct {
	mu    sync.Mutex
	count uint64
	last  string
	told  time.Time
}

// damageFound keeps, and tells every now and then, that something kept here or received here is not what was written. Nothing of
// it was used.
func (g *Group) damageFound(err error) {
	var c *journal.CorruptError
	if errors.As(err, &c) && g.current() != nil { // its mend is for a copy that cannot go on
		err = fmt.Errorf("journal %s corrupt at offset %d, frame %d: %s: what it holds is sent from the volumes", c.Path, c.Offset, c.Number, c.Reason)
	}
	d := &g.damage
	d.mu.Lock()
	d.count++
	tell := d.last != err.Error() || time.Since(d.told) >= g.cfg.Timing.Progress
	if d.last = err.Error(); tell {
		d.told = time.Now()
	}
	d.mu.Unlock()
	if tell {
		g.log.Error("damage found", "error", err)
		g.publish(g.ctx, "damage_found", g.store.fence(), g.store.last(), "", err.Error())
	}
}

func (g *Group) damaged() (count uint64, last string) {
	g.damage.mu.Lock()
	defer g.damage.mu.Unlock()
	return g.damage.count, g.damage.last
}
