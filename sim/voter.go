package sim

import (
	"time"

	"github.com/holdfast-dr/holdfast/services/quorum/core"
)

// voterNode runs an active voter: its disk, its tmpfs and the order in which replies leave.
type voterNode struct {
	w       *world
	id      core.VoterID
	site    int
	m       *machine
	v       *core.Voter
	durable core.Record
	older   core.Record // one write before, for the mutant
	mirror  core.Volatile
	writing []stored
	free    time.Duration // when the last write in the queue is done
}

type stored struct {
	rec     core.Record
	vol     core.Volatile
	persist bool
}

// shareNode is a passive voter: a chain of versions that only grows.
type shareNode struct {
	id      core.VoterID
	site    int
	version uint64
	rec     core.Record
}

func (w *world) addVoter(spec VoterSpec) {
	if spec.Passive {
		w.shares = append(w.shares, &shareNode{id: spec.ID, site: spec.Site})
		for _, s := range w.sites {
			s.passives = append(s.passives, s.newPassive(w.shares[len(w.shares)-1]))
		}
		return
	}
	v := &voterNode{w: w, id: spec.ID, site: spec.Site}
	if spec.Site < len(w.sites) && len(spec.ID) == 2 {
		v.m = w.sites[spec.Site].q // the site's own voter lives in its quorum service
	} else {
		v.m = w.addMachine(string(spec.ID), spec.Site)
	}
	v.v = core.NewVoter(v.id, core.Record{}, core.Volatile{})
	v.v.Mutate(w.mut.Mutations)
	w.voters = append(w.voters, v)
}

func (v *voterNode) receive(from *siteNode, req core.Request) {
	out := v.v.Handle(v.m.local(), req)
	if v.w.trace != nil {
		v.w.logf("%s: %s %s seq %d from %s: %s (until %v)", v.id, req.Verb, req.Epoch, req.Seq, from.id, out.Reply.Verdict,
			time.Duration(v.v.Volatile().Until))
	}
	if !out.Persist && !out.Mirror && len(v.writing) == 0 {
		v.reply(from, out.Reply)
		return
	}
	cost := time.Duration(0)
	if out.Persist {
		cost = v.w.between(500*time.Microsecond, 3*time.Millisecond)
	}
	v.free = max(v.free, v.w.now) + cost
	v.writing = append(v.writing, stored{v.v.Record(), v.v.Volatile(), out.Persist})
	v.m.after(v.free-v.w.now, func() {
		v.store()
		v.reply(from, out.Reply)
	})
}

// store makes the oldest write in the queue durable.
func (v *voterNode) store() {
	s := v.writing[0]
	v.writing = v.writing[1:]
	if s.persist {
		v.older, v.durable = v.durable, s.rec
	}
	v.mirror = s.vol
	if s.persist && v.m.up {
		v.heard()
	}
}

func (v *voterNode) reply(to *siteNode, resp core.Response) {
	v.w.transit(v.site, to.index, func() { to.q.deliver(func() { to.receive(resp) }) })
}

// killed leaves some of the writes under way on the disk.
func (v *voterNode) killed() {
	for len(v.writing) > 0 && v.w.chance(0.5) {
		v.store()
	}
	v.writing = nil
}

func (v *voterNode) start(rebooted bool) {
	v.free = 0
	if v.w.mut.StaleAfterRestart {
		v.durable = v.older
	}
	vol := v.mirror
	if rebooted {
		vol = core.Rebooted(v.durable)
		if v.w.mut.NoRebootHoldOff {
			vol = core.Volatile{}
		}
	}
	v.mirror = vol
	v.v = core.NewVoter(v.id, v.durable, vol)
	v.v.Mutate(v.w.mut.Mutations)
}
