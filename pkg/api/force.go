package api

import "github.com/holdfast-dr/holdfast/pkg/domain"

// Verbs of the quorum service for operators.
const (
	VerbForce   = "force"   // ForceRequest -> ForceStatus
	VerbApprove = "approve" // ForceApproval -> ForceStatus
	VerbPrevent = "prevent" // PreventRequest -> Empty
)

// ForceRequest asks a data site's quorum service to take groups with the named voters alone. Nothing is done before another
// operator approves (ForceApproval). Errors: refused, with what is missing; unavailable where the audit cannot record it.
type ForceRequest struct {
	Groups []domain.GroupID `json:"groups"`
	Voters []string         `json:"voters"` // that answer, and are the whole configuration from then on
	Lost   []string         `json:"lost"`   // every other one
	// Down is the asker's word that the machines of the lost voters are off, and stay off until it is done.
	Down bool `json:"down"`
	// Prevented is the asker's word that each lost data site is told, before it starts again, that it may join a quorum only. Needed
	// where voters of several places are lost: back together and cut off, they could be a majority of the old votes.
	Prevented bool `json:"prevented,omitempty"`
	// AcceptLoss: acknowledged writes may be lost. Needed where the site is not in sync, or where the lost voters could have
	// agreed on that among themselves.
	AcceptLoss bool                      `json:"accept_loss"`
	Estimates  map[domain.GroupID]string `json:"estimates,omitempty"` // of the loss, recorded
	Why        string                    `json:"why"`
	By         string                    `json:"by"` // a person's name
	Host       string                    `json:"host,omitempty"`
}

// ForceApproval carries out a force that another operator asked for. Errors: not_found, refused.
type ForceApproval struct {
	ID string `json:"id"`
	// SameCredential: both requests come by one site's credentials, because no other are at hand. The two names differ all the same.
	SameCredential bool   `json:"same_credential,omitempty"`
	Withdraw       bool   `json:"withdraw,omitempty"` // do not carry it out
	By             string `json:"by"`
	Host           string `json:"host,omitempty"`
}

// The states of a force.
const (
	ForceWaiting   = "waiting for approval"
	ForceUnderWay  = "under way"
	ForceDone      = "done" // see the outcomes
	ForceWithdrawn = "withdrawn"
	ForceExpired   = "expired"
)

// ForceStatus is a force that was asked for.
type ForceStatus struct {
	ID   string        `json:"id"`
	Site domain.SiteID `json:"site"` // that takes the groups
	ForceRequest
	Asked       string         `json:"asked"`              // verified caller of the request
	Approver    string         `json:"approver,omitempty"` // a person's name
	Approved    string         `json:"approved,omitempty"` // verified caller of the approval
	Proven      bool           `json:"proven"`             // the two callers are two credentials
	State       string         `json:"state"`
	RemainingNs int64          `json:"remaining_ns,omitempty"` // for an approval
	Outcomes    []ForceOutcome `json:"outcomes,omitempty"`
}

// ForceOutcome is how a force ended for one group: with an epoch, or an error.
type ForceOutcome struct {
	Group domain.GroupID `json:"group"`
	Epoch domain.Epoch   `json:"epoch,omitempty"`
	Error string         `json:"error,omitempty"`
}

// PreventRequest keeps a data site from forming a quorum, through restarts, or allows it again. A lease that is held is kept.
type PreventRequest struct {
	On   bool   `json:"on"`
	Why  string `json:"why"`
	By   string `json:"by"`
	Host string `json:"host,omitempty"`
}
