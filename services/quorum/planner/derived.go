package planner

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
)

// derivedRules are what follows from how this vote, and this storage, work.
func derivedRules() []Rule {
	return []Rule{
		{"Q20", "the loss of the primary site cannot fail over by itself", (*check).noTakeover},
		{"Q21", "one site holds a majority", (*check).majorityAtOneSite},
		{"Q22", "a single voter", (*check).singleVoter},
		{"Q23", "voters share a host, array or power feed", (*check).sharedFate},
		{"Q24", "a voter runs inside a VM", (*check).voterInVM},
		{"Q25", "the storage of a passive voter failed its probe", (*check).conformance},
		{"Q26", "the lease is too short for the round trip", (*check).leaseShort},
		{"Q27", "a host without gate and watchdog", (*check).noGate},
		{"Q28", "synchronous writes wait for a long round trip", (*check).syncRoundTrip},
		{"Q29", "a forced quorum is not healed", (*check).forced},
		{"Q30", "a voting LUN, share or bucket is itself replicated", (*check).votesReplicated},
		{"Q31", "the weights in force are not those configured", (*check).weightsInForce},
		{"Q32", "a voter is reached only via a site whose loss it is to arbitrate", (*check).votesVia},
		{"Q33", "a group's placement leaves it nowhere to go", (*check).nowhereToGo},
		{"Q34", "the sites' files give the voters different weights", (*check).filesDiffer},
	}
}

func (c *check) noTakeover() {
	if !c.multiSite() || !c.homesKnown() {
		return
	}
	for _, home := range c.homes() {
		if left := c.side(without(c.all, string(home))); !left.Quorum {
			c.say(Warning, string(home), fmt.Sprintf("after the loss of primary site %s the others have %s", home, keeps(left, c.report.Total)),
				"no other site can take its groups over by itself: a person has to force quorum",
				"add a witness or share in a third place, or take votes from site "+string(home))
		}
	}
}

func (c *check) majorityAtOneSite() {
	voting := c.voting()
	if len(voting) < 2 {
		return // a single voter is told of itself
	}
	for _, p := range c.all {
		if n := c.votesAt(p.name); 2*n > c.report.Total && p.site != "" {
			c.say(Warning, p.name, fmt.Sprintf("site %s holds %d of %d votes", p.name, n, c.report.Total),
				"its loss stops every group at every site; no other site can go on without it",
				"spread the votes so that no site holds more than half, unless that site is meant to decide")
		}
	}
}

func (c *check) singleVoter() {
	if v := c.voting(); len(v) == 1 {
		c.say(Error, string(v[0].ID), v[0].called()+" is the only voter", "its loss, or a restart of it, stops every group", "give votes to at least three voters that do not fall together")
	}
}

// nowhereToGo looks for groups that have copies elsewhere, and may be served at none of those sites.
func (c *check) nowhereToGo() {
	if !c.homesKnown() {
		return
	}
	for _, g := range c.Groups {
		var barred []domain.SiteID
		for _, s := range g.SitesOf() {
			if g.ModeTo(g.Home, s) != domain.ModeNone && g.Barred(s) != nil {
				barred = append(barred, s)
			}
		}
		if len(barred) == 0 || len(g.Heirs(g.Home)) > 0 {
			continue
		}
		c.say(Warning, string(g.ID), fmt.Sprintf("group %s has copies at %s, and its placement lets none of them serve it", g.ID, list(barred)),
			fmt.Sprintf("after the loss of site %s nobody serves it until that site is back, and site %s cannot be drained of it", g.Home, g.Home),
			"pin it to one more site (placement.pinned), or take one from placement.forbidden: holdfast group set "+string(g.ID)+" --pin, --forbid")
	}
}

// sharedFate looks at what voters say that they need.
func (c *check) sharedFate() {
	needs := map[string][]Voter{}
	for _, v := range c.voting() {
		for _, on := range v.On {
			needs[on] = append(needs[on], v)
		}
	}
	if len(needs) == 0 {
		if len(c.voting()) > 1 {
			c.unknown("", "what host, array and power feed each voter needs was not said", "list {id: …, on: [host, array, feed]} of each among quorum.voters")
		}
		return
	}
	for _, on := range slices.Sorted(maps.Keys(needs)) {
		if len(needs[on]) < 2 {
			continue
		}
		lost := ids(needs[on])
		survive := c.cfg.Quorum(func(id core.VoterID) bool { return !slices.Contains(lost, id) })
		severity, then := Warning, "quorum is kept"
		if !survive {
			severity, then = Error, "quorum is lost and every group stops"
		}
		c.say(severity, on, fmt.Sprintf("voters %s all need %s", list(lost), on), fmt.Sprintf("with %s they fall together: %s", on, then), "put them on hosts, arrays and power feeds of their own")
	}
}

