// Package failover is the failover service of a data site: it keeps the desired state of groups and plans, decides by policy or
// on a person's word that a site's groups are to run here, and leads the runs that bring them up.
//
//	                 desired: elsewhere
//	                        |  run_start, or disaster confirmed and held down (package policy)
//	                        v
//	             run: acquire ... protect (packages plan, run)
//	                        | desired: here, lease held
//	                        v
//	+------> serving -- a VM is gone, its host well --> started again there, same epoch
//	|           |------ its host is dead -------------> run "start" with an epoch above (local HA)
//	|           |------ lease lost -------------------> VMs stopped; run "start" once nobody else holds it
//	|           |------ evacuated for a run elsewhere -> nothing, until that run ends or its leader is silent for long
//	+-----------+
//
// # What makes it safe
//
// The service decides nothing about who may serve: quorum does, and the run asks for the lease before every step. Desired
// state says where a group ought to be; a site that holds no lease for it starts nothing. VMs carry the epoch they were started
// under, host agents refuse lower ones and kill by themselves when the lease ends; the guard here only makes that sooner.
// Under one epoch a VM is only ever started on one host: the choice is recorded before it is acted on, and another host needs
// a new epoch.
//
// # Clock assumptions
//
// Lease deadlines and the hold-down count on CLOCK_BOOTTIME (package clock). Wall time stands in records and events only.
//
// # Failure cases
//
// Killed anywhere: runs go on from their journal at the next start. Own NATS down: nothing is begun; the guard counts leases
// down and can stop nothing (the agents do). Quorum down: no run gets past acquire. Peer down: its copies are made good when
// it is back; a planned move waits, then fails and the group goes on where it was.
package failover
