// Package sim runs the quorum core in virtual time: several sites with voters, candidates and a small model of the data
// plane, under seeded faults, one schedule per seed. A violated invariant stops the schedule; the same seed replays it
// with a transcript.
//
// # What is modelled
//
// Machines with a boot-time clock each, whose rate changes within ±ε while it runs; a process on a machine may be paused,
// killed and restarted, a machine suspended, crashed and rebooted, a site lost whole. Voters store their record with a
// delay and may die around it. Messages between sites are lost, repeated, delayed up to 3G, and cut one way or both.
// A share is a create-once chain of versions. Holders move, shrink and grow the in-sync set, and change the weights.
// The data plane writes at the serving site, waits for every site it must, and acknowledges behind a gate.
//
// # Invariants
//
//   - M: at most one site serves at any real instant, by lease and by gate.
//   - Epochs granted grow.
//   - D1: no acknowledged synchronous write is missing at the start of a new epoch, or acknowledged into a dead one later.
//   - No write of an older epoch lands where a newer one began.
//   - L: after every fault is mended, some site serves within a bound.
package sim
