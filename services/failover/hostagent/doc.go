// Package hostagent runs VMs on one host: it starts and stops them as the failover service asks, and kills them by
// itself before the lease they run under can have been granted elsewhere.
//
// # One VM
//
//	         start: epoch durable, lease held                driver up
//	(none) ------------------------------------> starting -----------------> running
//	                                                |                           |
//	                    driver failed               v                           |  stop: gracefully, then hard
//	                    lease lost    <---------- failed      stopped <---------+  a higher epoch: killed and started anew
//	                                                |            ^              |  lease lost or near its end: killed
//	                                                |            |              |
//	                                                +--> start again, same epoch|  disk error, guest gone: failed
//
// A start under the epoch that runs already succeeds and changes nothing; under a lower epoch than the host has seen for
// the group it is refused with domain.ErrStaleEpoch. The highest epoch of each group is on disk before the VM starts.
//
// # The lease
//
// Each VM pulls the lease of its group from the quorum service of its own site, on CLOCK_BOOTTIME:
//
//	deadline = time the request was SENT + remaining * (1-eps)/(1+eps)
//
// Requests overlap, so a lost reply costs one period. The deadline only moves forward, and once it has passed, or the
// quorum said "not held", nothing moves it: that epoch is over for this VM. The VM is killed KillMargin before the
// deadline. The embedded workload also asks the gate at the moment of each acknowledgement, so a kill that comes late (a
// paused process, a resume from suspend) acknowledges nothing. A QEMU guest has no gate: there the kill is the fence on
// the host, and the epoch at the storage the one behind it.
//
// # Clocks and crashes
//
// Assumed: CLOCK_BOOTTIME of the host drifts by less than eps against that of the quorum service. The end of Run's
// context is loss of power: VMs vanish at once, no ledger has a stop line. After a restart of the agent nothing runs; the
// failover service finds that out by the status and starts the VMs again.
package hostagent
