// Package transport is how frames and resync data travel to a target: no faster than its rate limit (Pacer) and its
// group's share of the link to a site (Link) allow, and smaller where compression helps (Pack).
//
// # What is in the pipe
//
// A message of the pipe is either a frame of the journal as it is, which begins with the bytes "HFJF" (package journal has the
// format), or an envelope around one:
//
//	offset  bytes  field
//	0       4      "HFPZ"
//	4       1      version, 1
//	5       1      algorithm: 1 is an S2 block (the block format of github.com/klauspost/compress/s2, which extends Snappy's)
//	6       2      zero
//	8       4      length of the frame, little-endian
//	12      -      the compressed frame
//
// Whoever reads the pipe calls Unpack, and then checks the frame's own checksums, which cover it from the journal it was
// written to to the journal it arrives in: an envelope has none of its own. Only a target that said so (api.RejoinReply) gets
// envelopes, and a synchronous one gets none while it streams: nothing is compressed in the path of an acknowledgement.
package transport
