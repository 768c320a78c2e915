package api

import (
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Verbs of the replicator that compare copies while writes go on.
const (
	VerbVerify      = "verify"       // VerifyRequest -> VerifyStatus; at the primary
	VerbVerifyHash  = "verify_hash"  // VerifyHash -> VerifySums; a primary asks its target
	VerbVerifyExact = "verify_exact" // VerifyExact -> VerifySums; a primary asks its target
)

// VerifyRequest begins to compare a target's copy with the primary's, block by block. It is answered at once; the group's
// status tells how far it is. One that runs already is answered with that. Errors: refused (not primary here, heal without
// why), not_found (no such target), unavailable (the target does not take part now).
type VerifyRequest struct {
	Group  domain.GroupID `json:"group"`
	Target domain.SiteID  `json:"target"`
	// Heal writes the primary's content of a block that differs once more, through the group's order.
	Heal bool   `json:"heal,omitempty"`
	Why  string `json:"why,omitempty"`
	By   string `json:"by,omitempty"`   // who the caller says it is
	Host string `json:"host,omitempty"` // and where
}

// VerifyStatus is a comparison under way, or the last one of a target.
type VerifyStatus struct {
	Target      domain.SiteID  `json:"target"`
	Running     bool           `json:"running"`
	Scheduled   bool           `json:"scheduled"` // by the site's configuration, not by a person
	Heal        bool           `json:"heal"`
	Epoch       domain.Epoch   `json:"epoch"` // it was made under
	Started     time.Time      `json:"started"`
	Ended       time.Time      `json:"ended,omitzero"`
	Bytes       uint64         `json:"bytes"`                   // compared so far
	Resumed     uint64         `json:"resumed_bytes,omitempty"` // of these, before it broke off with a process of either side
	Total       uint64         `json:"total_bytes"`             // of all volumes
	RateBytes   float64        `json:"rate_bytes_per_second"`   // so far
	LeftSeconds float64        `json:"left_seconds"`            // at that rate; 0 when not known
	Differ      uint64         `json:"differ_bytes"`            // found at the target other than at the primary, at an equal LSN
	Healed      uint64         `json:"healed_bytes"`            // of those, right now
	Undecided   uint64         `json:"undecided_bytes"`         // could not be compared at an equal LSN
	Extents     []VerifyExtent `json:"extents,omitempty"`       // those that differ, the first 1,000
	Error       string         `json:"error,omitempty"`         // why it ended before its end
	// LastGood is when a comparison of this target last came to its end with every block decided.
	LastGood time.Time `json:"last_good,omitzero"`
	// FailedSince is when the first one ended since then that did not, as far as this site's replicator runs for so long.
	FailedSince time.Time `json:"failed_since,omitzero"`
	Again       time.Time `json:"again,omitzero"` // when the schedule tries again
}

// VerifyExtent is a stretch of a volume that differs.
type VerifyExtent struct {
	Volume domain.VolumeID `json:"volume"`
	Offset int64           `json:"offset"` // bytes
	Length int64           `json:"length"` // bytes
	LSN    domain.LSN      `json:"lsn"`    // at which both were compared
	Healed bool            `json:"healed"`
}

// VerifyHash asks for sums of a stretch of the target's volume, as it is at some moment.
type VerifyHash struct {
	Group    domain.GroupID `json:"group"`
	Epoch    domain.Epoch   `json:"epoch"`
	Session  uint64         `json:"session"` // one comparison
	Volume   int            `json:"volume"`
	Offset   int64          `json:"offset"`   // of the stretch
	Question []byte         `json:"question"` // in package hashmap's form
}

// VerifyExact asks for the sums of single blocks at one LSN, not below the given one.
type VerifyExact struct {
	Group  domain.GroupID `json:"group"`
	Epoch  domain.Epoch   `json:"epoch"`
	LSN    domain.LSN     `json:"lsn"`
	Volume int            `json:"volume"`
	Blocks []int64        `json:"blocks"` // numbers of blocks of 4 KiB
}

// VerifySums answers both.
type VerifySums struct {
	LSN  domain.LSN `json:"lsn,omitempty"` // of VerifyExact: what the blocks show, all of it and no more
	Sums []byte     `json:"sums"`
}
