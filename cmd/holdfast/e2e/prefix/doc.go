// Package prefix holds replication to its order with real processes: numbered blocks are written to the two volumes of a group over
// iSCSI, the serving site or its target is killed (SIGKILL) at a random moment, and what the other site then serves must be what the
// group held at some moment: no write is there while one that was acknowledged before it began is missing. A synchronous
// group must have every acknowledged write besides. The judge is held, too: a copy made without a common moment has to fail.
//
// The tests need the build tag e2e; HOLDFAST_PREFIX_ROUNDS sets the rounds of each mode.
package prefix
