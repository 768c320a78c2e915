// Package witness is an active voter for many installations at once, and their client of it.
//
// It votes over HTTPS, one POST for many ballots, and knows nothing but votes: no server of messages, no state but the voter's own
// (package filevoter, a record for each cluster and group). Both sides prove themselves by certificates that they have anyway:
//
//	a cluster's quorum service   its own certificate, of its own installation's authority, <site>.quorum
//	the witness                  its own certificate, whose file each cluster is given
//
// # Apart
//
// Which cluster asks is told by the authority that signed its certificate, never by what it says: there is one authority for each cluster,
// and the same one twice is refused. A ballot names its cluster and site besides, and is refused where they are not the certificate's.
//
// Each cluster has a quota: how many groups, votes a second, bytes a second and connections. A vote that is made durable counts as ten. Over its quota a
// cluster is refused by name, and its connection waits before it is answered, so that asking faster brings nothing. Connections
// carry one request at a time, so its connections bound what a cluster has under way. Who has not proven itself yet has few connections from one address, and some seconds.
//
// # Renewals together
//
// A client sends the renewals that come up within a tenth of a round as one request, and the ballots that must be made durable, which
// take longer, in others. The voter handles the ballots of a request, and of all requests, at the same time: each has its file, and the file
// system makes what is synced at the same moment durable together.
//
// Failure cases: those of package filevoter. An answer that does not come leaves open whether the vote was given, as with any active
// voter. A ballot is never sent twice.
package witness
