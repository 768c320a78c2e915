package sim

import (
	"math/bits"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
)

// siteSet is a set of data sites by index.
type siteSet uint8

func (s siteSet) has(i int) bool        { return s&(1<<i) != 0 }
func (s siteSet) with(i int) siteSet    { return s | 1<<i }
func (s siteSet) without(i int) siteSet { return s &^ (1 << i) }
func (w *world) mask(ids []domain.SiteID) siteSet {
	var out siteSet
	for _, id := range ids {
		if i := w.siteIndex(id); i >= 0 {
			out = out.with(i)
		}
	}
	return out
}

func (w *world) names(s siteSet) []domain.SiteID {
	out := make([]domain.SiteID, 0, bits.OnesCount8(uint8(s)))
	for _, n := range w.sites {
		if s.has(n.index) {
			out = append(out, n.id)
		}
	}
	return out
}

// plane is a site's data plane: one ordered log, written when the gate is open and copied to the others.
type plane struct {
	s *siteNode
	m *machine

	// On disk.
	log      []int32      // ids of writes, in order
	fence    domain.Epoch // no lower epoch lands here
	source   stream       // the stream this log follows
	sessions uint64
	stoppedE domain.Epoch // given up by a planned move

	// In memory.
	serving  domain.Epoch
	deadline core.Instant
	settled  int // writes before this index need no acknowledgement any more
	inSync   siteSet
	asked    []ask
	counter  uint64
	growing  siteSet
	peers    [3]peer
	nextPull core.Instant
	nextAsk  core.Instant
	ticks    uint64
}

// stream names one attachment of a replica to a primary.
type stream struct {
	epoch   domain.Epoch
	session uint64
}

func (a stream) newer(b stream) bool {
	return a.epoch > b.epoch || a.epoch == b.epoch && a.session > b.session
}

type ask struct {
	set     siteSet
	counter uint64
}

// peer is what a serving plane knows of a replica.
type peer struct {
	session  uint64
	attached bool
	pos      int
	moved    core.Instant // when pos last grew, or nothing was owed
	tried    core.Instant // when it was last attached
}

func newPlane(s *siteNode) *plane {
	return &plane{s: s, m: s.w.addMachine("data-"+string(s.id), s.index)}
}

// start begins a new process: it serves nothing.
func (p *plane) start() {
	p.serving, p.deadline, p.settled, p.nextPull = 0, 0, 0, 0
	p.ticks++
	mine := p.ticks
	var tick func()
	tick = func() {
		if p.ticks == mine {
			p.tick()
			p.m.after(p.s.w.cfg.writeGap, tick)
		}
	}
	p.m.after(p.s.w.between(0, p.s.w.cfg.writeGap), tick)
}

// open reports whether the gate lets an acknowledgement out now.
func (p *plane) open() bool {
	return p.m.up && p.serving != 0 && (p.s.w.mut.ServeAfterExpiry || p.m.local() < p.deadline)
}

func (p *plane) tick() {
	now := p.m.local()
	if now >= p.nextPull {
		p.pull()
	}
	if p.serving == 0 || !p.open() {
		return
	}
	p.write()
	for _, o := range p.s.w.sites {
		if o != p.s {
			p.tend(o.index, now)
		}
	}
	if len(p.asked) > 0 && now >= p.nextAsk {
		p.propose(p.asked[len(p.asked)-1])
	}
}

// pull asks the site's quorum for what is left of the lease, counted from here and now.
func (p *plane) pull() {
	s, w := p.s, p.s.w
	sent := p.m.local()
	p.nextPull = sent.Add(w.cfg.timing.G / 12)
	proc := p.m.proc
	w.transit(s.index, s.index, func() {
		s.q.deliver(func() {
			now := s.q.local()
			s.do(s.c.Tick(now))
			l, ok := s.c.Lease(now)
			if !ok {
				return
			}
			left := l.Deadline.Sub(now)
			w.transit(s.index, s.index, func() {
				p.m.deliver(func() {
					if p.m.proc == proc {
						p.leased(sent, left, l)
					}
				})
			})
		})
	})
}

func (p *plane) leased(sent core.Instant, left time.Duration, l core.Lease) {
	eps := p.s.w.cfg.timing.Epsilon
	deadline := sent.Add(time.Duration(float64(left) * (1 - eps) / (1 + eps)))
	if l.Epoch <= p.stoppedE || l.Epoch < p.fence || l.Epoch < p.serving || p.m.local() >= deadline {
		return
	}
	if l.Epoch != p.serving {
		p.deadline = deadline
		p.begin(l)
		return
	}
	if deadline > p.deadline {
		p.deadline = deadline
		p.s.w.checkGates(p)
	}
}

// begin raises the fence and serves the epoch.
func (p *plane) begin(l core.Lease) {
	w := p.s.w
	if !w.mut.NoFence {
		p.fence = l.Epoch
	}
	p.serving, p.settled = l.Epoch, len(p.log)
	p.inSync, p.asked, p.counter, p.growing = w.mask(l.Reg.InSync), nil, l.Pending.Counter, 0
	if !l.Committed {
		p.asked = append(p.asked, ask{w.mask(l.WaitFor), l.Pending.Counter}, ask{w.mask(l.Pending.InSync), l.Pending.Counter})
	}
	p.peers = [3]peer{}
	for i := range p.peers {
		p.peers[i].moved = p.m.local()
	}
	w.logf("%s SERVES %s, log %d, in sync %b", p.s.id, l.Epoch, len(p.log), p.inSync)
	w.ledger.epochBegun(w, p)
	w.checkGates(p)
}

