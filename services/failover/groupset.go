package failover

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/audit"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/failover/desired"
)

// groupSet is the group_set verb. What was changed and what was refused is kept in the audit.
func (s *service) groupSet(ctx context.Context, req api.GroupSetRequest) (api.GroupDesired, error) {
	g, err := s.tryGroupSet(ctx, req)
	if what := audit.Outcome("group_set", "group_set_refused", err); what != "" {
		e := audit.Entry{Who: audit.Who(ctx), Claimed: req.By, From: req.Host, Why: req.Reason, What: what}
		record := struct {
			Request api.GroupSetRequest `json:"request"`
			Version uint64              `json:"version,omitempty"`
			Refusal string              `json:"refusal,omitempty"`
		}{Request: req}
		if err == nil {
			record.Version = g.Version
		} else {
			record.Refusal = err.Error()
		}
		e.Data, _ = json.Marshal(record) // plain fields always encode
		audit.Note(ctx, s.mesh.Local(), s.log, e)
	}
	return g, err
}

func (s *service) tryGroupSet(ctx context.Context, req api.GroupSetRequest) (api.GroupDesired, error) {
	if run := s.active(req.Group); run != "" {
		return api.GroupDesired{}, fmt.Errorf("change group %s: %w: it is in run %s: wait for its end", req.Group, domain.ErrRefused, run)
	}
	if out, down := s.isEvacuated(req.Group); down {
		return api.GroupDesired{}, fmt.Errorf("change group %s: %w: run %s moves it away: ask the site it goes to", req.Group, domain.ErrRefused, out.run)
	}
	g, err := s.store.Group(ctx, req.Group)
	if err != nil {
		return g, err
	}
	l, err := s.lease(ctx, req.Group, g.Epoch)
	if err != nil {
		return g, fmt.Errorf("change group %s: %w", req.Group, err)
	}
	if !l.Held {
		return g, fmt.Errorf("change group %s: %w: site %s does not hold it under epoch %s (newest seen: %s of %q): ask the site that serves it",
			req.Group, domain.ErrNoLease, s.cfg.Site, g.Epoch, l.Epoch, l.Holder)
	}
	g, err = s.store.Change(ctx, req.Group, g.Epoch, req.Revision, func(have domain.Group) (domain.Group, error) {
		next, err := desired.Changed(have, req)
		if err == nil && s.cfg.CheckGroup != nil {
			err = s.cfg.CheckGroup(next)
		}
		if err == nil && next.Barred(s.cfg.Site) != nil {
			err = fmt.Errorf("change group %s: %w: site %s serves it and could not any more: move it to another site first, or leave site %s allowed",
				req.Group, domain.ErrRefused, s.cfg.Site, s.cfg.Site)
		}
		return next, err
	})
	if err == nil {
		s.copies.wake()
		s.log.Info("group changed", "group", string(req.Group), "version", g.Version, "by", audit.Who(ctx))
	}
	return g, err
}
