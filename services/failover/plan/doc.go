// Package plan turns a recovery plan into the ordered steps of one run. It is pure: the same input gives the same steps.
//
// For a group g and its VMs v, at the site that is to serve:
//
//	acquire.g -> desired.g -> promote.g -> start.v -> verify.v -> dns.v.name -> client.v -> protect.g
//
// A planned move (switchover, failback) puts these before acquire.g, against the site that serves now:
//
//	precheck.g (all groups) -> evacuate.g -> demote.g -> release.g
//
// Leases and volumes of all groups are taken at once; what waits are the VMs. A VM starts when every VM of a lower
// priority in its group, every VM it depends on, and every VM of every group that comes before its own has passed its
// health gate (verify). Evacuation goes the other way round: what depends on a group stops before it.
//
// What a plan names outside the run (a group that is not concerned) counts as well; a name that does not exist, and an
// order that contradicts itself, are errors that say which.
package plan