func (c *check) voterInVM() {
	for _, v := range c.Voters {
		if v.VM == "" {
			continue
		}
		text := fmt.Sprintf("voter %s runs in vm %s", v.ID, v.VM)
		if g, ok := c.groupOf(v.VM); ok {
			c.say(Error, string(v.ID), text+fmt.Sprintf(", which group %s protects", g.ID),
				"the vote that is to bring the group back is lost with it, and comes back with an old record", "run voters on physical hosts, outside every protection group")
			continue
		}
		c.say(Warning, string(v.ID), text, "a pause or migration stops its clock, and a snapshot that is restored brings back votes it has since given to others: two sites may be granted the same group",
			"run it on a physical host, or never snapshot, suspend or migrate that VM")
	}
}

const mendLive = "run the check where a site of this configuration runs and can be reached"

func (c *check) conformance() {
	for _, v := range c.passive() {
		switch seen, ok := c.seen(v.ID); {
		case !ok || seen.Conformance == "":
			c.unknown(string(v.ID), fmt.Sprintf("whether the storage of %s swaps as it must was not probed", v.called()), mendLive)
		case seen.Conformance != ConformanceOK:
			c.say(Error, string(v.ID), fmt.Sprintf("%s: %s", v.called(), seen.Conformance), "two sites could both believe that they won the vote", "use storage on which the probe passes; mount NFS with noac,lookupcache=none")
		}
	}
}

func (c *check) seen(id core.VoterID) (Seen, bool) {
	if c.Live == nil {
		return Seen{}, false
	}
	s, ok := c.Live.Voters[id]
	return s, ok
}

// leaseShort holds each voter's round trip against the timing: a round of a candidate has Round, and takeover bounds are given
// for a quarter of that; a holder must get a renewal in after one was late.
func (c *check) leaseShort() {
	for _, v := range c.voting() {
		seen, ok := c.seen(v.ID)
		if !ok || seen.Samples == 0 {
			c.unknown(string(v.ID), fmt.Sprintf("the round trip to voter %s is not known", v.ID), mendLive)
			continue
		}
		text := fmt.Sprintf("voter %s answers in %v (p99 of %d); leases hold %v", v.ID, seen.RTT.Round(time.Millisecond/10), seen.Samples, c.Timing.Hold().Round(time.Millisecond))
		switch {
		case seen.RTT > c.Timing.Round || c.Timing.Hold() < 2*c.Timing.Renew+seen.RTT:
			c.say(Error, string(v.ID), text+fmt.Sprintf(", a round ends after %v", c.Timing.Round), "candidacies do not finish and leases lapse while all is well", "use timing: default, a faster link, or a nearer voter")
		case seen.RTT > c.Timing.Round/4:
			c.say(Warning, string(v.ID), text+fmt.Sprintf(", takeover bounds are for %v", c.Timing.Round/4), "a takeover takes longer than its bound", "use timing: default, a faster link, or a nearer voter")
		}
	}
}

func (c *check) noGate() {
	if len(c.Hosts) == 0 {
		if c.multiSite() {
			c.unknown("", "no VM host is configured here", "check with the configuration of each data site")
		}
		return
	}
	for _, h := range c.Hosts {
		if !h.Gate {
			c.say(Warning, string(h.ID), fmt.Sprintf("guests of host %s ask for no lease, and no watchdog guards its agent", h.ID),
				"should the agent hang past the lease, its guests go on answering from memory; their writes are refused by the replicator's gate, so none is acknowledged",
				"fence the host by hardware (a watchdog, its management controller) if clients must not even be answered")
		}
	}
}

// bearable is how much longer a synchronous write may take before it is told; as holdfast link survey has it.
const bearable = 5 * time.Millisecond

func (c *check) syncRoundTrip() {
	for _, g := range c.Groups {
		for _, t := range g.Targets {
			if t.Mode != domain.ModeSync {
				continue
			}
			seen, ok := c.seen(core.VoterID(t.Site))
			switch {
			case !ok || seen.Samples == 0:
				c.unknown(string(g.ID), fmt.Sprintf("the round trip to its synchronous target %s is not known", t.Site), "holdfast link survey "+string(g.Home)+" "+string(t.Site))
			case seen.RTT > bearable:
				c.say(Warning, string(g.ID), fmt.Sprintf("each write waits for site %s, which answers in %v (p99)", t.Site, seen.RTT.Round(time.Millisecond/10)),
					"every write of its VMs takes that much longer", "measure with holdfast link survey, and make the target async where that is not bearable")
			}
		}
	}
}

func (c *check) forced() {
	if c.Live == nil {
		c.unknown("", "whether a quorum was forced is kept by the voters", mendLive)
		return
	}
	for _, v := range c.Live.Groups {
		if v.Epoch.Force() == 0 {
			continue
		}
		text := fmt.Sprintf("quorum of group %s was forced (epoch %s)", v.Group, v.Epoch)
		switch {
		case v.Config.Weights == nil:
			c.unknown(string(v.Group), text+"; which votes count since is not known", mendLive)
		case c.differs(v):
			c.say(Error, string(v.Group), fmt.Sprintf("%s and not healed: its voters are %s", text, list(v.Config.Voters())),
				"the votes that were left out count for nothing: one more loss may stop the group", "bring the other voters back; they count again once the weights in force name them")
		}
	}
}

