package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// DrainInput is what is known when a site is to be drained.
type DrainInput struct {
	Self   domain.SiteID // the site to drain
	List   api.GroupList
	Copies []api.GroupStatus // of the site itself
	// Against is what each other site says against taking each group. A site without an entry did not answer.
	Against map[domain.SiteID]map[domain.GroupID]string
}

// Drain lays out which groups leave a site, by which runs and in which order, and which stay and why: plan by plan, within a
// plan by priority, each group to the first of its heirs that can take it without loss. The groups of a plan that go to one site
// go in one run, which keeps to the plan's order.
func Drain(in DrainInput) ([]api.DrainRun, []api.DrainStay) {
	var runs []api.DrainRun
	var stays []api.DrainStay
	for _, g := range inPlanOrder(in.List) {
		if g.Site != in.Self {
			continue
		}
		id := g.Group.ID
		to, why := in.takerOf(g.Group)
		if to == "" {
			stays = append(stays, api.DrainStay{Group: id, Why: why})
			continue
		}
		p := PlanOf(in.List, id).ID
		i := slices.IndexFunc(runs, func(r api.DrainRun) bool { return r.Plan == p && r.To == to })
		if i < 0 {
			i = len(runs)
			runs = append(runs, api.DrainRun{Plan: p, To: to, State: api.StepPending})
		}
		runs[i].Groups = append(runs[i].Groups, id)
	}
	return runs, stays
}

// takerOf is the first heir that can take a group; else why none of its sites can.
func (in DrainInput) takerOf(g domain.Group) (domain.SiteID, string) {
	drained := in.List.Drained()
	var why []string
	for _, to := range g.Heirs(in.Self) {
		against, answered := in.Against[to]
		_, _, err := Ready(in.Copies, g.ID, in.Self, to)
		switch {
		case slices.Contains(drained, to):
			why = append(why, fmt.Sprintf("site %s is drained itself", to))
		case !answered:
			why = append(why, fmt.Sprintf("site %s does not answer", to))
		case err != nil:
			why = append(why, reason(err))
		case against[g.ID] != "":
			why = append(why, against[g.ID])
		default:
			return to, ""
		}
	}
	for _, s := range g.SitesOf() {
		if err := g.Barred(s); err != nil && s != in.Self && g.ModeTo(in.Self, s) != domain.ModeNone {
			why = append(why, reason(err))
		}
	}
	if len(why) == 0 {
		why = []string{"no other site has its changes"}
	}
	return "", strings.Join(why, "; ")
}

func reason(err error) string {
	return strings.TrimPrefix(err.Error(), domain.ErrRefused.Error()+": ")
}

// inPlanOrder lists the groups plan by plan, within a plan by priority, and then those of no plan.
func inPlanOrder(list api.GroupList) []api.GroupDesired {
	at := map[domain.GroupID]api.GroupDesired{}
	for _, g := range list.Groups {
		at[g.Group.ID] = g
	}
	var out []api.GroupDesired
	add := func(id domain.GroupID) {
		if g, ok := at[id]; ok {
			out = append(out, g)
			delete(at, id)
		}
	}
	for _, p := range list.Plans {
		groups := slices.Clone(p.Groups)
		slices.SortStableFunc(groups, func(a, b domain.PlanGroup) int { return cmp.Compare(a.Priority, b.Priority) })
		for _, pg := range groups {
			add(pg.Group)
		}
	}
	for _, g := range list.Groups {
		add(g.Group.ID)
	}
	return out
}

// NextRun is the first run of a drain that is not at its end; false when there is none.
func NextRun(d api.Drain) (int, bool) {
	i := slices.IndexFunc(d.Runs, func(r api.DrainRun) bool { return r.State == api.StepPending || r.State == api.StepRunning })
	return i, i >= 0
}

// Arrived are the groups that are wanted at a site now and were not before.
func Arrived(self domain.SiteID, before, now api.GroupList) []domain.GroupID {
	var out []domain.GroupID
	for _, g := range now.Groups {
		if g.Site == self && !at(before, g.Group.ID, self) {
			out = append(out, g.Group.ID)
		}
	}
	return out
}

func at(list api.GroupList, id domain.GroupID, site domain.SiteID) bool {
	return slices.ContainsFunc(list.Groups, func(g api.GroupDesired) bool { return g.Group.ID == id && g.Site == site })
}

// Finish ends a drain whose runs are at their ends: what failed to move stays, and what came after it was planned.
func Finish(d api.Drain, self domain.SiteID, list api.GroupList) api.Drain {
	d.State, d.Stays = api.DrainDrained, slices.Clone(d.Stays)
	for _, r := range d.Runs {
		for _, id := range r.Groups {
			if r.State == api.StepFailed && at(list, id, self) {
				d.Stays = append(d.Stays, api.DrainStay{Group: id, Why: fmt.Sprintf("run %s to site %s: %s", r.ID, r.To, r.Error)})
			}
		}
	}
	for _, g := range list.Groups {
		if id := g.Group.ID; g.Site == self && !planned(d, id) {
			d.Stays = append(d.Stays, api.DrainStay{Group: id, Why: "it is wanted here, and the drain was planned without it: drain the site again"})
		}
	}
	return d
}

// planned reports whether a drain says what becomes of a group.
func planned(d api.Drain, id domain.GroupID) bool {
	return slices.ContainsFunc(d.Stays, func(s api.DrainStay) bool { return s.Group == id }) ||
		slices.ContainsFunc(d.Runs, func(r api.DrainRun) bool { return slices.Contains(r.Groups, id) })
}
