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
	rules := assess.Rules{Vantages: w.Vantages}
	today := newWorld(w.State, w.cfg, nil)
	states := map[domain.SiteID]assess.State{}
	for s := range w.Health {
		states[s] = w.known(s)
	}
	for s, in := range today.inputs(states, held) {
		states[s], _ = assess.Decide(states[s], rules, in)
	}
	out := sight{}
	for s, in := range w.inputs(states, held) {
		_, out[s] = assess.Decide(states[s], rules, in)
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

// inputs are everything that each observer that is left would know once its detectors have made up their minds.
func (w world) inputs(states map[domain.SiteID]assess.State, held bool) map[domain.SiteID]assess.Input {
	out := map[domain.SiteID]assess.Input{}
	views := map[domain.SiteID]api.View{} // as the others get them
	for _, self := range w.leaves {
		if _, ok := states[self]; !ok {
			continue
		}
		in := assess.Input{Self: self, Own: w.view(self), Views: map[domain.SiteID]api.View{}}
		if held {
			in.Maintenance = w.maintained(self)
		}
		for _, s := range w.Plan.Sites {
			in.Sites = append(in.Sites, s.ID)
		}
		out[self] = in
		v := in.Own
		if _, r := assess.Decide(states[self], assess.Rules{}, in); r.Isolated { // what others see changes nothing about that
			v.Sick = true
		}
		views[self] = v
	}
	for self, in := range out {
		for s, v := range views {
			if s != self && w.reaches(string(self), string(s)) {
				in.Views[s] = v
			}
		}
	}
	return out
}

// doubts are why an observer doubts itself now, whatever it sees of the others.
func (w world) doubts(observer domain.SiteID) []string {
	return slices.DeleteFunc(slices.Clone(w.Health[observer].View.Doubts), func(d string) bool { return d == api.DoubtIsolated })
}

// blind are the sites that are left and see nothing that counts.
func (w world) blind() []Blind {
	var out []Blind
	for _, s := range w.leaves {
		if _, answers := w.Health[s]; !answers {
			out = append(out, Blind{s, "its health service does not answer"})
		} else if d := w.doubts(s); len(d) > 0 {
			out = append(out, Blind{s, "its observer doubts itself: " + strings.Join(d, "; ")})
		}
	}
	return out
}

// deadAfter is more missed answers than a detector waits for.
const deadAfter = 10

func (w world) view(observer domain.SiteID) api.View {
	v := api.View{Observer: observer, Doubts: w.doubts(observer)}
	v.Sick = len(v.Doubts) > 0
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
	r, judges := w.unheld[observer]
	i := slices.IndexFunc(r.Assessments, func(a api.Assessment) bool { return a.Site == site })
	switch {
	case w.unheld.lost(observer, site):
		all := slices.Concat(w.windows(observer), w.openWindows()) // another site's window may leave this observer, or one that it hears, isolated
		m := all[max(0, slices.IndexFunc(all, func(m api.Maintenance) bool { return m.About.Site == site }))]
		return fmt.Sprintf("site %s is under maintenance until %s (%s: %s): before that site %s does not take the loss of site %s for a disaster (whatif --at %s says what comes then)", m.About.Site, end(m), m.ID, m.Why, observer, site, end(m)),
			fmt.Sprintf("maintenance %s until %s", m.ID, end(m))
	case slices.ContainsFunc(w.leaves, func(s domain.SiteID) bool { return s != site && w.reaches(string(s), string(site)) }):
		return fmt.Sprintf("site %s is not lost to two places, so it is no disaster: local repair", site), ""
	case !judges || i < 0:
		return fmt.Sprintf("the health service of site %s does not answer: nothing is a disaster to it", observer), fmt.Sprintf("site %s judges nothing", observer)
	case r.Isolated || len(w.doubts(observer)) > 0:
		return fmt.Sprintf("the loss of site %s is, at site %s, %s", site, observer, r.Assessments[i].Text), fmt.Sprintf("site %s judges nothing", observer)
	}
	left, want := 1, max(2, w.Vantages) // without another vantage point not even suspected
	if a := r.Assessments[i]; a.Disaster != "" {
		left = len(a.Seen)
	}
	return fmt.Sprintf("it waits: only %d of the %d vantage points are left that must have lost site %s before that is a disaster (health.vantages)", left, want, site),
		fmt.Sprintf("%d of %d vantage points", left, want)
}
