package api

import (
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Verbs of the health service.
const (
	// VerbView: Empty -> View; what this observer sees, asked for by the other sites' observers.
	VerbView = "view"
	// VerbStatus: Empty -> HealthStatus
)

// Health states.
const (
	StateUnknown = "unknown"
	StateAlive   = "alive"
	StateSuspect = "suspect"
	StateDead    = "dead"
)

// Observation is one object as one observer sees it.
type Observation struct {
	Kind   string        `json:"kind"`   // site, link, rack, replicator, storage, host, vm, port, service
	ID     string        `json:"id"`     // of the object, unique among its kind at its site
	Site   domain.SiteID `json:"site"`   // where the object is
	State  string        `json:"state"`  // unknown, alive, suspect, dead
	Since  time.Time     `json:"since"`  // it is in this state
	Path   string        `json:"path"`   // how it was seen: heartbeat, tcp, api, http
	Detail string        `json:"detail"` // the last error or the missed beats
	// Missed is how many beats or answers in a row are missing now; 0 while it answers.
	Missed int `json:"missed,omitempty"`
	// FirstMissed is when it first failed to answer, by the observer's wall clock; zero while it is well.
	FirstMissed time.Time `json:"first_missed,omitzero"`
	// Suspicion is phi: minus the decimal logarithm of how likely so long a silence is by the link's history; 8 is dead.
	Suspicion float64 `json:"suspicion,omitempty"`
	// On is what it runs on: a VM's host, a host's rack.
	On string `json:"on,omitempty"`
	// Observer is whose observation this is; set in evidence, where those of several observers stand side by side.
	Observer domain.SiteID `json:"observer,omitempty"`
	// Confidence is the observer's in itself, 0 to 1, as in View; set in evidence.
	Confidence float64 `json:"confidence,omitempty"`
}

// View is everything one observer sees.
type View struct {
	Observer     domain.SiteID `json:"observer"`
	At           time.Time     `json:"at"`
	Sick         bool          `json:"sick"` // the observer doubts itself (was paused, is overloaded or cut off)
	Observations []Observation `json:"observations"`
	// Confidence is what the observer's evidence is worth by its own judgement, 0 to 1: less while it runs late, 0.1 while it is sick,
	// and then it counts for nobody.
	Confidence float64  `json:"confidence,omitempty"`
	Doubts     []string `json:"doubts,omitempty"` // why it is sick
	// Maintenance are the windows this observer knows that are not over, those that were ended included: the others learn them here.
	Maintenance []Maintenance `json:"maintenance,omitempty"`
}

// Dead reports whether the observer takes an object for dead: on every path on which it knows it, and it knows it on one.
func (v View) Dead(kind, id string, site domain.SiteID) bool {
	dead := false
	for _, o := range v.Observations {
		if o.Kind != kind || o.ID != id || o.Site != site || o.State == StateUnknown {
			continue
		}
		if o.State != StateDead {
			return false
		}
		dead = true
	}
	return dead
}

// DoubtIsolated is the doubt of an observer that follows from what it sees of the others, not from how it fares itself.
const DoubtIsolated = "it reaches too few of the other sites: it is isolated"

// Assessment classes.
const (
	ClassNone     = "none"
	ClassService  = "service"  // a probe fails, its host is well: restart the VM
	ClassIncident = "incident" // host or rack down, the rest well: local HA
	ClassDisaster = "disaster" // the whole site, from two places on two paths
	ClassWAN      = "link"     // a link is cut; both ends live
)

// Assessment is what the observer concludes about one site.
type Assessment struct {
	Site     domain.SiteID   `json:"site"`              // what is concluded about
	Class    string          `json:"class"`             // how bad it is
	Objects  []string        `json:"objects,omitempty"` // kind/id of what is hurt
	Since    time.Time       `json:"since"`             // it is so
	Seen     []domain.SiteID `json:"seen_by"`           // observers that agree
	Evidence []Observation   `json:"evidence"`          // what they saw
	Text     string          `json:"text"`              // in words
	// Parts are those of Objects that explain the others: the rack, not its hosts and their VMs.
	Parts []string `json:"parts,omitempty"`
	// Maintained are the windows open for the site or parts of it, as site:b, host:a/a-h1: they raise no incident meanwhile.
	Maintained []string `json:"maintained,omitempty"`
	// Disaster is how far the loss of the whole site is established: DisasterSuspected, DisasterConfirmed, DisasterAnswering;
	// empty: it is not lost.
	Disaster string `json:"disaster,omitempty"`
}

// How far the loss of a site is established.
const (
	DisasterSuspected = "suspected" // by one observer
	DisasterConfirmed = "confirmed" // by two or more, on two paths
	DisasterAnswering = "answering" // it was confirmed, and the site answers again, not yet for long enough to be over
)

// HealthStatus is the reply of the health service's status verb.
type HealthStatus struct {
	Site        domain.SiteID `json:"site"`
	View        View          `json:"view"`
	Assessments []Assessment  `json:"assessments"`
	// Nodes are the services and hosts that are heard at this site, with their clocks and versions.
	Nodes []NodeStatus `json:"nodes,omitempty"`
	// Maintenance are the windows that are open, or were announced or ended and are not over.
	Maintenance []Maintenance `json:"maintenance,omitempty"`
}

// NodeStatus is what a node says of itself, beside this observer's own.
type NodeStatus struct {
	Site    domain.SiteID `json:"site"`
	Node    string        `json:"node"`
	Version string        `json:"version,omitempty"` // protocol, major.minor
	Refused string        `json:"refused,omitempty"` // why its version does not work with this observer's
	// ClockOffsetNs is how far its wall clock is ahead of this observer's, less the time its heartbeats are under way.
	ClockOffsetNs int64 `json:"clock_offset_ns"`
	ClockSkewed   bool  `json:"clock_skewed,omitempty"`
	SilentNs      int64 `json:"silent_ns"` // since its last heartbeat
}
