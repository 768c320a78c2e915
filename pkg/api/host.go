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
	VerbFreeze = "freeze" // HostFreezeRequest -> Empty
	VerbThaw   = "thaw"   // HostThawRequest -> HostThawed
)

// MaxFreeze bounds how long a guest is held still, whoever asks.
const MaxFreeze = 5 * time.Second

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

// HostFreezeRequest holds a VM's guest still: it writes out what it holds back and stops writing, from before the answer until it is
// thawed, or by itself when the limit, counted by the host from the request, is over. Errors: not_found (the VM does not run here),
// stale_epoch (it runs under another), conflict (it is held already), refused (the guest cannot, or took too long), unavailable
// (no agent answers in the guest). After an error the guest is let go on.
type HostFreezeRequest struct {
	VM      domain.VMID    `json:"vm"`
	Group   domain.GroupID `json:"group"`
	Epoch   domain.Epoch   `json:"epoch"`
	Hold    string         `json:"hold"`     // names this freeze: new for each, the same in a repeat and in the thaw
	LimitNs int64          `json:"limit_ns"` // up to MaxFreeze
}

// HostThawRequest lets a guest go on. Errors: not_found (no such freeze), unavailable (the guest has not said yet that it goes on; the
// host asks it until it does).
type HostThawRequest struct {
	VM   domain.VMID `json:"vm"`
	Hold string      `json:"hold"`
}

// HostThawed says what became of a freeze.
type HostThawed struct {
	// Held: the guest was frozen all the time from the answer to the freeze until this thaw was asked for. Only then is what its disks
	// held in between consistent for its applications.
	Held   bool   `json:"held"`
	Reason string `json:"reason,omitempty"` // why it was not
	HeldNs int64  `json:"held_ns"`
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
