package sim

import (
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// ledger is what an all-seeing observer knows. No part of the modelled system reads it.
type ledger struct {
	state        []writeState // by id
	acked        []int32
	highest      domain.Epoch    // granted
	begun        domain.Epoch    // highest that began to serve
	begunAt      [3]domain.Epoch // by site
	atBegin      []bool          // by id: in the log with which `begun` began
	lossAccepted bool            // an operator gave consent: D1 is off
	grants       int
	begins       int
	lastBegin    time.Duration
}

type writeState uint8

const (
	open writeState = iota
	done
)

func (l *ledger) newWrite() int32 {
	l.state = append(l.state, open)
	return int32(len(l.state) - 1)
}

func (l *ledger) epochGranted(w *world, s *siteNode, e domain.Epoch) {
	l.grants++
	if e <= l.highest {
		w.violate("epoch %s granted to %s after %s", e, s.id, l.highest)
	}
	l.highest = max(l.highest, e)
}

// epochBegun checks D1: the log holds every acknowledged write.
func (l *ledger) epochBegun(w *world, p *plane) {
	l.begins++
	l.lastBegin = w.now
	if p.serving < l.begun {
		w.violate("%s began %s after %s began elsewhere", p.s.id, p.serving, l.begun)
		return
	}
	has := make([]bool, len(l.state))
	for _, id := range p.log {
		has[id] = true
	}
	l.begun, l.atBegin = p.serving, has
	l.begunAt[p.s.index] = p.serving
	if l.lossAccepted {
		return
	}
	for _, id := range l.acked {
		if !has[id] {
			w.violate("D1: %s began %s without write %d, which was acknowledged", p.s.id, p.serving, id)
			return
		}
	}
}

func (l *ledger) acknowledged(w *world, p *plane, id int32) {
	if l.state[id] == done {
		return
	}
	l.state[id] = done
	l.acked = append(l.acked, id)
	if p.serving < l.begun && !l.lossAccepted && (int(id) >= len(l.atBegin) || !l.atBegin[id]) {
		w.violate("D1: %s acknowledged write %d under %s, but %s had begun without it", p.s.id, id, p.serving, l.begun)
	}
}

// checkGates asserts M for those who serve.
func (w *world) checkGates(p *plane) {
	if !p.open() {
		return
	}
	for _, o := range w.sites {
		if o.plane != p && o.plane.open() {
			w.violate("M: %s serves %s while %s serves %s", p.s.id, p.serving, o.id, o.plane.serving)
		}
	}
}

// checkLeases asserts M for those who hold.
func (w *world) checkLeases(s *siteNode) {
	mine, ok := s.c.Lease(s.q.local())
	if !ok {
		return
	}
	for _, o := range w.sites {
		if o == s || !o.q.up {
			continue
		}
		if l, held := o.c.Lease(o.q.local()); held {
			w.violate("M: %s holds %s while %s holds %s", s.id, mine.Epoch, o.id, l.Epoch)
		}
	}
}
