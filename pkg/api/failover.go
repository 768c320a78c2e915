package api

import (
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Verbs of the failover service.
const (
	VerbEvacuate  = "evacuate"   // EvacuateRequest -> Empty
	VerbRunStart  = "run_start"  // RunStartRequest -> RunStarted
	VerbRunList   = "run_list"   // Empty -> RunList
	VerbRunShow   = "run_show"   // RunShowRequest -> Run
	VerbGroupList = "group_list" // Empty -> GroupList
	VerbGroupSet  = "group_set"  // GroupSetRequest -> GroupDesired
	// VerbStatus: Empty -> FailoverStatus
)

// Kinds of run.
const (
	RunStart      = "start"      // bring groups up where they are at home, or again where they were
	RunFailover   = "failover"   // unplanned
	RunSwitchover = "switchover" // planned, no loss
	RunFailback   = "failback"   // a switchover home
)

// RunStartRequest starts a run at the site that is to serve.
type RunStartRequest struct {
	Plan domain.PlanID `json:"plan"`
	Kind string        `json:"kind"`
	// Groups restricts the run; empty means all of the plan that are concerned.
	Groups []domain.GroupID `json:"groups,omitempty"`
	From   domain.SiteID    `json:"from,omitempty"` // a failover: the lost site; a switchover: the serving one
	// Declared says a person declares the disaster; then Reason and By are kept in the audit. A declared failover of a
	// group that is not in sync accepts the loss only with AcceptLoss.
	Declared   bool `json:"declared"`
	AcceptLoss bool `json:"accept_loss"`
	// Checkpoints brings groups back to a checkpoint of the copy that is to serve, in place of its newest state; what came
	// after is kept in quarantine. That is a loss, to be accepted with AcceptLoss. A start brings a group back that serves here.
	Checkpoints map[domain.GroupID]domain.LSN `json:"checkpoints,omitempty"`
	Reason      string                        `json:"reason"`
	By          string                        `json:"by"`
	Host        string                        `json:"host,omitempty"` // where it was asked for: the machine's name, as the caller says
	// ID makes a repeat harmless: a run with this id is returned, not started again. Empty: one is made.
	ID domain.RunID `json:"id,omitempty"`
}

// RunStarted is the reply of run_start: the run as it stands, and what was asked for and is not in it.
type RunStarted struct {
	Run
	Awaiting string `json:"awaiting,omitempty"` // in words, of groups that another person has to approve first
}

// EvacuateRequest stops a group's VMs at this site for a planned move. A repeat succeeds.
type EvacuateRequest struct {
	Group domain.GroupID `json:"group"`
	Epoch domain.Epoch   `json:"epoch"`
	RunID domain.RunID   `json:"run_id"`
	To    domain.SiteID  `json:"to,omitempty"` // that is to serve it; refused when the group's placement bars it
}

// Step and run states.
const (
	StepPending = "pending"
	StepRunning = "running"
	StepDone    = "done"
	StepFailed  = "failed"
)

// Step is one idempotent step of a run.
type Step struct {
	ID       string         `json:"id"`   // for example "promote.erp"
	Kind     string         `json:"kind"` // acquire, promote, start_vm, verify, dns, ...
	Group    domain.GroupID `json:"group,omitempty"`
	VM       domain.VMID    `json:"vm,omitempty"`
	Name     string         `json:"name,omitempty"`   // DNS name
	State    string         `json:"state"`            // how far it is
	Attempts int            `json:"attempts"`         // begun, one more after each restart of the service
	Started  time.Time      `json:"started,omitzero"` // it was first begun
	Ended    time.Time      `json:"ended,omitzero"`   // it was done or given up
	Needs    []string       `json:"needs,omitempty"`  // ids of the steps that must be done first
	Result   string         `json:"result,omitempty"` // JSON of what later steps need
	Error    string         `json:"error,omitempty"`  // why it failed
	Code     string         `json:"code,omitempty"`   // of Error: domain.Code
}

// Run is one execution of a plan.
type Run struct {
	ID       domain.RunID                    `json:"id"`
	Plan     domain.PlanID                   `json:"plan"`
	Kind     string                          `json:"kind"`               // start, failover, switchover, failback
	Leader   domain.SiteID                   `json:"leader"`             // the site that is to serve
	From     domain.SiteID                   `json:"from,omitempty"`     // a failover: the lost site; a switchover: the serving one
	State    string                          `json:"state"`              // how far it is: running, done, failed
	Reason   string                          `json:"reason"`             // in words
	By       string                          `json:"by"`                 // "policy" or a person
	Epochs   map[domain.GroupID]domain.Epoch `json:"epochs"`             // each group is served under by this run
	Before   map[domain.GroupID]domain.Epoch `json:"epochs_before"`      // each group was served under before
	Estimate map[domain.GroupID]LossEstimate `json:"estimate,omitempty"` // loss to be expected, a group each
	Steps    []Step                          `json:"steps"`              // in the order of the plan
	Started  time.Time                       `json:"started"`            // it began
	Ended    time.Time                       `json:"ended,omitzero"`     // it was done or had failed
	TraceID  string                          `json:"trace_id"`           // W3C, 32 hexadecimal digits
	// TraceParent carries the trace on when the service is killed and starts again.
	TraceParent string `json:"traceparent"`
	// TraceCause is the span the run was started under: the disaster's, or the caller's.
	TraceCause string `json:"trace_cause,omitempty"`
	// FirstMissed is when the first answer of the lost site failed to come, as the leader's health service told it.
	FirstMissed time.Time `json:"first_missed,omitzero"`
	// Confirmed is when the loss that a failover answers was confirmed, as the leader's health service told it.
	Confirmed time.Time `json:"confirmed,omitzero"`
	// Error says why a failed run failed.
	Error string `json:"error,omitempty"`
	// Code is domain.Code of the errors of a failed run: of several the one that forbids most.
	Code string `json:"code,omitempty"`
	// AcceptLoss names the groups whose takeover may lose what an asynchronous replica had not received.
	AcceptLoss map[domain.GroupID]bool `json:"accept_loss,omitempty"`
	// Checkpoints names the groups that are brought back to a checkpoint, and which.
	Checkpoints map[domain.GroupID]domain.LSN `json:"checkpoints,omitempty"`
	// Above demands an epoch higher than this one for a group that is brought up again within its own site.
	Above map[domain.GroupID]domain.Epoch `json:"above,omitempty"`
	// Declaration is what a failover was begun from.
	Declaration domain.DeclarationID `json:"declaration,omitempty"`
	// ClaimedBy is who the caller says it is, where By is what it proved to be.
	ClaimedBy string `json:"claimed_by,omitempty"`
	// Host is the machine that the run was asked for on, as the caller says.
	Host string `json:"host,omitempty"`
}

// RunList is the reply of run_list, newest first.
type RunList struct {
	Runs []Run `json:"runs"`
}

// RunShowRequest names a run.
type RunShowRequest struct {
	ID domain.RunID `json:"id"`
}

// GroupList is the desired state of every group, plan and site, with the KV revision it was read at.
type GroupList struct {
	Groups []GroupDesired `json:"groups"`
	Plans  []domain.Plan  `json:"plans"`
	Sites  []SiteDesired  `json:"sites,omitempty"` // of which something is wanted
}

// GroupDesired is a group's desired state: its definition, and where it is to run.
type GroupDesired struct {
	Group    domain.Group  `json:"group"`
	Site     domain.SiteID `json:"site"`  // where it is to run
	Epoch    domain.Epoch  `json:"epoch"` // of the change
	Version  uint64        `json:"version"`
	Revision uint64        `json:"revision,omitempty"` // KV revision here, not copied
}

// GroupSetRequest changes a group's desired state at the site that holds its lease, which alone may: what is left out stays.
// The services adopt it by themselves while writes go on. Errors: not_found, invalid (the group would not be one), conflict
// (Revision is not the newest any more), no_lease (the site does not hold the group), refused (a run moves the group).
type GroupSetRequest struct {
	Group    domain.GroupID `json:"group"`
	Revision uint64         `json:"revision,omitempty"` // as read from group_list at that site; 0: whatever is the newest
	// Targets are sites whose mode is to change, and sites to add; Remove are those that are to be no target any more.
	Targets []domain.Target `json:"targets,omitempty"`
	Remove  []domain.SiteID `json:"remove,omitempty"`
	// AddVolumes are new and empty; RemoveVolumes are served no more, and what they hold is kept at each site.
	AddVolumes    []domain.Volume       `json:"add_volumes,omitempty"`
	RemoveVolumes []domain.VolumeID     `json:"remove_volumes,omitempty"`
	Tier          *int                  `json:"tier,omitempty"`
	RPO           *time.Duration        `json:"rpo,omitempty"`
	HoldDown      *time.Duration        `json:"hold_down,omitempty"`
	OnTargetLoss  domain.OnTargetLoss   `json:"on_target_loss,omitempty"`
	Failover      domain.FailoverPolicy `json:"failover,omitempty"`
	Approvers     *int                  `json:"approvers,omitempty"`
	Automatic     *domain.Automatic     `json:"automatic,omitempty"`
	Congestion    domain.Congestion     `json:"congestion,omitempty"`
	// Preferred, Pinned, Forbidden and Return replace those of the group's placement; an empty value takes one away. Refused when the
	// site that serves the group could not serve it any more.
	Preferred *domain.SiteID   `json:"preferred,omitempty"`
	Pinned    *[]domain.SiteID `json:"pinned,omitempty"`
	Forbidden *[]domain.SiteID `json:"forbidden,omitempty"`
	Return    *domain.Return   `json:"return,omitempty"`
	// Durability is strict at once; cached where another site serves next (GroupStatus.Durability says what is in force).
	Durability domain.Durability `json:"durability,omitempty"`
	// Transports are of targets, those that are added by this change too.
	Transports  map[domain.SiteID]domain.TransportChange `json:"transports,omitempty"`
	Checkpoints *domain.CheckpointsChange                `json:"checkpoints,omitempty"`
	// Placements say where the group's VMs live at sites that are added.
	Placements map[domain.VMID]map[domain.SiteID]domain.VMPlacement `json:"placements,omitempty"`
	Reason     string                                               `json:"reason,omitempty"`
	By         string                                               `json:"by,omitempty"`   // who, as the caller says
	Host       string                                               `json:"host,omitempty"` // where it was asked for, as the caller says
}

// FailoverStatus is the reply of the failover service's status verb.
type FailoverStatus struct {
	Site   domain.SiteID  `json:"site"`
	Groups []GroupDesired `json:"groups"`
	Active []Run          `json:"active"`
	VMs    []HostVM       `json:"vms"`
	Drain  *Drain         `json:"drain,omitempty"` // of this site; nil: it takes groups
}
