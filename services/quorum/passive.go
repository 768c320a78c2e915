package quorum

import (
	"errors"
	"path/filepath"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/initiator"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
	"github.com/holdfast-dr/holdfast/services/quorum/diskvoter"
	"github.com/holdfast-dr/holdfast/services/quorum/objectvoter"
	"github.com/holdfast-dr/holdfast/services/quorum/planner"
	"github.com/holdfast-dr/holdfast/services/quorum/sharevoter"
)

// passive is a group's client of a passive voter. What keeps its record may block for as long as it likes: its
// operations run in the background, a few at most, and the core gives an operation up after a round's time.
type passive struct {
	g     *group
	voter Voter
	p     *core.Passive
	open  func() (records, error)
	slots chan struct{}
}

// records is where a passive voter keeps a group's record.
type records interface {
	// Read is the newest version and its record; version 0 and a zero record when nothing was ever written.
	Read() (uint64, core.Record, error)
	// Swap writes rec as version expect+1 if the newest is expect. An error comes with core.SwapUnknown.
	Swap(expect uint64, rec core.Record) (core.Swapped, error)
}

const passiveOperations = 4

func newPassive(g *group, v Voter) *passive {
	p := &passive{g: g, voter: v, p: core.NewPassive(v.ID, g.s.cfg.Timing), slots: make(chan struct{}, passiveOperations)}
	p.open = func() (records, error) { return g.s.stores[v.ID].open(g.id) }
	return p
}

func (sh *passive) do(actions []core.PassiveAction) {
	for _, a := range actions {
		switch a := a.(type) {
		case core.ReadRecord:
			sh.background(func(r records, err error) func() {
				var version uint64
				var rec core.Record
				if err == nil {
					version, rec, err = r.Read()
				}
				sh.note(err)
				return func() { sh.do(sh.p.ReadDone(sh.g.s.instant(), a.Op, version, rec, err == nil)) }
			})
		case core.SwapRecord:
			sh.background(func(r records, err error) func() {
				how := core.SwapUnknown
				if err == nil {
					how, err = r.Swap(a.Expect, a.Rec)
				}
				sh.note(err)
				return func() { sh.do(sh.p.SwapDone(sh.g.s.instant(), a.Op, how)) }
			})
		case core.PassiveReply:
			sh.g.do(sh.g.c.Receive(sh.g.s.instant(), a.Resp))
		}
	}
}

// background runs f away from the loop and what it returns on the loop.
func (sh *passive) background(f func(records, error) func()) {
	select {
	case sh.slots <- struct{}{}:
	default:
		return // the storage hangs; the core gives the operation up and asks again
	}
	s := sh.g.s
	s.passiveWork.Go(func() {
		defer func() { <-sh.slots }()
		began := s.now()
		r, err := sh.open()
		done := f(r, err)
		if s.peers[sh.voter.ID].trouble.Load() == nil {
			s.peers[sh.voter.ID].trips.note(time.Duration(s.now() - began))
		}
		sh.g.post(done)
	})
}

// store is a passive voter's storage as this site reaches it.
type store struct {
	open func(domain.GroupID) (records, error)
	// conform finds out whether the storage swaps as it must; domain.ErrUnavailable where it cannot be tried.
	conform func() error
}

// openStores makes this site's clients of the passive voters; a witness site has none. Nothing is connected yet. An error is a
// configuration that cannot be.
func (s *service) openStores() error {
	s.disks, s.stores = map[core.VoterID]*diskvoter.Disk{}, map[core.VoterID]store{}
	cluster, wait := s.cfg.Cluster, s.cfg.Timing.Round
	for _, v := range s.cfg.Voters {
		switch {
		case v.Kind == core.KindDisk && v.Path != "":
			d := diskvoter.New(s.ctx, v.Path, filepath.Join(s.cfg.Dir, "lun-"+string(v.ID)), initiator.Options{Timeout: 2 * wait, LoginTimeout: 2 * wait, Silence: wait}, 2*wait)
			s.disks[v.ID] = d
			s.stores[v.ID] = store{conform: d.Conform, open: func(id domain.GroupID) (records, error) { return d.Slot(cluster, id) }}
		case v.Kind == core.KindShare && v.Path != "":
			share := sharevoter.Share{Dir: v.Path, Local: v.Local}
			s.stores[v.ID] = store{conform: func() error { return share.Conform(cluster) }, open: func(id domain.GroupID) (records, error) { return share.Open(cluster, id) }}
		case v.Kind == core.KindObject && v.Object.Endpoint != "":
			b, err := objectvoter.New(s.ctx, v.Object, 2*wait)
			if err != nil {
				return err
			}
			s.stores[v.ID] = store{conform: b.Conform, open: func(id domain.GroupID) (records, error) { return b.Object(cluster, id) }}
		}
	}
	return nil
}

// probePassive finds out whether the storage of each passive voter swaps as it must, of those where that is not known yet. What cannot be
// reached is tried again with the planner's next look.
func (s *service) probePassive() {
	for _, v := range s.cfg.Voters {
		st, ok := s.stores[v.ID]
		p := s.peers[v.ID]
		if !ok || p.conform.Load() != nil || !p.probing.CompareAndSwap(false, true) {
			continue
		}
		s.passiveWork.Go(func() {
			defer p.probing.Store(false)
			found, err := planner.ConformanceOK, st.conform()
			switch {
			case errors.Is(err, domain.ErrUnavailable):
				s.log.Warn("passive voter not probed", "voter", string(v.ID), "error", err)
				return
			case err != nil:
				found = err.Error()
			}
			p.conform.Store(&found)
			s.replan()
		})
	}
}

func (sh *passive) note(err error) {
	if sh.g.s.peers[sh.voter.ID].note(err, sh.g.s.instant()) {
		sh.g.s.replan()
	}
	if err != nil {
		sh.g.s.log.Debug("passive voter failed", "voter", string(sh.voter.ID), "group", string(sh.g.id), "error", err)
	}
}
