package api

import (
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Verbs of the replicator about checkpoints: points of a target's past.
const (
	VerbCheckpointList = "checkpoint_list" // GroupRequest -> CheckpointList
)

// Kinds of checkpoint.
const (
	CheckpointCrash = "crash" // a prefix of the group's write order, as after a power cut
	CheckpointApp   = "app"   // the same, with the guests quiesced
)

// Checkpoint is a point of a target's past that its copy can be read at, and promoted at.
type Checkpoint struct {
	LSN   domain.LSN   `json:"lsn"`             // the last change it holds; what it is called by
	Epoch domain.Epoch `json:"epoch"`           // that change was made under
	Time  time.Time    `json:"time"`            // of that change, by its primary's wall clock
	Kind  string       `json:"kind"`            // crash or app
	Label string       `json:"label,omitempty"` // given by whoever asked for it
	Bytes int64        `json:"bytes"`           // it takes on the target's disk
	Open  bool         `json:"open"`            // somebody reads it
}

// CheckpointList is every checkpoint of one site's copy, oldest first. A primary has none.
type CheckpointList struct {
	Site        domain.SiteID  `json:"site"`
	Group       domain.GroupID `json:"group"`
	Checkpoints []Checkpoint   `json:"checkpoints"`
	Bytes       int64          `json:"bytes"` // all of them take on the target's disk
}
