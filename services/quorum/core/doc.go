// Package core is the deciding part of Holdfast's quorum: a time-bounded vote with an epoch, one per (cluster, group).
// It holds no clock, no I/O, no goroutine, no log and no context. Readings of the caller's clock and messages go in;
// messages to send, a record to make durable and facts come out. The same code is run by the service and, in virtual
// time under faults, by the simulation.
//
// # Promises
//
//   - M: at any real instant at most one site holds an unexpired lease for the group. Needs clock rates within ±ε.
//   - D1: whoever is granted a new epoch is in the in-sync register, so it has every acknowledged synchronous write;
//     or the loss was accepted by name. Needs no clock.
//   - Epochs only grow, and are never reused.
//
// # A voter (one vote; active: it runs code beside its disk)
//
//	         Prepare(N): N > promised, not busy
//	+------+ ------------------------------------> promised = N (durable)
//	| free |                                            |
//	+------+ <--- now >= until ---+                     | Accept(N): N >= promised
//	   ^                          |                     v
//	   |  Release(N) from holder  +---------------- held by c until now+G  <--+ Renew, Update (promised = vEpoch = N)
//	   +--------- reserved for the successor, G ---------+   |________________|
//
// Busy means held by another, or reserved for another, with time left. Every durable change is on disk before the
// reply. Restart in the same boot reloads the volatile part; after a reboot the voter is busy until boot + G.
//
// # A passive voter (disk, share, object)
//
// The same record plus a heartbeat hb, changed by compare-and-swap only. Passive turns requests into reads and swaps.
// A challenger may swap only after (vEpoch, vHolder, hb) stood unchanged for G on its own clock, counted from the
// receipt of the first such read. Each renewal swaps hb+1.
//
// # A candidate, then holder
//
//	idle --Campaign--> probing --free quorum, in sync--> preparing --quorum--> accepting --quorum--> holding
//	         ^            |  ^                              |                      |                    |
//	         |            v  | retry at the hint            v                      v                    |
//	         +-------- waiting <---------------------------+----------------------+-------- Lost ------+
//	idle <----------------------------- Release(successor) ---------------------------------------------+
//
// The quorum is counted under the newest configuration seen in the round; a joint configuration needs both majorities.
// The holder's deadline is the send time of a round + H, H = G(1-ε)/(1+ε), and only acknowledgements that carry the
// nonce of that round count. Past the deadline the epoch is dead: nothing extends it.
//
// # What a synchronous write waits for
//
// Every site of Lease.WaitFor: the committed in-sync set and every set proposed since, because a voter may hold any of
// them and the next holder may find it. A writer that restarts takes WaitFor from the lease, not the last set it knew.
// A release ends every epoch of the site up to the one released: what still serves under an older one must be stopped too.
//
// # Clocks
//
// Every Instant comes from CLOCK_BOOTTIME of the machine the state machine runs on, so suspends count. Rates differ from
// true time by at most ε. A voter's G lasts at least G/(1+ε) of true time from the receipt of the request; the holder's
// H lasts at most H/(1-ε) = G/(1+ε) from its sending, which is earlier. Nothing else is assumed: messages may be lost,
// repeated, delayed without bound and reordered; send times never travel.
//
// # Checked
//
// By seeded schedules in package sim, and by the model of the vote in model/vote.pml, which the spin model checker searches in
// every state.
//
// # Failure cases
//
//   - Voter killed around its fsync: the reply was not sent, so nobody counts on it; old or new record are both right.
//   - Torn or corrupt record: the owner of the file must not build a Voter from it. It does not vote.
//   - Holder paused or cut off: its deadline passes by its own clock before G has passed at any voter that granted.
//   - Candidate killed after Accept: the voters stay busy for G at most.
//   - Duplicated or late requests: voters dedupe extensions by sequence, so a buffered renewal does not keep the dead alive.
//   - Forced quorum: a higher force generation in any answer stops a holder of a lower one; older configurations are void.
//   - Cold start: a candidate that has just booted must hear a voter of another site before it competes.
package core
