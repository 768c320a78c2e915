package witness

import (
	"fmt"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
)

// votesPath is where ballots are posted: a request, answered by a reply with as many answers in the same order.
const votesPath = "/v1/votes"

const (
	maxBallots = 1024
	maxBytes   = 1 << 20 // of a request
	maxGrant   = 60_000_000_000
)

// Ballot is one request of the vote.
type Ballot struct {
	Cluster string         `json:"cluster"`
	Group   domain.GroupID `json:"group"`
	core.Request
}

type request struct {
	Ballots []Ballot `json:"ballots"`
}

type answer struct {
	Response *core.Response `json:"response,omitempty"`
	Error    string         `json:"error,omitempty"`
	Code     string         `json:"code,omitempty"` // see domain.CodeOf
}

type reply struct {
	Voter   core.VoterID `json:"voter"`
	Answers []answer     `json:"answers,omitempty"`
	Error   string       `json:"error,omitempty"` // of the request as a whole
	Code    string       `json:"code,omitempty"`
}

// failure is an error as it was told.
func failure(text, code string) error {
	kind := domain.FromCode(code)
	if kind == nil {
		kind = domain.ErrUnavailable
	}
	return fmt.Errorf("%w: %s", kind, text)
}
