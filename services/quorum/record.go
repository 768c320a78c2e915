package quorum

import (
	"context"
	"encoding/json"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/audit"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// recordCampaign is campaign, with its outcome in the audit.
func (s *service) recordCampaign(ctx context.Context, req api.CampaignRequest) (api.Lease, error) {
	l, err := s.answerCampaign(ctx, req)
	s.record(ctx, audit.Outcome("campaign_won", "campaign_refused", err), req.Group, l.Epoch, req.RunID, req.Reason, req, err)
	return l, err
}

// recordRelease is release, with its outcome in the audit.
func (s *service) recordRelease(ctx context.Context, req api.ReleaseRequest) (api.Empty, error) {
	out, err := s.answerRelease(ctx, req)
	s.record(ctx, audit.Outcome("lease_released", "release_refused", err), req.Group, req.Epoch, "", "", req, err)
	return out, err
}

func (s *service) record(ctx context.Context, what string, g domain.GroupID, e domain.Epoch, run domain.RunID, why string, req any, err error) {
	if what == "" {
		return
	}
	if err != nil {
		why = err.Error()
	}
	entry := audit.Entry{Who: audit.Who(ctx), Why: why, What: what + "." + string(g) + "." + e.String(), Run: run}
	entry.Data, _ = json.Marshal(req) // plain fields always encode
	audit.Note(ctx, s.mesh.Local(), s.log, entry)
}
