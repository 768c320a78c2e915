package core

import (
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Force is the command to take an epoch with the named voters alone, where no quorum can be had any more. Every voter that
// the candidate knows is either named or said to be lost.
//
// It is the operator's word that the machines of the lost voters are off, and stay off for Within; what has been off comes
// back through a boot, and so through a cold start. The lease that the lost side may still have is waited out: G by this
// site's clock, and until no named voter is another's.
type Force struct {
	Named      []VoterID     // they answer, and are the whole configuration from then on
	Lost       []VoterID     // everybody else
	AcceptLoss bool          // acknowledged writes may be lost
	Estimate   string        // of the loss, recorded with the grant
	Within     time.Duration // how long the operator's word holds; past it nothing is sent
}

// ForceRefused says that a Force was not, or is no longer, carried out, and which voters stand in its way.
type ForceRefused struct {
	Reason Reason
	Voters []VoterID
	Begun  bool // an Accept was sent: the old votes may be void, and a later candidacy of this site may complete it
}

func (ForceRefused) action() {}

// Why a force is refused, beside the reasons of a campaign.
const (
	StillHeld     Reason = "lease is held here: there is nothing to force"
	ForceUnderWay Reason = "a force is under way"
	UnknownVoter  Reason = "named as a voter, and is none"
	NotAccounted  Reason = "voters are neither named nor said to be lost"
	StillAnswers  Reason = "voters that are said to be lost answer"
	LossUnknown   Reason = "the lost voters could agree alone on writes that are not here, and the loss is not accepted"
	OutOfForces   Reason = "quorum was forced as often as an epoch can tell"
	ForceTooLate  Reason = "the named voters were not all free and answering in time"
)

// maxForce is the last force generation that an epoch can carry.
const maxForce = 255

// forcing is a Force under way.
type forcing struct {
	cmd     Force
	nonce   uint64  // of its first round: answers to older ones say nothing of now
	drained Instant // the lost side's lease is over
	until   Instant
	gen     int  // force generation in use, 0 before the first attempt
	begun   bool // an Accept was sent
	loses   bool // an attempt was made over a register that shows a loss: a later one may find its own register
}

// Electors is everyone the candidate knows to have, or to have had, a vote: whom a Force must name or say to be lost.
func (c *Candidate) Electors() []VoterID { return slices.Clone(c.electors) }

// Forcing reports whether a Force is under way.
func (c *Candidate) Forcing() bool { return c.force != nil }

// Force begins to take an epoch of a higher force generation with the named voters: probe until the old lease has drained,
// Prepare at every named voter, Accept with the named voters as the configuration. It ends in Granted or in ForceRefused.
// A campaign that is under way becomes part of it.
func (c *Candidate) Force(now Instant, cmd Force) []Action {
	out := c.expire(now)
	if why, who := c.unforceable(cmd); why != "" {
		return append(out, ForceRefused{Reason: why, Voters: who})
	}
	drain := c.p.Timing.G
	if c.mut.ForceUndrained {
		drain = 0
	}
	c.force = &forcing{cmd: cmd, nonce: c.nonce + 1, drained: now.Add(drain), until: now.Add(cmd.Within)}
	c.campaign, c.refused = &Campaign{AcceptLoss: cmd.AcceptLoss, Estimate: cmd.Estimate}, ""
	return append(out, c.startProbe(now)...)
}

// unforceable says what is wrong with a Force on what is known now.
func (c *Candidate) unforceable(cmd Force) (Reason, []VoterID) {
	switch {
	case c.p.JoinOnly:
		return FormingNotAllowed, nil
	case c.state == holding:
		return StillHeld, nil
	case c.force != nil:
		return ForceUnderWay, nil
	case max(c.promise, c.known.WE).Force() >= maxForce:
		return OutOfForces, nil
	}
	var strangers []VoterID
	for _, id := range cmd.Named { // who is lost and is no elector is not counted either way
		if !slices.Contains(c.electors, id) {
			strangers = append(strangers, id)
		}
	}
	if len(strangers) > 0 {
		return UnknownVoter, strangers
	}
	if _, total := c.namedWeights(c.known, cmd.Named).Count(func(VoterID) bool { return true }); total == 0 {
		return EmptyConfig, cmd.Named
	}
	return c.unaccounted(cmd)
}

// unaccounted finds voters that are not on exactly one side.
func (c *Candidate) unaccounted(cmd Force) (Reason, []VoterID) {
	var odd []VoterID
	for _, id := range c.electors {
		if slices.Contains(cmd.Named, id) == slices.Contains(cmd.Lost, id) {
			odd = append(odd, id)
		}
	}
	if len(odd) > 0 {
		return NotAccounted, odd
	}
	return "", nil
}

// namedWeights gives the named voters the votes that the installation gives them, or else the register.
func (c *Candidate) namedWeights(reg Register, named []VoterID) Weights {
	out := make(Weights, len(named))
	for _, id := range named {
		out[id] = c.p.Initial.Config.Weights[id]
		if out[id] == 0 {
			out[id] = max(reg.Config.Weights[id], reg.Config.Old[id])
		}
	}
	return out
}

// forceBars says why the epoch must not be forced over a register without consent to a loss. The site may be in the newest
// in-sync set that the named voters have and still lack acknowledged writes: where the others can make a quorum without any of
// the named, under the configuration or under one that it is changed from or to, they may have agreed on a smaller set that none of the
// named was told of.
func (c *Candidate) forceBars(reg Register) Reason {
	cmd := c.force.cmd
	if reg.WE == 0 && !cmd.AcceptLoss && !c.mut.ForceLossIgnored {
		return LossUnknown // none of the named voters was ever told of a vote
	}
	lost := func(id VoterID) bool { return !slices.Contains(cmd.Named, id) }
	switch {
	case cmd.AcceptLoss || c.mut.ForceLossIgnored:
	case !reg.Holds(c.p.Self):
		return NotInSync
	case reg.Config.Either(lost):
		return LossUnknown
	}
	return ""
}

// forceLoses reports whether a forced epoch over the register may lack acknowledged writes.
func (c *Candidate) forceLoses(reg Register) bool {
	named := c.force.cmd.Named
	return reg.WE == 0 || !reg.Holds(c.p.Self) || reg.Config.Either(func(id VoterID) bool { return !slices.Contains(named, id) })
}

// endForce gives a force up.
func (c *Candidate) endForce(why Reason, who ...VoterID) []Action {
	begun := c.force.begun
	c.force, c.campaign, c.cur, c.state = nil, nil, nil, idle
	return append([]Action{ForceRefused{why, who, begun}}, c.enter(Idle)...)
}

// contradicted reports whether an answer shows that a voter said to be lost is not, while it is not too late to stop.
func (c *Candidate) contradicted(resp Response) bool {
	f := c.force
	return f != nil && c.state != accepting && resp.Nonce >= f.nonce && resp.Nonce>>32 == c.p.Incarnation &&
		slices.Contains(f.cmd.Lost, resp.Voter)
}

// allNamed reports whether every named voter said yes in the round.
func (c *Candidate) allNamed() bool {
	return !slices.ContainsFunc(c.force.cmd.Named, func(id VoterID) bool { return !c.cur.ok(id) })
}

// forceProbed goes on once the old lease is over and every named voter is free.
func (c *Candidate) forceProbed(now Instant) []Action {
	reg := c.cur.newest(c.p.Initial, func(Response) bool { return true })
	if c.mut.ForceUndrained {
		return c.forceUnasked(now, reg)
	}
	if c.cur.sentAt < c.force.drained || !c.allNamed() {
		return nil
	}
	if why, who := c.unaccounted(c.force.cmd); why != "" {
		return c.endForce(why, who...)
	}
	if why := c.forceBars(reg); why != "" {
		return c.endForce(why)
	}
	return c.startPrepare(now)
}

// forceUnasked is the mutant that waits for nobody's lease, and asks no voter whether it is another's.
func (c *Candidate) forceUnasked(now Instant, reg Register) []Action {
	for _, id := range c.force.cmd.Named {
		if c.cur.verdict(id) == "" {
			return nil
		}
	}
	if why := c.forceBars(reg); why != "" {
		return c.endForce(why)
	}
	c.cur.epoch = c.forcedEpoch()
	return c.startAccept(now, reg)
}

// forcedEpoch is the epoch to ask for: of a new generation at first, and of the same at each further attempt.
func (c *Candidate) forcedEpoch() domain.Epoch {
	seen := max(c.promise, c.known.WE)
	if f := c.force; f.gen == 0 || seen.Force() > f.gen || c.known.WE.Force() >= f.gen {
		f.gen = min(seen.Force()+1, maxForce)
	}
	if seen.Force() < c.force.gen {
		return seen.NextForced(c.p.Index)
	}
	return seen.Next(c.p.Index)
}

// forcePrepared goes on once every named voter has promised: from here whoever hears any of them knows the generation.
func (c *Candidate) forcePrepared(now Instant) []Action {
	if !c.allNamed() {
		return nil
	}
	reg := c.cur.newest(c.p.Initial, func(r Response) bool { return r.Verdict == OK })
	if why := c.forceBars(reg); why != "" {
		return c.endForce(why)
	}
	return c.startAccept(now, reg)
}

// forceRegister is what a forced epoch begins with: the named voters alone, and nobody in sync but this site.
func (c *Candidate) forceRegister(reg Register) Register {
	reg.Config = Config{Version: reg.Config.Version + 1, Weights: c.namedWeights(reg, c.force.cmd.Named)}
	reg.InSync = []domain.SiteID{c.p.Self}
	return reg
}

// forcedWarm ends a cold start with a forced grant: by the operator's word nobody was forced meanwhile, and until this machine is off
// nobody can be without it.
func (c *Candidate) forcedWarm() []Action {
	if c.force == nil {
		return nil
	}
	c.warm, c.noted = true, c.held.epoch.Force()
	return []Action{Warmed{Heard: true, Promised: c.held.epoch}}
}

// herald tells voters outside a configuration of a forced generation of the epoch: what a returning site asks its own voters, it
// is told. Their votes are not counted; that they answer shows that they may be counted again.
func (c *Candidate) herald(inside []VoterID) []Action {
	h := &c.held
	if h.epoch.Force() == 0 {
		return nil
	}
	var out []Action
	reg := h.reg
	for _, id := range c.electors {
		if slices.Contains(inside, id) {
			continue
		}
		req := Request{Verb: Accept, From: c.p.Self, Epoch: h.epoch, Seq: h.seq, Nonce: c.nonce, G: c.p.Timing.G, Reg: &reg}
		if slices.Contains(h.adopted, id) {
			req.Verb, req.Reg = Renew, nil
		}
		out = append(out, Send{To: id, Req: req})
	}
	return out
}

// noteAdopted remembers that a voter has the epoch that is held.
func (c *Candidate) noteAdopted(resp Response) {
	has := slices.Contains(c.held.adopted, resp.Voter)
	switch {
	case resp.VEpoch == c.held.epoch && !has:
		c.held.adopted = append(c.held.adopted, resp.Voter)
	case resp.VEpoch != c.held.epoch && has:
		c.held.adopted = slices.DeleteFunc(c.held.adopted, func(id VoterID) bool { return id == resp.Voter })
	}
}

// Heard tells the candidate what a voter in its own process has promised or voted for: a higher force generation ends its
// lease at once, and no answer of others is needed to know of it.
func (c *Candidate) Heard(now Instant, e domain.Epoch) []Action {
	out := c.expire(now)
	if c.mut.ForceNotSticky {
		return out
	}
	c.promise = max(c.promise, e)
	if c.state == holding && e.Force() > c.held.epoch.Force() {
		out = append(out, c.lose(HigherForce)...)
	}
	return out
}

// Prevent allows the site to join a quorum only, or to form one again. A lease that is held is kept; once it is over, the site
// does not compete.
func (c *Candidate) Prevent(now Instant, on bool) []Action {
	out := c.expire(now)
	c.p.JoinOnly = on
	if !on || c.campaign == nil {
		return out
	}
	if c.force != nil {
		return append(out, c.endForce(FormingNotAllowed)...)
	}
	out = append(out, c.Withdraw(now)...)
	return append(out, Refused{FormingNotAllowed})
}

// unforced is the answer as a candidate takes it that does not know that a forced quorum is sticky. For the simulation.
func (c *Candidate) unforced(resp Response) Response {
	gen := c.known.WE.Force()
	if c.p.Sites[resp.Voter] == c.p.Self {
		return resp
	}
	if c.force != nil {
		gen = max(gen, c.force.gen)
	}
	if max(resp.Promised, resp.VEpoch).Force() > gen {
		resp.Promised, resp.VEpoch, resp.Reg = 0, 0, nil
	}
	return resp
}
