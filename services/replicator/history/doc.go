// Package history keeps the past of a copy: checkpoints, and of every block that changed since one what it held before. So the copy
// can be read, and rolled back to, as it was at any checkpoint that is listed.
//
//	checkpoint   c1            c2            c3         now
//	             |-- undo 1 ---|-- undo 2 ---|-- undo 3 --|  base (the volumes)
//
// Undo i is a file, a segment. It holds every block that was first overwritten after c_i and before c_i+1, as it was at
// c_i. A block at c_i is found in the first of undo i, i+1, ... that has it; when none has, nobody overwrote it since, and
// the base has it.
//
// # Invariant
//
// A block that the newest segment does not have is in the base as it was at the newest checkpoint. So:
//
//   - Record is called before a block of the base is overwritten, and returns when what it holds is durable.
//   - Take is called when the base shows exactly the prefix at the checkpoint, and returns when the checkpoint is durable.
//     Nothing after it may reach the base before.
//   - A block is recorded once in a segment: what a redo after a crash finds in the base may be newer than the checkpoint,
//     but then the segment has the block. What was never recorded was never overwritten, so the torn end of a segment,
//     whose write was under way, is cut off.
//   - Changes up to the newest checkpoint, which a redo brings to the base again, are not recorded.
//
// A block that would get the content it has is not recorded: overwriting it changes nothing.
//
// The base goes back to a checkpoint by Restore, flushed, and then Rewind: an empty segment of the same checkpoint takes the place of
// its own and of all that follow, in one replacement of the list. Until then both may be done again.
//
// # Room
//
// The oldest checkpoint is dropped by removing its segment. One in the middle is thinned: what its segment alone has is
// appended to the one before it, which is right whether or not the thinned one is still there; then it goes. The list
// of segments is one record that is replaced as a whole; a segment that is named there and missing was dropped, and so
// was all before it.
//
// The history gives way: no room, or a failed write of it, costs checkpoints, oldest first, at last all of them, and never
// the copy that it belongs to. All of them are given up by overwriting the record in place, which needs no room, and is
// durable before the base changes.
//
// # Failure cases
//
//   - Power cut or kill at any moment: the checkpoints that are listed afterwards are those before or after the request in
//     flight, each exactly what it was. history's oracle test plays this at every write and flush.
//   - Damage in a segment: a block whose checksum is wrong cannot be read, and says so; damage of its headers drops that
//     checkpoint and those before it. Damage in the last batch of the newest segment cannot be told from a torn end.
package history