// differs reports whether other weights are in force for a group than are configured.
func (c *check) differs(v Vote) bool {
	return v.Config.Weights != nil && (v.Config.Joint() || !v.Config.Weights.Same(c.cfg.Weights))
}

func (c *check) weightsInForce() {
	if c.Live == nil {
		c.unknown("", "which weights are in force is kept by the voters", mendLive)
		return
	}
	for _, v := range c.Live.Groups {
		if v.Epoch.Force() > 0 || !c.differs(v) {
			continue
		}
		c.say(Warning, string(v.Group), fmt.Sprintf("for group %s the weights in force are %s, configured are %s", v.Group, weightsText(v.Config.Weights), weightsText(c.cfg.Weights)),
			"what this check counts is not what decides about that group",
			"bring every voter up and see that all files say the same: the site that holds the group then puts its file's weights in force")
	}
}

// votesVia looks at what falls away with a site that relays, as seen from the site whose configuration this is.
func (c *check) votesVia() {
	behind := map[domain.SiteID][]core.VoterID{}
	for _, s := range c.Sites {
		for _, v := range c.voting() {
			if s.Via != "" && v.Site == s.ID && !v.Kind.Passive() { // a share or disk is reached by another way
				behind[s.Via] = append(behind[s.Via], v.ID)
			}
		}
	}
	for _, via := range slices.Sorted(maps.Keys(behind)) {
		lost := slices.Clone(behind[via])
		alone := c.cfg.Quorum(func(id core.VoterID) bool { return !c.standsAt(id, via) })
		left := func(id core.VoterID) bool { return !c.standsAt(id, via) && !slices.Contains(lost, id) }
		votes, _ := c.cfg.Weights.Count(left)
		text := fmt.Sprintf("site %s reaches %s only via site %s", c.From, list(lost), via)
		counts := fmt.Sprintf("with site %s it loses them as well, and counts %d of %s", via, votes, plural(c.report.Total, "vote"))
		mend := fmt.Sprintf("give site %s a way of its own to %s, or a vote to a place that it reaches without site %s", c.From, list(lost), via)
		switch {
		case alone && !c.cfg.Quorum(left):
			c.say(Warning, string(via), text, counts+": every group that it holds stops, and goes on only where a majority is left", mend)
		default:
			c.say(Note, string(via), text, counts, mend)
		}
	}
}

// standsAt reports whether a voter stands at a site.
func (c *check) standsAt(id core.VoterID, site domain.SiteID) bool {
	return slices.ContainsFunc(c.Voters, func(v Voter) bool { return v.ID == id && v.Site == site })
}

// filesDiffer compares what the sites' files say of the votes. What is in force for a group decides about it; of a group that was never
// served there is nothing in force but the files.
func (c *check) filesDiffer() {
	if c.Live == nil {
		c.unknown("", "what the files of the other sites say is told by their quorum services", mendLive)
		return
	}
	for _, site := range slices.Sorted(maps.Keys(c.Live.Files)) {
		if file := c.Live.Files[site]; !sameVotes(file, c.cfg.Weights) {
			c.say(Error, string(site), fmt.Sprintf("the file of site %s gives the voters %s, this one %s", site, weightsText(file), weightsText(c.cfg.Weights)),
				"each may find a majority of its own for a group that was never served: two sites may be granted it",
				"give both files the same voters and weights, and start the quorum service of the one that was changed again")
		}
	}
}

// sameVotes reports whether two sites count the same: one that is left out has no vote.
func sameVotes(a, b core.Weights) bool {
	for _, id := range slices.AppendSeq(slices.Collect(maps.Keys(a)), maps.Keys(b)) {
		if a[id] != b[id] {
			return false
		}
	}
	return true
}

func weightsText(w core.Weights) string {
	var out []string
	for _, id := range slices.Sorted(maps.Keys(w)) {
		out = append(out, fmt.Sprintf("%s=%d", id, w[id]))
	}
	return strings.Join(out, " ")
}

func (c *check) votesReplicated() {
	for _, v := range c.passive() {
		const consequence = "a copy that is promoted elsewhere has votes of the past: two sites may be granted the same group"
		switch {
		case v.Own != "":
			c.say(Error, string(v.ID), fmt.Sprintf("%s is served by this installation itself, at %s", v.called(), v.Own),
				"it is needed to decide who may serve it: nobody can; and "+consequence, "vote on a LUN of another target, which nobody replicates")
		case v.Replicated == domain.ModeSync || v.Replicated == domain.ModeAsync:
			c.say(Error, string(v.ID), fmt.Sprintf("%s is replicated (%s)", v.called(), v.Replicated), consequence, "vote on storage that nobody replicates")
		case v.Replicated == "":
			c.unknown(string(v.ID), fmt.Sprintf("whether %s is replicated was not said", v.called()), "list {id: "+string(v.ID)+", replicated: none} among quorum.voters, or sync or async")
		}
	}
}
