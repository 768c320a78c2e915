package core

import (
	"slices"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// holder is the state of an epoch that is held.
type holder struct {
	epoch     domain.Epoch
	deadline  Instant
	seq       uint64          // of the last round
	reg       Register        // proposed last
	committed Register        // durable at a quorum
	waitFor   []domain.SiteID // sites of the committed in-sync set and of every set proposed since
	rounds    []*round        // the newest last; late acknowledgements of the older ones still count, for their own send times
	next      Instant         // when the next round is due
	adopted   []VoterID       // have voted for the epoch, also outside its configuration
}

// keptRounds bounds the memory of rounds: with the default timing they span more than H.
const keptRounds = 6

// Lease is what the site holds: valid strictly before Deadline.
type Lease struct {
	Epoch     domain.Epoch
	Deadline  Instant
	Reg       Register // committed
	Pending   Register // proposed; equal to Reg when nothing is under way
	Committed bool     // Pending equals Reg
	// WaitFor are the sites a synchronous write must wait for: those of the committed in-sync set and of every set
	// proposed since. A voter may hold any of them, and the next holder may find it.
	WaitFor []domain.SiteID
}

// Lease is the lease at now, false when none is held or its time is over.
func (c *Candidate) Lease(now Instant) (Lease, bool) {
	if c.state != holding || now >= c.held.deadline {
		return Lease{}, false
	}
	h := &c.held
	return Lease{Epoch: h.epoch, Deadline: h.deadline, Reg: h.committed, Pending: h.reg,
		Committed: h.reg.Seq == h.committed.Seq, WaitFor: h.waitFor}, true
}

// deadline is the end of the lease that a round with quorum gives.
func (c *Candidate) deadline(now Instant, r *round) Instant {
	from := r.sentAt
	hold := c.p.Timing.Hold()
	if c.mut.LeaseFromReceipt {
		from = now
	}
	if c.mut.NoDriftMargin {
		hold = c.p.Timing.G
	}
	return from.Add(hold)
}

// expire drops the epoch once its time is over. It runs before anything else is looked at, so that no acknowledgement
// can revive it.
func (c *Candidate) expire(now Instant) []Action {
	if c.force != nil && now >= c.force.until {
		return c.endForce(ForceTooLate)
	}
	if c.state != holding || now < c.held.deadline {
		return nil
	}
	if c.mut.RenewAfterExpiry && now < c.held.deadline.Add(2*c.p.Timing.G) {
		return nil
	}
	return c.lose(Expired)
}

func (c *Candidate) lose(why Reason) []Action {
	epoch := c.held.epoch
	at := c.held.deadline
	c.held = holder{}
	c.state = idle
	out := []Action{Lost{Epoch: epoch, Reason: why}}
	if c.campaign != nil {
		c.state, c.retryAt = waiting, at.Add(c.stagger(c.p.Rank))
		return append(out, c.enter(Waiting)...)
	}
	return append(out, c.enter(Idle)...)
}

func (c *Candidate) holderWake() (Instant, bool) {
	if c.state != holding {
		return 0, false
	}
	if c.mut.RenewAfterExpiry {
		return c.held.next, true
	}
	return min(c.held.next, c.held.deadline), true
}

// holderTick sends the next round when it is due.
func (c *Candidate) holderTick(now Instant) []Action {
	if now < c.held.next {
		return nil
	}
	return c.startRenewal(now)
}

// startRenewal broadcasts a round: an Update while a register waits to be committed, else a Renew.
func (c *Candidate) startRenewal(now Instant) []Action {
	h := &c.held
	h.seq++
	verb := Renew
	if h.reg.Seq != h.committed.Seq {
		verb = Update
	}
	to := append(h.reg.Config.Voters(), h.committed.Config.Voters()...)
	slices.Sort(to)
	to = slices.Compact(to)
	reg := h.reg
	saved := c.cur
	out := c.broadcast(now, verb, h.epoch, to, func(_ VoterID, req *Request) {
		req.Seq, req.G = h.seq, c.p.Timing.G
		if verb == Update {
			req.Reg = &reg
		}
	})
	r := c.cur
	c.cur = saved
	r.seq, r.regSeq, r.rules = h.seq, reg.Seq, []Config{h.committed.Config, reg.Config}
	h.rounds = append(h.rounds, r)
	if len(h.rounds) > keptRounds {
		h.rounds = h.rounds[1:]
	}
	out = append(out, c.herald(to)...)
	// Without a quorum the next round follows when this one has had its time, otherwise at the renewal interval.
	h.next = now.Add(c.p.Timing.Round)
	return out
}

// holderReceive counts an acknowledgement for the round it names, and for no other.
func (c *Candidate) holderReceive(now Instant, resp Response) []Action {
	c.noteAdopted(resp)
	r := c.roundOf(resp)
	if r == nil {
		return nil
	}
	if c.mut.EchoedTimestamps && resp.SentAt > r.sentAt {
		r.sentAt = resp.SentAt
	}
	if !r.note(now, resp) {
		return nil
	}
	if resp.Verdict == Rejected {
		return c.enlist(now, r, resp)
	}
	if !c.roundHasQuorum(r) {
		return nil
	}
	var out []Action
	if d := c.deadline(now, r); d > c.held.deadline && (now < d || c.mut.RenewAfterExpiry) {
		c.held.deadline = d
		out = append(out, Extended{Epoch: c.held.epoch, Deadline: d})
	}
	if r == c.held.rounds[len(c.held.rounds)-1] {
		c.held.next = max(now, r.sentAt.Add(c.p.Timing.Renew))
	}
	if r.regSeq > c.held.committed.Seq {
		out = append(out, c.commit(now, r)...)
	}
	return out
}

func (c *Candidate) roundOf(resp Response) *round {
	if c.mut.AnyRoundsAck || c.mut.EchoedTimestamps {
		return c.held.rounds[len(c.held.rounds)-1]
	}
	for _, r := range c.held.rounds {
		if r.nonce == resp.Nonce {
			return r
		}
	}
	return nil
}

func (c *Candidate) roundHasQuorum(r *round) bool {
	for _, cfg := range r.rules {
		if !c.quorum(cfg, r.ok) {
			return false
		}
	}
	return true
}

// enlist asks a voter that missed the Accept of this epoch to accept it now, as part of the same round: its grant begins
// later than the round's send time, so counting from that is safe.
func (c *Candidate) enlist(now Instant, r *round, resp Response) []Action {
	h := &c.held
	if resp.Verb == Accept || resp.VEpoch == h.epoch || resp.Promised > h.epoch || r.verb == Accept {
		return nil
	}
	reg := h.reg
	if r.regSeq != reg.Seq {
		return nil
	}
	return []Action{Send{To: resp.Voter, Req: Request{Verb: Accept, From: c.p.Self, Epoch: h.epoch, Seq: r.seq,
		Nonce: r.nonce, G: c.p.Timing.G, Reg: &reg, SentAt: r.sentAt}}}
}

// commit notes that the register of the round is durable at a quorum.
func (c *Candidate) commit(now Instant, r *round) []Action {
	h := &c.held
	if r.regSeq != h.reg.Seq {
		return nil // superseded; the newer one contains it and is on its way
	}
	was := h.committed
	h.committed = h.reg
	h.waitFor = h.reg.InSync
	c.known = h.reg
	var out []Action
	if h.reg.Counter != was.Counter {
		out = append(out, InSyncCommitted{Epoch: h.epoch, InSync: h.reg.InSync, Counter: h.reg.Counter})
	}
	if h.reg.Config.Version != was.Config.Version && !h.reg.Config.Joint() {
		out = append(out, ConfigCommitted{Epoch: h.epoch, Config: h.reg.Config})
	}
	return append(out, c.finishJoint(now)...)
}

// finishJoint follows a committed joint configuration with the new one alone.
func (c *Candidate) finishJoint(now Instant) []Action {
	h := &c.held
	if !h.committed.Config.Joint() || h.reg.Seq != h.committed.Seq {
		if h.next == 0 {
			h.next = now.Add(c.p.Timing.Renew)
		}
		return nil
	}
	h.reg.Config = Config{Version: h.committed.Config.Version + 1, Weights: h.committed.Config.Weights}
	h.reg.Seq++
	return c.startRenewal(now)
}

// ProposeInSync asks to make set the in-sync set. counter must grow from request to request within the epoch.
// A site that leaves must be waited for until InSyncCommitted; one that joins, from before the request.
func (c *Candidate) ProposeInSync(now Instant, epoch domain.Epoch, set []domain.SiteID, counter uint64) []Action {
	out := c.expire(now)
	h := &c.held
	switch {
	case c.state != holding:
		return append(out, Refused{NotHolder})
	case epoch != h.epoch:
		return append(out, Refused{OtherEpoch})
	case !slices.Contains(set, c.p.Self):
		return append(out, Refused{MissingSelf})
	case counter == h.committed.Counter && counter != 0 && sameSites(set, h.committed.InSync):
		return append(out, InSyncCommitted{Epoch: epoch, InSync: h.committed.InSync, Counter: counter})
	case counter == h.reg.Counter && counter != 0 && sameSites(set, h.reg.InSync):
		return out
	case counter <= h.reg.Counter && !c.mut.StaleInSync:
		return append(out, Refused{StaleCounter})
	}
	sorted := slices.Clone(set)
	slices.Sort(sorted)
	h.reg.InSync = slices.Compact(sorted)
	h.waitFor = slices.Concat(h.waitFor, h.reg.InSync)
	slices.Sort(h.waitFor)
	h.waitFor = slices.Compact(h.waitFor)
	h.reg.Counter = counter
	h.reg.Seq++
	return append(out, c.startRenewal(now)...)
}

func sameSites(a, b []domain.SiteID) bool {
	x, y := slices.Clone(a), slices.Clone(b)
	slices.Sort(x)
	slices.Sort(y)
	return slices.Equal(slices.Compact(x), slices.Compact(y))
}

// ProposeConfig asks for new weights, through a joint configuration: both majorities, then the new one alone.
func (c *Candidate) ProposeConfig(now Instant, weights Weights) []Action {
	out := c.expire(now)
	h := &c.held
	if c.state != holding {
		return append(out, Refused{NotHolder})
	}
	if _, total := weights.Count(func(VoterID) bool { return true }); total == 0 {
		return append(out, Refused{EmptyConfig})
	}
	if h.reg.Config.Joint() || h.committed.Config.Joint() || h.reg.Config.Version != h.committed.Config.Version {
		return append(out, Refused{ChangeUnderWay})
	}
	if weights.equal(h.reg.Config.Weights) {
		return append(out, ConfigCommitted{Epoch: h.epoch, Config: h.reg.Config})
	}
	h.reg.Config = Config{Version: h.reg.Config.Version + 1, Weights: weights.clone(), Old: h.committed.Config.Weights}
	c.enroll(h.reg.Config)
	if c.mut.NoJointConfig {
		h.reg.Config.Old = nil
		h.committed.Config = h.reg.Config
	}
	h.reg.Seq++
	return append(out, c.startRenewal(now)...)
}
