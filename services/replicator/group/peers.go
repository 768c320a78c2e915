package group

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// peers is what a target's copy knows of the group's other targets. When its primary is lost and it becomes theirs, it can go
// on from where each of them stands: what they may lack is in the ring, or in a durable bitmap, by the same rule as at a
// primary.
//
// A position counts when it was told under the epoch that is followed here: then both copies are prefixes of one primary's
// order, and the other holds all that this one has up to it. What is not heard is taken for not there. Positions are kept in a
// file beside the journal, so that a site which is away while this one is started again is owed no more than it lacks. The file
// need not be durable, or right: a site that has less than it says tells so when it rejoins, and is compared.
type peers struct {
	g       *Group
	epoch   domain.Epoch
	primary domain.SiteID
	ctx     context.Context //nolint:containedctx // the receiver's own life

	mu   sync.Mutex
	of   map[domain.SiteID]*peer
	kept keptPeers
}

// keptPeers is the file of positions.
type keptPeers struct {
	Epoch domain.Epoch                 `json:"epoch"`
	LSN   map[domain.SiteID]domain.LSN `json:"lsn"`
}

type peer struct {
	track  *track
	cancel context.CancelFunc

	mu    sync.Mutex
	lsn   domain.LSN // heard
	moved time.Time  // when it last grew
}

// keptWaiting is how long a peer that has stopped moving may hold the ring back while there is room.
const keptWaiting = 2 * time.Second

func newPeers(ctx context.Context, g *Group, epoch domain.Epoch, source []api.LineageEntry) *peers {
	p := &peers{g: g, epoch: epoch, ctx: ctx, of: map[domain.SiteID]*peer{}}
	if n := len(source); n > 0 {
		p.primary = source[n-1].Site
	}
	p.load()
	return p
}

func (p *peers) path() string { return filepath.Join(p.g.cfg.Dir, "peers.json") }

// load reads what was kept under this epoch; a file that is not readable is none.
func (p *peers) load() {
	b, err := os.ReadFile(p.path())
	if err == nil {
		err = json.Unmarshal(b, &p.kept)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		p.g.log.Warn("positions of other targets not readable: what they may lack is kept", "error", err)
	}
	if err != nil || p.kept.Epoch != p.epoch || p.kept.LSN == nil {
		p.kept = keptPeers{Epoch: p.epoch, LSN: map[domain.SiteID]domain.LSN{}}
	}
}

// keep writes positions that have moved.
func (p *peers) keep(at map[domain.SiteID]domain.LSN) {
	if maps.Equal(at, p.kept.LSN) {
		return
	}
	b, err := json.Marshal(keptPeers{Epoch: p.epoch, LSN: at})
	if err == nil {
		err = os.WriteFile(p.path()+".tmp", b, 0o600)
	}
	if err == nil {
		err = os.Rename(p.path()+".tmp", p.path())
	}
	if err != nil {
		p.g.log.Debug("positions of other targets not kept", "error", err)
		return
	}
	p.kept.LSN = at
}

// owed brings the peers to the policy as it is now, and gives what each is owed. One goroutine of the receiver calls it.
func (p *peers) owed() ([]owed, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	policy, st := p.g.store.policy(), p.g.store
	wanted := map[domain.SiteID]bool{}
	for _, site := range policy.SitesOf() {
		if site == p.g.cfg.Site || site == p.primary || policy.ModeTo(p.g.cfg.Site, site) == domain.ModeNone {
			continue
		}
		wanted[site] = true
		if p.of[site] == nil {
			if err := p.meet(site); err != nil {
				return nil, err
			}
		}
	}
	var out []owed
	at := map[domain.SiteID]domain.LSN{}
	for site, o := range p.of {
		if !wanted[site] {
			o.cancel()
			delete(p.of, site)
			if err := st.dropBitmap(site); err != nil {
				return nil, err
			}
			continue
		}
		lsn, moved := o.position()
		lsn = min(lsn, st.last())
		at[site] = lsn
		o.track.advance(lsn)
		if err := st.repaid(site, o.track, lsn); err != nil {
			return nil, err
		}
		out = append(out, owed{site: site, track: o.track, waits: time.Since(moved) < keptWaiting})
	}
	p.keep(at)
	return out, nil
}

// meet begins to follow a peer's position. A site that is not known here is owed everything, as one that is silent.
func (p *peers) meet(site domain.SiteID) error {
	tr, err := p.g.store.loadTrack(site)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(p.ctx)
	o := &peer{track: tr, cancel: cancel, lsn: max(p.g.lastHeard(site, p.epoch), p.kept.LSN[site])}
	p.of[site] = o
	conn, err := p.g.cfg.Mesh.Conn(site)
	if err == nil {
		err = conn.Subscribe(ctx, api.PositionSubject(p.g.id, site), func(_ context.Context, m bus.Message) { p.heard(site, o, m) })
	}
	if err != nil && ctx.Err() == nil {
		p.g.log.Warn("other target not followed: what it may lack is kept", "target", string(site), "error", err)
	}
	return nil
}

func (p *peers) heard(site domain.SiteID, o *peer, m bus.Message) {
	var at api.Position
	if err := json.Unmarshal(m.Data, &at); err != nil || at.Primary || at.Epoch != p.epoch || at.Site != site {
		return
	}
	o.mu.Lock()
	moved := at.LSN > o.lsn
	if moved {
		o.lsn, o.moved = at.LSN, time.Now()
	}
	o.mu.Unlock()
	if moved {
		p.g.mu.Lock()
		defer p.g.mu.Unlock()
		p.g.peersAt[site] = at
	}
}

// lastHeard is how far another target was under an epoch, so that a receiver that begins again need not take it for empty.
func (g *Group) lastHeard(site domain.SiteID, epoch domain.Epoch) domain.LSN {
	g.mu.Lock()
	defer g.mu.Unlock()
	if at := g.peersAt[site]; at.Epoch == epoch {
		return at.LSN
	}
	return 0
}

func (o *peer) position() (domain.LSN, time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.lsn, o.moved
}
