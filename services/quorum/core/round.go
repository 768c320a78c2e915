package core

import (
	"slices"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// round is one broadcast and the answers that carry its nonce.
type round struct {
	nonce   uint64
	verb    Verb // probe, prepare, accept; renew and update for a holder's
	epoch   domain.Epoch
	seq     uint64
	sentAt  Instant
	asked   []VoterID
	answers []answer
	rules   []Config // every one must have its quorum
	regSeq  uint64   // the register carried, for update
}

// answer is a response and when it came.
type answer struct {
	Response
	at Instant
}

func (r *round) note(now Instant, resp Response) bool {
	if !slices.Contains(r.asked, resp.Voter) {
		return false
	}
	for i, a := range r.answers {
		if a.Voter == resp.Voter {
			if a.Verdict == OK {
				return false
			}
			r.answers[i] = answer{resp, now}
			return true
		}
	}
	r.answers = append(r.answers, answer{resp, now})
	return true
}

func (r *round) verdict(v VoterID) Verdict {
	for i := range r.answers {
		if r.answers[i].Voter == v {
			return r.answers[i].Verdict
		}
	}
	return ""
}

func (r *round) ok(v VoterID) bool { return r.verdict(v) == OK }

func (r *round) complete() bool { return len(r.answers) == len(r.asked) }

// newest is the newest register among the answers for which use is true, or the initial one.
func (r *round) newest(initial Register, use func(Response) bool) Register {
	best := initial
	for _, a := range r.answers {
		if a.Reg != nil && use(a.Response) && a.Reg.NewerThan(best) {
			best = *a.Reg
		}
	}
	return best
}

// freeAt is the earliest instant at which the free voters and those whose time has run out by then could be a quorum;
// false when even all that answered could not.
func (r *round) freeAt(cfg Config, quorum func(Config, func(VoterID) bool) bool) (Instant, bool) {
	ends := []Instant{0}
	for _, a := range r.answers {
		if a.Verdict == Busy {
			ends = append(ends, a.at.Add(a.Remaining))
		}
	}
	slices.Sort(ends)
	for _, end := range ends {
		free := func(v VoterID) bool {
			for _, a := range r.answers {
				if a.Voter == v {
					return a.Verdict == OK || a.Verdict == Busy && a.at.Add(a.Remaining) <= end
				}
			}
			return false
		}
		if quorum(cfg, free) {
			return end, true
		}
	}
	return 0, false
}

func (r *round) tally(cfg Config) Tally {
	var t Tally
	for _, id := range cfg.Voters() {
		v := Vote{Voter: id, Weight: max(cfg.Weights[id], cfg.Old[id])}
		for _, a := range r.answers {
			if a.Voter == id {
				v.Verdict, v.Holder, v.Remaining = a.Verdict, a.VHolder, a.Remaining
			}
		}
		t.Votes = append(t.Votes, v)
	}
	t.Have, t.Total = cfg.Weights.Count(r.ok)
	return t
}
