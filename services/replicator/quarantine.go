package replicator

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/audit"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
	"github.com/holdfast-dr/holdfast/services/replicator/group"
)

// quarantine is the quarantine verb.
func (s *service) quarantine(_ context.Context, r api.QuarantineRequest) (api.QuarantineReply, error) {
	reply := api.QuarantineReply{Items: []api.Quarantined{}}
	if r.ID != "" {
		item, err := with(s, r.Group, func(g *group.Group) (api.Quarantined, error) { return g.QuarantinedItem(r.ID, r.From) })
		reply.Items = append(reply.Items, item)
		return reply, err
	}
	for _, g := range s.all(r.Group) {
		items, err := g.Quarantined()
		if err != nil {
			return reply, err
		}
		for i := range items {
			items[i].Extents = nil
		}
		reply.Items = append(reply.Items, items...)
	}
	return reply, nil
}

func (s *service) quarantineRead(_ context.Context, r api.QuarantineRead) (api.QuarantinePiece, error) {
	return with(s, r.Group, func(g *group.Group) (api.QuarantinePiece, error) { return g.QuarantinedPiece(r) })
}

// quarantineDiscard is the quarantine_discard verb. What cannot be undone is in the audit before it is done; a refusal is
// kept there too.
func (s *service) quarantineDiscard(ctx context.Context, r api.QuarantineDiscard) (api.Quarantined, error) {
	item, err := s.mayDiscard(r)
	if err == nil {
		entry := discardEntry(ctx, r.By, r.Host, r.Why, "quarantine_discarded."+r.ID)
		entry.Data, _ = json.Marshal(item) // plain fields always encode
		if aerr := audit.Append(ctx, s.deps.Mesh.Local(), entry); aerr != nil {
			err = fmt.Errorf("discard quarantine %s: it cannot be recorded in the audit of site %s, so nothing was discarded: try again: %w", r.ID, s.cfg.Site, aerr)
		}
	}
	if err == nil {
		_, err = with(s, r.Group, func(g *group.Group) (api.Empty, error) { return api.Empty{}, g.DiscardQuarantined(ctx, r.ID) })
	}
	if err != nil {
		if what := audit.Outcome("", "quarantine_discard_refused."+r.ID, err); what != "" {
			entry := discardEntry(ctx, r.By, r.Host, r.Why, what)
			entry.Why = err.Error()
			audit.Note(ctx, s.deps.Mesh.Local(), s.log, entry)
		}
		return item, err
	}
	s.events.Publish(ctx, fmt.Sprintf("%s-%s-discarded-%s", r.Group, s.cfg.Site, r.ID),
		event.WritesDiscarded{Item: item, By: audit.Who(ctx), Claimed: r.By, Why: r.Why})
	return item, nil
}

func discardEntry(ctx context.Context, by, host, why, what string) audit.Entry {
	return audit.Entry{Who: audit.Who(ctx), Claimed: by, From: host, Why: why, What: what, Run: domain.RunID(rand.Text())}
}

// mayDiscard gives the item, without its extents, when the request says what it must.
func (s *service) mayDiscard(r api.QuarantineDiscard) (api.Quarantined, error) {
	item, err := with(s, r.Group, func(g *group.Group) (api.Quarantined, error) { return g.QuarantinedItem(r.ID, 0) })
	item.Extents = nil
	switch {
	case err != nil:
		return item, err
	case r.Why == "":
		return item, fmt.Errorf("discard quarantine %s: say why: it is kept in the audit: %w", r.ID, domain.ErrInvalid)
	case !r.Yes:
		return item, fmt.Errorf("discard quarantine %s: %d writes, %d bytes, would be lost for good: export them first, or say yes: %w", r.ID, item.Writes, item.Bytes, domain.ErrRefused)
	}
	return item, nil
}
