package quorum

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/audit"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/durable"
	"github.com/holdfast-dr/holdfast/pkg/event"
	"github.com/holdfast-dr/holdfast/pkg/identity"
)

// preventFile is there while the site may join a quorum only. It holds the request that made it.
const preventFile = "prevent.json"

// Prevented reads from a service's folder whether its site may join a quorum only, and the request that made it so. A file that
// cannot be read prevents, beside the error.
func Prevented(dir string) (api.PreventRequest, bool, error) {
	var req api.PreventRequest
	raw, err := os.ReadFile(filepath.Join(dir, preventFile))
	if errors.Is(err, os.ErrNotExist) {
		return req, false, nil
	}
	if err != nil {
		return req, true, fmt.Errorf("read whether the site may form a quorum: %w", err)
	}
	_ = json.Unmarshal(raw, &req) // what cannot be read prevents all the same
	return req, true, nil
}

// readPrevented takes it at the start. Where it cannot be read the site joins only: a voter that runs is worth more than the answer.
func (s *service) readPrevented() {
	_, prevented, err := Prevented(s.cfg.Dir)
	if err != nil {
		s.log.Warn("the site may join a quorum only until this is mended", "error", err)
	}
	s.prevented.Store(prevented)
}

// SetPrevent writes it, durably. The service of the folder sees it at its next start; one that runs is asked by api.VerbPrevent.
// What root writes belongs to the owner of the folder: the service is seldom root.
func SetPrevent(dir string, req api.PreventRequest) error {
	path := filepath.Join(dir, preventFile)
	if !req.On {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("allow the site to form a quorum: %w", err)
		}
		if err := durable.SyncDir(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("allow the site to form a quorum: %w", err)
		}
		return nil
	}
	raw, err := json.Marshal(req)
	if err != nil {
		return fmt.Errorf("keep the site from forming a quorum: %w", err)
	}
	if err := identity.WriteFile(path, raw, 0o600); err != nil {
		return fmt.Errorf("keep the site from forming a quorum: %w", err)
	}
	return nil
}

// answerPrevent keeps the site from forming a quorum, or allows it again. It is durable before it is answered.
func (s *service) answerPrevent(ctx context.Context, req api.PreventRequest) (api.Empty, error) {
	err := s.prevent(ctx, req)
	if err != nil {
		s.record(ctx, audit.Outcome("", "prevent_refused", err), "", 0, "", req.Why, req, err)
	}
	return api.Empty{}, err
}

func (s *service) prevent(ctx context.Context, req api.PreventRequest) error {
	refuse := func(text string) error {
		return fmt.Errorf("prevent quorum at site %s: %w: %s", s.cfg.Site, domain.ErrRefused, text)
	}
	switch {
	case s.cfg.Role != domain.SiteData:
		return refuse("it is a witness, and never forms a quorum")
	case strings.TrimSpace(req.Why) == "":
		return refuse("no reason is given")
	}
	fact := map[bool]string{true: "quorum_prevented", false: "quorum_allowed"}[req.On]
	id := rand.Text()
	data, _ := json.Marshal(req) // plain fields always encode
	err := audit.Append(ctx, s.mesh.Local(), audit.Entry{Who: audit.Who(ctx), Why: req.Why, What: fact + "." + string(s.cfg.Site), Claimed: req.By,
		From: req.Host, Run: domain.RunID(id), Data: data})
	if err != nil {
		return fmt.Errorf("prevent quorum at site %s: it is not done where the audit cannot record it: %w", s.cfg.Site, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := SetPrevent(s.cfg.Dir, req); err != nil {
		return err
	}
	s.prevented.Store(req.On)
	for _, g := range s.groups {
		g.post(func() { g.do(g.c.Prevent(s.instant(), req.On)) })
	}
	s.log.Warn("what the site may do in a quorum changed", "fact", fact, "by", req.By, "why", req.Why)
	s.events.Publish(s.ctx, id+"-"+fact, event.QuorumPrevented{Fact: fact, Site: s.cfg.Site, By: req.By, Why: req.Why})
	return nil
}
