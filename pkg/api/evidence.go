package api

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// More verbs of the health service.
const (
	VerbEvidence = "evidence" // EvidenceRequest -> EvidenceReply
	VerbMaintain = "maintain" // MaintenanceChange -> Maintenance; announces a window or ends one, in the audit
)

// Evidence is the document behind one incident, disaster or lost link: who saw what, when, with which confidence.
type Evidence struct {
	ID   string        `json:"id"`   // of the document; holdfast health evidence shows it
	Site domain.SiteID `json:"site"` // whose health service concluded it and keeps this
	At   time.Time     `json:"at"`   // it was concluded
	// Entity and Fact are of the event it belongs to: incident opened, disaster confirmed, link lost.
	Entity string `json:"entity"`
	Fact   string `json:"fact"` // what is told of it
	// Assessment is the conclusion; what each observer saw is in Witnesses.
	Assessment  Assessment `json:"assessment"`
	Witnesses   []Witness  `json:"witnesses"`
	FirstMissed time.Time  `json:"first_missed,omitzero"` // by the observer's wall clock
}

// Witness is one observer in a document of evidence.
type Witness struct {
	Observer     domain.SiteID `json:"observer"`         // its site
	Confidence   float64       `json:"confidence"`       // its own, 0 to 1
	Counted      bool          `json:"counted"`          // its word counted for the conclusion
	Doubts       []string      `json:"doubts,omitempty"` // why it doubts itself
	Observations []Observation `json:"observations"`     // what it saw
}

// EvidenceRequest asks for one document, or for all that are kept, newest first and without what was seen.
type EvidenceRequest struct {
	ID string `json:"id,omitempty"`
}

// EvidenceReply is the documents.
type EvidenceReply struct {
	Evidence []Evidence `json:"evidence"`
}

// MaxMaintenance is the longest window: whoever forgets one is protected again within a week.
const MaxMaintenance = 7 * 24 * time.Hour

// Maintenance is a window in which a part raises no incident, and a site no disaster. It ends by itself.
type Maintenance struct {
	ID      string    `json:"id"`                // of the window, to end it by
	About   Part      `json:"about"`             // what is under maintenance
	From    time.Time `json:"from"`              // its beginning, by the wall clock of the site that was asked
	Until   time.Time `json:"until"`             // its end, by itself
	Ended   time.Time `json:"ended,omitzero"`    // before Until, by a person
	Why     string    `json:"why"`               // as its announcer said
	By      string    `json:"by"`                // verified caller, <site>.<service>
	Claimed string    `json:"claimed,omitempty"` // who the caller says it is
}

// Active reports whether the window is open at an instant. It is from when it is known: From is by the clock of another site, which may
// be ahead of this one's, and a window is announced for now.
func (m Maintenance) Active(at time.Time) bool {
	return m.Ended.IsZero() && at.Before(m.Until)
}

// MaintenanceChange announces a window, or ends the one of an ID.
type MaintenanceChange struct {
	About Part          `json:"about,omitzero"`
	For   time.Duration `json:"for,omitempty"` // from now; nanoseconds
	End   string        `json:"end,omitempty"` // ID of a window to end
	Why   string        `json:"why"`
	By    string        `json:"by,omitempty"`
	Host  string        `json:"host,omitempty"`
}

// Part names a part of the installation: a site, a link between two, or something at a site.
type Part struct {
	Kind string        `json:"kind"`           // site, link, rack, host, service, replicator, storage, port, vm
	Site domain.SiteID `json:"site,omitempty"` // empty for a link
	ID   string        `json:"id"`             // the site's for a site, "a-b" for a link
}

// String is site:b, link:a-b, host:a/a-h1.
func (p Part) String() string {
	if p.Kind == "site" || p.Kind == "link" {
		return p.Kind + ":" + p.ID
	}
	return p.Kind + ":" + string(p.Site) + "/" + p.ID
}

// ParsePart reads what String writes.
func ParsePart(s string) (Part, error) {
	kind, rest, _ := strings.Cut(s, ":")
	p := Part{Kind: kind, ID: rest}
	site, id, inSite := strings.Cut(rest, "/")
	switch {
	case kind == "site" && domain.ValidToken(rest):
		p.Site = domain.SiteID(rest)
		return p, nil
	case kind == "link":
		if domain.ValidToken(rest) && strings.Contains(rest, "-") {
			return p, nil
		}
	case slices.Contains([]string{"rack", "host", "service", "replicator", "storage", "port", "vm"}, kind) && inSite && domain.ValidToken(site) && domain.ValidToken(id):
		return Part{Kind: kind, Site: domain.SiteID(site), ID: id}, nil
	}
	return p, fmt.Errorf("%q names no part: use site:SITE, link:SITE-SITE, or KIND:SITE/NAME with rack, host, service, replicator, storage, port or vm: %w", s, domain.ErrInvalid)
}

// Covers reports whether a window about this part silences another part. On is what that runs on: a VM's host, a host's rack. A site covers its
// links, too; which those are says who knows the sites, for names may hold '-' and an ID is not taken apart.
func (p Part) Covers(other Part, on string) bool {
	switch p.Kind {
	case "site":
		return other.Kind != "link" && p.Site == other.Site
	case "host":
		if p.Site == other.Site && (other.Kind == "vm" && on == p.ID || other.Kind == "service" && other.ID == HostService(domain.HostID(p.ID))) {
			return true
		}
	case "rack":
		if p.Site == other.Site && other.Kind == "host" && on == p.ID {
			return true
		}
	}
	return p == other
}
