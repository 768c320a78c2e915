package sim

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/services/quorum/core"
)

// operator is the person who forces quorum, and lets sites join only. One force is under way at a time. What the operator
// says is true: the machines of the lost voters are off while a force may still be carried out.
type operator struct {
	w      *world
	rng    *rand.Rand // of its own, so that a schedule without forces is what it always was
	forced bool       // an epoch was granted by force
	ends   time.Duration
	// accepted is set once the force asked a voter for its vote: from there it may be completed later, by whoever competes.
	accepted bool
}

const (
	forcedSchedules = 0.12 // of all
	uneven          = 0.4  // of the forced ones: the field's case of a primary site that is a majority alone
)

// threeAndTwo is the arrangement in which quorum is forced most often: nobody goes on without the primary site.
var threeAndTwo = Topology{"a majority at the primary site", 2, 2, []VoterSpec{{"va", 0, 1, false}, {"va2", 0, 1, false}, {"va3", 0, 1, false},
	{"vb", 1, 1, false}, {"vb2", 1, 1, false}}}

// hireOperator adds an operator to some schedules.
func (w *world) hireOperator(seed uint64, cfg scenario) scenario {
	w.op = &operator{w: w, rng: rand.New(rand.NewPCG(seed, 0x666f726365))}
	cfg.forces = w.op.rng.Float64() < forcedSchedules || w.mut.OftenForced
	if cfg.forces && w.op.rng.Float64() < uneven {
		cfg.topo = threeAndTwo
	}
	return cfg
}

func (o *operator) schedule() {
	g := o.w.cfg.timing.G
	for t := o.between(g, 4*g); t < o.w.cfg.length; t += o.between(4*g, 8*g) {
		o.w.at(t, o.force)
	}
	for t := g; t < o.w.cfg.length+12*g; t += g / 4 {
		o.w.at(t, o.clear)
	}
}

func (o *operator) between(lo, hi time.Duration) time.Duration {
	return lo + time.Duration(o.rng.Int64N(int64(hi-lo)+1))
}

// force loses sites, perhaps keeps them cut off once they are back, and forces quorum at another.
func (o *operator) force() {
	w, g := o.w, o.w.cfg.timing.G
	if w.now < o.ends || w.healed || slices.ContainsFunc(w.sites, func(s *siteNode) bool { return s.prevented }) {
		return // the last force is not over
	}
	at := w.sites[o.rng.IntN(len(w.sites))]
	lost := map[int]bool{}
	for site := range w.cfg.topo.Sites {
		if site != at.index && o.rng.Float64() < 0.6 {
			lost[site] = true
		}
	}
	if len(lost) == 0 || !at.q.up {
		return
	}
	var cmd core.Force
	for _, id := range at.c.Electors() {
		if lost[w.siteOfVoter(id)] && !w.isShare(id) {
			cmd.Lost = append(cmd.Lost, id)
		} else {
			cmd.Named = append(cmd.Named, id)
		}
	}
	if o.generation(func(id core.VoterID) bool { return slices.Contains(cmd.Named, id) }) < o.generation(anybody) {
		return // nobody forces who does not know of the last force: one of the voters that he names does
	}
	within := 2*g + o.between(0, g)
	off := within + within/5 + g/4 // clocks drift, by ten times as much in one mutant
	o.ends, o.accepted = w.now+off, false
	w.logf("operator: sites %v are lost for %v, force at %s", sorted(lost), off, at.id)
	o.lose(lost, off)
	cmd.AcceptLoss, cmd.Within = o.rng.IntN(2) == 0, within
	late := o.between(0, g/8)
	proc := at.q.proc
	w.after(late, func() {
		if at.q.up && at.q.proc == proc && w.now >= at.q.paused && !w.healed {
			w.ledger.lossAccepted = w.ledger.lossAccepted || cmd.AcceptLoss
			at.do(at.c.Force(at.q.local(), cmd))
		}
	})
}

// lose switches the machines of sites off. A data plane may go on, until its lease is over. Where several sites are lost, those
// that come back may only join: they could be a quorum of the older generation among themselves.
func (o *operator) lose(lost map[int]bool, off time.Duration) {
	w := o.w
	for _, s := range w.sites {
		if lost[s.index] && len(lost) > 1 {
			s.prevented = true
			w.logf("operator: %s may join only", s.id)
		}
	}
	alive := o.rng.IntN(2) == 0
	for _, m := range w.machines {
		if lost[m.site] && (!alive || !w.isPlane(m)) {
			m.offTill = w.now + off
			m.reboot(0)
		}
	}
	if o.rng.IntN(2) == 0 {
		w.after(off-off/20, func() {
			if !w.healed {
				w.logf("operator: sites %v come back cut off", sorted(lost))
				w.sever(o.between(0, 3*w.cfg.timing.G), func(i, j int) bool { return lost[i] != lost[j] })
			}
		})
	}
}

