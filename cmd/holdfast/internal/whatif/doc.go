// Package whatif says what would happen if sites, voters or links were lost now, and why a group is where it is. It is pure:
// what the sites say of themselves goes in, a prediction comes out; nothing is asked and nothing is touched.
//
// It decides nothing of its own. The loss becomes what each observer would see; from there the code that decides in earnest
// is called: services/health/assess concludes who is lost (not a site under maintenance, or that too few would miss), services/failover/policy who takes over what and when,
// services/quorum/core who has a quorum and is in sync, services/failover/plan in which order.
//
// A group that a run has now is followed to that run's end, and marked: whether the loss comes before its hand-over or after it is
// not known.
//
// What it does not foresee: what is lost next, how long steps take, and what happens to be written meanwhile. A link is cut
// both ways.
package whatif
