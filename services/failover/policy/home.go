package policy

import (
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Homing is since when the copies here, of groups that prefer this site and are elsewhere, have had everything.
type Homing struct {
	Since map[domain.GroupID]time.Duration
}

// HomeInput is what is known now of the groups that may come home.
type HomeInput struct {
	Self      domain.SiteID
	Now       time.Duration // of a boot-time clock
	Wall      time.Time     // of the machine, in its own time zone: for windows only
	Confirmed []domain.SiteID
	Drained   []domain.SiteID
	Groups    []api.GroupDesired
	Ready     map[domain.GroupID]bool // its copy here has everything; what is not known is not ready
}

// MayReturn reports whether a group is to move to a site by itself, once it can.
func MayReturn(g api.GroupDesired, self domain.SiteID) bool {
	p := g.Group.Placement
	return p.Return.After > 0 && p.Preferred == self && g.Site != self && g.Group.Barred(self) == nil
}

// Home moves the state on, and tells which groups move here now, by the site they are at. A group that was not ready for a moment
// begins to wait anew, and so does each that is told: another attempt comes no sooner than the first. While a disaster is
// confirmed anywhere, or this site is drained, none is told.
func Home(s Homing, in HomeInput) (Homing, []Due) {
	next := Homing{Since: map[domain.GroupID]time.Duration{}}
	calm := len(in.Confirmed) == 0 && !slices.Contains(in.Drained, in.Self)
	var out []Due
	for _, g := range in.Groups {
		id := g.Group.ID
		if !calm || !MayReturn(g, in.Self) || !in.Ready[id] {
			continue
		}
		since, known := s.Since[id]
		if !known {
			since = in.Now
		}
		back := g.Group.Placement.Return
		if in.Now-since < back.After || !back.Open(in.Wall) {
			next.Since[id] = since
			continue
		}
		i := slices.IndexFunc(out, func(d Due) bool { return d.Site == g.Site })
		if i < 0 {
			i = len(out)
			out = append(out, Due{Site: g.Site})
		}
		out[i].Groups = append(out[i].Groups, id)
	}
	return next, out
}
