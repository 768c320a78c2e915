package planner

import (
	"slices"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
)

// maxParts is how many places there may be for every partition to be listed; with more, only those in two.
const maxParts = 5

// place is what is lost, or cut off, as one: a site, or a voter that stands at none.
type place struct {
	name string
	site domain.SiteID // empty: of none
	data bool          // may serve
}

// places lists the sites, and then the voters that stand at none of them.
func (in Input) places() []place {
	var out []place
	for _, s := range in.Sites {
		out = append(out, place{name: string(s.ID), site: s.ID, data: s.Role == domain.SiteData})
	}
	for _, v := range in.Voters {
		if v.Site == "" {
			out = append(out, place{name: string(v.ID)})
		}
	}
	return out
}

// at is the name of the place a voter stands at.
func (v Voter) at() string {
	if v.Site == "" {
		return string(v.ID)
	}
	return string(v.Site)
}

// side counts what a set of places has.
func (c *check) side(places []place) Side {
	has := func(id core.VoterID) bool {
		i := slices.IndexFunc(c.Voters, func(v Voter) bool { return v.ID == id })
		return i >= 0 && slices.ContainsFunc(places, func(p place) bool { return p.name == c.Voters[i].at() })
	}
	out := Side{Quorum: c.cfg.Quorum(has)}
	out.Votes, _ = c.cfg.Weights.Count(has)
	for _, p := range places {
		out.Places = append(out.Places, p.name)
		if p.data && out.Quorum {
			out.Serve = append(out.Serve, p.site)
		}
	}
	return out
}

// without is the places but those named.
func without(all []place, lost ...string) []place {
	return slices.DeleteFunc(slices.Clone(all), func(p place) bool { return slices.Contains(lost, p.name) })
}

func (c *check) enumerate() {
	for _, p := range c.all {
		c.report.Losses = append(c.report.Losses, Case{Lost: []string{p.name}, Sides: []Side{c.side(without(c.all, p.name))}})
	}
	c.report.Bisections = len(c.all) > maxParts
	for _, parts := range partitions(c.all, c.report.Bisections) {
		var k Case
		for _, part := range parts {
			k.Sides = append(k.Sides, c.side(part))
		}
		c.report.Partitions = append(c.report.Partitions, k)
	}
}

// partitions lists the ways to split all into two or more parts, or into two only, in the order of restricted growth: the
// first place is always in the first part, so that no partition comes twice.
func partitions(all []place, two bool) [][][]place {
	var out [][][]place
	var grow func(i int, parts [][]place)
	grow = func(i int, parts [][]place) {
		if i == len(all) {
			if len(parts) > 1 {
				k := make([][]place, len(parts))
				for j := range parts {
					k[j] = slices.Clone(parts[j])
				}
				out = append(out, k)
			}
			return
		}
		for j := range parts {
			parts[j] = append(parts[j], all[i])
			grow(i+1, parts)
			parts[j] = parts[j][:len(parts[j])-1]
		}
		if !two || len(parts) < 2 {
			grow(i+1, append(parts, []place{all[i]}))
		}
	}
	grow(0, nil)
	return out
}
