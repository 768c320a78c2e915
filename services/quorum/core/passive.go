package core

import (
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Passive is one site's client of a passive voter: storage that runs no code of ours and offers a read and a
// compare-and-swap. It answers the same requests as an active voter. One operation is under way at a time; a request
// that arrives meanwhile takes the place of one that waits. Not safe for concurrent use.
type Passive struct {
	id     VoterID
	timing Timing
	mut    Mutations

	seen    standing
	version uint64 // of cached, 0 when nothing was ever written
	cached  Record
	readAt  Instant
	fresh   bool // cached is what we last wrote or read, and no swap on it has failed

	op      uint64 // number of the operation under way, its completion must name it
	busy    bool
	started Instant
	req     *Request // being served, nil for a poll
	want    Record   // being swapped in
	reply   Response // to give when the swap succeeds
	retried bool
	queued  *Request

	nextPoll  Instant
	watchTill Instant
}

// standing is how long the owner of the record has shown no sign of life.
type standing struct {
	known  bool
	epoch  domain.Epoch
	holder domain.SiteID
	hb     uint64
	since  Instant
}

// PassiveAction is something a Passive wants done.
type PassiveAction interface{ passiveAction() }

// ReadRecord asks for the newest version and its record; complete with ReadDone.
type ReadRecord struct{ Op uint64 }

// SwapRecord asks to write Rec as version Expect+1 if and only if the newest version is Expect; complete with SwapDone.
type SwapRecord struct {
	Op     uint64
	Expect uint64
	Rec    Record
}

// PassiveReply is the answer to a request.
type PassiveReply struct{ Resp Response }

func (ReadRecord) passiveAction()   {}
func (SwapRecord) passiveAction()   {}
func (PassiveReply) passiveAction() {}

// NewPassive makes a client that has seen nothing yet.
func NewPassive(id VoterID, t Timing) *Passive { return &Passive{id: id, timing: t} }

// Request takes one request of the candidate.
func (p *Passive) Request(now Instant, req Request) []PassiveAction {
	if p.busy && now < p.started.Add(p.timing.Round) {
		p.queued = &req
		return nil
	}
	p.queued = nil
	return p.serve(now, req)
}

// NextWake is when Tick is next needed, false for never.
func (p *Passive) NextWake() (Instant, bool) {
	if p.nextPoll < p.watchTill {
		return p.nextPoll, true
	}
	return 0, false
}

// Tick reads the record while a candidate competes, so that the standing of the heartbeat is known.
func (p *Passive) Tick(now Instant) []PassiveAction {
	if now < p.nextPoll || p.nextPoll >= p.watchTill {
		return nil
	}
	p.nextPoll = now.Add(p.timing.Poll)
	if p.busy && now < p.started.Add(p.timing.Round) {
		return nil
	}
	p.req = nil
	return p.read(now)
}

func (p *Passive) begin(now Instant) uint64 {
	p.op++
	p.busy, p.started = true, now
	return p.op
}

func (p *Passive) read(now Instant) []PassiveAction {
	return []PassiveAction{ReadRecord{Op: p.begin(now)}}
}

func (p *Passive) serve(now Instant, req Request) []PassiveAction {
	p.req, p.retried = &req, false
	if req.Verb == Probe {
		p.watchTill = now.Add(2*p.timing.Renew + 2*p.timing.Poll)
	}
	if req.Verb == Probe && p.fresh && now < p.readAt.Add(2*p.timing.Poll) && p.seen.known {
		return p.decide(now) // a poll has just been; a probe decides nothing that the swap does not check again
	}
	if req.Verb != Probe && p.fresh {
		// The swap wins only if nothing changed since the cached read, so a heartbeat that stood still then stands still
		// when the swap lands.
		return p.decide(now)
	}
	return p.read(now)
}

// ReadDone completes a ReadRecord. ok is false when the read failed or timed out. version 0 with a zero record means that
// nothing was ever written. now is the time of receipt, from which the standing counts.
func (p *Passive) ReadDone(now Instant, op, version uint64, rec Record, ok bool) []PassiveAction {
	if op != p.op || !p.busy {
		return nil
	}
	p.busy = false
	if !ok {
		p.req = nil
		return p.next(now)
	}
	p.version, p.cached, p.fresh, p.readAt = version, rec, true, now
	p.observe(now, rec)
	if p.req == nil {
		return p.next(now)
	}
	return p.decide(now)
}

func (p *Passive) observe(now Instant, rec Record) {
	s := &p.seen
	if s.known && s.epoch == rec.VEpoch && s.holder == rec.VHolder && s.hb == rec.HB {
		return
	}
	*s = standing{known: true, epoch: rec.VEpoch, holder: rec.VHolder, hb: rec.HB, since: now}
}

// decide answers the request on the cached record: at once when nothing changes, else after a swap.
func (p *Passive) decide(now Instant) []PassiveAction {
	req := *p.req
	end := p.seen.since.Add(p.cached.G)
	if p.mut.NoPassiveStanding {
		end = now
	}
	v := &Voter{id: p.id, rec: p.cached, vol: Volatile{Until: end, ResUntil: end}, mut: p.mut}
	out := v.Handle(now, req)
	if out.Reply.Verdict != OK || req.Verb == Probe {
		p.req = nil
		return append([]PassiveAction{PassiveReply{out.Reply}}, p.next(now)...)
	}
	rec := v.Record()
	if req.Verb != Prepare {
		rec.HB++
	}
	p.want, p.reply = rec, out.Reply
	return []PassiveAction{SwapRecord{Op: p.begin(now), Expect: p.version, Rec: rec}}
}

// Swapped is how a swap ended.
type Swapped int

// The outcomes of a swap. Unknown covers errors and time-outs: it may still land.
const (
	SwapUnknown Swapped = iota
	SwapWon
	SwapLost
)

// SwapDone completes a SwapRecord.
func (p *Passive) SwapDone(now Instant, op uint64, how Swapped) []PassiveAction {
	if op != p.op || !p.busy {
		if how != SwapWon {
			p.fresh = false
		}
		return nil
	}
	p.busy = false
	switch how {
	case SwapWon:
		p.version++
		p.cached = p.want
		p.observe(now, p.want)
		p.req = nil
		return append([]PassiveAction{PassiveReply{p.reply}}, p.next(now)...)
	case SwapLost:
		p.fresh = false
		if !p.retried {
			p.retried = true
			return p.read(now)
		}
	case SwapUnknown:
		p.fresh = false
	}
	p.req = nil
	return p.next(now)
}

func (p *Passive) next(now Instant) []PassiveAction {
	if p.queued == nil {
		return nil
	}
	req := *p.queued
	p.queued = nil
	return p.serve(now, req)
}

// Standing is for how long the record's owner has shown no sign of life, as far as this client knows.
func (p *Passive) Standing(now Instant) time.Duration {
	if !p.seen.known {
		return 0
	}
	return now.Sub(p.seen.since)
}
