package api

import (
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Verbs of the replicator on what it kept aside.
const (
	VerbQuarantine        = "quarantine"         // QuarantineRequest -> QuarantineReply
	VerbQuarantineRead    = "quarantine_read"    // QuarantineRead -> QuarantinePiece
	VerbQuarantineDiscard = "quarantine_discard" // QuarantineDiscard -> Quarantined
)

// QuarantineRequest asks what was kept aside: of a group, or of all with an empty one; or, with an ID, one item with a page
// of its extents. Errors: not_found (no such group or item here).
type QuarantineRequest struct {
	Group domain.GroupID `json:"group,omitempty"`
	ID    string         `json:"id,omitempty"`
	From  int            `json:"from,omitempty"` // the first extent of the page
}

// QuarantineReply lists what was kept aside. Without an ID asked for, the items come without their extents.
type QuarantineReply struct {
	Items []Quarantined `json:"items"`
}

// Quarantined is a tail of writes that another epoch overtook: kept aside, readable, never discarded by itself.
type Quarantined struct {
	ID       string              `json:"id,omitempty"` // one item of a site
	Group    domain.GroupID      `json:"group"`
	Site     domain.SiteID       `json:"site"`                   // where it is kept
	Epoch    domain.Epoch        `json:"epoch"`                  // it was written under
	FirstLSN domain.LSN          `json:"first_lsn"`              // of the tail
	LastLSN  domain.LSN          `json:"last_lsn"`               // of the tail
	Writes   uint64              `json:"writes"`                 // in the tail
	Bytes    uint64              `json:"bytes"`                  // in those writes
	From     time.Time           `json:"from"`                   // the first write was made
	To       time.Time           `json:"to"`                     // the last write was made
	Path     string              `json:"path"`                   // folder at that site
	Extents  []QuarantinedExtent `json:"extents,omitempty"`      // the writes one by one; an event has the first 256
	Count    int                 `json:"extent_count,omitempty"` // how many extents there are in all
	Volumes  []QuarantinedVolume `json:"volumes,omitempty"`      // the group's, as they were then
}

// QuarantinedVolume is a volume that kept writes belong to.
type QuarantinedVolume struct {
	ID        domain.VolumeID `json:"id"`
	SizeBytes int64           `json:"size_bytes"` // of the whole volume
}

// QuarantinedExtent is one write that was kept aside.
type QuarantinedExtent struct {
	Volume domain.VolumeID `json:"volume"`
	Offset int64           `json:"offset"` // bytes from the volume's start
	Length int64           `json:"length"` // bytes
	LSN    domain.LSN      `json:"lsn"`    // its place in the group's write order
	Time   time.Time       `json:"time"`   // it was made
}

// Files of an item that QuarantineRead reads.
const (
	QuarantineFrames = "frames.bin" // the diverged frames, one after the other
	QuarantineBlocks = "blocks.bin" // blocks whose frames the ring no longer held, as records of a resync
)

// QuarantineRead asks for a piece of an item's file. Errors: not_found, invalid (no such file, an offset outside it).
type QuarantineRead struct {
	Group  domain.GroupID `json:"group"`
	ID     string         `json:"id"`
	File   string         `json:"file"`
	Offset int64          `json:"offset"`
}

// QuarantinePiece is a piece of a file; empty at its end.
type QuarantinePiece struct {
	Data []byte `json:"data"`
	Size int64  `json:"size"` // of the whole file
}

// QuarantineDiscard deletes an item for good. It is recorded in the audit first, and not done when that cannot be. Errors:
// refused (without Yes), invalid (without Why), not_found, unavailable (the audit could not be written; nothing was deleted).
type QuarantineDiscard struct {
	Group domain.GroupID `json:"group"`
	ID    string         `json:"id"`
	Yes   bool           `json:"yes"`
	Why   string         `json:"why"`
	By    string         `json:"by,omitempty"`   // who the caller says it is
	Host  string         `json:"host,omitempty"` // and where
}
