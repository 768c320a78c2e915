// Package group is one protection group's copy at one site: its journal, its volumes, and the part it plays.
//
//	         promote(epoch, lease)                    demote, lease over, higher epoch seen
//	target ─────────────────────────> primary ────────────────────────────────────────────> target
//	  │  ^                               │ a sender for each target:
//	  │  └── rejoin: fence, compare,     │   connecting ─rejoin─> streaming <──> lagging (from the ring)
//	  │      quarantine, follow          │        │  ^                │ ring needed: overflow (durable bitmap)
//	  └── resync: stage, commit at once  │        └──┴── resync <─────┘
//
// # A write
//
// Unit.Submit gives it an LSN and copies its payload into the open frame (the sequencer). One committer cuts the frame
// whenever the one before is written and appends it to the journal, while senders put the same bytes into the pipes. When
// the journal holds the frame, and every required synchronous target's journal too, one completer applies it to the
// volumes and calls done, if the lease still holds at that moment.
//
// An epoch begins with a marker of its own, and nothing is served, reads included, before that is where an acknowledged
// change must be. Else a copy with an unacknowledged tail could later show what a reader here has seen to be absent.
//
// Durability is strict, or cached: see cached.go.
//
// # Who may acknowledge
//
// A session (one epoch's serving) has a gate: open while the lease's deadline on CLOCK_BOOTTIME lies ahead and nobody shut
// it. It is asked when a command comes, when it is complete and, by the iSCSI target, just before the answer is written.
// The deadline counts from before the lease was asked for, less the clock-rate bound; once passed, it is never extended.
// A session that ended is never resumed: frames of its epoch may be at a target that this journal lost in a crash, and a
// second frame of the same number must never exist. So an epoch that the journal has already served is refused.
//
// # A changed policy
//
// Adopt brings a session's targets to another policy while writes go on. The registrar alone decides who is waited for: a
// target is admitted to the in-sync set or barred from it, and a barred one is waited for until the register is known not to
// name it. Only then may a sender end. Nothing of a change is kept here, so there is no half of one after a kill.
//
// # Volumes
//
// Which volume an index means is in the group's order (package slots). A session's volumeLoop compares the table with the policy
// and puts markers into the order; each copy makes the table of a marker its own, durably, before its volumes show that change
// (followTable), and a resync brings the table of where it ends. The file of a slot that only another line had goes when its
// content is in quarantine; the file of one that was removed stays.
//
// # Fence
//
// Each copy keeps, in the journal's superblocks, the highest epoch it was fenced to. Rejoin and promote refuse lower ones.
// The journal's own epoch follows the frames: a target that lags takes the frames of the older epochs first, through the
// pipe of the current one, and so its lineage is always a prefix of its primary's.
//
// # History
//
// A copy keeps its past (package history): before frames are applied, or a resync's stage, what they overwrite
// is recorded. Recovery redoes all of the journal, recording what it overwrites, as the newest checkpoint may need it; no
// checkpoint is taken by the clock before that is done, since until then the volumes may hold later changes. A copy that serves
// goes on with what it had as a target, takes checkpoints where a mark asks for one, and gives them up for room that its writers need.
//
// # Failure cases
//
//   - An I/O error of the journal or a volume stops the group; its status says why; nothing is retried as success.
//   - A volume without room (ENOSPC) is written to again and again: what it did not take is in the journal. Meanwhile it may show
//     a part of a change, so no checkpoint is taken. The ring then fills, and whoever writes waits; nobody is told an error.
//   - A bitmap that finds no room is given up, and the ring lets go all the same: the target's next resync compares everything.
//   - A crash of either side during a resync leaves the target's old image and journal as they were; a durable marker
//     makes the staged data and frames the new image, and a crash after it redoes the application.
//   - A target that cannot follow costs the primary its ring, then one bit per 4 KiB, never time (async; unless the group says
//     throttle). A target's copy keeps the same for the group's other targets (peers), since it may be their next primary.
//   - Broken invariants (an epoch that falls, two primaries of one epoch, a gap) stop the group.
package group
