package core

import (
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Action is something a Candidate wants done, or a fact it came to. In order of emission.
type Action interface{ action() }

// Send asks for a request to be sent to a voter, once, at once.
type Send struct {
	To  VoterID
	Req Request
}

// Granted says this site holds the epoch until Deadline. Raise the fence before serving.
type Granted struct {
	Epoch      domain.Epoch
	Deadline   Instant
	Reg        Register
	AcceptLoss bool   // the site was not in sync and the loss was accepted
	Estimate   string // of the loss, as the campaign recorded it
	Forced     bool   // with the voters that an operator named
}

// Extended moves the deadline.
type Extended struct {
	Epoch    domain.Epoch
	Deadline Instant
}

// Lost says the epoch is dead: nothing may be acknowledged under it. Reason is constant text.
type Lost struct {
	Epoch  domain.Epoch
	Reason Reason
}

// Released says the holder gave the epoch up of its own accord.
type Released struct {
	Epoch     domain.Epoch
	Successor domain.SiteID
}

// Vacated says a quorum of voters has taken the release: a hint to the successor is worth sending now.
type Vacated struct {
	Epoch     domain.Epoch
	Successor domain.SiteID
}

// InSyncCommitted says the in-sync set is durable at a quorum. A shrunken set may be relied on from here.
type InSyncCommitted struct {
	Epoch   domain.Epoch
	InSync  []domain.SiteID
	Counter uint64
}

// ConfigCommitted says new weights are in force and the old ones are gone.
type ConfigCommitted struct {
	Epoch  domain.Epoch
	Config Config
}

// Refused says why a command was not or cannot now be carried out.
type Refused struct{ Reason Reason }

// Warmed is to be noted durably, before anything else is done: that a voter of another site was heard since the boot, and the
// newest force generation heard of. A candidate that is built anew is told both; without the first it starts cold, without the
// second it could form a quorum that a force has made void.
type Warmed struct {
	Heard    bool // a voter of another site, in this boot
	Promised domain.Epoch
}

// PhaseChanged shows how far the candidate is, with the tally that led there.
type PhaseChanged struct {
	Phase Phase
	Tally Tally
}

func (Send) action()            {}
func (Granted) action()         {}
func (Extended) action()        {}
func (Lost) action()            {}
func (Released) action()        {}
func (Vacated) action()         {}
func (InSyncCommitted) action() {}
func (ConfigCommitted) action() {}
func (Refused) action()         {}
func (Warmed) action()          {}
func (PhaseChanged) action()    {}

// Reason says why a lease was lost or a command refused.
type Reason string

// Every reason.
const (
	Expired           Reason = "lease expired without a quorum"
	HigherForce       Reason = "quorum was forced elsewhere"
	Replaced          Reason = "a newer epoch was asked for at this site"
	NotInSync         Reason = "site is not in the in-sync set"
	ColdStart         Reason = "no voter of another site heard since boot"
	OlderForce        Reason = "only configurations voided by a forced quorum were seen"
	NotHolder         Reason = "lease is not held"
	OtherEpoch        Reason = "request belongs to another epoch"
	StaleCounter      Reason = "in-sync request is older than one already seen"
	MissingSelf       Reason = "in-sync set must name the holder"
	ChangeUnderWay    Reason = "a change of configuration is under way"
	EmptyConfig       Reason = "configuration has no votes"
	FormingNotAllowed Reason = "site may join a quorum, not form one"
)

// Phase is what an operator sees of a campaign.
type Phase string

// The phases, in the order of a campaign.
const (
	Idle       Phase = "idle"
	Contacting Phase = "contacting"
	Comparing  Phase = "comparing views"
	Tallying   Phase = "tally"
	Waiting    Phase = "waiting"
	Functional Phase = "functional"
)

// Tally is a count of votes by name.
type Tally struct {
	Votes []Vote
	Have  int
	Total int
}

// Vote is one line of a tally. Verdict is "" for a voter that did not answer.
type Vote struct {
	Voter     VoterID
	Weight    int
	Verdict   Verdict
	Holder    domain.SiteID
	Remaining time.Duration
}
