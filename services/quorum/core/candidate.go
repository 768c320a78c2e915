package core

import (
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Params is what a Candidate is told once.
type Params struct {
	Self        domain.SiteID
	Index       int // of the site, 1..255, part of its epochs
	Rank        int // 0 competes first
	Timing      Timing
	Initial     Register                  // before anything was voted: weights, home site in sync
	Sites       map[VoterID]domain.SiteID // where each voter is, for the cold-start rule
	ColdStart   bool                      // true until Warmed was told in this boot, or when that is not known
	Promised    domain.Epoch              // of the last Warmed, also of another boot; a higher force generation voids older configurations
	JoinOnly    bool                      // prevent quorum: never competes
	Incarnation uint64                    // differs between restarts, keeps nonces apart
}

// Campaign is the command to compete.
type Campaign struct {
	AcceptLoss bool   // once: take the epoch although the site is not in sync
	Estimate   string // of the loss, recorded with the grant
	// Above demands an epoch higher than this one; a lease held at or below it is given up for a new one.
	Above domain.Epoch
}

type state int

const (
	idle state = iota
	waiting
	probing
	preparing
	accepting
	holding
)

// Candidate competes for and holds one group's lease at one site. Not safe for concurrent use.
type Candidate struct {
	p        Params
	mut      Mutations
	state    state
	campaign *Campaign
	phase    Phase
	tally    Tally

	nonce     uint64
	cur       *round
	retryAt   Instant
	eagerTill Instant // after a hint
	hinted    bool    // while a probe was under way that may be older
	attempt   uint64
	known     Register     // newest register seen ever
	electors  []VoterID    // everyone any register seen has named, sorted: whom to ask
	promise   domain.Epoch // highest promise seen
	warm      bool         // heard a voter of another site
	noted     int          // force generation told to be noted
	refused   Reason       // last reason told, to tell it once
	lossUsed  bool

	held    holder
	parting *release
	force   *forcing
}

// NewCandidate makes an idle candidate.
func NewCandidate(p Params) *Candidate {
	return &Candidate{p: p, phase: Idle, known: p.Initial, electors: p.Initial.Config.Voters(),
		nonce: p.Incarnation << 32, warm: !p.ColdStart, promise: p.Promised, noted: p.Promised.Force()}
}

// Campaign begins to compete, or adds consent to a loss to the campaign under way. It may be repeated.
func (c *Candidate) Campaign(now Instant, cmd Campaign) []Action {
	out := c.expire(now)
	if c.p.JoinOnly {
		return append(out, Refused{FormingNotAllowed})
	}
	if c.state == holding {
		if c.held.epoch > cmd.Above {
			return out
		}
		out = append(out, c.lose(Replaced)...)
	}
	c.refused, c.promise = "", max(c.promise, cmd.Above)
	if c.campaign != nil && c.campaign.AcceptLoss && !cmd.AcceptLoss {
		cmd = *c.campaign
	}
	c.campaign = &cmd
	if c.state == idle || c.state == waiting {
		return append(out, c.startProbe(now)...)
	}
	return out
}

// Withdraw stops competing. A lease that is held is kept; use Release for that.
func (c *Candidate) Withdraw(now Instant) []Action {
	out := c.expire(now)
	c.campaign, c.force = nil, nil
	if c.state != holding {
		c.state, c.cur = idle, nil
		out = append(out, c.enter(Idle)...)
	}
	return out
}

// Hint says the vote has become free: prepare now instead of probing at the next retry. A wrong hint costs one refused
// round; for a while after it the candidate retries quickly.
func (c *Candidate) Hint(now Instant) []Action {
	c.eagerTill = now.Add(c.p.Timing.Renew)
	if c.state != waiting {
		c.hinted = c.state == probing
		return nil
	}
	if c.force != nil || c.objection(c.known) != "" {
		return c.startProbe(now)
	}
	return c.startPrepare(now)
}

// Competing reports whether a campaign is under way.
func (c *Candidate) Competing() bool { return c.campaign != nil }

// Phase is how far the campaign is, with the last tally.
func (c *Candidate) Phase() (Phase, Tally) { return c.phase, c.tally }

// Known is the newest register seen. It may not be committed.
func (c *Candidate) Known() Register { return c.known }

// NextWake is when Tick is next needed, false for never.
func (c *Candidate) NextWake() (Instant, bool) {
	wake, ok := c.holderWake()
	soonest := func(t Instant) {
		if !ok || t < wake {
			wake, ok = t, true
		}
	}
	switch c.state {
	case waiting:
		soonest(c.retryAt)
	case probing, preparing, accepting:
		soonest(c.cur.sentAt.Add(c.p.Timing.Round))
	}
	if c.force != nil {
		soonest(c.force.until)
	}
	if c.parting != nil {
		soonest(c.parting.next)
	}
	return wake, ok
}

// Tick does what is due at now.
func (c *Candidate) Tick(now Instant) []Action {
	out := c.expire(now)
	out = append(out, c.repeatRelease(now)...)
	switch c.state {
	case waiting:
		if now >= c.retryAt {
			out = append(out, c.startProbe(now)...)
		}
	case probing, preparing, accepting:
		if now >= c.cur.sentAt.Add(c.p.Timing.Round) {
			out = append(out, c.endRound(now)...)
		}
	case holding:
		out = append(out, c.holderTick(now)...)
	}
	return out
}

// Receive takes one answer. Late, repeated and foreign answers do nothing.
func (c *Candidate) Receive(now Instant, resp Response) []Action {
	out := c.expire(now)
	if c.mut.ForceNotSticky {
		resp = c.unforced(resp)
	}
	cold := !c.warm
	lost := c.learn(resp)
	if cold && c.warm || c.promise.Force() > c.noted {
		c.noted = c.promise.Force()
		out = append(out, Warmed{Heard: c.warm, Promised: c.promise})
	}
	if lost != nil {
		return append(out, lost...)
	}
	if c.contradicted(resp) {
		return append(out, c.endForce(StillAnswers, resp.Voter)...)
	}
	if resp.Verb == Release {
		return append(out, c.releaseAnswered(resp)...)
	}
	if c.state == holding {
		return append(out, c.holderReceive(now, resp)...)
	}
	if c.cur == nil || resp.Nonce != c.cur.nonce || resp.Verb != c.cur.verb || !c.cur.note(now, resp) {
		return out
	}
	switch c.state {
	case probing:
		out = append(out, c.probed(now)...)
	case preparing:
		out = append(out, c.prepared(now)...)
	case accepting:
		out = append(out, c.accepted(now)...)
	}
	if c.cur != nil && c.state != holding && c.cur.complete() {
		out = append(out, c.endRound(now)...)
	}
	return out
}

// learn takes from any answer, however old, what can only grow.
func (c *Candidate) learn(resp Response) []Action {
	c.promise = max(c.promise, resp.Promised, resp.VEpoch)
	if resp.Reg != nil {
		c.enroll(resp.Reg.Config)
		if resp.Reg.NewerThan(c.known) {
			c.known = *resp.Reg
		}
	}
	if s := c.p.Sites[resp.Voter]; s != "" && s != c.p.Self && resp.Nonce>>32 == c.p.Incarnation {
		c.warm = true
	}
	if c.state == holding && max(resp.Promised, resp.VEpoch).Force() > c.held.epoch.Force() {
		return c.lose(HigherForce)
	}
	return nil
}

// isWarm reports whether the site may compete: it has heard a voter of another site, or there is none.
func (c *Candidate) isWarm() bool {
	if c.warm || c.mut.NoColdStart {
		return true
	}
	// Everybody ever named counts: a forced configuration names nobody else, and may be void since.
	for _, id := range c.electors {
		if c.p.Sites[id] != c.p.Self {
			return false
		}
	}
	return true
}

func (c *Candidate) quorum(cfg Config, has func(VoterID) bool) bool {
	if c.mut.HalfIsEnough {
		half := func(w Weights) bool { have, total := w.Count(has); return 2*have >= total }
		return half(cfg.Weights) && (cfg.Old == nil || half(cfg.Old))
	}
	return cfg.Quorum(has)
}

// enroll remembers whom to ask. It never forgets: a register that was never committed may name fewer than are needed.
func (c *Candidate) enroll(cfg Config) {
	grown := c.electors
	add := func(id VoterID) {
		if !slices.Contains(grown, id) {
			grown = append(slices.Clone(grown), id)
		}
	}
	for id := range cfg.Weights {
		add(id)
	}
	for id := range cfg.Old {
		add(id)
	}
	if len(grown) != len(c.electors) {
		slices.Sort(grown)
		c.electors = grown
	}
}

func (c *Candidate) broadcast(now Instant, verb Verb, epoch domain.Epoch, to []VoterID, fill func(VoterID, *Request)) []Action {
	c.nonce++
	c.cur = &round{nonce: c.nonce, verb: verb, epoch: epoch, sentAt: now, asked: to}
	out := make([]Action, 0, len(to)+1)
	for _, id := range to {
		req := Request{Verb: verb, From: c.p.Self, Epoch: epoch, Nonce: c.nonce, SentAt: now}
		if fill != nil {
			fill(id, &req)
		}
		out = append(out, Send{To: id, Req: req})
	}
	return out
}

func (c *Candidate) enter(p Phase) []Action {
	if c.phase == p {
		return nil
	}
	c.phase = p
	return []Action{PhaseChanged{Phase: p, Tally: c.tally}}
}

func (c *Candidate) startProbe(now Instant) []Action {
	c.state = probing
	var out []Action
	if c.phase != Waiting {
		out = c.enter(Contacting)
	}
	return append(out, c.broadcast(now, Probe, 0, c.electors, nil)...)
}

// probed looks whether enough voters are free under the newest configuration seen in this round.
func (c *Candidate) probed(now Instant) []Action {
	if c.force != nil {
		return c.forceProbed(now)
	}
	reg := c.cur.newest(c.p.Initial, func(Response) bool { return true })
	if !c.quorum(reg.Config, c.cur.ok) || c.objection(reg) != "" {
		return nil
	}
	return c.startPrepare(now)
}

// objection says why this site must not compete on what the round has shown, "" when it may.
func (c *Candidate) objection(reg Register) Reason {
	switch {
	case !c.isWarm():
		return ColdStart
	case reg.WE.Force() < c.promise.Force() && !c.everybodyAgrees() && !c.mut.ForceNotSticky:
		return OlderForce
	}
	return reg.Bars(c.p.Self, c.campaign.AcceptLoss || c.mut.InSyncIgnored)
}

// everybodyAgrees reports whether every voter there ever was said yes in this round. Then a force that was begun, and of which
// no voter has a register, was never granted and can no longer be: each of the voters it needs would have to break its promise.
func (c *Candidate) everybodyAgrees() bool {
	return c.cur != nil && !slices.ContainsFunc(c.electors, func(id VoterID) bool { return !c.cur.ok(id) })
}

func (c *Candidate) startPrepare(now Instant) []Action {
	c.state = preparing
	if c.cur != nil {
		c.tally = c.cur.tally(c.known.Config)
	}
	out := c.enter(Comparing)
	if c.force != nil {
		return append(out, c.broadcast(now, Prepare, c.forcedEpoch(), c.force.cmd.Named, nil)...)
	}
	n := max(c.promise, c.known.WE).Next(c.p.Index)
	return append(out, c.broadcast(now, Prepare, n, c.electors, nil)...)
}

func (c *Candidate) prepared(now Instant) []Action {
	if c.force != nil {
		return c.forcePrepared(now)
	}
	reg := c.cur.newest(c.p.Initial, func(r Response) bool { return r.Verdict == OK })
	if !c.quorum(reg.Config, c.cur.ok) || c.objection(reg) != "" {
		return nil
	}
	return c.startAccept(now, reg)
}

func (c *Candidate) startAccept(now Instant, reg Register) []Action {
	c.state = accepting
	n := c.cur.epoch
	c.lossUsed = !reg.Holds(c.p.Self)
	switch {
	case c.force != nil:
		c.force.begun = true
		c.force.loses = c.force.loses || c.forceLoses(reg)
		c.lossUsed = c.force.loses
		reg = c.forceRegister(reg)
	case c.lossUsed:
		reg.InSync = []domain.SiteID{c.p.Self}
	}
	reg.WE, reg.Seq, reg.Counter = n, 1, 0
	c.held = holder{epoch: n, reg: reg, seq: 1}
	c.tally = c.cur.tally(reg.Config)
	out := c.enter(Tallying)
	out = append(out, c.broadcast(now, Accept, n, c.electors, func(_ VoterID, req *Request) {
		req.Seq, req.G, req.Reg = 1, c.p.Timing.G, &reg
	})...)
	c.cur.seq, c.cur.rules = 1, []Config{reg.Config}
	return out
}

func (c *Candidate) accepted(now Instant) []Action {
	reg := c.held.reg
	if !c.quorum(reg.Config, c.cur.ok) {
		return nil
	}
	deadline := c.deadline(now, c.cur)
	if now >= deadline {
		return nil
	}
	c.state, c.refused = holding, ""
	c.known, c.tally = reg, c.cur.tally(reg.Config)
	c.held.deadline, c.held.committed, c.held.waitFor = deadline, reg, reg.InSync
	c.held.rounds = []*round{c.cur}
	out := append(c.forcedWarm(), Granted{Epoch: c.held.epoch, Deadline: deadline, Reg: reg,
		AcceptLoss: c.lossUsed, Estimate: c.estimate(), Forced: c.force != nil})
	c.campaign, c.force, c.cur, c.attempt = &Campaign{}, nil, nil, 0
	out = append(out, c.enter(Functional)...)
	return append(out, c.finishJoint(now)...)
}

func (c *Candidate) estimate() string {
	switch {
	case !c.lossUsed || c.campaign == nil:
		return ""
	case c.force != nil:
		return c.force.cmd.Estimate
	}
	return c.campaign.Estimate
}

// endRound gives a round up and decides when to try again.
func (c *Candidate) endRound(now Instant) []Action {
	reg := c.cur.newest(c.p.Initial, func(Response) bool { return true })
	var out []Action
	c.tally = c.cur.tally(reg.Config)
	if c.force != nil {
		c.tally = c.cur.tally(Config{Weights: c.namedWeights(reg, c.force.cmd.Named)})
	}
	switch {
	case c.state == probing && c.force != nil:
		c.retryAt = now.Add(c.p.Timing.Retry)
	case c.state == probing:
		c.retryAt = now.Add(c.p.Timing.Retry)
		switch at, ok := c.cur.freeAt(reg.Config, c.quorum); {
		case ok && c.quorum(reg.Config, c.cur.ok):
			out = c.refuse(c.objection(reg))
			c.retryAt = now.Add(c.p.Timing.Poll)
		case ok:
			c.retryAt = min(max(at, now), now.Add(c.p.Timing.Renew))
			if now < c.eagerTill {
				c.retryAt = min(c.retryAt, now.Add(c.p.Timing.Retry))
			}
		}
		c.retryAt = c.retryAt.Add(c.stagger(c.p.Rank))
		if c.hinted {
			c.hinted, c.retryAt = false, now
		}
	default:
		c.attempt++
		c.retryAt = now.Add(c.p.Timing.Retry + c.stagger(c.p.Rank) + c.jitter())
	}
	c.state, c.cur = waiting, nil
	return append(out, c.enter(Waiting)...)
}

func (c *Candidate) stagger(rank int) time.Duration {
	return time.Duration(rank) * c.p.Timing.Retry / 2
}

// jitter keeps two candidates from stepping on each other for ever. It is a function of the site and the attempt, so
// that a run replays.
func (c *Candidate) jitter() time.Duration {
	h := (c.attempt*2654435761 + uint64(c.p.Index)*40503) * 0x9E3779B97F4A7C15
	return time.Duration(h>>40) * c.p.Timing.Retry >> 24
}

func (c *Candidate) refuse(r Reason) []Action {
	if r == "" || r == c.refused {
		return nil
	}
	c.refused = r
	return []Action{Refused{r}}
}
