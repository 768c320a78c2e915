// Package bus joins a service to the NATS servers of every site, and is the only importer of the NATS client.
//
// A Mesh holds one connection for each site; the servers are not joined to one another, so what a site is cut off from is
// exactly what its own connections cannot reach. Requests, heartbeats and votes are core NATS: late is worse than lost.
// Facts, desired state and runs are JetStream in the domain of the site that owns them. The trace context crosses in the
// header "traceparent".
//
// A connection reconnects for ever and buffers nothing while it is down: a message that was buffered for a dead peer and
// delivered later would keep the dead alive.
package bus
