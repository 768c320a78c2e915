package event

import (
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// ObjectChanged tells that an observer sees an object (site, host, vm, replicator, link, port) in a new state.
// Entity is the observation's kind; Fact is "suspected", "lost" or "recovered".
type ObjectChanged struct {
	What     string            `json:"what"`               // entity, as in the subject
	Fact     string            `json:"fact"`               // last word of the event's type
	Observer domain.SiteID     `json:"observer"`           // site whose health service saw it
	Object   api.Observation   `json:"object"`             // as it is seen now
	Evidence []api.Observation `json:"evidence,omitempty"` // what the observers saw on each path
	// FirstMissed is when the object first failed to answer, by the observer's wall clock.
	FirstMissed time.Time `json:"first_missed,omitzero"`
	// EvidenceID names the document of evidence behind it; see evidence.recorded.
	EvidenceID string `json:"evidence_id,omitempty"`
}

// Key implements Fact.
func (f ObjectChanged) Key() (string, string) { return f.What, f.Fact }

// Of implements Fact.
func (f ObjectChanged) Of() string { return f.Object.ID }

// IncidentChanged tells that part of a site is hurt (Fact "opened") or well again ("closed"). It stays with local HA.
type IncidentChanged struct {
	Fact       string         `json:"fact"`       // last word of the event's type
	Observer   domain.SiteID  `json:"observer"`   // site whose health service concluded it
	Assessment api.Assessment `json:"assessment"` // the conclusion, with its evidence
	// FirstMissed is when the first answer failed to come, by the observer's wall clock.
	FirstMissed time.Time `json:"first_missed,omitzero"`
	// EvidenceID names the document of evidence behind it; see evidence.recorded.
	EvidenceID string `json:"evidence_id,omitempty"`
}

// Key implements Fact.
func (f IncidentChanged) Key() (string, string) { return "incident", f.Fact }

// Of implements Fact.
func (f IncidentChanged) Of() string { return string(f.Assessment.Site) }

// DisasterChanged follows a disaster: "suspected" (one vantage point), "confirmed" (two or more, on two paths),
// "over" (the site is seen again).
type DisasterChanged struct {
	Fact       string         `json:"fact"`       // last word of the event's type
	Observer   domain.SiteID  `json:"observer"`   // site whose health service concluded it
	Assessment api.Assessment `json:"assessment"` // the conclusion, with its evidence
	// FirstMissed is when the first answer failed to come, by the observer's wall clock.
	FirstMissed time.Time `json:"first_missed,omitzero"`
	// EvidenceID names the document of evidence behind it; see evidence.recorded.
	EvidenceID string `json:"evidence_id,omitempty"`
}

// Key implements Fact.
func (f DisasterChanged) Key() (string, string) { return "disaster", f.Fact }

// Of implements Fact.
func (f DisasterChanged) Of() string { return string(f.Assessment.Site) }

// ClockChanged tells that a node's wall clock and an observer's differ ("clock_skewed"), or agree again ("clock_agreed").
// Leases do not use the wall clock.
type ClockChanged struct {
	Fact          string        `json:"fact"`           // as in the subject
	Observer      domain.SiteID `json:"observer"`       // site whose health service tells this
	Site          domain.SiteID `json:"site"`           // of the node
	Node          string        `json:"node"`           // the service or host whose clock it is
	OffsetSeconds float64       `json:"offset_seconds"` // how far it is ahead of the observer's; negative: behind
	LimitSeconds  float64       `json:"limit_seconds"`  // beyond which clocks are told to differ
	Text          string        `json:"text"`           // for people: which clocks, how far apart, what it breaks
}

// Key implements Fact.
func (f ClockChanged) Key() (string, string) { return "site", f.Fact }

// Of implements Fact.
func (f ClockChanged) Of() string { return string(f.Site) }

// VersionChanged tells that a node speaks a protocol version that the observer's site refuses ("version_refused"), or one it
// accepts again ("version_accepted").
type VersionChanged struct {
	Fact     string        `json:"fact"`           // as in the subject
	Observer domain.SiteID `json:"observer"`       // site whose health service tells this
	Site     domain.SiteID `json:"site"`           // of the node
	Node     string        `json:"node"`           // the service or host that speaks it
	Theirs   string        `json:"theirs"`         // major.minor
	Ours     string        `json:"ours"`           // major.minor
	Text     string        `json:"text,omitempty"` // what is wrong and what mends it
}

// Key implements Fact.
func (f VersionChanged) Key() (string, string) { return "site", f.Fact }

// Of implements Fact.
func (f VersionChanged) Of() string { return string(f.Site) }

// DisasterDeclared is the decision to act, by a policy or by a person.
type DisasterDeclared struct {
	Site     domain.SiteID                       `json:"site"`               // the lost site
	By       string                              `json:"by"`                 // "policy", or the person who declared it
	Reason   string                              `json:"reason"`             // in words
	Groups   []domain.GroupID                    `json:"groups"`             // groups that are taken over
	Estimate map[domain.GroupID]api.LossEstimate `json:"estimate,omitempty"` // loss to be expected, a group each
	Run      domain.RunID                        `json:"run"`                // the failover run that carries it out
}

// Key implements Fact.
func (DisasterDeclared) Key() (string, string) { return "disaster", "declared" }

// Of implements Fact.
func (f DisasterDeclared) Of() string { return string(f.Site) }

// DeclarationChanged follows a declaration: one fact for each act of it. Its state is that after the newest act; groups of one
// declaration may be in different states.
type DeclarationChanged struct {
	Fact      string               `json:"fact"`                 // last word of the event's type
	ID        domain.DeclarationID `json:"id"`                   // of the declaration
	Site      domain.SiteID        `json:"site"`                 // the lost one
	Leader    domain.SiteID        `json:"leader"`               // the site that decides, and where the groups would run
	State     string               `json:"state"`                // of the declaration
	Groups    []domain.GroupID     `json:"groups"`               // which this is about
	By        string               `json:"by"`                   // "policy", or the person
	ClaimedBy string               `json:"claimed_by,omitempty"` // who the person says it is, where By is what was proved
	Why       string               `json:"why"`                  // in words
}

// Key implements Fact.
func (f DeclarationChanged) Key() (string, string) { return "declaration", f.Fact }

// Of implements Fact.
func (f DeclarationChanged) Of() string { return string(f.ID) }

// LeaseChanged follows a group's lease at one site: "epoch_granted", "lease_lost", "lease_released".
type LeaseChanged struct {
	Fact   string          `json:"fact"` // last word of the event's type
	Group  domain.GroupID  `json:"group"`
	Site   domain.SiteID   `json:"site"` // site that gained or lost the lease
	Epoch  domain.Epoch    `json:"epoch"`
	InSync []domain.SiteID `json:"in_sync,omitempty"` // sites whose copies are complete
	Voters []string        `json:"voters,omitempty"`  // voters that granted it
	Reason string          `json:"reason,omitempty"`  // why; of a released lease the successor, if one was named
}

// Key implements Fact.
func (f LeaseChanged) Key() (string, string) { return "group", f.Fact }

// Of implements Fact.
func (f LeaseChanged) Of() string { return string(f.Group) }

// PhaseChanged follows a candidacy, one fact a phase: contacting, comparing, tally, waiting, bringing_up, functional.
type PhaseChanged struct {
	Group  domain.GroupID `json:"group"`
	Site   domain.SiteID  `json:"site"`             // the candidate
	Phase  string         `json:"phase"`            // phase that was entered
	Votes  int            `json:"votes"`            // votes gathered so far
	Needed int            `json:"needed"`           // votes that are a majority
	Voters []string       `json:"voters,omitempty"` // each voter and what it said, for example "w: ok"
	Detail string         `json:"detail,omitempty"` // why it waits
}

// Key implements Fact.
func (PhaseChanged) Key() (string, string) { return "group", "quorum_phase_changed" }

// Of implements Fact.
func (f PhaseChanged) Of() string { return string(f.Group) }

// QuorumWarned tells a warning of the planner: "warning_raised", or "warning_cleared" when what it warns of is so no longer.
type QuorumWarned struct {
	Fact        string        `json:"fact"`                  // last word of the event's type
	Cluster     string        `json:"cluster"`               // the installation
	Site        domain.SiteID `json:"site"`                  // whose quorum service found it
	Code        string        `json:"code"`                  // of the warning, as in docs/operations/quorum.md
	Severity    string        `json:"severity"`              // error, warning or note
	About       string        `json:"about,omitempty"`       // a site, voter or group
	Text        string        `json:"text,omitempty"`        // what is so
	Consequence string        `json:"consequence,omitempty"` // what comes of it
	Mend        string        `json:"mend,omitempty"`        // what to do about it
}

// Key implements Fact.
func (f QuorumWarned) Key() (string, string) { return "quorum", f.Fact }

// Of implements Fact.
func (f QuorumWarned) Of() string { return f.Cluster }

// InSyncChanged tells the committed in-sync set.
type InSyncChanged struct {
	Group  domain.GroupID  `json:"group"`
	Site   domain.SiteID   `json:"site"` // the primary
	Epoch  domain.Epoch    `json:"epoch"`
	InSync []domain.SiteID `json:"in_sync"`       // sites that may take the group over without loss
	Seq    uint64          `json:"seq"`           // number of the register's change; it only grows
	LSN    domain.LSN      `json:"lsn,omitempty"` // of the change; not told in this version
}

// Key implements Fact.
func (InSyncChanged) Key() (string, string) { return "group", "in_sync_changed" }

// Of implements Fact.
func (f InSyncChanged) Of() string { return string(f.Group) }

// ReplicaChanged follows a group's copy at a site: "promoted", "demoted", "fenced", "serving_stopped",
// "target_lost", "target_stalled", "target_overflowed", "target_streaming", "target_ended", "held", "resumed", "copy_failed", "damage_found",
// "policy_adopted", "volume_added", "volume_removed", "resync_started", "resync_progressed", "resync_completed", "checkpoint_created",
// "checkpoint_failed", "checkpoint_opened", "checkpoint_closed", "rolled_back", "checkpoints_ended", "checkpoints_lost".
type ReplicaChanged struct {
	Fact   string         `json:"fact"` // last word of the event's type
	Group  domain.GroupID `json:"group"`
	Site   domain.SiteID  `json:"site"` // whose copy it is, or the primary that tells of a target
	Epoch  domain.Epoch   `json:"epoch"`
	LSN    domain.LSN     `json:"lsn"`                    // last change the copy, or the target, is known to hold
	Target domain.SiteID  `json:"target,omitempty"`       // the other site: a target, or the successor of a demoted copy
	Bytes  uint64         `json:"bytes,omitempty"`        // a resync: sent
	Volume uint64         `json:"volume_bytes,omitempty"` // a resync: size of the group's volumes
	Detail string         `json:"detail,omitempty"`       // in words
}

// Key implements Fact.
func (f ReplicaChanged) Key() (string, string) { return "group", f.Fact }

// Of implements Fact.
func (f ReplicaChanged) Of() string { return string(f.Group) }

// WritesQuarantined tells that diverged writes were kept aside.
type WritesQuarantined struct {
	Item api.Quarantined `json:"item"` // what was kept aside, and where
}

// Key implements Fact.
func (WritesQuarantined) Key() (string, string) { return "group", "writes_quarantined" }

// Of implements Fact.
func (f WritesQuarantined) Of() string { return string(f.Item.Group) }

// CopyVerified follows a comparison of a target's copy with its primary's: "verify_started", "verify_progressed", "verify_mismatch" (an extent
// that differs at an equal LSN), "verify_healed", "verify_completed", "verify_failed".
type CopyVerified struct {
	Fact      string          `json:"fact"` // last word of the event's type
	Group     domain.GroupID  `json:"group"`
	Site      domain.SiteID   `json:"site"`   // the primary
	Target    domain.SiteID   `json:"target"` // whose copy it is
	Epoch     domain.Epoch    `json:"epoch"`
	Volume    domain.VolumeID `json:"volume,omitempty"`          // a mismatch: where
	Offset    int64           `json:"offset,omitempty"`          // a mismatch: bytes from the volume's start
	Length    int64           `json:"length,omitempty"`          // a mismatch: bytes
	LSN       domain.LSN      `json:"lsn,omitempty"`             // a mismatch: at which both were compared
	Bytes     uint64          `json:"bytes"`                     // compared so far
	Total     uint64          `json:"total_bytes"`               // of all volumes
	Differ    uint64          `json:"differ_bytes"`              // so far
	Healed    uint64          `json:"healed_bytes"`              // of those
	Undecided uint64          `json:"undecided_bytes,omitempty"` // could not be compared at an equal LSN
	Scheduled bool            `json:"scheduled,omitempty"`       // by the site's configuration, not by a person
	Detail    string          `json:"detail,omitempty"`          // in words
}

// Key implements Fact.
func (f CopyVerified) Key() (string, string) { return "group", f.Fact }

// Of implements Fact.
func (f CopyVerified) Of() string { return string(f.Group) }

// WritesDiscarded tells that somebody discarded diverged writes that had been kept aside.
type WritesDiscarded struct {
	Item    api.Quarantined `json:"item"`              // what is gone, without its extents
	By      string          `json:"by"`                // the verified caller
	Claimed string          `json:"claimed,omitempty"` // who the caller said it is
	Why     string          `json:"why"`               // its reason
}

// Key implements Fact.
func (WritesDiscarded) Key() (string, string) { return "group", "quarantine_discarded" }

// Of implements Fact.
func (f WritesDiscarded) Of() string { return string(f.Item.Group) }

// RunChanged follows a run: "started", "completed", "failed".
type RunChanged struct {
	Fact string  `json:"fact"` // last word of the event's type
	Run  api.Run `json:"run"`  // as it stands now
}

// Key implements Fact.
func (f RunChanged) Key() (string, string) { return "run", f.Fact }

// Of implements Fact.
func (f RunChanged) Of() string { return string(f.Run.ID) }

// StepChanged follows a step of a run: "step_started", "step_done", "step_failed".
type StepChanged struct {
	Fact string        `json:"fact"` // last word of the event's type
	Run  domain.RunID  `json:"run"`
	Plan domain.PlanID `json:"plan"`
	Step api.Step      `json:"step"` // as it stands now
}

// Key implements Fact.
func (f StepChanged) Key() (string, string) { return "run", f.Fact }

// Of implements Fact.
func (f StepChanged) Of() string { return string(f.Run) }

// VMChanged follows a VM at a host: "started", "stopped", "killed" (by its lease), "freeze_expired", "answered" (its service port).
type VMChanged struct {
	Fact   string        `json:"fact"` // last word of the event's type
	Site   domain.SiteID `json:"site"`
	Host   domain.HostID `json:"host"`
	VM     api.HostVM    `json:"vm"`               // as the host has it now
	Reason string        `json:"reason,omitempty"` // why it ended, or was let go on
}

// Key implements Fact.
func (f VMChanged) Key() (string, string) { return "vm", f.Fact }

// Of implements Fact.
func (f VMChanged) Of() string { return string(f.VM.VM) }

// NameChanged follows a DNS name: "changed" (read back from its authority), "refused" (the old value was another).
type NameChanged struct {
	Fact             string         `json:"fact"`   // last word of the event's type
	Name             string         `json:"name"`   // fully qualified
	Type             string         `json:"type"`   // of the record
	Before           string         `json:"before"` // value that stood there, empty for none
	After            string         `json:"after"`  // value that was written, or asked for
	TTL              uint32         `json:"ttl"`    // seconds
	Group            domain.GroupID `json:"group"`
	Epoch            domain.Epoch   `json:"epoch"`
	AuthoritySeconds float64        `json:"authority_seconds,omitempty"` // from the request until the authority answered the new value
	Reason           string         `json:"reason,omitempty"`            // why it was refused
}

// Key implements Fact.
func (f NameChanged) Key() (string, string) { return "name", f.Fact }

// Of implements Fact.
func (f NameChanged) Of() string { return f.Name }

// SiteDrainChanged follows the maintenance of a site: "drain_started", "drained" (its groups moved, or stay for a reason), "undrained".
type SiteDrainChanged struct {
	Fact   string          `json:"fact"`            // last word of the event's type
	Site   domain.SiteID   `json:"site"`            // that takes no groups, or takes them again
	By     string          `json:"by"`              // who had it drained
	Reason string          `json:"reason"`          // why it was drained
	Runs   []api.DrainRun  `json:"runs,omitempty"`  // the moves, in their order
	Stays  []api.DrainStay `json:"stays,omitempty"` // groups that are not moved, and why
}

// Key implements Fact.
func (f SiteDrainChanged) Key() (string, string) { return "site", f.Fact }

// Of implements Fact.
func (f SiteDrainChanged) Of() string { return string(f.Site) }

// DesiredChanged tells a new version of a group's, plan's or site's desired state.
type DesiredChanged struct {
	What    string        `json:"what"`           // group, plan or site
	ID      string        `json:"id"`             // of the group, plan or site
	Site    domain.SiteID `json:"site,omitempty"` // a group: where it is to run
	Epoch   domain.Epoch  `json:"epoch"`          // the change was made under
	Version uint64        `json:"version"`        // grows with each change under one epoch
}

// Key implements Fact.
func (f DesiredChanged) Key() (string, string) { return f.What, "desired_changed" }

// Of implements Fact.
func (f DesiredChanged) Of() string { return f.ID }

// LinkRefused tells that a site's NATS server refused connections from an address. Repeats from one address for one reason
// are told once a minute, with their number.
type LinkRefused struct {
	Fact    string        `json:"fact"`           // last word of the event's type
	Site    domain.SiteID `json:"site"`           // whose server refused
	Address string        `json:"address"`        // where the connection came from, without the port
	Reason  string        `json:"reason"`         // as the server words it
	User    string        `json:"user,omitempty"` // public NKEY that was shown, when it came that far
	At      time.Time     `json:"at"`             // of the newest one, by the server's clock
	Count   int           `json:"count"`          // since the last event about this address and reason
}

// Key implements Fact.
func (f LinkRefused) Key() (string, string) { return "link", f.Fact }

// Of implements Fact.
func (f LinkRefused) Of() string { return f.Address }

// EvidenceRecorded is the document behind an incident, a disaster or a lost link: who saw what, when, with which confidence.
type EvidenceRecorded struct {
	Evidence api.Evidence `json:"evidence"`
}

// Key implements Fact.
func (EvidenceRecorded) Key() (string, string) { return "evidence", "recorded" }

// Of implements Fact.
func (f EvidenceRecorded) Of() string { return f.Evidence.ID }

// ObserverChanged tells that a site's observer doubts itself ("doubted"), so that what it sees counts for nobody, or no longer ("trusted").
type ObserverChanged struct {
	Fact       string        `json:"fact"`             // last word of the event's type
	Observer   domain.SiteID `json:"observer"`         // which
	Doubts     []string      `json:"doubts,omitempty"` // why
	Confidence float64       `json:"confidence"`       // 0 to 1
}

// Key implements Fact.
func (f ObserverChanged) Key() (string, string) { return "observer", f.Fact }

// Of implements Fact.
func (f ObserverChanged) Of() string { return string(f.Observer) }

// MaintenanceChanged tells of a window in which a part raises no incident: "announced" or "ended", by a person or by itself.
type MaintenanceChanged struct {
	Fact   string          `json:"fact"` // last word of the event's type
	Site   domain.SiteID   `json:"site"` // whose health service tells this
	Window api.Maintenance `json:"window"`
}

// Key implements Fact.
func (f MaintenanceChanged) Key() (string, string) { return "maintenance", f.Fact }

// Of implements Fact.
func (f MaintenanceChanged) Of() string { return f.Window.ID }
