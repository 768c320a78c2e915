package quorum

import (
	"errors"
	"path/filepath"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/initiator"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
	"github.com/holdfast-dr/holdfast/services/quorum/diskvoter"
	"github.com/holdfast-dr/holdfast/services/quorum/planner"
	"github.com/holdfast-dr/holdfast/services/quorum/sharevoter"
)

// passive is a group's client of a passive voter, a share or a disk. What keeps its record may block for as long as it likes: its
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
	if v.Kind == core.KindDisk {
		p.open = func() (records, error) { return g.s.disks[v.ID].Slot(g.s.cfg.Cluster, g.id) }
	} else {
		p.open = func() (records, error) { return sharevoter.Open(v.Path, g.s.cfg.Cluster, g.id) }
	}
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

// openDisks makes this site's clients of the voting disks. Nothing is connected yet.
func (s *service) openDisks() {
	s.disks = map[core.VoterID]*diskvoter.Disk{}
	wait := s.cfg.Timing.Round
	for _, v := range s.cfg.Voters {
		if v.Kind == core.KindDisk && v.Path != "" {
			s.disks[v.ID] = diskvoter.New(s.ctx, v.Path, filepath.Join(s.cfg.Dir, "lun-"+string(v.ID)), initiator.Options{Timeout: 2 * wait, LoginTimeout: 2 * wait, Silence: wait}, 2*wait)
		}
	}
}

// probePassive finds out once whether the storage of each passive voter swaps as it must. What cannot be reached is not probed.
func (s *service) probePassive() {
	for _, v := range s.cfg.Voters {
		if !v.Kind.Passive() || v.Path == "" {
			continue
		}
		s.passiveWork.Go(func() {
			found, err := planner.ConformanceOK, error(nil)
			if v.Kind == core.KindDisk {
				err = s.disks[v.ID].Conform()
			} else {
				err = sharevoter.Conform(v.Path, s.cfg.Cluster)
			}
			switch {
			case errors.Is(err, domain.ErrUnavailable):
				s.log.Warn("passive voter not probed", "voter", string(v.ID), "error", err)
				return
			case err != nil:
				found = err.Error()
			}
			s.peers[v.ID].conform.Store(&found)
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
