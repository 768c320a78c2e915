package event

import "github.com/holdfast-dr/holdfast/pkg/domain"

// QuorumForced tells that operators took a group with the voters they named: "quorum_forced"; or that the configured votes all
// count again: "quorum_healed".
type QuorumForced struct {
	Fact         string         `json:"fact"` // last word of the event's type
	Group        domain.GroupID `json:"group"`
	Site         domain.SiteID  `json:"site"` // that holds the group
	Epoch        domain.Epoch   `json:"epoch"`
	Voters       []string       `json:"voters"`                  // that count
	Lost         []string       `json:"lost,omitempty"`          // that do not
	Why          string         `json:"why,omitempty"`           // as the operator said
	By           string         `json:"by,omitempty"`            // who asked for it
	Approver     string         `json:"approver,omitempty"`      // who approved
	AcceptedLoss string         `json:"accepted_loss,omitempty"` // estimate of what may be lost; empty where nothing can be
}

// Key implements Fact.
func (f QuorumForced) Key() (string, string) { return "group", f.Fact }

// Of implements Fact.
func (f QuorumForced) Of() string { return string(f.Group) }

// QuorumPrevented tells that a site may join a quorum only: "quorum_prevented"; or form one again: "quorum_allowed".
type QuorumPrevented struct {
	Fact string        `json:"fact"` // last word of the event's type
	Site domain.SiteID `json:"site"`
	By   string        `json:"by"`  // who said so
	Why  string        `json:"why"` // as the operator said
}

// Key implements Fact.
func (f QuorumPrevented) Key() (string, string) { return "site", f.Fact }

// Of implements Fact.
func (f QuorumPrevented) Of() string { return string(f.Site) }

func exampleForced(fact string) QuorumForced {
	f := QuorumForced{Fact: fact, Group: "erp", Site: "b", Epoch: domain.NewEpoch(1, 3, 2), Voters: []string{"a", "b", "w"}}
	if fact == "quorum_forced" {
		f.Voters, f.Lost = []string{"b"}, []string{"a", "w"}
		f.Why, f.By, f.Approver, f.AcceptedLoss = "fire in hall 1, both its sites are off", "kim", "sam", "3.2 s, 41 MB"
	}
	return f
}

func examplePrevented(fact string) QuorumPrevented {
	return QuorumPrevented{Fact: fact, Site: "a", By: "kim", Why: "quorum was forced at b while a was off"}
}
