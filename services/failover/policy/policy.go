// Package policy decides by itself, for groups whose policy is auto, that a lost site's groups are to be taken over here. It is
// pure: the confirmed disasters and the time go in, what is due comes out.
//
//	well --- disaster confirmed ---> holding down --- still confirmed after the group's hold-down ---> due
//	 ^                                    |
//	 +------- no longer confirmed --------+
//
// Only the first heir of a group (domain.Group.Heirs) that is neither lost nor drained takes it over; the others leave it to that
// one. Time is any clock that
// counts suspends and never steps; a restart of the service begins the hold-down anew.
package policy

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// State is since when each site has been confirmed lost.
type State struct {
	Since map[domain.SiteID]time.Duration
}

// Input is what is known now.
type Input struct {
	Self      domain.SiteID
	Now       time.Duration // of a boot-time clock
	Confirmed []domain.SiteID
	Drained   []domain.SiteID // sites that take no groups
	Groups    []api.GroupDesired
}

// Due is a site whose groups this site is to take over now.
type Due struct {
	Site   domain.SiteID
	Groups []domain.GroupID
}

// Decide moves the state on. What is due stays due until the group's desired site changes or the site is back.
func Decide(s State, in Input) (State, []Due) {
	next := State{Since: map[domain.SiteID]time.Duration{}}
	for _, site := range in.Confirmed {
		if site == in.Self {
			continue
		}
		since, known := s.Since[site]
		if !known {
			since = in.Now
		}
		next.Since[site] = since
	}
	var all []Due
	lost := slices.Sorted(maps.Keys(next.Since))
	out := slices.Concat(lost, in.Drained)
	for _, site := range lost {
		due := Due{Site: site}
		for _, g := range in.Groups {
			if g.Site == site && g.Group.Failover == domain.FailoverAuto && in.Now-next.Since[site] >= g.Group.HoldDown && Heir(g.Group, site, out) == in.Self {
				due.Groups = append(due.Groups, g.Group.ID)
			}
		}
		if len(due.Groups) > 0 {
			slices.Sort(due.Groups)
			all = append(all, due)
		}
	}
	return next, all
}

// Order is what one failover run takes over: groups of one plan.
type Order struct {
	Plan       domain.Plan
	From       domain.SiteID
	Groups     []domain.GroupID
	AcceptLoss map[domain.GroupID]bool // of those whose copies are asynchronous
}

// Orders lays out what is due as runs of the site self, one for each plan, in the order in which their groups come.
func Orders(self domain.SiteID, d Due, list api.GroupList) []Order {
	var out []Order
	for _, id := range d.Groups {
		p := PlanOf(list, id)
		i := slices.IndexFunc(out, func(o Order) bool { return o.Plan.ID == p.ID })
		if i < 0 {
			i = len(out)
			out = append(out, Order{Plan: p, From: d.Site, AcceptLoss: map[domain.GroupID]bool{}})
		}
		out[i].Groups = append(out[i].Groups, id)
		out[i].AcceptLoss[id] = ModeFrom(list, id, d.Site, self) == domain.ModeAsync
	}
	return out
}

// PlanOf is the first plan that has the group; a plan of its own when none has.
func PlanOf(list api.GroupList, g domain.GroupID) domain.Plan {
	for _, p := range list.Plans {
		if slices.ContainsFunc(p.Groups, func(pg domain.PlanGroup) bool { return pg.Group == g }) {
			return p
		}
	}
	return domain.Plan{ID: domain.PlanID(g), Groups: []domain.PlanGroup{{Group: g}}}
}

// ModeFrom is the mode in which a group's changes go from one site to another.
func ModeFrom(list api.GroupList, id domain.GroupID, from, to domain.SiteID) domain.Mode {
	for _, g := range list.Groups {
		if g.Group.ID == id {
			return g.Group.ModeTo(from, to)
		}
	}
	return domain.ModeNone
}

// Heir is the site that takes a group over from another: the first of its heirs that is not out, as lost or drained sites are;
// empty when there is none.
func Heir(g domain.Group, from domain.SiteID, out []domain.SiteID) domain.SiteID {
	for _, site := range g.Heirs(from) {
		if !slices.Contains(out, site) {
			return site
		}
	}
	return ""
}

// Ready finds, in what the serving site says of its copies, whether a group can be handed to another site without loss. Errors
// wrap domain.ErrRefused and say why not.
func Ready(copies []api.GroupStatus, g domain.GroupID, from, to domain.SiteID) (api.GroupStatus, api.TargetStatus, error) {
	fail := func(format string, args ...any) (api.GroupStatus, api.TargetStatus, error) {
		return api.GroupStatus{}, api.TargetStatus{}, fmt.Errorf("%w: "+format, append([]any{domain.ErrRefused}, args...)...)
	}
	i := slices.IndexFunc(copies, func(c api.GroupStatus) bool { return c.Group == g })
	if i < 0 {
		return fail("site %s has no copy", from)
	}
	have := copies[i]
	if have.Role != domain.RolePrimary || !have.Serving {
		return fail("site %s does not serve it", from)
	}
	for _, t := range have.Targets {
		switch {
		case t.Site != to:
		case t.InSync || t.State == api.TargetStreaming:
			return have, t, nil
		default:
			return fail("the copy at site %s is %s (%d bytes behind)", t.Site, t.State, t.LagBytes)
		}
	}
	return fail("site %s does not send to site %s", from, to)
}
