package whatif

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/health/assess"
)

// sight is what each observer that is left concludes of the sites.
type sight map[domain.SiteID]assess.Result

// disasters are the sites that an observer takes for lost.
func (s sight) disasters(observer domain.SiteID) []domain.SiteID {
	var out []domain.SiteID
	for _, a := range s[observer].Assessments {
		if a.Class == api.ClassDisaster {
			out = append(out, a.Site)
		}
	}
	return out
}

func (s sight) lost(observer, site domain.SiteID) bool {
	return slices.Contains(s.disasters(observer), site)
}

// look is what each observer concludes once its detectors have made up their minds: first of what is lost already, then of the
// rest. held: maintenance windows count.
func (w world) look(held bool) sight {
	out := sight{}
	today := newWorld(w.State, w.cfg, nil)
	for _, s := range w.leaves {
		before, after := today.seenBy(s), w.seenBy(s)
		if held {
			before.Maintenance, after.Maintenance = w.maintained(s), w.maintained(s)
		}
		st, _ := assess.Decide(w.known(s), assess.Rules{}, before)
		_, out[s] = assess.Decide(st, assess.Rules{}, after)
	}
	return out
}

// known is what an observer takes for a disaster now. A window that was opened later does not undo it.
func (w world) known(observer domain.SiteID) assess.State {
	st := assess.Resume()
	for _, a := range w.Health[observer].Assessments {
		switch a.Disaster {
		case api.DisasterSuspected:
			st.Levels[a.Site] = assess.LevelSuspected
		case api.DisasterConfirmed, api.DisasterAnswering:
			st.Levels[a.Site] = assess.LevelConfirmed
		}
	}
	return st
}

// maintained is what is under maintenance as an observer knows it.
func (w world) maintained(observer domain.SiteID) []api.Part {
	var out []api.Part
	for _, m := range w.Health[observer].Maintenance {
		if m.Active(w.At) {
			out = append(out, m.About)
		}
	}
	return out
}

// windows are those that an observer knows to be open for a whole site, the last to end first.
func (w world) windows(observer domain.SiteID) []api.Maintenance {
	var out []api.Maintenance
	for _, m := range w.Health[observer].Maintenance {
		if m.Active(w.At) && m.About.Kind == assess.KindSite {
			out = append(out, m)
		}
	}
	slices.SortFunc(out, func(a, b api.Maintenance) int { return b.Until.Compare(a.Until) })
	return out
}

// openWindows are those of whole sites that are open at any site that is left.
func (w world) openWindows() []api.Maintenance {
	var out []api.Maintenance
	for _, observer := range w.leaves {
		for _, m := range w.windows(observer) {
			if !slices.ContainsFunc(out, func(x api.Maintenance) bool { return x.ID == m.ID }) {
				out = append(out, m)
			}
		}
	}
	slices.SortFunc(out, func(a, b api.Maintenance) int { return strings.Compare(a.ID, b.ID) })
	return out
}

// end is the first full second at which a window is over.
func end(m api.Maintenance) string {
	return m.Until.Add(time.Second - 1).UTC().Truncate(time.Second).Format(time.RFC3339)
}

// seenBy is everything an observer would know once its detectors have made up their minds.
func (w world) seenBy(self domain.SiteID) assess.Input {
	in := assess.Input{Self: self, Own: w.view(self), Views: map[domain.SiteID]api.View{}}
	for _, s := range w.Plan.Sites {
		in.Sites = append(in.Sites, s.ID)
		if s.ID != self && w.reaches(string(self), string(s.ID)) {
			in.Views[s.ID] = w.view(s.ID)
		}
	}
	return in
}

// deadAfter is more missed answers than a detector waits for.
const deadAfter = 10

func (w world) view(observer domain.SiteID) api.View {
	v := api.View{Observer: observer}
	for _, s := range w.Plan.Sites {
		if s.ID == observer {
			continue
		}
		for _, path := range []string{assess.PathHeartbeat, assess.PathAPI} {
			o := api.Observation{Kind: assess.KindSite, ID: string(s.ID), Site: s.ID, Path: path, State: api.StateAlive}
			if !w.reaches(string(observer), string(s.ID)) {
				o.State, o.Missed = api.StateDead, deadAfter
			}
			v.Observations = append(v.Observations, o)
		}
	}
	return v
}

// unconfirmed is why an observer does not take a site for lost, and what has to pass before it would.
func (w world) unconfirmed(observer, site domain.SiteID) (why, held string) {
	switch {
	case w.unheld.lost(observer, site):
		all := w.windows(observer)
		m := all[max(0, slices.IndexFunc(all, func(m api.Maintenance) bool { return m.About.Site == site }))] // another's may leave the observer isolated
		return fmt.Sprintf("site %s is under maintenance until %s (%s: %s): before that site %s does not take the loss of site %s for a disaster (whatif --at %s says what comes then)", m.About.Site, end(m), m.ID, m.Why, observer, site, end(m)),
			fmt.Sprintf("maintenance %s until %s", m.ID, end(m))
	case w.lost[string(site)]:
		return fmt.Sprintf("the loss of site %s is not seen from two places, so nobody takes it for a disaster by itself", site), ""
	}
	return fmt.Sprintf("site %s is not lost to two places, so it is no disaster: local repair", site), ""
}
