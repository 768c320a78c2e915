// Package policy says who takes a lost site's groups over, in which runs, and whether a group can be handed over without loss. It is
// pure. When a site's groups are taken over is package declaration's.
package policy

import (
	"fmt"
	"slices"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Due is a site, and which of its groups are to be taken over.
type Due struct {
	Site   domain.SiteID
	Groups []domain.GroupID
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