// clear lets sites form a quorum again once every voter knows of the newest force.
func (o *operator) clear() {
	w := o.w
	if w.now < o.ends && !w.healed {
		return
	}
	if o.accepted {
		newest := o.generation(anybody)
		for _, r := range o.records() {
			if r.rec.Promised.Force() < newest {
				o.finish()
				return
			}
		}
	}
	for _, s := range w.sites {
		if s.prevented {
			w.logf("operator: %s may form a quorum", s.id)
			s.prevented = false
			if s.q.up {
				s.do(s.c.Prevent(s.q.local(), false))
				s.campaign(false)
			}
		}
	}
}

// finish forces to its end what was given up midway, as the runbook says: with every voter, at a site that was told to join only
// and lacks nothing. Nobody else may be able to go on: the old votes may be void, and those that are left lack writes.
func (o *operator) finish() {
	w := o.w
	if !w.healed || slices.ContainsFunc(w.sites, func(s *siteNode) bool { return s.c.Forcing() }) {
		return
	}
	var newest core.Register
	for _, r := range o.records() {
		if r.rec.Reg.NewerThan(newest) {
			newest = r.rec.Reg
		}
	}
	for _, s := range w.sites {
		if s.prevented && s.q.up && newest.Holds(s.id) {
			w.logf("operator: force at %s with every voter", s.id)
			s.prevented = false
			s.do(s.c.Prevent(s.q.local(), false))
			s.do(s.c.Force(s.q.local(), core.Force{Named: s.c.Electors(), Within: 8 * w.cfg.timing.G}))
			return
		}
	}
}

// kept is a voter's durable record.
type kept struct {
	id  core.VoterID
	rec core.Record
}

func (o *operator) records() []kept {
	var out []kept
	for _, v := range o.w.voters {
		out = append(out, kept{v.id, v.durable})
	}
	for _, sh := range o.w.shares {
		out = append(out, kept{sh.id, sh.rec})
	}
	return out
}

func anybody(core.VoterID) bool { return true }

// generation is the newest that the voters for which use is true know of.
func (o *operator) generation(use func(core.VoterID) bool) int {
	newest := 0
	for _, r := range o.records() {
		if use(r.id) {
			newest = max(newest, r.rec.Promised.Force())
		}
	}
	return newest
}

// restoreWeights asks for the configured weights where they are not in force, as the service does once all voters answer.
func (w *world) restoreWeights() {
	s := w.holder()
	if s == nil {
		return
	}
	if l, ok := s.c.Lease(s.q.local()); ok && l.Committed && !w.restored() {
		s.do(s.c.ProposeConfig(s.q.local(), w.initial.Config.Weights))
	}
}

// restored reports whether the configured weights are in force again.
func (w *world) restored() bool {
	s := w.holder()
	if s == nil {
		return false
	}
	l, ok := s.c.Lease(s.q.local())
	return ok && l.Committed && !l.Reg.Config.Joint() && l.Reg.Config.Weights.Same(w.initial.Config.Weights)
}

// restore runs until a forced quorum is healed.
func (w *world) restore() {
	if !w.op.forced || w.broken() {
		return
	}
	g := w.cfg.timing.G
	var tick func()
	tick = func() {
		w.restoreWeights()
		w.after(g/8, tick)
	}
	w.after(0, tick)
	from := w.now
	w.runUntil(from+8*g, func() bool { return w.broken() || w.restored() })
	if !w.broken() && !w.restored() {
		w.violate("L: the configured weights are not in force %v after every fault was mended", w.now-from)
	}
}

func (w *world) isShare(id core.VoterID) bool {
	return slices.ContainsFunc(w.shares, func(s *shareNode) bool { return s.id == id })
}

func (w *world) isPlane(m *machine) bool {
	return slices.ContainsFunc(w.sites, func(s *siteNode) bool { return s.plane.m == m })
}

func (w *world) siteOfVoter(id core.VoterID) int {
	for _, v := range w.cfg.topo.Voters {
		if v.ID == id {
			return v.Site
		}
	}
	return -1
}

func sorted(set map[int]bool) []int {
	var out []int
	for i := range set {
		out = append(out, i)
	}
	slices.Sort(out)
	return out
}

// heard tells the candidate beside a voter what the voter has promised.
func (v *voterNode) heard() {
	for _, s := range v.w.sites {
		if s.q == v.m {
			s.hear(v.durable)
		}
	}
}

func (s *siteNode) hear(rec core.Record) {
	if e := max(rec.Promised, rec.VEpoch); e.Force() > 0 {
		s.do(s.c.Heard(s.q.local(), e))
	}
}
