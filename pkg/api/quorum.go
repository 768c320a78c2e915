package api

import "github.com/holdfast-dr/holdfast/pkg/domain"

// Verbs of the quorum service. Every service asks the quorum of its own site only.
const (
	VerbLease    = "lease"    // LeaseRequest -> Lease
	VerbCampaign = "campaign" // CampaignRequest -> Lease
	VerbRelease  = "release"  // ReleaseRequest -> Empty
	VerbInSync   = "insync"   // InSyncRequest -> Register
	VerbStatus   = "status"   // Empty -> the service's own status
)

// LeaseRequest asks whether this site holds the group's lease now.
type LeaseRequest struct {
	Group domain.GroupID `json:"group"`
	// Epoch, when not 0, must be the epoch held: otherwise Held is false.
	Epoch domain.Epoch `json:"epoch,omitempty"`
}

// Lease is what this site knows of a group's lease.
type Lease struct {
	Group  domain.GroupID `json:"group"`
	Held   bool           `json:"held"`   // by this site, now
	Holder domain.SiteID  `json:"holder"` // last known; empty when none
	Epoch  domain.Epoch   `json:"epoch"`  // held, or else the newest seen
	// RemainingNs is how long the lease still holds, counted when the reply was made. The asker counts
	// remaining*(1-eps)/(1+eps) from the moment it *sent* the request, on CLOCK_BOOTTIME.
	RemainingNs int64           `json:"remaining_ns"`
	InSync      []domain.SiteID `json:"in_sync"`
	RegisterSeq uint64          `json:"register_seq"`
	Phase       string          `json:"phase"` // contacting, comparing, tally, waiting, bringing_up, functional, idle
	// Weights are the votes that count for the group, by voter, as this site knows; nil when it knows none.
	Weights map[string]int `json:"weights,omitempty"`
	// Joint is set while a change of weights is under way: a majority of the old ones is needed as well.
	Joint bool `json:"joint,omitempty"`
	// Forced is set while the votes that count are those an operator named, and not yet those of the configuration again.
	Forced bool `json:"forced,omitempty"`
}

// CampaignRequest makes this site a candidate until it holds the lease or the caller's time is over. Answers at once
// with the lease already held. Errors: no_quorum (no majority answered in time, or another holder's lease goes on),
// refused (this site is not in sync and AcceptLoss is false).
type CampaignRequest struct {
	Group      domain.GroupID `json:"group"`
	AcceptLoss bool           `json:"accept_loss"`
	// Estimate is kept in the events and the audit when a loss is accepted.
	Estimate string       `json:"estimate,omitempty"`
	Reason   string       `json:"reason"`
	RunID    domain.RunID `json:"run_id,omitempty"`
	// Above demands an epoch higher than this one: a holder that restarts VMs elsewhere in its own site takes a new epoch
	// so that whatever still runs under the old one is fenced. A lease already held above it is answered at once.
	Above domain.Epoch `json:"above,omitempty"`
	// Members are the sites whose copies are the same when the group begins its life (home and its sync targets): the
	// in-sync set of the first register. Ignored once a register exists.
	Members   []domain.SiteID `json:"members"`
	TimeoutNs int64           `json:"timeout_ns"` // 0 means 30 s
}

// ReleaseRequest gives the lease up for a successor, who alone may take it during the next G. The caller has stopped
// every writer first. A repeat, or a release of an epoch no longer held, succeeds.
type ReleaseRequest struct {
	Group     domain.GroupID `json:"group"`
	Epoch     domain.Epoch   `json:"epoch"`
	Successor domain.SiteID  `json:"successor,omitempty"`
}

// InSyncRequest changes the group's in-sync set; answered when a majority has it durably. Errors: no_lease, no_quorum,
// conflict (a request with a higher Counter has been seen).
type InSyncRequest struct {
	Group   domain.GroupID  `json:"group"`
	Epoch   domain.Epoch    `json:"epoch"`
	Counter uint64          `json:"counter"` // grows with each request of one primary under one epoch
	InSync  []domain.SiteID `json:"in_sync"`
}

// Register is the committed in-sync register.
type Register struct {
	WriteEpoch domain.Epoch    `json:"write_epoch"`
	Seq        uint64          `json:"seq"`
	InSync     []domain.SiteID `json:"in_sync"`
}

// QuorumStatus is the reply of the quorum service's status verb.
type QuorumStatus struct {
	Site   domain.SiteID `json:"site"`
	Model  string        `json:"model"`
	Voters []VoterStatus `json:"voters"`
	Groups []Lease       `json:"groups"`
	// Prevented: the site may join a quorum, and not form one.
	Prevented bool `json:"prevented,omitempty"`
	// Forces are those asked for at this site since its service started, the oldest first.
	Forces []ForceStatus `json:"forces,omitempty"`
}

// VoterStatus is one voter as this site sees it.
type VoterStatus struct {
	ID        string        `json:"id"`
	Site      domain.SiteID `json:"site"`
	Kind      string        `json:"kind"` // node, witness, share
	Weight    int           `json:"weight"`
	Reachable bool          `json:"reachable"`
	Detail    string        `json:"detail,omitempty"`
	// RTTP99Ns is the 99th percentile of the last RTTSamples answers of the voter to this site; of its own voter, none.
	RTTP99Ns   int64 `json:"rtt_p99_ns,omitempty"`
	RTTSamples int   `json:"rtt_samples,omitempty"`
	// Conformance says whether a share's storage swaps as it must: ok, or what is wrong; empty: not probed yet.
	Conformance string `json:"conformance,omitempty"`
	// LUN is the identity of the voting disk that this site votes on; empty: no disk, or not seen yet.
	LUN string `json:"lun,omitempty"`
}
