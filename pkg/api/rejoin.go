package api

import "github.com/holdfast-dr/holdfast/pkg/domain"

// Verbs that replicators use among themselves: a primary calls them at its targets.
const (
	VerbRejoin       = "rejoin"        // RejoinRequest -> RejoinReply
	VerbUnfollow     = "unfollow"      // UnfollowRequest -> Empty
	VerbResyncBegin  = "resync_begin"  // ResyncBegin -> ResyncBegun
	VerbResyncCommit = "resync_commit" // ResyncCommit -> Empty
	VerbResyncData   = "resync_data"   // binary, see services/replicator/group; empty reply
	VerbResyncHash   = "resync_hash"   // binary question and answer, see services/replicator/group and hashmap
)

// RejoinRequest asks a target to follow a primary under an epoch: it fences itself to the epoch, durably, compares
// lineages, and keeps its diverged writes aside. Errors: stale_epoch (a higher epoch was seen there), not_found (no such
// group there yet), invalid (another geometry), refused (the copy is broken).
type RejoinRequest struct {
	Group   domain.GroupID  `json:"group"`
	Epoch   domain.Epoch    `json:"epoch"`
	Site    domain.SiteID   `json:"site"` // the primary
	Lineage []LineageEntry  `json:"lineage"`
	Volumes []domain.Volume `json:"volumes"` // of Table, for replicators that know no other
	// Table is the primary's table of volumes; empty from a primary whose volumes have never changed, of an older version.
	Table []VolumeSlot `json:"table,omitempty"`
	// TableLSN is the last change that Table tells of.
	TableLSN domain.LSN `json:"table_lsn,omitempty"`
	// First and Last are the primary's changes that it can still send as frames.
	First domain.LSN `json:"first_lsn"`
	Last  domain.LSN `json:"last_lsn"`
	// Cause is the traceparent of the promote that made the primary one.
	Cause string `json:"cause,omitempty"`
}

// RejoinReply says where the target stands.
type RejoinReply struct {
	// LSN is the last change of the primary's line that the target's journal holds; frames go on at LSN+1.
	LSN domain.LSN `json:"lsn"`
	// Resync is set when frames alone cannot bring it on: the blocks written by either side since LSN must be sent.
	Resync bool `json:"resync"`
	// Full means that what the target wrote since LSN is not known: everything must be sent.
	Full bool `json:"full"`
	// Diverged is the set of blocks that the target wrote since LSN, in package extent's form.
	Diverged    []byte       `json:"diverged,omitempty"`
	Quarantined *Quarantined `json:"quarantined,omitempty"`
	// Compression is what this target can open; one that says nothing gets nothing compressed.
	Compression []domain.Compression `json:"compression,omitempty"`
	// Direct says that this target also takes frames on DirectSubject.
	Direct bool `json:"direct,omitempty"`
	// Line is a way past NATS by which this target takes frames; nil: it has none.
	Line *LineOffer `json:"line,omitempty"`
	// Bundles says that this target takes several frames in one message, one after the other.
	Bundles bool `json:"bundles,omitempty"`
	// VolumesChange says that this target follows when volumes are added and removed in the group's order.
	VolumesChange bool `json:"volumes_change,omitempty"`
}

// LineOffer is where a target takes frames past NATS, and what to show there. It ends with the next rejoin.
type LineOffer struct {
	Address string `json:"address"`
	Token   string `json:"token"`
}

// VolumeSlot is one place in a group's table of volumes, which says what an index in the group's changes means.
type VolumeSlot struct {
	ID        domain.VolumeID `json:"id"`
	SizeBytes int64           `json:"size_bytes"`
	// Born is the change that added it, under Epoch; 0: it is there from the group's beginning. Gone is the change that removed it;
	// 0: it is served.
	Born  domain.LSN   `json:"born_lsn,omitempty"`
	Epoch domain.Epoch `json:"epoch,omitempty"`
	Gone  domain.LSN   `json:"gone_lsn,omitempty"`
	// Emptied says that what the removed volume held was deleted at the site whose table this is.
	Emptied bool `json:"emptied,omitempty"`
}

// UnfollowRequest tells a target that its primary sends it nothing more, because the group's policy says so: the copy stays as
// it is. Errors: stale_epoch (the target follows another epoch).
type UnfollowRequest struct {
	Group domain.GroupID `json:"group"`
	Epoch domain.Epoch   `json:"epoch"`
	Site  domain.SiteID  `json:"site"` // the primary
}

// ResyncBegin opens a staging area at the target. What an earlier resync has staged there and not committed stays in it. With Need
// it asks about the one that is open. Errors: stale_epoch, invalid, conflict (with Need: no such stage is open).
type ResyncBegin struct {
	Group   domain.GroupID `json:"group"`
	Epoch   domain.Epoch   `json:"epoch"`
	Session uint64         `json:"session"`
	Table   []VolumeSlot   `json:"table,omitempty"` // the primary's, by which what is sent counts its volumes
	// Need, when not 0, is how many bytes the primary is about to send, and asks whether there is room for them. Blocks is which blocks
	// they are of, in package extent's form; where it is empty the target goes by what was said of this stage before.
	Need   uint64 `json:"need_bytes,omitempty"`
	Blocks []byte `json:"blocks,omitempty"`
}

// ResyncBegun says what the stage holds already. The target's image, for the sums of resync_hash, is its old one with that
// over it.
type ResyncBegun struct {
	Staged []byte `json:"staged,omitempty"` // the set of blocks staged before, in package extent's form
	// TellsRoom says that this target answers Need: with Lacks, why there is no room for that, in words; empty: there is, or nobody knows.
	TellsRoom bool   `json:"tells_room,omitempty"`
	Lacks     string `json:"lacks,omitempty"`
}

// ResyncCommit makes what was staged visible at once: the target's copy then is the primary's at LSN. It is answered when
// the target has begun; a rejoin is answered when it is done.
type ResyncCommit struct {
	Group   domain.GroupID `json:"group"`
	Epoch   domain.Epoch   `json:"epoch"`
	Session uint64         `json:"session"`
	Cut     domain.LSN     `json:"cut"` // the data sent holds every change up to here
	LSN     domain.LSN     `json:"lsn"` // the frames sent hold Cut+1 up to here
	Lineage []LineageEntry `json:"lineage"`
	Table   []VolumeSlot   `json:"table,omitempty"` // the primary's as of LSN: that of the copy from then on
}
