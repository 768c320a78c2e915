// Package filevoter is a site's own active voter: the core's Voter with its record in a file, one for each (cluster, group).
//
//	<dir>/<cluster>/<group>.vote     durable: written to a temporary file, fsynced, renamed, directory fsynced
//	<volatile>/<cluster>.<group>     the volatile part with the boot id, on tmpfs, renamed into place
//	<volatile>/<cluster>.<group>.record   the record as it was stored last, with the boot id, on tmpfs
//
// The reply to a request leaves only after both are stored. Killed anywhere before, the file holds the old record or
// the new one, both of which are right, since nobody counts on a reply that was not sent.
//
// Failure cases:
//   - Torn or corrupt file: the voter refuses to vote for that group, says so in every answer and in the log, and goes on
//     for the others. An operator removes the voter by a change of weights, and only then the file.
//   - Failed write: what is on disk is not known; the voter is read again before the next answer, busy for G from then.
//   - Mirror missing in the same boot: busy for G from now. Reboot: busy until boot + G.
//   - A file that is older than what the voter stored in this boot, as when an old copy is put back, or that was removed: it is
//     written anew from what is on tmpfs, and the log says so. Of two histories neither is believed: as a corrupt one.
//   - The same together with a reboot, at another machine, or without a folder on tmpfs: a voter that forgot its promises. Nothing can
//     notice that from within.
package filevoter
