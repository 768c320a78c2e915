package api

import (
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Verbs of the replicator.
const (
	VerbPromote  = "promote"  // PromoteRequest -> PromoteReply
	VerbDemote   = "demote"   // DemoteRequest -> DemoteReply
	VerbFence    = "fence"    // FenceRequest -> Empty
	VerbProtect  = "protect"  // ProtectRequest -> Empty
	VerbEstimate = "estimate" // EstimateRequest -> LossEstimate
	// VerbStatus: GroupRequest (empty group: all) -> ReplicatorStatus
)

// GroupRequest names a group, or all with an empty one.
type GroupRequest struct {
	Group domain.GroupID `json:"group,omitempty"`
}

// PromoteRequest makes this site primary for a group under an epoch it holds the lease for: raises the epoch in the
// journal, seals the old pipes, brings the volumes to the end of the validated journal and serves them over iSCSI.
// A repeat under the same epoch answers the same. Errors: stale_epoch, no_lease, refused (the copy is incomplete).
type PromoteRequest struct {
	Group domain.GroupID `json:"group"`
	Epoch domain.Epoch   `json:"epoch"`
	RunID domain.RunID   `json:"run_id,omitempty"`
	// InSync is the in-sync set the caller was granted the lease with. What the primary waits for is the set in its own
	// lease reply; where the two differ it first has one set committed.
	InSync []domain.SiteID `json:"in_sync"`
	// Checkpoint, when not 0, is one that this site lists: the copy is brought back to it first, and what came after is kept
	// aside. Errors: not_found.
	Checkpoint domain.LSN `json:"checkpoint,omitempty"`
	// Decision names what the checkpoint was decided by, a declaration or a run: a repeat under the same one, and under this or a
	// higher epoch, keeps what was written since.
	Decision string `json:"decision,omitempty"`
}

// PromoteReply says where the volumes are served.
type PromoteReply struct {
	Group    domain.GroupID `json:"group"`
	Epoch    domain.Epoch   `json:"epoch"`
	FirstLSN domain.LSN     `json:"first_lsn"` // of the new epoch: everything before it was kept
	Lineage  []LineageEntry `json:"lineage"`
	Disks    []Disk         `json:"disks"`
	// Estimate is the loss this promotion accepted, as far as this site could know.
	Estimate LossEstimate `json:"estimate"`
}

// Disk is one volume as an initiator reaches it.
type Disk struct {
	Volume domain.VolumeID `json:"volume"`
	URL    string          `json:"url"` // iscsi://host:port/iqn/lun
	Serial string          `json:"serial"`
}

// LineageEntry is one stretch of a copy's life: from FirstLSN on, written under Epoch by Site.
type LineageEntry struct {
	Epoch    domain.Epoch  `json:"epoch"`
	FirstLSN domain.LSN    `json:"first_lsn"`
	Site     domain.SiteID `json:"site"`
}

// DemoteRequest stops serving for a planned move: sessions are dropped, writers drained, and the reply waits until the
// successor's journal holds everything. The group then is a target. A repeat answers the same. Errors: refused (the
// successor is not in sync or does not catch up in time: the group goes on serving), stale_epoch.
type DemoteRequest struct {
	Group     domain.GroupID `json:"group"`
	Epoch     domain.Epoch   `json:"epoch"` // under which it serves
	Successor domain.SiteID  `json:"successor"`
	TimeoutNs int64          `json:"timeout_ns"`
}

// DemoteReply is the end of the epoch.
type DemoteReply struct {
	LastLSN domain.LSN `json:"last_lsn"`
}

// FenceRequest raises the epoch a copy refuses everything below, durably, and stops serving if it was primary.
type FenceRequest struct {
	Group domain.GroupID `json:"group"`
	Epoch domain.Epoch   `json:"epoch"`
}

// ProtectRequest tells a primary to bring the other sites of the group (back) under protection: connect, compare
// lineages, quarantine what diverged there, send what differs, stream, and propose them into the in-sync set.
// Answers as soon as the work is under way; progress is in the status and the events. A primary does this by itself too.
type ProtectRequest struct {
	Group domain.GroupID `json:"group"`
	Epoch domain.Epoch   `json:"epoch"`
	RunID domain.RunID   `json:"run_id,omitempty"`
}

// EstimateRequest asks what would be lost if the group were promoted here now. Errors: not_found (no such checkpoint).
type EstimateRequest struct {
	Group domain.GroupID `json:"group"`
	// Checkpoint, when not 0, is where.
	Checkpoint domain.LSN `json:"checkpoint,omitempty"`
}

// LossEstimate is what is missing here of what the primary is last known to have had. Known is false when nothing was
// ever heard of the primary's head.
type LossEstimate struct {
	Known   bool      `json:"known"`                    // the primary's head was heard of
	Writes  uint64    `json:"writes"`                   // acknowledged at the primary and not here
	Bytes   uint64    `json:"bytes"`                    // in those writes
	Seconds float64   `json:"seconds"`                  // of work in those writes; while nothing is heard of the primary up to now, as it may have gone on
	AsOf    time.Time `json:"as_of"`                    // when the primary was last heard of
	Silent  float64   `json:"silent_seconds,omitempty"` // since then, by this site's clock
	// AtLeast is set when more may be lost: a target has heard nothing of the primary for a while, or a primary counts only the
	// bytes that were written since it became one.
	AtLeast bool   `json:"at_least,omitempty"`
	Text    string `json:"text"` // for people: "3.2 s, 41 MB"
}

// About is the estimate as a sentence names it: "about 3.2 s, 41 MB", or the text alone where that is a bound.
func (e LossEstimate) About() string {
	if e.AtLeast {
		return e.Text
	}
	return "about " + e.Text
}

// ReplicatorStatus is the reply of the replicator's status verb.
type ReplicatorStatus struct {
	Site   domain.SiteID `json:"site"`
	Groups []GroupStatus `json:"groups"`
	// NoLines is why the site takes no lines though it is to; empty: it takes them, or is not to.
	NoLines string `json:"no_lines,omitempty"`
}

// GroupStatus is one group's copy at one site.
type GroupStatus struct {
	Group      domain.GroupID `json:"group"`
	Role       domain.Role    `json:"role"`
	Epoch      domain.Epoch   `json:"epoch"`
	Serving    bool           `json:"serving"`
	Consistent bool           `json:"consistent"` // may be promoted
	HeadLSN    domain.LSN     `json:"head_lsn"`   // durable in the journal here
	AppliedLSN domain.LSN     `json:"applied_lsn"`
	// GoingBackTo, when not 0, is the checkpoint that a promotion under way brings the copy back to.
	GoingBackTo domain.LSN     `json:"going_back_to,omitempty"`
	JournalUsed int64          `json:"journal_used_bytes"`
	JournalSize int64          `json:"journal_size_bytes"`
	Lineage     []LineageEntry `json:"lineage"`
	Volumes     []VolumeSlot   `json:"volumes,omitempty"` // by index, removed ones too, as of AppliedLSN
	Disks       []Disk         `json:"disks,omitempty"`
	Targets     []TargetStatus `json:"targets,omitempty"` // at a primary
	// WrittenFrameBytes is what was written for its targets since it became one.
	WrittenFrameBytes uint64         `json:"written_frame_bytes,omitempty"`
	Quarantined       []Quarantined  `json:"quarantined,omitempty"`
	Verify            []VerifyStatus `json:"verify,omitempty"`             // the last comparison with each target that this site made as primary
	RPOTarget         float64        `json:"rpo_target_seconds,omitempty"` // at a primary: the group's, 0 when nothing may be lost
	// Durability is how a primary answers writes now; where the group's is another one, it is in force once another site serves.
	Durability domain.Durability `json:"durability,omitempty"`
	// Policy is the version of desired state that the copy goes by; PolicyError says why it does not go by a newer one.
	Policy      PolicyVersion `json:"policy,omitzero"`
	PolicyError string        `json:"policy_error,omitempty"`
	Held        []Held        `json:"held,omitempty"` // what writing waits for; nothing is lost meanwhile
	// DamageFound is how often, since the copy was opened, something kept or received here was not what was written; DamageLast
	// names it. Nothing of it was used.
	DamageFound uint64 `json:"damage_found,omitempty"`
	DamageLast  string `json:"damage_last,omitempty"`
	Error       string `json:"error,omitempty"`
}

// Held is a reason for which what a copy is to write waits. It goes on by itself.
type Held struct {
	Reason string    `json:"reason"` // disk, journal or target
	Since  time.Time `json:"since"`
	Detail string    `json:"detail"` // in words
}

// What writing may wait for.
const (
	HeldByDisk    = "disk"    // the disk that holds the volumes has no room
	HeldByJournal = "journal" // the ring is full
	HeldByTarget  = "target"  // a synchronous target does not answer, and is waited for
)

// HeldReasons lists every reason.
func HeldReasons() []string { return []string{HeldByDisk, HeldByJournal, HeldByTarget} }

// VolumeDiscard deletes what a removed volume held at one site, for good. It is recorded in the audit first, and not done when that
// cannot be. Errors: refused (without Yes; the volume is not removed; a checkpoint shows it), invalid (without Why), not_found,
// unavailable (the audit could not be written; nothing was deleted).
type VolumeDiscard struct {
	Group  domain.GroupID  `json:"group"`
	Volume domain.VolumeID `json:"volume"`
	Yes    bool            `json:"yes"`
	Why    string          `json:"why"`
	By     string          `json:"by,omitempty"`   // who the caller says it is
	Host   string          `json:"host,omitempty"` // and where
}

// VerbVolumeDiscard is the verb of VolumeDiscard -> VolumeSlot.
const VerbVolumeDiscard = "volume_discard"

// PolicyVersion counts the changes of a group's desired state: the higher epoch, then the higher version, is the newer.
type PolicyVersion struct {
	Epoch   domain.Epoch `json:"epoch"`
	Version uint64       `json:"version"`
}

// States of a target as its primary sees it.
const (
	TargetConnecting = "connecting"
	TargetResync     = "resync"
	TargetStreaming  = "streaming"
	TargetLagging    = "lagging"
	TargetOverflow   = "overflow"
	TargetLost       = "lost"
)

// TargetStates lists every state of a target.
func TargetStates() []string {
	return []string{TargetConnecting, TargetResync, TargetStreaming, TargetLagging, TargetOverflow, TargetLost}
}

// Ways that frames travel to a target.
const (
	WayLine = "line" // past NATS
	WayNATS = "nats"
)

// TargetStatus is one target as its primary sees it.
type TargetStatus struct {
	Site        domain.SiteID `json:"site"`
	Mode        domain.Mode   `json:"mode"`
	State       string        `json:"state"`
	InSync      bool          `json:"in_sync"` // in the committed in-sync set
	DurableLSN  domain.LSN    `json:"durable_lsn"`
	LagBytes    uint64        `json:"lag_bytes"`
	LagSeconds  float64       `json:"lag_seconds"`        // age of the oldest acknowledged write that it lacks
	RPOSeconds  float64       `json:"rpo_seconds"`        // what would be lost now: 0 in sync, else the lag
	ResyncBytes uint64        `json:"resync_bytes"`       // sent so far by the last resync
	ResyncTotal uint64        `json:"resync_total_bytes"` // it has to send
	// Resync tells more of the last resync.
	Resync      *ResyncProgress `json:"resync,omitempty"`
	VolumeBytes uint64          `json:"volume_bytes"`
	Error       string          `json:"error,omitempty"`
	// SentBytes streamed to it since this site became primary, SentFrameBytes before compression.
	SentBytes      uint64      `json:"sent_bytes"`
	SentFrameBytes uint64      `json:"sent_frame_bytes"`
	RateLimit      domain.Rate `json:"rate_limit_bytes_per_second,omitempty"` // now
	// InFlight is sent and not acknowledged by the target, no more than Window, or a single message that is larger.
	InFlight uint64 `json:"in_flight_bytes,omitempty"`
	Window   uint64 `json:"window_bytes,omitempty"`
	Breaks   uint64 `json:"breaks"` // times that the stream to it broke off since this site became primary
	// Way is how frames travel to it now: WayLine or WayNATS; empty while none do.
	Way string `json:"way,omitempty"`
	// NoLine is why they go through NATS though it offers a line, as of the last try.
	NoLine string `json:"no_line,omitempty"`
	// Loss is what the primary acknowledged and the target lacks: if the primary died now and this target went on.
	Loss LossEstimate `json:"loss"`
}

// ResyncProgress is how far a resync is. It compares first, where nothing tells which blocks differ, and then sends.
type ResyncProgress struct {
	Phase         string  `json:"phase"`                    // comparing, sending, installing, completed
	ComparedBytes uint64  `json:"compared_bytes,omitempty"` // of the target's image, by hashes
	CompareTotal  uint64  `json:"compare_total_bytes,omitempty"`
	HashBytes     uint64  `json:"hash_bytes,omitempty"`    // hashes asked and answered
	ResumedBytes  uint64  `json:"resumed_bytes,omitempty"` // an earlier resync had staged at the target
	RateBytes     float64 `json:"rate_bytes_per_second"`   // of the phase so far
	LeftSeconds   float64 `json:"left_seconds"`            // of the phase, at that rate; 0 when not known
}

// Phases of a resync.
const (
	ResyncComparing  = "comparing"
	ResyncSending    = "sending"
	ResyncInstalling = "installing" // the target makes it its image
	ResyncCompleted  = "completed"
)

// Position is published on PositionSubject. A target sends it after every durable frame; a primary every 250 ms.
type Position struct {
	Group   domain.GroupID `json:"group"`
	Site    domain.SiteID  `json:"site"`
	Primary bool           `json:"primary"` // the sender's role
	Epoch   domain.Epoch   `json:"epoch"`
	LSN     domain.LSN     `json:"lsn"`              // durable here; a primary: the last acknowledged
	Frame   uint64         `json:"frame"`            // number of the last durable frame of Epoch
	Bytes   uint64         `json:"bytes"`            // payload bytes since the epoch began, a primary's clock of volume
	Time    time.Time      `json:"time"`             // of the last frame
	Resend  bool           `json:"resend,omitempty"` // a gap was seen: send from LSN+1
	// Arrived is the last change that came the direct way, durable or not yet.
	Arrived domain.LSN `json:"arrived,omitempty"`
	// Line says that a rejoin would be offered a line now. Told by a target, in some of its positions; false says nothing.
	Line bool `json:"line,omitempty"`
	// Ended says that the primary was demoted: it acknowledges nothing after LSN.
	Ended bool `json:"ended,omitempty"`
}
