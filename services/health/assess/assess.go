package assess

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Decide concludes from everything known at one instant. While this observer doubts itself it tells nothing; what it told
// before stays as it was.
func Decide(prev State, rules Rules, in Input) (State, Result) {
	d := decision{State: prev.clone(), rules: rules, in: in, isolated: prev.isolated(in), verdicts: map[domain.SiteID]verdict{}}
	d.rules.Vantages = max(2, rules.Vantages)
	d.vantages = vantages(in, d.isolated)
	for _, site := range in.Sites {
		switch {
		case in.Own.Sick:
			d.out = append(d.out, notJudged(site, "not judged, this observer doubts itself: "+strings.Join(in.Own.Doubts, "; ")))
		case site == in.Self:
			d.own()
		case d.isolated:
			d.link(site)
			d.out = append(d.out, notJudged(site, "not judged: this observer reaches too few of the other sites, it is isolated"))
		default:
			d.other(site)
		}
	}
	d.note()
	return d.State, Result{Isolated: d.isolated, Assessments: d.out, Changes: d.changes}
}

type decision struct {
	State
	rules    Rules
	in       Input
	isolated bool
	vantages []api.View
	verdicts map[domain.SiteID]verdict
	out      []api.Assessment
	changes  []Change
}

// isolated: fewer than half of the other sites are alive on any path of one's own. So many do not die at once; it is this site that is
// cut off. Those whose loss was confirmed before are not counted.
func (s State) isolated(in Input) bool {
	alive := map[domain.SiteID]bool{}
	for _, o := range in.Own.Observations {
		if o.Kind == KindSite && o.State == api.StateAlive {
			alive[o.Site] = true
		}
	}
	others, seen := 0, 0
	for _, site := range in.Sites {
		if site == in.Self || s.Levels[site] == LevelConfirmed && !alive[site] {
			continue
		}
		others++
		if alive[site] {
			seen++
		}
	}
	return seen == 0 || 2*seen < others
}

func vantages(in Input, isolated bool) []api.View {
	var out []api.View
	if !in.Own.Sick && !isolated {
		out = append(out, in.Own)
	}
	for _, site := range in.Sites {
		if v, ok := in.Views[site]; ok && site != in.Self && !v.Sick {
			out = append(out, v)
		}
	}
	return out
}

// verdict is what the vantage points say of one site.
type verdict struct {
	heartbeatDead, apiDead []domain.SiteID // who lost it on which path
	lost                   []domain.SiteID // who lost it on both
	answered, alive        []domain.SiteID // to whom it answers; who has it alive
	apiAnswered            []domain.SiteID
	ownFailing, ownDead    bool // all paths of one's own
	others                 int  // vantage points besides oneself
	evidence               []api.Observation
	first                  time.Time
}

func (d *decision) judge(site domain.SiteID) verdict {
	if v, ok := d.verdicts[site]; ok {
		return v
	}
	v := d.hear(site)
	d.verdicts[site] = v
	return v
}

func (d *decision) hear(site domain.SiteID) verdict {
	var v verdict
	for _, view := range d.vantages {
		if view.Observer == site {
			continue
		}
		if view.Observer != d.in.Self {
			v.others++
		}
		v.add(view, site, view.Observer == d.in.Self)
	}
	return v
}

func (v *verdict) add(view api.View, site domain.SiteID, own bool) {
	known, fail, dead := 0, 0, 0
	note := func(list *[]domain.SiteID) {
		if !slices.Contains(*list, view.Observer) {
			*list = append(*list, view.Observer)
		}
	}
	for _, o := range sitePaths(view, site) {
		o.Observer, o.Confidence = view.Observer, view.Confidence
		v.evidence = append(v.evidence, o)
		known++
		if failing(o) {
			fail++
			if !o.FirstMissed.IsZero() && (v.first.IsZero() || own && o.FirstMissed.Before(v.first)) {
				v.first = o.FirstMissed
			}
		}
		if answering(o) {
			note(&v.answered)
			if o.Path == PathAPI {
				note(&v.apiAnswered)
			}
			if o.State == api.StateAlive {
				note(&v.alive)
			}
		}
		if o.State != api.StateDead {
			continue
		}
		dead++
		if o.Path == PathHeartbeat {
			note(&v.heartbeatDead)
		} else {
			note(&v.apiDead)
		}
	}
	if known > 1 && dead == known {
		note(&v.lost)
	}
	if own {
		v.ownFailing, v.ownDead = known > 1 && fail == known, known > 1 && dead == known
	}
}

