// Package diskvoter keeps passive voters' records on a small LUN of an iSCSI target. COMPARE AND WRITE (SBC-4 section 5.3) is the
// compare-and-swap; a target without it must have persistent reservations (SPC-4 section 5.12), see reserve.go and ADR 26. The LUN is for
// votes alone and must not be replicated.
//
//	0        label    one block: magic 8 | CRC-32C u32 | slots u32 | identity 16
//	4 KiB    scratch  one block: probes swap here
//	8 KiB    slots    one block at each multiple of 4 KiB: a group's record, the first free one from its hash on
//
// How many slots there are is written in the label when the LUN is first used: a group's slot stays where it is when the LUN grows.
// The identity is drawn then, and each site keeps the first that it sees: another LUN behind the same name is refused, since two LUNs
// that count as one vote are two votes.
//
// A record is one logical block, since one block is what every target compares and writes as a whole:
//
//	magic 8 | version u64 | CRC-32C u32 | content length u16 | key length u8 | 0 | key | content, DEFLATE with a dictionary
//
// Numbers are little-endian, the CRC is over the block with the field zero, what follows the content is zero. The key is the
// cluster's name, a zero byte, the group's name. A slot is never given back, so whoever looks from the hash on finds a
// group's slot before the first free one. Versions grow by one with each swap: an old expectation never matches again.
//
// A swap is followed by SYNCHRONIZE CACHE before it counts as won. One whose answer was lost, or whose flush failed, may have
// landed, which the next read shows.
//
// Failure cases: a LUN without a label that is not empty where votes would stand, or in its first MiB, is somebody's data and is refused; a damaged slot is an
// error, and the voter does not vote until it is mended; a target that neither compares nor reserves is refused by name. An
// older copy of the LUN put back in its place is not noticed: do not snapshot it.
package diskvoter
