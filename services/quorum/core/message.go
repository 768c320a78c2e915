package core

import (
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Verb is what a request asks of a voter.
type Verb string

// The six verbs of the vote.
const (
	Probe   Verb = "probe"   // is the vote free? changes nothing
	Prepare Verb = "prepare" // promise to accept no lower epoch
	Accept  Verb = "accept"  // vote for the epoch
	Renew   Verb = "renew"   // extend the grant, no disk write
	Update  Verb = "update"  // write the register, and extend
	Release Verb = "release" // give the vote back, reserved for the successor
)

// Verbs lists every verb a voter answers.
func Verbs() []Verb { return []Verb{Probe, Prepare, Accept, Renew, Update, Release} }

// Durable reports whether a voter writes to its disk before it answers.
func (v Verb) Durable() bool { return v != Probe && v != Renew }

// Request goes from a candidate to one voter. It never carries a time.
type Request struct {
	Verb      Verb          `json:"verb"`
	From      domain.SiteID `json:"from"`
	Epoch     domain.Epoch  `json:"epoch,omitempty"`
	Seq       uint64        `json:"seq,omitempty"` // grows with each round of an epoch; voters dedupe by it
	Nonce     uint64        `json:"nonce"`         // names the round; the answer repeats it
	G         time.Duration `json:"g,omitempty"`
	Reg       *Register     `json:"reg,omitempty"`       // accept and update
	Successor domain.SiteID `json:"successor,omitempty"` // release
	SentAt    Instant       `json:"-"`                   // only for the mutant that echoes timestamps
}

// Verdict is a voter's answer in one word.
type Verdict string

// The three answers.
const (
	OK       Verdict = "ok"       // done; to a probe: the vote is free for the asker
	Busy     Verdict = "busy"     // held by or reserved for another for Remaining
	Rejected Verdict = "rejected" // a higher promise, or not the holder
)

// Response answers one request.
type Response struct {
	Voter     VoterID       `json:"voter"`
	Verb      Verb          `json:"verb"`
	Nonce     uint64        `json:"nonce"`
	Verdict   Verdict       `json:"verdict"`
	Remaining time.Duration `json:"remaining,omitempty"`
	Promised  domain.Epoch  `json:"promised"`
	VEpoch    domain.Epoch  `json:"v_epoch"`
	VHolder   domain.SiteID `json:"v_holder,omitempty"`
	Reg       *Register     `json:"reg,omitempty"` // probe and prepare
	SentAt    Instant       `json:"-"`             // only for the mutant that echoes timestamps
}
