package group

import (
	"crypto/sha256"
	"fmt"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/sparse"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

// unit is one volume as the iSCSI target sees it, for one session.
type unit struct {
	s      *session
	volume int
}

var (
	_ target.Unit    = (*unit)(nil)
	_ target.Gated   = (*unit)(nil)
	_ target.Metered = (*unit)(nil)
	_ target.Mapper  = (*unit)(nil)
)

// Info describes the volume. The serial is the same at every site; the NAA is this copy's own.
func (u *unit) Info() target.UnitInfo {
	v := u.s.st.slots()[u.volume]
	return target.UnitInfo{SizeBytes: v.SizeBytes, Serial: serial(u.s.st.group.ID, v.ID), NAA: naa(u.s.g.cfg.Site, u.s.st.group.ID, v.ID),
		Product: "volume", WriteCache: u.s.cache.on, ThinProvisioned: true, MaxAtomicBytes: pieceBytes}
}

// Meter implements target.Metered.
func (u *unit) Meter() target.Meter {
	if u.s.g.cfg.Meter == nil {
		return nil
	}
	return u.s.g.cfg.Meter(u.s.st.slots()[u.volume].ID)
}

// MayAnswer implements target.Gated.
func (u *unit) MayAnswer() bool { return u.s.gate.open() }

// Submit carries out one command. Reads see what was applied, and so acknowledged or about to be; in the class cached
// they wait for what was acknowledged and is not applied yet. In the class strict every write is durable before done, so a
// flush has nothing left to do.
func (u *unit) Submit(c *target.Command, done func(error)) {
	switch c.Op {
	case target.OpRead:
		u.read(c, done)
	case target.OpFlush:
		if err := u.fenced(); err != nil || !u.s.cache.on {
			done(err)
			return
		}
		u.s.enqueue(&op{volume: u.volume, cmd: c, done: done})
	default:
		u.s.submit(&op{volume: u.volume, cmd: c, done: done})
	}
}

func (u *unit) fenced() error {
	if !u.s.gate.open() {
		return target.ErrFenced
	}
	return nil
}

func (u *unit) read(c *target.Command, done func(error)) {
	shown := u.s.behind(u.volume, c.Off, int64(len(c.Data)))
	if shown == nil {
		done(u.readNow(c))
		return
	}
	go func() { // a reader is not to hold up the commands behind it, which may be what it waits for
		select {
		case <-shown:
			done(u.readNow(c))
		case <-u.s.ctx.Done():
			done(target.ErrFenced)
		}
	}()
}

func (u *unit) readNow(c *target.Command) error {
	err := u.readWhole(c)
	if fenced := u.fenced(); fenced != nil {
		return fenced
	}
	if err != nil {
		return fmt.Errorf("read: %w: %w", target.ErrMedium, err)
	}
	return nil
}

// readWhole reads, and reads again what an atomic write may have been at meanwhile.
func (u *unit) readWhole(c *target.Command) error {
	v, g := u.s.st.vols()[u.volume], &u.s.whole
	seen := g.Seen()
	if _, err := v.ReadAt(c.Data, c.Off); err != nil || g.Whole(seen) {
		return err
	}
	g.Hold()
	defer g.Release()
	_, err := v.ReadAt(c.Data, c.Off)
	return err
}

// Extent implements target.Mapper: where the volume is allocated, by what was applied, as reads see it. What was acknowledged and
// is not applied yet is told mapped.
func (u *unit) Extent(off, look int64) (mapped bool, length int64, err error) {
	if err := u.fenced(); err != nil {
		return false, 0, err
	}
	v := u.s.st.vols()[u.volume]
	behind := u.s.nextBehind(u.volume, off, v.size-off) // before looking: what is applied meanwhile is seen
	if behind == off {
		return true, min(cachePageBytes-off%cachePageBytes, v.size-off), nil
	}
	if mapped, length, err = sparse.Extent(v.f, v.size, off, look); err != nil {
		return false, 0, fmt.Errorf("map: %w: %w", target.ErrMedium, err)
	}
	return mapped, min(length, behind-off), nil
}

func serial(g domain.GroupID, v domain.VolumeID) string {
	sum := sha256.Sum256([]byte("serial\x00" + string(g) + "\x00" + string(v)))
	return fmt.Sprintf("%x", sum[:10])
}

func naa(site domain.SiteID, g domain.GroupID, v domain.VolumeID) (n [8]byte) {
	sum := sha256.Sum256([]byte("naa\x00" + string(site) + "\x00" + string(g) + "\x00" + string(v)))
	copy(n[:], sum[:])
	n[0] = 0x30 | n[0]&0x0f // NAA 3, locally assigned
	return n
}
