package api

import (
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Verbs of the replicator about checkpoints: points of a target's past.
const (
	VerbCheckpointList   = "checkpoint_list"   // GroupRequest -> CheckpointList
	VerbCheckpointCreate = "checkpoint_create" // CheckpointCreateRequest -> Checkpoint
	VerbCheckpointOpen   = "checkpoint_open"   // CheckpointOpenRequest -> CheckpointOpened
	VerbCheckpointClose  = "checkpoint_close"  // CheckpointRequest -> Empty
	VerbCheckpointRead   = "checkpoint_read"   // CheckpointReadRequest -> CheckpointPiece
)

// Kinds of checkpoint.
const (
	CheckpointCrash = "crash" // a prefix of the group's write order, as after a power cut
	CheckpointApp   = "app"   // the same, with the guests quiesced
)

// Checkpoint is a point of a copy's past that it can be read at, and promoted at.
type Checkpoint struct {
	LSN   domain.LSN   `json:"lsn"`             // the last change it holds; what it is called by
	Epoch domain.Epoch `json:"epoch"`           // that change was made under
	Time  time.Time    `json:"time"`            // of that change, by its primary's wall clock
	Kind  string       `json:"kind"`            // crash or app
	Label string       `json:"label,omitempty"` // given by whoever asked for it
	Bytes int64        `json:"bytes"`           // it takes on the target's disk
	Open  bool         `json:"open"`            // somebody reads it
	Disks []Disk       `json:"disks,omitempty"` // where it is served, when it is
	// Of one that is served: what was written to it, the most that may be (0: no limit of its own), and why a write that needs
	// room is refused now (empty: it is not).
	WrittenBytes int64  `json:"written_bytes,omitempty"`
	LimitBytes   int64  `json:"limit_bytes,omitempty"`
	Refuses      string `json:"refuses,omitempty"`
}

// CheckpointList is every checkpoint of one site's copy, oldest first. A primary has those of its time as a target, and what was
// marked since while it had any.
type CheckpointList struct {
	Site        domain.SiteID  `json:"site"`
	Group       domain.GroupID `json:"group"`
	Checkpoints []Checkpoint   `json:"checkpoints"`
	Bytes       int64          `json:"bytes"` // all of them take on the target's disk
}

// CheckpointCreateRequest asks the site that serves a group for a mark in its order: every target takes a checkpoint at
// exactly that change, as soon as it comes there. With App the guests are held still for it. Errors: refused (the site does
// not serve the group; App, and a guest cannot be held still), no_lease, unavailable (not acknowledged in time).
type CheckpointCreateRequest struct {
	Group domain.GroupID `json:"group"`
	Label string         `json:"label"` // up to 256 bytes
	App   bool           `json:"app,omitempty"`
}

// CheckpointRequest names a checkpoint of a site's copy.
type CheckpointRequest struct {
	Group      domain.GroupID `json:"group"`
	Checkpoint domain.LSN     `json:"checkpoint"`
}

// CheckpointOpenRequest serves a checkpoint's volumes over iSCSI, under names and identities of their own. They may be
// written to; what is written is gone when the checkpoint is closed, the site's replicator ends, or the site becomes primary
// for the group. Replication goes on, and the copy is not touched: a write that needs room which the limit or the reserve of the site does not
// leave is refused. A repeat answers the same, and changes the limit where it gives one. Errors: not_found, invalid.
type CheckpointOpenRequest struct {
	Group      domain.GroupID    `json:"group"`
	Checkpoint domain.LSN        `json:"checkpoint"`
	Volumes    []domain.VolumeID `json:"volumes,omitempty"`     // empty: all
	LimitBytes int64             `json:"limit_bytes,omitempty"` // that may be written to all of them together; 0: no limit of its own
}

// CheckpointOpened says where a checkpoint's volumes are served.
type CheckpointOpened struct {
	Group      domain.GroupID `json:"group"`
	Checkpoint domain.LSN     `json:"checkpoint"`
	Disks      []Disk         `json:"disks"`
	LimitBytes int64          `json:"limit_bytes,omitempty"` // in force; 0: none of its own
}

// CheckpointReadRequest reads a piece of a volume as it was, 1 MiB at most. The checkpoint is kept for a minute after each.
type CheckpointReadRequest struct {
	Group      domain.GroupID  `json:"group"`
	Checkpoint domain.LSN      `json:"checkpoint"`
	Volume     domain.VolumeID `json:"volume"`
	Offset     int64           `json:"offset"` // bytes
	Length     int64           `json:"length"` // bytes
}

// CheckpointPiece is what was read.
type CheckpointPiece struct {
	SizeBytes int64  `json:"size_bytes"`     // of the whole volume
	Data      []byte `json:"data,omitempty"` // none: zeroes
}
