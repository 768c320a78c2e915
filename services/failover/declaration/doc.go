// Package declaration is the life of a declaration: how a site decides that another one is lost for good enough that its groups
// are to be taken over here. It is pure: what health says, desired state, runs, people's words and the time go in; what is to be
// kept durably, and which runs are to be begun, come out.
//
// There is one declaration for each lost site at each site that would take groups of it over, and each group has a state of its
// own in it, since policies differ. The declaration's is that of the group that most needs attention.
//
//	                          the site is missed                 a person: open, run start --declared
//	                                 |                                          |
//	                                 v                                          |
//	+--------------------------> suspected <--- not confirmed any more --+      |
//	|                                | confirmed                         |      |
//	|              +-----------------+----------------+                  |      |
//	|   manual     v                                  v auto, confirm    |      |
//	|          confirmed                          held_down -------------+      |
//	|   (asks nobody)  |          hold-down passed |     | auto, within its     |
//	|                  |                           v     | bounds               |
//	|                  |              awaiting_approval <----------------- too few approvals
//	|   a person's word|       as many as needed |       |                      |
//	|                  +----------------> declared <-----+----------------- enough
//	|                                        |   \
//	|  health takes it back before a run     |    run done, or the group is served elsewhere ---> over
//	+-- (automatic ones), or one attempt ----+
//	   of a person's failed
//
//	any but declared with a run under way --- the site is seen again, it is another site's to decide, a person
//	                                           withdraws it, or nothing of it is left ---> withdrawn
//
// # Policies
//
//	auto      after the hold-down, within its windows and its number a day; outside of them one person is asked
//	confirm   after the hold-down one or two people are asked
//	manual    nobody is asked; one person's word is enough at any time
//
// A person's word never waits for the hold-down: it is what the hold-down waits for. Where two are needed the first waits for the
// second. One who speaks twice counts once. A word counts for the epoch that the group had when it was given, and for a bounded
// time.
//
// # What is durable
//
// The declaration is, before anything of it is told or begun. Events, audit and runs follow from it and carry its id, so that a
// service that is killed anywhere goes on: acts above Told are told again under the same ids, a group that is declared without a
// run gets one, one with a run does not get another. The hold-down is counted on a clock that counts suspends and never steps, in
// memory: a restart begins it anew. Windows, the number a day and the age of an approval go by the wall clock.
//
// # What keeps two sites apart
//
// Of the sites with a copy the first that is not lost itself (policy.Heir) opens a declaration by itself; the others show its copy.
// A person may name another one. Neither makes it safe: who may serve is decided by the quorum's lease.
package declaration
