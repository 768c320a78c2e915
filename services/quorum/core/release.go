package core

import (
	"slices"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// release repeats a Release to the voters that have not answered, for as long as their grants may last.
type release struct {
	nonce uint64
	epoch domain.Epoch
	seq   uint64
	succ  domain.SiteID
	left  []VoterID
	gone  []VoterID // have given the vote back
	cfg   Config
	told  bool // Vacated was emitted
	next  Instant
	until Instant
}

// Release gives the lease up, reserved for the successor ("" for anybody). The caller has stopped everything that serves
// under the lease, or seen its deadline pass: from here another site may be granted the next epoch.
func (c *Candidate) Release(now Instant, successor domain.SiteID) []Action {
	out := c.expire(now)
	if c.state != holding {
		return append(out, Refused{NotHolder})
	}
	h := c.held
	c.nonce++
	c.parting = &release{nonce: c.nonce, epoch: h.epoch, seq: h.seq + 1, succ: successor,
		cfg: h.committed.Config, next: now, until: h.deadline}
	c.parting.left = append(h.reg.Config.Voters(), h.committed.Config.Voters()...)
	slices.Sort(c.parting.left)
	c.parting.left = slices.Compact(c.parting.left)
	c.held, c.campaign, c.state = holder{}, nil, idle
	out = append(out, Released{Epoch: h.epoch, Successor: successor})
	out = append(out, c.enter(Idle)...)
	return append(out, c.repeatRelease(now)...)
}

func (c *Candidate) repeatRelease(now Instant) []Action {
	p := c.parting
	if p == nil || now < p.next {
		return nil
	}
	if now >= p.until || len(p.left) == 0 {
		c.parting = nil
		return nil
	}
	p.next = now.Add(c.p.Timing.Retry)
	out := make([]Action, 0, len(p.left))
	for _, id := range p.left {
		out = append(out, Send{To: id, Req: Request{Verb: Release, From: c.p.Self, Epoch: p.epoch, Seq: p.seq,
			Nonce: p.nonce, Successor: p.succ, SentAt: now}})
	}
	return out
}

// releaseAnswered notes an answer to a Release.
func (c *Candidate) releaseAnswered(resp Response) []Action {
	p := c.parting
	if p == nil || resp.Nonce != p.nonce || !slices.Contains(p.left, resp.Voter) {
		return nil
	}
	p.left = slices.DeleteFunc(p.left, func(id VoterID) bool { return id == resp.Voter })
	if resp.Verdict == OK {
		p.gone = append(p.gone, resp.Voter)
	}
	if len(p.left) == 0 {
		c.parting = nil
	}
	if p.told || !p.cfg.Quorum(func(id VoterID) bool { return slices.Contains(p.gone, id) }) {
		return nil
	}
	p.told = true
	return []Action{Vacated{Epoch: p.epoch, Successor: p.succ}}
}
