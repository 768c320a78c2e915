// Package api holds the requests and replies that services exchange, as JSON. It imports the domain only.
//
// A query goes to hf.v1.api.<site>.<service>.<verb>. Every call may be repeated: an act carries the epoch it acts under
// (and mostly a run id), and where it lands a repeat finds its effect already there and answers as the first time.
// Errors travel as Error and come back wrapping the sentinels of pkg/domain.
package api

// Names of services as they stand in subjects. A VM host's agent is "host-" followed by the host's id.
const (
	ServiceReplicator = "replicator"
	ServiceHealth     = "health"
	ServiceQuorum     = "quorum"
	ServiceFailover   = "failover"
	ServiceDNS        = "dns"
)

// Error is the wire form of a failed call. Code is domain.Code's.
type Error struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// Empty is a request or reply without fields.
type Empty struct{}
