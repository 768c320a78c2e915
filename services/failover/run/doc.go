// Package run keeps the journal of a run and carries out its steps, so that a run survives the death of whoever leads it.
//
// The journal is the stream HF_RUNS of the leading site: one subject a step, "run" for the head, each written with the
// sequence its last record must have. Two leaders of one run cannot both write a record; the one that loses stops
// (ErrSuperseded), reads the journal again and goes on from there.
//
//	pending -> running -> done
//	              |  \---> failed
//	              +-> running (again, after a death: the effect may or may not have taken place)
//
// # What makes a step once in effect
//
// The record "running" is durable before the effect, "done" after it. A leader that died in between repeats the call, under the
// same epoch and run id; where it lands the repeat finds its effect and answers the same. A choice that a repeat must not make
// anew (on which host a VM is started) is recorded, by intend, before it is acted on.
//
// # Failure cases
//
// Unavailable, no quorum and errors without a code are tried again with growing waits until the step's time is over. Refused,
// stale epoch, conflict, invalid and not found end the step at once. No lease ends it when the check before the attempt said
// so, and is tried again when a service said so that may not have heard of the lease yet. What does not need a failed step
// goes on; the run then ends failed, with every error in its head record. A journal that cannot be written stops the leader,
// never the record.
package run
