// Package quorum is the service that decides who may be primary for a protection group. It hosts the site's own voter,
// competes for and holds leases on behalf of a data site, and answers its site's services.
//
//	campaign ──> candidate ──Probe, Prepare, Accept──> voters: own (file), other sites (bus), share (directory)
//	                 │ granted                                         │ renew every R
//	                 v                                                 v
//	lease <────── holder ──────────────── deadline = send time of a round + H; then it is dead, by itself
//
// State of one group at one site (package core has the protocol's own diagram):
//
//	idle ──campaign request──> competing ──granted──> held ──deadline, force──> idle
//	  ^                            │                    │
//	  └── caller's time is over ───┘                    └── release request ──> idle, reserved for the successor
//
// The service never competes by itself: detection and policy live elsewhere and ask. A restarted service holds nothing;
// the epoch it held is dead for its site at the first pull, and runs out at the voters.
//
// # Clocks
//
// All lease time is CLOCK_BOOTTIME (package clock). Timers of the Go run-time stop in suspend; a timer only wakes the
// loop, and every decision reads the clock again.
//
// # Failure cases
//
//   - A site's NATS server is gone: its voter is silent for the others, and still votes for its own site.
//   - A peer does not answer: a breaker per voter keeps requests from piling up; late answers count for their own round.
//   - The voter's file is corrupt: the voter refuses by name, loudly; the other voters decide.
//   - Cancelled: as if killed. Nothing is released, nobody is told; the lease runs out.
package quorum
