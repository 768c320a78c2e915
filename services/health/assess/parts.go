package assess

import (
	"fmt"
	"slices"
	"strings"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Names of services that are judged from other sites.
const (
	ServiceHealth = "health" // its own, found missing by the other sites' observers
	ServiceNATS   = "nats"   // the site's server
)

// objects follows the parts of this observer's own site, tells their changes and returns those that are dead.
func (d *decision) objects() []api.Observation {
	var hurt []api.Observation
	for _, o := range Merge(d.in.Own.Observations) {
		if o.Site != d.in.Self || o.Kind == KindSite || o.Kind == KindLink {
			continue
		}
		o.Observer = d.in.Self
		if o.State == api.StateDead {
			hurt = append(hurt, o)
		}
		state := o.State
		if state == api.StateSuspect && !failing(o) {
			state = api.StateUnknown // on its way back to alive: nothing new
		}
		if fact := d.move(object{o.Kind, o.ID, o.Site}, state); fact != "" {
			d.changes = append(d.changes, Change{Entity: o.Kind, Fact: fact, Object: o, FirstMissed: o.FirstMissed})
		}
	}
	d.forget()
	return d.heard(d.in.Own.Observations, hurt)
}

// forget drops parts of the own site that are no longer expected.
func (d *decision) forget() {
	present := map[object]bool{}
	for _, o := range d.in.Own.Observations {
		present[object{o.Kind, o.ID, o.Site}] = true
	}
	for o := range d.known {
		if o.site == d.in.Self && o.kind != KindLink && !present[o] {
			delete(d.known, o)
		}
	}
}

// parts is what is hurt within another site: by its own observer's view, or, when that is missing, by what can be seen from
// here; then told is true, since nobody else tells it.
func (d *decision) parts(site domain.SiteID, v verdict) (hurt []api.Observation, told bool) {
	if view, ok := d.in.Views[site]; ok {
		if view.Sick {
			return nil, true
		}
		for _, o := range Merge(view.Observations) {
			if o.Site == site && o.Kind != KindSite && o.Kind != KindLink && o.State == api.StateDead {
				o.Observer = site
				hurt = append(hurt, o)
			}
		}
		if len(d.incidents[site]) > 0 { // opened here while its own observer was missing
			d.incident(site, nil)
		}
		return d.heard(view.Observations, hurt), false
	}
	if !slices.Contains(v.answered, d.in.Self) {
		return nil, false
	}
	beats := false
	for _, o := range sitePaths(d.in.Own, site) {
		beats = beats || o.Path == PathHeartbeat && answering(o)
		if o.Path == PathAPI && o.State == api.StateDead && len(v.apiAnswered) == 0 && len(v.apiDead) >= d.rules.Vantages {
			o.Kind, o.ID, o.Observer = KindService, ServiceNATS, d.in.Self
			hurt = append(hurt, o)
		}
	}
	if len(hurt) > 0 {
		return d.heard(nil, hurt), true // its server explains everything else
	}
	for _, o := range Merge(d.in.Own.Observations) {
		if o.Site == site && o.Kind != KindSite && o.State == api.StateDead && (beats || o.ID == ServiceHealth) {
			o.Observer = d.in.Self
			hurt = append(hurt, o)
		}
	}
	return d.heard(d.in.Own.Observations, hurt), true
}

// partial classifies what is hurt within a site.
func (d *decision) partial(site domain.SiteID, hurt []api.Observation) api.Assessment {
	a := api.Assessment{Site: site, Class: api.ClassNone, Evidence: hurt, Since: earliest(hurt)}
	if len(hurt) == 0 {
		return a
	}
	a.Class, a.Text = api.ClassService, "a probe fails, its host is well"
	for _, o := range hurt {
		a.Objects = append(a.Objects, o.Kind+"/"+o.ID)
		if !slices.Contains(a.Seen, o.Observer) {
			a.Seen = append(a.Seen, o.Observer)
		}
		if slices.Contains([]string{KindHost, KindReplicator, KindRack, KindStorage}, o.Kind) {
			a.Class, a.Text = api.ClassIncident, "part of the site is down, the rest is well"
		}
	}
	slices.Sort(a.Objects)
	a.Parts = roots(hurt)
	a.Text = fmt.Sprintf("%s: %s", a.Text, strings.Join(a.Parts, ", "))
	if more := slices.DeleteFunc(slices.Clone(a.Objects), func(o string) bool { return slices.Contains(a.Parts, o) }); len(more) > 0 {
		a.Text += " (and with it " + strings.Join(slices.Compact(more), ", ") + ")"
	}
	return a
}

// incident tells when an incident of a site opens, widens (opened again, with everything that is hurt) or closes.
func (d *decision) incident(site domain.SiteID, hurt []api.Observation) {
	a := d.partial(site, hurt)
	before := d.incidents[site]
	wider := slices.ContainsFunc(a.Objects, func(o string) bool { return !slices.Contains(before, o) })
	c := Change{Entity: EntityIncident, Assessment: a, Evidence: hurt, Witnesses: d.reporters(hurt), FirstMissed: a.Since}
	switch {
	case wider:
		c.Fact = FactOpened
	case len(before) > 0 && len(a.Objects) == 0:
		c.Fact, c.Assessment.Objects, c.Assessment.Text = FactClosed, before, "well again: "+strings.Join(before, ", ")
		delete(d.incidents, site)
	}
	if len(a.Objects) > 0 {
		d.incidents[site] = a.Objects
	}
	if c.Fact != "" {
		d.changes = append(d.changes, c)
	}
}

// link tells how the link from this observer to another site fares.
func (d *decision) link(site domain.SiteID) {
	state, evidence := d.cut(d.in.Own, site, d.judge(site))
	id := LinkID(d.in.Self, site)
	if fact := d.move(object{KindLink, id, d.in.Self}, state); fact != "" {
		o := summary(KindLink, id, d.in.Self, state, d.in.Self, evidence)
		d.changes = append(d.changes, Change{Entity: KindLink, Fact: fact, Object: o, Evidence: evidence, Witnesses: d.witnesses(site), FirstMissed: o.FirstMissed})
	}
}

// cut is the state of the link between an observer and a site, as far as it can be told: unknown when the site itself may be
// what is lost. One direction cut is a link lost.
func (d *decision) cut(view api.View, site domain.SiteID, v verdict) (string, []api.Observation) {
	paths := sitePaths(view, site)
	for i := range paths {
		paths[i].Observer = view.Observer
	}
	alone := d.isolated && view.Observer == d.in.Self
	worst, well := api.StateUnknown, len(paths) > 0
	for _, o := range paths {
		well = well && o.State == api.StateAlive
		if !failing(o) || !alone && !d.livesBeyond(site, o.Path, v) {
			continue
		}
		if rank(o.State) > rank(worst) {
			worst = o.State
		}
	}
	switch {
	case alone && !allFailing(paths):
		return api.StateUnknown, paths
	case worst != api.StateUnknown:
		return worst, paths
	case well:
		return api.StateAlive, paths
	}
	return api.StateUnknown, paths
}

// livesBeyond: the far end of a failing path is known to live, so that the link is what fails. Requests fail for a server
// that is down as well, and heartbeats for services that are: the server must answer somebody else, the services' own
// observer must be heard.
func (d *decision) livesBeyond(site domain.SiteID, path string, v verdict) bool {
	_, heard := d.in.Views[site]
	switch {
	case len(v.answered) == 0:
		return false
	case path == PathAPI:
		return len(v.apiAnswered) > 0 || v.others == 0
	}
	return heard || slices.ContainsFunc(v.evidence, func(o api.Observation) bool { return o.Path == PathHeartbeat && answering(o) })
}

func allFailing(paths []api.Observation) bool {
	return len(paths) > 1 && !slices.ContainsFunc(paths, func(o api.Observation) bool { return !failing(o) })
}

// linksOf assesses a site that is well in itself by the links to it that any vantage point finds cut.
func (d *decision) linksOf(site domain.SiteID, v verdict) api.Assessment {
	a := api.Assessment{Site: site, Class: api.ClassNone, Seen: v.answered, Text: "well"}
	if len(v.answered) == 0 {
		a.Text = "not seen"
	}
	for _, view := range d.vantages {
		far := []domain.SiteID{site}
		if view.Observer == site { // its own view of the others shows the links from its side
			far = slices.DeleteFunc(slices.Clone(d.in.Sites), func(s domain.SiteID) bool { return s == site })
		}
		for _, s := range far {
			state, evidence := d.cut(view, s, d.judge(s))
			id := KindLink + "/" + LinkID(view.Observer, s)
			if state != api.StateDead || d.Levels[s] != LevelNone || d.linkSilenced(LinkID(view.Observer, s)) {
				continue
			}
			a.Class, a.Text = api.ClassWAN, "a link is cut, both its ends live"
			a.Evidence = append(a.Evidence, evidence...)
			if !slices.Contains(a.Objects, id) {
				a.Objects = append(a.Objects, id)
				a.Parts = a.Objects
			}
		}
	}
	a.Since = earliest(a.Evidence)
	return a
}
