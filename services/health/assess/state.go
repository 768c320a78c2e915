package assess

import (
	"maps"
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Paths on which a site is seen.
const (
	PathHeartbeat = "heartbeat" // its nodes push to the observer's server
	PathAPI       = "api"       // its server answers the observer's requests
)

// Kinds of object, as in api.Observation.
const (
	KindSite       = "site"
	KindLink       = "link"
	KindReplicator = "replicator"
	KindService    = "service"
	KindHost       = "host"
	KindVM         = "vm"
	KindPort       = "port"
	KindRack       = "rack"
	KindStorage    = "storage"
)

// Facts of a Change.
const (
	FactSuspected = "suspected"
	FactLost      = "lost"
	FactRecovered = "recovered"
	FactOpened    = "opened"
	FactClosed    = "closed"
	FactConfirmed = "confirmed"
	FactOver      = "over"
)

// Entities of a Change that are no object.
const (
	EntityIncident = "incident"
	EntityDisaster = "disaster"
)

// Level is how sure a disaster is.
type Level int

// Levels, in order.
const (
	LevelNone Level = iota
	LevelSuspected
	LevelConfirmed
)

// Rules are the installation's.
type Rules struct {
	// Vantages is k: how many observers must have lost a site on each path. At least 2; less is taken as 2.
	Vantages int
}

// Input is everything known at one instant.
type Input struct {
	Self  domain.SiteID
	Sites []domain.SiteID // of the installation, this one's included
	Own   api.View        // Sick: this observer was paused or its own server is out of reach
	// Views are the other observers', only those that arrived lately.
	Views map[domain.SiteID]api.View
	// Maintenance are the windows that are open now.
	Maintenance []api.Part
}

// State is what Decide remembers. The zero value is the beginning. It is never changed in place.
type State struct {
	Levels    map[domain.SiteID]Level
	known     map[object]string           // last state told of each object
	incidents map[domain.SiteID][]string  // what is hurt, of each incident that is open
	firsts    map[domain.SiteID]time.Time // of a disaster: its first missed beat
}

// Change is one thing to tell the world.
type Change struct {
	Entity      string // a kind, or EntityIncident, EntityDisaster
	Fact        string
	Object      api.Observation // of an object
	Assessment  api.Assessment  // of an incident or disaster
	Evidence    []api.Observation
	Witnesses   []api.Witness // of an incident, a disaster or a lost link: every observer that says something, also those that do not count
	FirstMissed time.Time
}

// Result is what Decide concludes.
type Result struct {
	Isolated    bool             // this observer reaches no other site
	Assessments []api.Assessment // one a site, in the order of Input.Sites
	Changes     []Change         // since the state before, in the order to be told
}

type object struct {
	kind, id string
	site     domain.SiteID
}

func (s State) clone() State {
	out := State{Levels: maps.Clone(s.Levels), known: maps.Clone(s.known), incidents: maps.Clone(s.incidents), firsts: maps.Clone(s.firsts)}
	if out.Levels == nil {
		out = State{Levels: map[domain.SiteID]Level{}, known: map[object]string{}, incidents: map[domain.SiteID][]string{}, firsts: map[domain.SiteID]time.Time{}}
	}
	return out
}

// Resume is a State after a restart that knows which sites' disasters were told and not yet told to be over. They count as
// suspected until they are confirmed anew or the site is seen: what was true before the restart proves nothing now.
func Resume(open ...domain.SiteID) State {
	s := State{}.clone()
	for _, site := range open {
		s.Levels[site] = LevelSuspected
		s.known[object{KindSite, string(site), site}] = api.StateDead
	}
	return s
}

// move follows one object into a state and gives the fact to tell, empty when there is none. Between a loss and the return
// to alive nothing is told.
func (s State) move(o object, state string) string {
	before := s.known[o]
	switch {
	case state == api.StateDead && before != api.StateDead:
		s.known[o] = api.StateDead
		return FactLost
	case state == api.StateSuspect && before != api.StateSuspect && before != api.StateDead:
		s.known[o] = api.StateSuspect
		return FactSuspected
	case state == api.StateAlive && (before == api.StateSuspect || before == api.StateDead):
		s.known[o] = api.StateAlive
		return FactRecovered
	}
	return ""
}

// LinkID names the link between two sites, whichever way round they are given.
func LinkID(a, b domain.SiteID) string {
	if b < a {
		a, b = b, a
	}
	return string(a) + "-" + string(b)
}

// answering: it answered lately, whatever the hysteresis still says.
func answering(o api.Observation) bool {
	return (o.State == api.StateAlive || o.State == api.StateSuspect) && o.Missed <= 1
}

// failing: suspect or dead, and nothing came lately.
func failing(o api.Observation) bool {
	return o.State == api.StateDead || o.State == api.StateSuspect && o.Missed > 1
}

// rank orders states from best to worst; unknown is no state.
func rank(state string) int {
	return slices.Index([]string{api.StateAlive, api.StateSuspect, api.StateDead}, state)
}

// Merge joins what an observer sees of each object on several paths: the best of the known paths is its state.
func Merge(in []api.Observation) []api.Observation {
	index := map[object]int{}
	var out []api.Observation
	for _, o := range in {
		k := object{o.Kind, o.ID, o.Site}
		i, ok := index[k]
		switch {
		case !ok:
			index[k] = len(out)
			out = append(out, o)
		case rank(o.State) >= 0 && (rank(out[i].State) < 0 || rank(o.State) < rank(out[i].State)):
			out[i] = o
		}
	}
	return out
}
