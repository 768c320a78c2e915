// Package policy decides by itself, for groups whose policy is auto, that a lost site's groups are to be taken over here. It is
// pure: the confirmed disasters and the time go in, what is due comes out.
//
//	well --- disaster confirmed ---> holding down --- still confirmed after the group's hold-down ---> due
//	 ^                                    |
//	 +------- no longer confirmed --------+
//
// Only the first site of a group that is not itself lost takes it over; the others leave it to that one. Time is any clock that
// counts suspends and never steps; a restart of the service begins the hold-down anew.
package policy

import (
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
	var out []Due
	for _, site := range slices.Sorted(maps.Keys(next.Since)) {
		due := Due{Site: site}
		for _, g := range in.Groups {
			if g.Site == site && g.Group.Failover == domain.FailoverAuto && in.Now-next.Since[site] >= g.Group.HoldDown && heir(g.Group, site, next) == in.Self {
				due.Groups = append(due.Groups, g.Group.ID)
			}
		}
		if len(due.Groups) > 0 {
			slices.Sort(due.Groups)
			out = append(out, due)
		}
	}
	return next, out
}

// heir is the first site of a group that has its changes and is not lost; empty when there is none.
func heir(g domain.Group, lost domain.SiteID, s State) domain.SiteID {
	for _, site := range g.SitesOf() {
		if _, gone := s.Since[site]; !gone && g.ModeTo(lost, site) != domain.ModeNone {
			return site
		}
	}
	return ""
}