// sitePaths is how an observer sees a site, on each path it knows something of.
func sitePaths(view api.View, site domain.SiteID) []api.Observation {
	out := make([]api.Observation, 0, 2)
	for _, o := range view.Observations {
		if o.Kind == KindSite && o.Site == site && o.State != api.StateUnknown {
			out = append(out, o)
		}
	}
	return out
}

// own assesses this observer's own site: its parts, and its links.
func (d *decision) own() {
	hurt := d.objects()
	d.incident(d.in.Self, hurt)
	if a := d.partial(d.in.Self, hurt); a.Class != api.ClassNone {
		d.out = append(d.out, a)
		return
	}
	a := api.Assessment{Site: d.in.Self, Class: api.ClassNone, Seen: []domain.SiteID{d.in.Self}, Text: "well"}
	for _, site := range d.in.Sites {
		if site == d.in.Self || d.Levels[site] != LevelNone {
			continue
		}
		if state, ev := d.cut(d.in.Own, site, d.judge(site)); state == api.StateDead && !d.linkSilenced(LinkID(d.in.Self, site)) {
			a.Class, a.Text = api.ClassWAN, "a link is cut, both its ends live"
			a.Objects = append(a.Objects, KindLink+"/"+LinkID(d.in.Self, site))
			a.Parts = a.Objects
			a.Evidence = append(a.Evidence, ev...)
		}
	}
	if d.isolated && a.Class == api.ClassWAN {
		a.Text = "isolated: no other site can be reached from here; what this site sees of them counts for nothing"
	}
	a.Since = earliest(a.Evidence)
	d.out = append(d.out, a)
}

// other assesses another site: whole, then its parts, then the links to it.
func (d *decision) other(site domain.SiteID) {
	v := d.judge(site)
	a := d.disaster(site, v)
	if d.Levels[site] != LevelNone {
		d.out = append(d.out, a)
		return // its links cannot be told from itself
	}
	d.link(site)
	hurt, told := d.parts(site, v)
	if told && len(v.answered) > 0 {
		d.incident(site, hurt)
	}
	if p := d.partial(site, hurt); p.Class != api.ClassNone {
		d.out = append(d.out, p)
		return
	}
	d.out = append(d.out, d.linksOf(site, v))
}

// disaster moves the site's level and tells about it.
func (d *decision) disaster(site domain.SiteID, v verdict) api.Assessment {
	k := d.rules.Vantages
	level := d.Levels[site]
	confirmed := len(v.answered) == 0 && len(v.heartbeatDead) >= k && len(v.apiDead) >= k
	suspected := confirmed || len(v.answered) == 0 && v.ownFailing && v.others > 0
	a := api.Assessment{Site: site, Class: api.ClassNone, Seen: v.lost, Evidence: v.evidence, Since: d.firsts[site]}
	if level == LevelNone && d.siteSilenced(site) {
		suspected, confirmed = false, false
	}
	switch {
	case level != LevelNone && len(v.alive) > 0:
		a.Text = fmt.Sprintf("site %s is seen again by %s", site, names(v.alive))
		d.tell(site, EntityDisaster, FactOver, a, v)
		d.Levels[site] = LevelNone
		delete(d.firsts, site)
	case level != LevelNone && d.firsts[site].IsZero():
		d.firsts[site] = v.first
		a.Since = v.first
	case level == LevelNone && suspected:
		d.firsts[site] = v.first
		a = d.suspectedText(a)
		d.tell(site, EntityDisaster, FactSuspected, a, v)
		d.Levels[site] = LevelSuspected
	}
	d.site(site, v, suspected)
	if d.Levels[site] == LevelSuspected && confirmed {
		d.Levels[site] = LevelConfirmed
		d.tell(site, EntityDisaster, FactConfirmed, d.confirmedText(a, v), v)
	}
	switch level := d.Levels[site]; {
	case level == LevelConfirmed && len(v.answered) > 0:
		// Not over before it is alive again, but nobody may take it for lost meanwhile: what was just moved home to it would be
		// moved away from a site that lives.
		a.Disaster = api.DisasterAnswering
		a.Text = fmt.Sprintf("site %s answers %s again: its disaster is over once it has done so for a while", site, names(v.answered))
	case level == LevelConfirmed:
		return d.confirmedText(a, v)
	case level == LevelSuspected:
		return d.suspectedText(a)
	}
	return a
}