// stop is the order before a planned move. It ends older epochs too: the data plane may not have heard yet that its own
// site's quorum was restarted and holds a newer one.
func (p *plane) stop(e domain.Epoch) {
	if e < p.stoppedE {
		return
	}
	p.stoppedE = e
	if p.serving <= e {
		p.serving = 0
	}
	p.s.w.logf("%s data plane stopped %s", p.s.id, e)
	p.s.w.transit(p.s.index, p.s.index, func() { p.s.q.deliver(func() { p.s.stopped(e) }) })
}

// waitFor is everyone whose confirmation a write needs.
func (p *plane) waitFor() siteSet {
	out := p.inSync
	if !p.s.w.mut.GrowWaitsLate {
		out |= p.growing
		for _, a := range p.asked {
			out |= a.set
		}
	}
	if p.s.w.mut.UncommittedShrink && len(p.asked) > 0 {
		out = p.asked[len(p.asked)-1].set
	}
	return out.without(p.s.index)
}

func (p *plane) write() {
	w := p.s.w
	if len(p.log)-p.settled >= 8 {
		return
	}
	id := w.ledger.newWrite()
	p.log = append(p.log, id)
	i := len(p.log) - 1
	for _, o := range w.sites {
		if q := &p.peers[o.index]; o != p.s && q.attached {
			p.ship(o, i, stream{p.serving, q.session})
		}
	}
	p.acknowledge()
}

func (p *plane) ship(o *siteNode, i int, st stream) {
	id := p.log[i]
	p.s.w.transit(p.s.index, o.index, func() { o.plane.m.deliver(func() { o.plane.append(p, st, i, id) }) })
}

// acknowledge completes, in order, the writes that everyone waited for holds. The gate is looked at for each.
func (p *plane) acknowledge() {
	wait := p.waitFor()
	for p.settled < len(p.log) {
		for i := range p.peers {
			if wait.has(i) && (!p.peers[i].attached || p.peers[i].pos <= p.settled) {
				return
			}
		}
		if !p.open() {
			return
		}
		p.s.w.ledger.acknowledged(p.s.w, p, p.log[p.settled])
		p.settled++
	}
}

// append is a replica's side of ship.
func (p *plane) append(from *plane, st stream, i int, id int32) {
	if !p.admits(st) || st != p.source {
		return
	}
	if i > len(p.log) {
		return // a gap; the primary attaches again
	}
	if i == len(p.log) {
		p.landed(st)
		p.log = append(p.log, id)
	}
	p.report(from, st)
}

func (p *plane) admits(st stream) bool { return p.s.w.mut.NoFence || st.epoch >= p.fence }

func (p *plane) report(to *plane, st stream) {
	pos := len(p.log)
	p.s.w.transit(p.s.index, to.s.index, func() {
		to.m.deliver(func() { to.confirmed(p.s.index, st, pos) })
	})
}

// attach offers the whole log to a replica and makes it follow a new stream.
func (p *plane) attach(o *siteNode) {
	p.sessions++
	q := &p.peers[o.index]
	q.session, q.attached, q.pos = p.sessions, false, 0
	st, log := stream{p.serving, p.sessions}, p.log[:len(p.log):len(p.log)]
	p.s.w.transit(p.s.index, o.index, func() { o.plane.m.deliver(func() { o.plane.follow(p, st, log) }) })
}

// follow is a replica's side of attach: what diverged is put aside.
func (p *plane) follow(from *plane, st stream, log []int32) {
	if !p.admits(st) {
		return
	}
	if st != p.source {
		if !st.newer(p.source) && !p.s.w.mut.NoFence {
			return
		}
		p.landed(st)
		p.source, p.log = st, log
		if !p.s.w.mut.NoFence {
			p.fence = max(p.fence, st.epoch)
			if p.serving != 0 && p.serving < st.epoch {
				p.serving = 0
			}
		}
	}
	p.report(from, st)
}

// landed asserts that nothing of an older epoch lands where a newer one began.
func (p *plane) landed(st stream) {
	if begun := p.s.w.ledger.begunAt[p.s.index]; st.epoch < begun {
		p.s.w.violate("a write of epoch %s landed at %s, which began %s", st.epoch, p.s.id, begun)
	}
}

// confirmed is a replica's word of how far it is.
func (p *plane) confirmed(i int, st stream, pos int) {
	q := &p.peers[i]
	if p.serving == 0 || st.epoch != p.serving || st.session != q.session {
		return
	}
	if !q.attached {
		q.attached, q.pos, q.moved = true, 0, p.m.local()
		for j := pos; j < len(p.log); j++ {
			p.ship(p.s.w.sites[i], j, st)
		}
	}
	if pos > q.pos {
		q.pos, q.moved = pos, p.m.local()
	}
	p.acknowledge()
}
