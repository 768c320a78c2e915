// Package quorum strikes three sites, each in a network namespace of its own and each of their services a process of its own, with one
// fault after the other: partitions, also of one direction, loss, processes that are stopped or killed, a wall clock that steps by an
// hour, a witness whose disk is full, and one whose votes were restored from an old copy. A user at each site asks its workload to
// append all the time. After each fault the workload's own log says whether two sites ever served at once, and the disks of the serving
// site, read through iSCSI, whether an acknowledged write is missing.
//
// The tests need the build tag e2e, root, ip and nft. HOLDFAST_QUORUM_FAULTS sets the number of faults, HOLDFAST_QUORUM_SEED replays a
// sequence, HOLDFAST_QUORUM_TIMING is the timing of the lease (fast).
package quorum