func (d *decision) suspectedText(a api.Assessment) api.Assessment {
	a.Since, a.Disaster, a.Parts = d.firsts[a.Site], api.DisasterSuspected, []string{KindSite + "/" + string(a.Site)}
	if len(a.Seen) == 0 {
		a.Seen = []domain.SiteID{d.in.Self}
	}
	a.Text = fmt.Sprintf("site %s answers nobody: a disaster is suspected", a.Site)
	return a
}

func (d *decision) confirmedText(a api.Assessment, v verdict) api.Assessment {
	a.Class, a.Disaster, a.Since, a.Parts = api.ClassDisaster, api.DisasterConfirmed, d.firsts[a.Site], []string{KindSite + "/" + string(a.Site)}
	a.Text = fmt.Sprintf("site %s is lost: its services' heartbeats ended at %s, and its server answers no request of %s",
		a.Site, names(v.heartbeatDead), names(v.apiDead))
	return a
}

func (d *decision) tell(site domain.SiteID, entity, fact string, a api.Assessment, v verdict) {
	d.changes = append(d.changes, Change{Entity: entity, Fact: fact, Assessment: a, Evidence: v.evidence, Witnesses: d.witnesses(site), FirstMissed: d.firsts[site]})
}

// site tells how this observer sees another site as an object.
func (d *decision) site(site domain.SiteID, v verdict, failing bool) {
	state := api.StateUnknown
	switch {
	case len(v.alive) > 0:
		state = api.StateAlive
	case failing && v.ownDead:
		state = api.StateDead
	case failing:
		state = api.StateSuspect
	}
	if fact := d.move(object{KindSite, string(site), site}, state); fact != "" {
		d.changes = append(d.changes, Change{Entity: KindSite, Fact: fact, Evidence: v.evidence, FirstMissed: v.first,
			Object: summary(KindSite, string(site), site, state, d.in.Self, v.evidence)})
	}
}

func notJudged(site domain.SiteID, text string) api.Assessment {
	return api.Assessment{Site: site, Class: api.ClassNone, Text: text}
}

// summary is one observation for several of its paths.
func summary(kind, id string, site domain.SiteID, state string, observer domain.SiteID, evidence []api.Observation) api.Observation {
	o := api.Observation{Kind: kind, ID: id, Site: site, State: state, Observer: observer}
	var paths, details []string
	for _, e := range evidence {
		if e.Observer != observer && e.Observer != "" {
			continue
		}
		paths = append(paths, e.Path)
		details = append(details, e.Path+": "+e.State+" "+e.Detail)
		if e.Since.After(o.Since) {
			o.Since = e.Since
		}
		if !e.FirstMissed.IsZero() && (o.FirstMissed.IsZero() || e.FirstMissed.Before(o.FirstMissed)) {
			o.FirstMissed = e.FirstMissed
		}
	}
	o.Path, o.Detail = strings.Join(paths, "+"), strings.Join(details, "; ")
	return o
}

func names(sites []domain.SiteID) string {
	out := make([]string, len(sites))
	for i, s := range sites {
		out[i] = string(s)
	}
	return strings.Join(out, ", ")
}

// earliest is the first missed beat of all evidence, zero when nothing is missing.
func earliest(evidence []api.Observation) time.Time {
	var first time.Time
	for _, e := range evidence {
		if !e.FirstMissed.IsZero() && (first.IsZero() || e.FirstMissed.Before(first)) {
			first = e.FirstMissed
		}
	}
	return first
}
