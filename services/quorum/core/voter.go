package core

import (
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Voter is an active voter for one (cluster, group).
type Voter struct {
	id  VoterID
	rec Record
	vol Volatile
	mut Mutations
}

// NewVoter makes a voter from what its storage held. vol is the mirrored volatile state after a restart in the same
// boot, Rebooted(rec) after a reboot, Unknown(rec, now) when the mirror is missing.
func NewVoter(id VoterID, rec Record, vol Volatile) *Voter {
	return &Voter{id: id, rec: rec, vol: vol}
}

// Record is the voter's durable state.
func (v *Voter) Record() Record { return v.rec }

// Volatile is the voter's volatile state, to be mirrored.
func (v *Voter) Volatile() Volatile { return v.vol }

// Outcome is what a request did. The reply may leave only after the record (when Persist) and the mirror (when Mirror)
// are stored, and after every earlier outcome of the same voter has been. If storing fails the voter must be thrown
// away: what is on disk is not known.
type Outcome struct {
	Reply   Response
	Persist bool
	Mirror  bool
}

// Handle answers one request that was received at now.
func (v *Voter) Handle(now Instant, req Request) Outcome {
	var out Outcome
	switch req.Verb {
	case Probe:
		out = v.probe(now, req)
	case Prepare:
		out = v.prepare(now, req)
	case Accept:
		out = v.accept(now, req)
	case Renew:
		out = v.renew(now, req)
	case Update:
		out = v.update(now, req)
	case Release:
		out = v.release(now, req)
	default:
		out = v.answer(Rejected)
	}
	r := &out.Reply
	r.Verb, r.Nonce, r.SentAt = req.Verb, req.Nonce, req.SentAt
	return out
}

func (v *Voter) answer(verdict Verdict) Outcome {
	return Outcome{Reply: Response{
		Voter: v.id, Verdict: verdict,
		Promised: v.rec.Promised, VEpoch: v.rec.VEpoch, VHolder: v.rec.VHolder,
	}}
}

// busy is the time for which the vote is another's.
func (v *Voter) busy(now Instant, c domain.SiteID) time.Duration {
	switch {
	case v.rec.VHolder != "" && v.rec.VHolder != c:
		return max(0, v.vol.Until.Sub(now))
	case v.rec.VHolder == "" && v.rec.ReservedFor != "" && v.rec.ReservedFor != c:
		return max(0, v.vol.ResUntil.Sub(now))
	}
	return 0
}

func (v *Voter) withRegister(out Outcome) Outcome {
	reg := v.rec.Reg
	out.Reply.Reg = &reg
	return out
}

func (v *Voter) probe(now Instant, req Request) Outcome {
	left := v.busy(now, req.From)
	if left > 0 {
		out := v.withRegister(v.answer(Busy))
		out.Reply.Remaining = left
		return out
	}
	return v.withRegister(v.answer(OK))
}

func (v *Voter) prepare(now Instant, req Request) Outcome {
	if req.Epoch <= v.rec.Promised {
		return v.withRegister(v.answer(Rejected))
	}
	if left := v.busy(now, req.From); left > 0 {
		out := v.withRegister(v.answer(Busy))
		out.Reply.Remaining = left
		return out
	}
	if !v.mut.PromiseForgotten {
		v.rec.Promised = req.Epoch
	}
	out := v.withRegister(v.answer(OK))
	out.Persist = true
	return out
}

func (v *Voter) accept(now Instant, req Request) Outcome {
	if req.Epoch < v.rec.Promised || req.Reg == nil || req.G <= 0 || req.From == "" {
		return v.answer(Rejected)
	}
	if req.Epoch == v.rec.VEpoch && v.seen(req) {
		// A repetition: what it asked for was done then, and may have been released since.
		return v.repeated(req)
	}
	v.rec.Promised, v.rec.VEpoch = req.Epoch, req.Epoch
	v.rec.VHolder, v.rec.ReservedFor, v.rec.G = req.From, "", req.G
	v.adopt(*req.Reg)
	v.extend(now, req)
	out := v.answer(OK)
	out.Persist, out.Mirror = true, true
	return out
}

func (v *Voter) adopt(reg Register) {
	if reg.NewerThan(v.rec.Reg) {
		v.rec.Reg = reg
	}
}

// holds is the guard of Renew and Update: the vote is the asker's, and nobody was promised a higher epoch.
func (v *Voter) holds(req Request) bool {
	return v.rec.VEpoch == req.Epoch && v.rec.Promised == req.Epoch && v.rec.VHolder == req.From && req.From != ""
}

func (v *Voter) renew(now Instant, req Request) Outcome {
	if !v.holds(req) {
		return v.answer(Rejected)
	}
	v.extend(now, req)
	out := v.answer(OK)
	out.Mirror = true
	return out
}

func (v *Voter) update(now Instant, req Request) Outcome {
	if !v.holds(req) || req.Reg == nil {
		return v.answer(Rejected)
	}
	v.adopt(*req.Reg)
	if !v.mut.UpdateIsNoGrant {
		v.extend(now, req)
	}
	out := v.answer(OK)
	out.Persist, out.Mirror = true, true
	return out
}

func (v *Voter) release(now Instant, req Request) Outcome {
	if v.rec.VEpoch != req.Epoch || v.rec.VHolder != req.From || req.From == "" {
		return v.answer(Rejected)
	}
	v.rec.VHolder, v.rec.ReservedFor = "", req.Successor
	v.vol.ResUntil = now.Add(v.rec.G)
	v.noteSeq(req)
	out := v.answer(OK)
	out.Persist, out.Mirror = true, true
	return out
}

func (v *Voter) seen(req Request) bool {
	return v.vol.SeqEpoch == req.Epoch && req.Seq <= v.vol.SeqMax
}

func (v *Voter) repeated(req Request) Outcome {
	if !v.holds(req) {
		return v.answer(Rejected)
	}
	return v.answer(OK)
}

func (v *Voter) noteSeq(req Request) bool {
	if v.seen(req) {
		return false
	}
	v.vol.SeqEpoch, v.vol.SeqMax = req.Epoch, req.Seq
	return true
}

// extend lengthens the grant once for each sequence number, so that a repeated or buffered renewal adds nothing.
func (v *Voter) extend(now Instant, req Request) {
	if !v.noteSeq(req) {
		return
	}
	if end := now.Add(v.rec.G); end > v.vol.Until {
		v.vol.Until = end
	}
}
