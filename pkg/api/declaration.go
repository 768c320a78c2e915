package api

import (
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Verbs of the failover service about declarations.
const (
	VerbDeclarationList     = "declaration_list"     // Empty -> DeclarationList
	VerbDeclarationShow     = "declaration_show"     // DeclarationShowRequest -> Declaration
	VerbDeclarationOpen     = "declaration_open"     // DeclarationOpenRequest -> Declaration
	VerbDeclarationApprove  = "declaration_approve"  // DeclarationWordRequest -> Declaration
	VerbDeclarationWithdraw = "declaration_withdraw" // DeclarationWordRequest -> Declaration
)

// States of a declaration, and of each group in it.
const (
	DeclarationSuspected = "suspected" // one observer misses the site
	DeclarationConfirmed = "confirmed" // it is lost; the group waits for a person, and asks nobody (failover: manual)
	DeclarationHeldDown  = "held_down" // the group's hold-down runs
	DeclarationAwaiting  = "awaiting_approval"
	DeclarationDeclared  = "declared"  // the group is to be taken over here: a run does it, or is about to
	DeclarationWithdrawn = "withdrawn" // nothing is taken over
	DeclarationOver      = "over"      // the group is served elsewhere, and its run ended
)

// Declaration is the decision about a lost site, as one site takes it for the groups that it would take over.
type Declaration struct {
	ID     domain.DeclarationID `json:"id"`
	Site   domain.SiteID        `json:"site"`            // the lost one
	Leader domain.SiteID        `json:"leader"`          // the site that decides, and where the groups would run
	State  string               `json:"state"`           // of the group that most needs attention
	Since  time.Time            `json:"since"`           // it is in this state
	Opened time.Time            `json:"opened"`          // it was first suspected, or a person said so
	Ended  time.Time            `json:"ended,omitzero"`  // it was withdrawn or over
	ByHand bool                 `json:"by_hand"`         // opened on a person's word
	Seen   bool                 `json:"confirmed_here"`  // the leader's health service confirmed the loss
	Barred bool                 `json:"barred"`          // withdrawn by a person as a whole: none is opened by itself before the site was seen again
	Proof  DisasterProof        `json:"evidence"`        // of the loss
	Groups []DeclaredGroup      `json:"groups"`          // by tier, then id
	Votes  []VoterStatus        `json:"votes,omitempty"` // as the leader's quorum service last told them
	Acts   []DeclarationAct     `json:"acts"`            // what happened, oldest first; the newest 200
	Told   int                  `json:"told"`            // number of the last act that events and audit have
	// Version grows with each change; the leader alone writes.
	Version uint64 `json:"version"`
}

// DisasterProof is what a declaration rests on.
type DisasterProof struct {
	Event       string    `json:"event,omitempty"` // id of the disaster.confirmed event in the leader's HF_EVENTS
	Text        string    `json:"text"`            // in words
	FirstMissed time.Time `json:"first_missed,omitzero"`
	Confirmed   time.Time `json:"confirmed,omitzero"`
}

// DeclaredGroup is one group in a declaration.
type DeclaredGroup struct {
	Group      domain.GroupID        `json:"group"`
	Tier       int                   `json:"tier"`
	Policy     domain.FailoverPolicy `json:"policy"`
	Needed     int                   `json:"needed"`           // people who have to approve; 0: none
	HoldDownNs int64                 `json:"hold_down_ns"`     // how long the loss has to last before anything is done or asked
	Epoch      domain.Epoch          `json:"epoch"`            // the group's desired state had when this was last decided
	Barred     bool                  `json:"barred,omitempty"` // a person withdrew it by name: it is not declared by itself before the site was seen again
	Mode       domain.Mode           `json:"mode"`             // in which its changes reached the leader
	State      string                `json:"state"`
	Since      time.Time             `json:"since"`             // it is in this state
	Why        string                `json:"why"`               // in words
	ByHand     bool                  `json:"by_hand,omitempty"` // a person named it, whoever would take it over by itself
	Approvals  []Approval            `json:"approvals,omitempty"`
	// By, Claimed and Host say who declared it: "policy", or the last person who was needed.
	By        string             `json:"by,omitempty"`
	Claimed   string             `json:"claimed_by,omitempty"`
	Host      string             `json:"host,omitempty"`
	Automatic bool               `json:"automatic,omitempty"` // no person was asked
	Declared  time.Time          `json:"declared,omitzero"`
	Order     *DeclaredOrder     `json:"order,omitempty"` // what a person asked for beside the policy's way
	Run       domain.RunID       `json:"run,omitempty"`   // the newest that was begun from it
	Survey    *DeclarationSurvey `json:"survey,omitempty"`
}

// DeclaredOrder is how a person wants one attempt made: it is not repeated by itself when it fails.
type DeclaredOrder struct {
	Run        domain.RunID  `json:"run"`
	Plan       domain.PlanID `json:"plan"`
	Checkpoint domain.LSN    `json:"checkpoint,omitempty"`
}

// DeclarationSurvey is what taking a group over would bring, as the leader last saw it.
type DeclarationSurvey struct {
	Loss   LossEstimate  `json:"loss"`
	At     time.Time     `json:"at"`
	Fit    []domain.VMID `json:"fit"`     // find a host at the leader's site
	NotFit []string      `json:"not_fit"` // do not, and why, one a VM
}

// Approval is one person's word for one group.
type Approval struct {
	By         string    `json:"by"`                   // what the caller proved to be, or else what it said
	Claimed    string    `json:"claimed_by,omitempty"` // what it says beside that
	Host       string    `json:"host,omitempty"`       // where it says it is
	Why        string    `json:"why"`
	At         time.Time `json:"at"`
	AcceptLoss bool      `json:"accept_loss"`
}

// DeclarationAct is one thing that happened to a declaration.
type DeclarationAct struct {
	Number  int              `json:"number"` // from 1
	At      time.Time        `json:"at"`
	What    string           `json:"what"` // a state, or opened, approved, expired
	Groups  []domain.GroupID `json:"groups"`
	By      string           `json:"by"` // "policy", or who
	Claimed string           `json:"claimed_by,omitempty"`
	Host    string           `json:"host,omitempty"`
	Why     string           `json:"why"`
}

// Acts of a declaration that are no state.
const (
	DeclarationOpened   = "opened"   // a person said that the site is lost
	DeclarationApproved = "approved" // a person approved
	DeclarationExpired  = "expired"  // approvals count no more: too long ago, or given for another epoch
)

// DeclarationList is the reply of declaration_list, newest first: the site's own, and the copies of those of other sites.
type DeclarationList struct {
	Declarations []Declaration `json:"declarations"`
}

// DeclarationShowRequest names a declaration.
type DeclarationShowRequest struct {
	ID domain.DeclarationID `json:"id"`
}

// DeclarationOpenRequest is a person's word that a site is lost; it counts as an approval. Errors: refused (the site answers and
// holds a lease; no group of it would be taken over here; the loss is not accepted), invalid.
type DeclarationOpenRequest struct {
	Site       domain.SiteID    `json:"site"`
	Groups     []domain.GroupID `json:"groups,omitempty"` // none: all that this site would take over
	AcceptLoss bool             `json:"accept_loss"`
	Why        string           `json:"why"`
	By         string           `json:"by"`             // who, as the caller says
	Host       string           `json:"host,omitempty"` // where it was asked for, as the caller says
}

// DeclarationWordRequest approves or withdraws a declaration at the site that leads it. Errors: not_found, refused (it is decided
// already; the loss is not accepted; the caller is no operator), stale_epoch (the group changed hands since), invalid.
type DeclarationWordRequest struct {
	ID         domain.DeclarationID `json:"id"`
	Groups     []domain.GroupID     `json:"groups,omitempty"` // none: all that are not decided
	AcceptLoss bool                 `json:"accept_loss"`      // of an approval: for groups that are not in sync
	// Epochs are those of the groups as the caller saw them: a group that has another one by now is refused. Empty: as they are.
	Epochs map[domain.GroupID]domain.Epoch `json:"epochs,omitempty"`
	Why    string                          `json:"why"`
	By     string                          `json:"by"`             // who, as the caller says
	Host   string                          `json:"host,omitempty"` // where it was asked for, as the caller says
}

// DeclarationEnded reports whether a state is the last.
func DeclarationEnded(state string) bool {
	return state == DeclarationWithdrawn || state == DeclarationOver
}
