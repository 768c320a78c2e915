// Package initiator is a small iSCSI initiator: it opens one logical unit over one connection and reads, writes,
// flushes, compares-and-writes, unmaps and reserves it. Commands of concurrent callers are pipelined.
//
// # When the connection breaks
//
//	                 without Replay                          with Replay
//	in flight        fail with ErrBroken; a write among      stay outstanding
//	                 them may or may not have happened
//	then             the session is over: Dial again         log in again with the same ISID, which makes the target end the
//	                                                         old session first (RFC 7143 section 6.3.5); check that it is the
//	                                                         same disk; send what is outstanding again, in its order
//	CompareAndWrite  fails with ErrBroken                    fails with ErrBroken: a repeat could meet its own effect
//
// A call that ends by its context or its time before the answer came returns an error that wraps ErrAmbiguous when it
// could have changed the disk, and is never sent again.
//
// A silent peer is told from a slow one by NOP-Out: a target that holds a write back for long still answers it.
package initiator
