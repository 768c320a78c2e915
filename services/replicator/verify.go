package replicator

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/audit"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/group"
)

// verify is the verify verb. That somebody had a copy healed is in the audit.
func (s *service) verify(ctx context.Context, r api.VerifyRequest) (api.VerifyStatus, error) {
	st, err := with(s, r.Group, func(g *group.Group) (api.VerifyStatus, error) { return g.Verify(ctx, r) })
	if !r.Heal {
		return st, err
	}
	if what := audit.Outcome("verify_heal", "verify_heal_refused", err); what != "" {
		e := audit.Entry{Who: audit.Who(ctx), Claimed: r.By, From: r.Host, Why: r.Why, What: fmt.Sprintf("%s.%s.%s", what, r.Group, r.Target), Run: domain.RunID(rand.Text())}
		if err != nil {
			e.Why = err.Error()
		}
		e.Data, _ = json.Marshal(r) // plain fields always encode
		audit.Note(ctx, s.deps.Mesh.Local(), s.log, e)
	}
	return st, err
}

// scrubHeals records that the schedule heals a copy, as it is recorded when a person has it healed.
func (s *service) scrubHeals(ctx context.Context, g domain.GroupID, t domain.SiteID) {
	r := api.VerifyRequest{Group: g, Target: t, Heal: true, Why: "copies.scrub_heal of site " + string(s.cfg.Site), By: scheduled}
	e := audit.Entry{Who: scheduled, Why: r.Why, What: fmt.Sprintf("verify_heal.%s.%s", g, t)}
	e.Data, _ = json.Marshal(r) // plain fields always encode
	audit.Note(ctx, s.deps.Mesh.Local(), s.log, e)
}

const scheduled = "schedule" // who the audit says it was
