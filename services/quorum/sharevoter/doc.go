// Package sharevoter keeps a passive voter's record on a shared directory (NFS, or SMB through a POSIX mount): a chain of
// files of which each is created once and never changed.
//
//	<dir>/<cluster>/<group>/v00000000000000000042
//
// A swap writes the whole record to a temporary file, fsyncs it, links it to the next version's name and fsyncs the
// directory. link() creates the name or fails: that is the compare-and-swap. There are no locks and no torn reads. Mount
// NFS with noac,lookupcache=none; a stale read costs a lost swap, nothing else.
//
// Old versions are pruned, always at least Keep behind the newest. A client so slow that the name it links was pruned
// before sees that the newest is at least Keep ahead, and has lost.
//
// The share's own folder is never made, and a file system of this machine alone in its place is refused: a mount point without its share
// would be a vote of each site's own.
//
// Failure cases: a file whose checksum differs is an error, and the voter does not vote until it is mended; a swap whose
// outcome is not known (an error, a time-out) may still have landed, which the next read shows; a temporary file that a
// dead client left is removed after a minute.
package sharevoter
