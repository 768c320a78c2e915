// Package layer is copy on write over plain files. A volume is a chain of layers, the writable one on top; below it are
// frozen ones, which snapshots name and clones share.
//
//	top      data file: blocks in place, sparse      map: which blocks are here
//	frozen   data file                               map
//	base     data file; without a map every block is here
//
// A block is 4096 bytes. It is read from the uppermost layer that has it, and from none, as zeroes, when no layer has it or
// when it lies beyond the part of the parent that shows through (Limit): what was beyond the end of a volume that was made
// smaller and larger again stays gone. A layer that has a block as a hole has zeroes.
//
// # Writing
//
// A write of whole blocks goes to the top's data file, at its own place, and then their bits are set in memory. Nothing is
// copied. A write of part of a block that is not in the top yet first reads the block from below, and must be alone for
// that (Alone).
//
// # What a power cut leaves
//
// Sync copies the changed pages of the map, flushes the data, then writes that copy and flushes the map. So a bit is durable
// only after the block it speaks of. A cut before that leaves bits of 0, and the blocks of the last flush are read from
// below, untouched. Bits only ever go from 0 to 1: whatever mixture of an old and a new page of the map a torn write leaves is
// a map between the two, all of whose blocks are durable. Blocks keep their place, so none is ever read as another.
//
// # What the death of the process leaves
//
// The data of an answered write is in the machine's page cache, and survives the process; its bit must too, or a guest that
// never noticed would lose writes that it was told of, with no power cut to excuse it. But the map's file must not have the
// bit yet. So the bits in memory are a Shadow, which the next process takes over while the machine was not restarted.
//
// # Taking a layer out
//
// Merge copies what a layer has down into its parent, when nobody else reads that parent: all who read it do so through the
// layer, which hides what is being copied, so at any moment of it a cut leaves the same content. Once it is durable the two
// read alike, and whatever names the upper one can be made to name the lower one, one after the other.
package layer
