// Package journal is the write-ahead journal of a protection group: one file per group and site, a ring of frames each
// made durable by one write, from which recovery gives exactly a prefix of the group's order that holds everything
// acknowledged. The bytes of a frame are the same at every site and on the wire.
//
// # The file
//
//	0         superblock A   16 KiB, of which only the pages in use are written
//	16 KiB    superblock B
//	32 KiB    ring           whole frames, 4 KiB-aligned; one that meets the end goes on at the start
//
// The file is reserved and filled with zeroes by Create under another name, and gets its own once it is durable: a
// file of the right name is whole, and no write can find the disk full later (on a file system that writes in place).
// It is locked, so there is one opener. Frames go past the page cache (O_DIRECT and O_DSYNC); where a file system
// cannot do that, pwrite and fdatasync do the same more slowly.
//
// Two superblocks carry a generation and a checksum, and are written in turn. One says where the tail is and what
// frame must be there, up to where all was durable, the epoch with the position and LSN of its first frame, the
// lineage, what was released and committed, an opaque meta of the engine, and whether a cut or a wipe is unfinished.
// Changes of epoch or extent are written to both before they are acknowledged, and the ring is overwritten only below
// the older superblock's tail: either superblock alone is enough, at any time.
//
// # A frame
//
// A header page {magic, version, count, header CRC, epoch, frame number, first LSN, commit LSN, wall time in ns, payload
// length, CRC of the header before, group}, 32-byte entries {volume u16, op u8, flags u8, CRC32C u32, offset u64, length
// u64, payload offset u64} that spill over as many pages as they need, then the payload, each WRITE's, and each marker's that has one, on a multiple of
// 512 bytes. All numbers are little-endian, everything unused is zero and verified to be, and there is one encoding of a
// frame only: what Decode takes, Encode makes again. Numbers and the chain of header CRCs begin anew with each epoch.
//
// # States
//
//	             RaiseEpoch                  Append, Release, SetMeta
//	Create --> [epoch 0] ------> [open] <---------------------------+
//	                              |  |  \____________________________|
//	                              |  |  RaiseEpoch, Truncate between frames, Reset
//	                              |  |
//	     Truncate inside a frame, |  | I/O failure
//	     or below the epoch       v  v
//	                 RaiseEpoch [cut]  [broken] --Close, Open--> recovery
//	          [open] <----------/
//
// Append takes exactly the next frame of exactly the current epoch. A cut journal takes none: half a frame cannot be
// chained to, so only a higher epoch goes on from there. (That is what cuts are for: a promotion at a checkpoint, and
// the rejoin that answers it.) A broken journal says ErrBroken to everything but Read and State until it is recovered:
// after a failed write nobody knows what the disk has, and asking again would get an answer about something else.
//
// # Recovery
//
// Open first makes durable what it is about to read (after a kill the page cache may show frames the disk does not
// have), finishes a wipe that was under way, and follows the chain from the tail. From the position of the current
// epoch's first frame on, frames carry exactly that epoch; before it, exactly the epoch that the lineage has for their
// LSN. That epochs do not fall would not do: the header of a frame lost in one crash and the same payload written there
// again in a later epoch and torn by a second crash make a whole frame that nobody wrote. Against the same trap within
// one epoch, recovery overwrites the header page at the end of the chain before anything is appended. One page of the
// ring always stays free for that.
//
// The chain ends at the first frame that is not whole. It is a torn tail, normal after a crash and reported as
// Recovered.Torn, unless the frame is known to have been durable:
//
//   - the superblock says so, or
//   - anywhere in the rest of the ring there is a valid header of the same group and epoch with a higher number and LSN
//     (or of an epoch above the superblock's). There is one committer with one frame in flight, so the missing frame was
//     durable before that one began. Frames of earlier laps have lower LSNs; frames that Truncate or Reset forgot are
//     overwritten with zeroes for this reason.
//
// Then Open fails with a *CorruptError that names file, offset and frame, and changes nothing: a copy with a hole is not
// a prefix, and is mended by a resync from the other site.
//
// # Who guarantees what
//
// The journal: I1, what Append acknowledged is recovered. The Applier: I2, volumes hold only what the journal holds
// durably, and the tail passes a change only when the volumes were flushed after it. The caller: that no target needs
// what it releases; that Truncate does not go below what the volumes show (the journal knows only what was released);
// that an epoch was granted to whoever raises it, and that the lease holds when a write is acknowledged. There is no
// clock here: the time in a frame is for people, order comes from LSNs alone.
//
// # Failure cases
//
//   - Power cut or kill at any moment, also while recovering, creating, truncating or resetting: the state before or
//     after the request in flight. The crash oracle (oracle_test.go) plays this with sectors that survive in any subset
//     and tear, and is shown to notice when any one measure above is missing.
//   - EIO, ENOSPC, short write, failed flush: ErrBroken for ever, whatever the disk says afterwards.
//   - One superblock lost: mended, reported as LostSuperblock. Both: *CorruptError.
//   - Damage in the ring: *CorruptError when it is in the middle. Damage of the very last frame, with no superblock
//     written since, cannot be told from a torn tail by anyone; the other site's journal has it.
//   - A guest that writes, on a protected volume, pages which are headers of its own group with the epoch of now, LSNs of
//     the future and right checksums can make recovery after a torn tail refuse (never truncate). Copies of real
//     journals lie in the past and do not.
package journal
