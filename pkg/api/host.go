package api

import (
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Verbs of a VM host's agent.
const (
	VerbStart = "start" // HostStartRequest -> HostVM
	VerbStop  = "stop"  // HostStopRequest -> Empty
	// VerbStatus: Empty -> HostStatus
)

// HostStartRequest starts a VM on this host under an epoch. The agent remembers the highest epoch per group durably and
// refuses lower ones (stale_epoch); it pulls the group's lease and kills the VM before the lease ends.
type HostStartRequest struct {
	VM      domain.VMID    `json:"vm"`
	Group   domain.GroupID `json:"group"`
	Epoch   domain.Epoch   `json:"epoch"`
	RunID   domain.RunID   `json:"run_id,omitempty"`
	Disks   []Disk         `json:"disks"`
	Address string         `json:"address"`
	Port    int            `json:"port"`
	// Strict makes the workload flush each append; always true in this version.
	Strict bool `json:"strict"`
}

// HostStopRequest stops a VM: gracefully within the grace, then hard. Stopping one that does not run succeeds.
type HostStopRequest struct {
	VM      domain.VMID  `json:"vm"`
	Epoch   domain.Epoch `json:"epoch"`
	GraceNs int64        `json:"grace_ns"`
}

// HostStatus is what runs on a host.
type HostStatus struct {
	Site   domain.SiteID `json:"site"`
	Host   domain.HostID `json:"host"`
	Driver string        `json:"driver"`
	VMs    []HostVM      `json:"vms"`
}

// HostVM is one VM on a host.
type HostVM struct {
	VM       domain.VMID    `json:"vm"`
	Group    domain.GroupID `json:"group"`
	Epoch    domain.Epoch   `json:"epoch"`           // it was started under
	State    string         `json:"state"`           // starting, running, stopped, failed
	Instance string         `json:"instance"`        // new with each start
	Address  string         `json:"address"`         // of its service at this site
	Port     int            `json:"port"`            // of its service
	Started  time.Time      `json:"started"`         // on this host
	Error    string         `json:"error,omitempty"` // why it ended
}

// Heartbeat says that a node of a site lives: a service ("health", "quorum", "replicator", ...) or a host.
// Published on every site's server every 500 ms.
type Heartbeat struct {
	Site domain.SiteID `json:"site"`
	Node string        `json:"node"`
	Kind string        `json:"kind"` // health, replicator, host, ...
	Seq  uint64        `json:"seq"`
	Boot string        `json:"boot"` // new with each start of the node
	// Probe is the address of a TCP port that proves the node from outside NATS; empty when it has none.
	Probe string `json:"probe,omitempty"`
	// Version is the protocol the node speaks, major.minor; empty from one that is older than versions.
	Version string `json:"version,omitempty"`
	// Wall is the node's wall clock when it sent this. Nothing is decided by it: it shows clocks that differ.
	Wall time.Time `json:"wall,omitzero"`
}
