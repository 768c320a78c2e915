package api

import (
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Verbs of maintenance, of the failover service.
const (
	VerbDrain   = "drain"   // DrainRequest -> Drain
	VerbUndrain = "undrain" // UndrainRequest -> SiteDesired
	VerbTake    = "take"    // TakeRequest -> TakeReply
)

// SiteDesired is what is wanted of a site as a whole. Only the site itself changes it, so its version alone tells which of two
// copies is newer; its epoch is always 0.
type SiteDesired struct {
	Site     domain.SiteID `json:"site"`
	Drain    *Drain        `json:"drain,omitempty"` // nil: the site takes groups
	Epoch    domain.Epoch  `json:"epoch"`
	Version  uint64        `json:"version"`
	Revision uint64        `json:"revision,omitempty"` // KV revision here, not copied
}

// States of a drain. In each but the first the site takes no groups.
const (
	DrainPlanned  = "planned"  // asked for with dry_run: nothing was changed
	DrainDraining = "draining" // its runs are carried out, one after another
	DrainDrained  = "drained"  // nothing more is moved
)

// Drain is a site's maintenance: which groups move away, by which runs, and which stay.
type Drain struct {
	State     string      `json:"state"`
	Reason    string      `json:"reason"`
	By        string      `json:"by"`                   // as proved
	ClaimedBy string      `json:"claimed_by,omitempty"` // as the caller says
	Host      string      `json:"host,omitempty"`       // where it was asked for, as the caller says
	Began     time.Time   `json:"began,omitzero"`
	Ended     time.Time   `json:"ended,omitzero"` // of the moving
	Runs      []DrainRun  `json:"runs,omitempty"` // in the order in which they are carried out
	Stays     []DrainStay `json:"stays,omitempty"`
}

// DrainRun is a planned move of groups of one plan to one site.
type DrainRun struct {
	ID     domain.RunID     `json:"id,omitempty"` // of the run at the site that takes them; empty in a plan
	Plan   domain.PlanID    `json:"plan"`
	To     domain.SiteID    `json:"to"`
	Groups []domain.GroupID `json:"groups"`
	State  string           `json:"state"`           // pending, running, done, failed
	Error  string           `json:"error,omitempty"` // why it failed
}

// DrainStay is a group that is not moved, and why.
type DrainStay struct {
	Group domain.GroupID `json:"group"`
	Why   string         `json:"why"` // it is not moved
}

// DrainRequest drains the site that is asked: it takes no groups from then on, and hands over those it has. A repeat while it
// drains answers how far that is; one after that tries again what stayed. Errors: invalid (no reason), refused (a run brings a group
// to the site), conflict (asked twice at once).
type DrainRequest struct {
	DryRun bool   `json:"dry_run,omitempty"` // only say what would be moved
	Reason string `json:"reason"`
	By     string `json:"by,omitempty"`
	Host   string `json:"host,omitempty"`
}

// UndrainRequest lets the site that is asked take groups again. Runs of its drain that were not begun are not; groups that
// moved stay where they are. A repeat succeeds.
type UndrainRequest struct {
	Reason string `json:"reason,omitempty"`
	By     string `json:"by,omitempty"`
	Host   string `json:"host,omitempty"`
}

// TakeRequest asks another site to take groups over from the asking one, by a planned move. A repeat with the same ID answers
// the same run. Errors: refused, unavailable.
type TakeRequest struct {
	From   domain.SiteID    `json:"from"` // the asking site, which serves them
	Plan   domain.PlanID    `json:"plan,omitempty"`
	Groups []domain.GroupID `json:"groups"`
	// Check only asks what stands against it.
	Check  bool         `json:"check,omitempty"`
	ID     domain.RunID `json:"id,omitempty"`
	Reason string       `json:"reason,omitempty"`
	By     string       `json:"by,omitempty"` // who had the site drained
	Host   string       `json:"host,omitempty"`
}

// TakeReply is the run; or, of a check, what stands against taking each group: one without an entry can be taken.
type TakeReply struct {
	Run     Run                       `json:"run,omitzero"`
	Against map[domain.GroupID]string `json:"against,omitempty"`
}

// Drained lists the sites that take no groups.
func (l GroupList) Drained() []domain.SiteID {
	var out []domain.SiteID
	for _, s := range l.Sites {
		if s.Drain != nil {
			out = append(out, s.Site)
		}
	}
	return out
}
