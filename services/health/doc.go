// Package health watches a site and, together with the other sites' health services, the other sites. It tells what it sees
// and what it concludes as events with their evidence, and acts on nothing.
//
// # What it watches, and how
//
//	this site:   heartbeats of its services and hosts on its own server; TCP of hosts and of the replicator's iSCSI port;
//	             the hosts' agents; HTTP of the VMs that are to run here and that a host reported running
//	other sites: heartbeats their services push to this site's server   (path "heartbeat"; their hosts' beats vouch for the
//	             hosts only: a site of which nothing but hosts is left can serve nothing, and is lost)
//	             their health service's view, asked for at their server (path "api")
//
// Nothing of another site is reached but its NATS server: the sites' networks are apart, and its parts are known from its own
// view. The api path is alive when the server answers at all, be it that nobody serves the request: then the health service is
// what is missing, not the site. Every call and probe is behind a breaker of its own.
//
// # States
//
// Each object has a detector on each path (package detect):
//
//	unknown -> alive <-> suspect <-> dead
//
// and each site an assessment (package assess): none, service, incident, link, disaster. A disaster goes
//
//	none -> suspected -> confirmed -> over (none)
//
// and is confirmed only when the site answers nobody and at least two observers at other sites have lost it on both paths.
// With DefaultTiming that is 3 to 3.5 s after its last heartbeat, later where the links lose much (ADR 21 has the figures).
//
// # An observer that doubts itself
//
// concludes nothing, and its view, which says so and why, counts for nobody (package aware). It does when its own tick came late (it
// was paused or suspended: every detector begins to count anew), when it runs late again and again, when its own server is out of reach
// or does not bring its own heartbeats back, and for as long afterwards as a loss takes to show; and while it reaches fewer than half of
// the other sites. A cut-off site therefore sees its links lost and never a disaster of the others.
//
// # Clock assumptions
//
// Deciding runs on CLOCK_BOOTTIME, which counts suspends and does not step. No reading of it is compared with
// another machine's. Heartbeats carry the sender's wall clock, which is compared with this one's to tell people of clocks that
// differ; nothing is decided by it.
// Times in events and views are wall clock, for people and traces only. A view of another site's observer counts for Suspect
// beats from the moment it was asked for.
//
// # Failure cases
//
//   - A health service dies: the others see the site's server answer that nobody serves the request, and tell a service
//     incident. They lose that vantage point: with three sites, one left is not enough to confirm a disaster.
//   - Two sites of three die at once: the last is isolated, and tells no disaster.
//   - Two sites in all: neither can tell a dead peer from a cut link. A witness is needed.
//   - A restart during a disaster: it counts as suspected again until it is confirmed anew, which takes Grace longer, since a
//     site that was never heard might only be starting.
//   - A wrong conclusion costs availability, never data: who may serve is decided by the quorum's lease.
//
// # Events
//
// <kind>.suspected, lost, recovered; incident.opened (again when it widens), closed; disaster.suspected, confirmed, over. Each
// only on a change; between a loss and the return to alive an object tells nothing. Incidents of a site are told by its own
// observer, by the others only while that one is missing. disaster.* and incident.* carry the trace "disaster" or
// "incident", whose root begins at the first missed heartbeat.
package health
