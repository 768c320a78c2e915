package quorum

import (
	"errors"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
	"github.com/holdfast-dr/holdfast/services/quorum/planner"
	"github.com/holdfast-dr/holdfast/services/quorum/sharevoter"
)

// share is a group's client of a passive voter on a share. A share may block for as long as it likes: its operations run
// in the background, a few at most, and the core gives an operation up after a round's time.
type share struct {
	g     *group
	voter Voter
	p     *core.Passive
	slots chan struct{}
}

const shareOperations = 4

func newShare(g *group, v Voter) *share {
	return &share{g: g, voter: v, p: core.NewPassive(v.ID, g.s.cfg.Timing), slots: make(chan struct{}, shareOperations)}
}

func (sh *share) do(actions []core.PassiveAction) {
	for _, a := range actions {
		switch a := a.(type) {
		case core.ReadRecord:
			sh.background(func(chain *sharevoter.Chain, err error) func() {
				var version uint64
				var rec core.Record
				if err == nil {
					version, rec, err = chain.Read()
				}
				sh.note(err)
				return func() { sh.do(sh.p.ReadDone(sh.g.s.instant(), a.Op, version, rec, err == nil)) }
			})
		case core.SwapRecord:
			sh.background(func(chain *sharevoter.Chain, err error) func() {
				how := core.SwapUnknown
				if err == nil {
					how, err = chain.Swap(a.Expect, a.Rec)
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
func (sh *share) background(f func(*sharevoter.Chain, error) func()) {
	select {
	case sh.slots <- struct{}{}:
	default:
		return // the share hangs; the core gives the operation up and asks again
	}
	s := sh.g.s
	s.shareWork.Go(func() {
		defer func() { <-sh.slots }()
		began := s.now()
		chain, err := sharevoter.Open(sh.voter.Path, s.cfg.Cluster, sh.g.id)
		done := f(chain, err)
		if s.peers[sh.voter.ID].trouble.Load() == nil {
			s.peers[sh.voter.ID].trips.note(time.Duration(s.now() - began))
		}
		sh.g.post(done)
	})
}

// probeShares finds out once whether each share's storage swaps as it must. A share that cannot be reached is not probed.
func (s *service) probeShares() {
	for _, v := range s.cfg.Voters {
		if v.Kind != core.KindShare || v.Path == "" {
			continue
		}
		s.shareWork.Go(func() {
			found := planner.ConformanceOK
			switch err := sharevoter.Conform(v.Path, s.cfg.Cluster); {
			case errors.Is(err, domain.ErrUnavailable):
				s.log.Warn("share voter not probed", "voter", string(v.ID), "error", err)
				return
			case err != nil:
				found = err.Error()
			}
			s.peers[v.ID].conform.Store(&found)
			s.replan()
		})
	}
}

func (sh *share) note(err error) {
	if sh.g.s.peers[sh.voter.ID].note(err) {
		sh.g.s.replan()
	}
	if err != nil {
		sh.g.s.log.Debug("share voter failed", "voter", string(sh.voter.ID), "group", string(sh.g.id), "error", err)
	}
}
