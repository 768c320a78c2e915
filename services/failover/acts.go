package failover

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/audit"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
)

// tellActs writes the acts of the own declarations into the audit and tells of them, each once they are durable, until ctx ends. What a
// kill kept back is told by the next life of the service under the same ids.
func (s *service) tellActs(ctx context.Context) {
	for {
		for _, d := range s.ledger.now().List {
			told := d.Told
			for _, a := range d.Acts {
				if a.Number > told && s.retry(ctx, "tell of declaration "+string(d.ID), func() error { return s.tellAct(ctx, d, a) }) {
					told = a.Number
				}
			}
			if told > d.Told {
				s.retry(ctx, "mark acts as told of declaration "+string(d.ID), func() error { return s.markTold(ctx, d.ID, told) })
			}
		}
		select {
		case <-s.ledger.untold:
		case <-ctx.Done():
			return
		}
	}
}

func (s *service) tellAct(ctx context.Context, d api.Declaration, a api.DeclarationAct) error {
	var groups []api.DeclaredGroup
	for _, g := range d.Groups {
		if slices.Contains(a.Groups, g.Group) {
			groups = append(groups, g)
		}
	}
	data, err := json.Marshal(struct {
		Declaration domain.DeclarationID `json:"declaration"`
		Site        domain.SiteID        `json:"site"`
		Act         api.DeclarationAct   `json:"act"`
		Proof       api.DisasterProof    `json:"evidence"`
		Groups      []api.DeclaredGroup  `json:"groups"`
	}{d.ID, d.Site, a, d.Proof, groups})
	if err != nil {
		return err
	}
	e := audit.Entry{Who: a.By, Claimed: a.Claimed, From: a.Host, Why: a.Why, What: fmt.Sprintf("declaration_%s.%d", a.What, a.Number), Run: domain.RunID(d.ID), Data: data, When: a.At}
	if err := audit.Append(ctx, s.mesh.Local(), e); err != nil {
		return err
	}
	s.publish(ctx, fmt.Sprintf("%s-%d", d.ID, a.Number), event.DeclarationChanged{Fact: a.What, ID: d.ID, Site: d.Site, Leader: d.Leader, State: d.State, Groups: a.Groups,
		By: a.By, ClaimedBy: a.Claimed, Why: a.Why})
	return nil
}

// markTold keeps how far a declaration was told.
func (s *service) markTold(ctx context.Context, id domain.DeclarationID, told int) error {
	l := s.ledger
	l.deciding.Lock()
	defer l.deciding.Unlock()
	if err := s.recall(ctx); err != nil {
		return err
	}
	state := l.now()
	state.List = slices.Clone(state.List)
	i := slices.IndexFunc(state.List, func(d api.Declaration) bool { return d.ID == id })
	if i < 0 {
		return nil // forgotten meanwhile
	}
	d := &state.List[i]
	d.Told, d.Version = max(d.Told, told), d.Version+1
	if err := s.keep(ctx, []api.Declaration{*d}); err != nil {
		l.stale = true
		return err
	}
	l.set(state)
	return nil
}
