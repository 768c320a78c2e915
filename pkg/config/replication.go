package config

import (
	"fmt"
	"net"
)

// validateReplication wants a line that other sites can reach, and that nobody else can.
func (c Config) validateReplication(v *validator) {
	r := c.Replication
	if r.Listen == "" {
		if r.Address != "" {
			v.bad("replication.listen", "missing", "give the host:port where the replicators of other sites connect to this one's, or remove replication.address")
		}
		return
	}
	v.hostPort("replication.listen", r.Listen)
	host, _, err := net.SplitHostPort(r.Listen)
	if err == nil && c.Security.Secrets == "" && !isLoopback(host) {
		v.bad("replication.listen", fmt.Sprintf("%q can be reached from elsewhere, and without security.secrets changes travel there unencrypted, and nobody proves who sends or takes them", r.Listen),
			"make certificates and credentials with holdfast site init, or listen on a loopback address")
	}
	if r.Address == "" {
		if err == nil && isUnspecified(host) {
			v.bad("replication.address", fmt.Sprintf("missing, and replication.listen %q is no address that other sites can connect to", r.Listen),
				"give the host:port at which other sites reach this site's replicator")
		}
		return
	}
	v.hostPort("replication.address", r.Address)
	if host, port, err := net.SplitHostPort(r.Address); err == nil && (isUnspecified(host) || port == "0") {
		v.bad("replication.address", fmt.Sprintf("%q is no address that other sites can connect to", r.Address), "give the host:port at which other sites reach this site's replicator")
	}
}
