package quorum

import (
	"errors"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
)

func TestAnAnswerOfAnotherVoterOrToAnotherRequestIsNotTaken(t *testing.T) {
	p := &peer{voter: Voter{Member: core.Member{ID: "witness"}}}
	req := core.Request{Verb: core.Accept, Nonce: 7}
	if _, err := p.checked(core.Response{Voter: "witness", Verb: core.Accept, Nonce: 7}, req); err != nil {
		t.Fatal(err)
	}
	for _, resp := range []core.Response{
		{Voter: "b", Verb: core.Accept, Nonce: 7},
		{Voter: "witness", Verb: core.Probe, Nonce: 7},
		{Voter: "witness", Verb: core.Accept, Nonce: 8},
	} {
		if got, err := p.checked(resp, req); !errors.Is(err, domain.ErrInvalid) || got.Voter != "" {
			t.Errorf("%+v: %+v, %v", resp, got, err)
		}
	}
}

// A voter that was replaced is in no configuration any more, but in registers: a force has to say that it is lost.
func TestAReplacedVoterCanBeSaidToBeLost(t *testing.T) {
	own := Voter{Member: core.Member{ID: "v-b", Kind: core.KindNode}, Site: "b"}
	s := &service{cfg: Config{Site: "b", Role: domain.SiteData, Voters: []Voter{own}}, peers: map[core.VoterID]*peer{"v-b": {voter: own}}}
	req := api.ForceRequest{Groups: []domain.GroupID{"erp"}, Voters: []string{"v-b"}, Lost: []string{"w"}, Down: true, Why: "fire", By: "kim"}
	if err := s.checkForce(req); err != nil {
		t.Error(err)
	}
	req.Voters = append(req.Voters, "w")
	if err := s.checkForce(req); !errors.Is(err, domain.ErrRefused) {
		t.Errorf("named as one that votes: %v", err)
	}
}
