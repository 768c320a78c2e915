// Package assess concludes from what several observers see whether a part of a site, a link or a whole site is lost. It is
// pure: views go in, assessments and changes come out.
//
// # A vantage point
//
// is this observer, or another site's observer whose view arrived lately. It does not count while it doubts itself: it was
// paused, its own server is out of reach, or it reaches no other site. Nobody judges his own site lost.
//
// # Classes
//
//	a port, VM or service is dead, its host lives ------> service   local repair
//	a host or the replicator is dead -------------------> incident  local high availability
//	dead on a path, yet answering to somebody ----------> link      both ends live
//	answers nobody; services' beats ended at k servers -> disaster
//	  servers and requests fail from k (k >= 2)
//
// # A disaster
//
//	       all own paths suspect, a second vantage point        k dead on both paths,
//	       is there, nobody has an answer                       nobody has an answer
//	none ----------------------------------------> suspected ------------------------> confirmed
//	 ^                                                |                                   |
//	 +------------- over: somebody sees it alive -----+-----------------------------------+
//
// Alive means through the detector's hysteresis, so a site that answers once is no longer evidence of a loss, and not yet
// over it.
//
// # A site that is cut off
//
// sees everybody else gone. It is isolated: its links are lost, and what it sees of the others counts for nothing, here and
// (by the Sick of its view) elsewhere. With two sites alone neither can tell a dead peer from a cut link, so neither ever
// suspects a disaster: a witness is what makes it possible.
//
// # Clock assumptions
//
// None: the caller drops views that are old, and detectors have counted the time.
package assess
