package sim

import (
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
)

// tend looks after one replica: attach it, drop it from the in-sync set when it lags, take it in when it has caught up.
func (p *plane) tend(i int, now core.Instant) {
	w, q := p.s.w, &p.peers[i]
	if q.attached && q.pos >= len(p.log) {
		q.moved = now
	}
	g, quiet := w.cfg.timing.G, now.Sub(q.moved)
	if q.session == 0 || quiet > g/6 && now.Sub(q.tried) > g/6 {
		q.tried = now
		p.attach(w.sites[i])
	}
	if quiet > g/3 {
		p.lagging(i)
		return
	}
	target := p.target()
	switch {
	case target.has(i) || !q.attached:
	case !p.growing.has(i):
		p.growing = p.growing.with(i)
		if w.mut.GrowTooEarly {
			p.request(target.with(i), i)
		}
	case q.pos >= p.settled && len(p.asked) == 0:
		p.request(target.with(i), i)
	}
}

// target is the in-sync set last asked for, or committed when nothing is under way.
func (p *plane) target() siteSet {
	if n := len(p.asked); n > 0 {
		return p.asked[n-1].set
	}
	return p.inSync
}

// lagging takes a replica out of the set that is asked for. It is waited for until that is committed.
func (p *plane) lagging(i int) {
	p.growing = p.growing.without(i)
	if target := p.target(); target.has(i) && p.s.w.cfg.degrade {
		p.request(target.without(i), -1)
	}
}

func (p *plane) request(set siteSet, joining int) {
	p.counter++
	p.asked = append(p.asked, ask{set, p.counter})
	p.s.w.logf("%s asks for in sync %b (%d), joining %d", p.s.id, set, p.counter, joining)
	p.propose(p.asked[len(p.asked)-1])
}

func (p *plane) propose(a ask) {
	s, w, epoch := p.s, p.s.w, p.serving
	p.nextAsk = p.m.local().Add(w.cfg.timing.G / 8)
	names := w.names(a.set)
	w.transit(s.index, s.index, func() {
		s.q.deliver(func() { s.do(s.c.ProposeInSync(s.q.local(), epoch, names, a.counter)) })
	})
}

// committed is the quorum's word that a set is durable at a majority.
func (p *plane) committed(e domain.Epoch, set siteSet, counter uint64) {
	if e != p.serving || len(p.asked) == 0 || counter < p.asked[0].counter {
		return
	}
	p.inSync = set
	for len(p.asked) > 0 && p.asked[0].counter <= counter {
		p.asked = p.asked[1:]
	}
	p.growing &^= set
	p.acknowledge()
}
