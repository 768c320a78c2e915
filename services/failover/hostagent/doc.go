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
// # Holding a guest still
//
// For an application-consistent checkpoint the replicator has the guests of a group frozen, puts its mark into the group's order and
// has them thawed. Who froze may die, or be cut off, in between; so a hold belongs to the host:
//
//	        freeze: the limit begins                  the guest says so
//	(none) --------------------------> freezing ------------------------> held
//	                                       |                                |  thaw asked for: it was held until then
//	               refused, or too long    |                                |  limit over: freeze_expired, not held
//	                                       v                                v
//	                                    thawing <---------------------------+  to be stopped: not held
//	                                       |
//	                                       |  the guest says that it goes on, or is gone; until then it is asked again and again
//	                                       v
//	                                     over
//
// A freeze that is not answered in time may still happen in the guest, which is why a failed one is thawed too. The answer to the
// thaw says whether the guest was held all the time; without it the checkpoint counts as crash-consistent.
//
// # Clocks and crashes
//
// Assumed: CLOCK_BOOTTIME of the host drifts by less than eps against that of the quorum service. The end of Run's
// context is loss of power: VMs vanish at once, no ledger has a stop line. After a restart of the agent nothing runs; the
// failover service finds that out by the status and starts the VMs again.
package hostagent
