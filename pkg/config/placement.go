package config

import (
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Placement is which of its sites may serve a group.
type Placement struct {
	Preferred domain.SiteID   `yaml:"preferred"` // taken first among those that could take it over
	Pinned    []domain.SiteID `yaml:"pinned"`    // no other site serves it
	Forbidden []domain.SiteID `yaml:"forbidden"` // these never serve it
	Return    Return          `yaml:"return"`
}

// Return is when a group moves to its preferred site by itself. By default it never does.
type Return struct {
	After  Duration        `yaml:"after"`  // its copy there has been in sync for so long
	Within []domain.Window `yaml:"within"` // the move begins within one of these parts of the day; none: at any time
}

func (p Placement) domain() domain.Placement {
	return domain.Placement{Preferred: p.Preferred, Pinned: p.Pinned, Forbidden: p.Forbidden,
		Return: domain.Return{After: time.Duration(p.Return.After), Within: p.Return.Within}}
}

// placementOf is the way back from domain.
func placementOf(d domain.Placement) Placement {
	return Placement{Preferred: d.Preferred, Pinned: d.Pinned, Forbidden: d.Forbidden, Return: Return{After: Duration(d.Return.After), Within: d.Return.Within}}
}

// minReturn is the shortest time in sync that says anything about a site that was away.
const minReturn = time.Minute

// validatePlacement wants sites of the group, a home that may serve it, and a return that can come about.
func (g Group) validatePlacement(v *validator, f string) {
	of, p := g.Domain(), g.Placement
	named := func(field string, sites []domain.SiteID) {
		seen := map[domain.SiteID]string{}
		for i, s := range sites {
			once(v, seen, fmt.Sprintf("%s[%d]", field, i), s, "name each site once")
			if !slices.Contains(of.SitesOf(), s) {
				v.bad(fmt.Sprintf("%s[%d]", field, i), fmt.Sprintf("%q is no site of the group", s), "name its home or one of its targets")
			}
		}
	}
	named(f+".pinned", p.Pinned)
	named(f+".forbidden", p.Forbidden)
	if p.Preferred != "" {
		switch {
		case !slices.Contains(of.SitesOf(), p.Preferred):
			v.bad(f+".preferred", fmt.Sprintf("%q is no site of the group", p.Preferred), "name its home or one of its targets")
		case of.Barred(p.Preferred) != nil:
			v.bad(f+".preferred", fmt.Sprintf("site %q may not serve it", p.Preferred), "prefer a site that is pinned, where any is, and not forbidden")
		}
	}
	if of.Barred(g.Home) != nil {
		v.bad(f, fmt.Sprintf("its home %q may not serve it", g.Home), "name the home among pinned, where any is, and not among forbidden; or give it another home")
	}
	g.validateReturn(v, f)
}

func (g Group) validateReturn(v *validator, f string) {
	r := g.Placement.Return
	after := time.Duration(r.After)
	switch {
	case after == 0 && len(r.Within) > 0:
		v.bad(f+".return.within", "is set, and return.after is not", "say with return.after how long its copy must have been in sync, or leave it out")
	case after != 0 && after < minReturn:
		v.bad(f+".return.after", after.String()+" is too short", "wait 1m or longer: a site that comes and goes would take the group with it each time")
	case after != 0 && g.Placement.Preferred == "":
		v.bad(f+".return.after", "is set, and no site is preferred", "name the site to return to as placement.preferred")
	}
	for i, w := range r.Within {
		validateWindow(v, fmt.Sprintf("%s.return.within[%d]", f, i), w)
	}
}
