package group

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// policy is the group as it is wanted now.
func (s *store) policy() domain.Group {
	if p := s.wants.Load(); p != nil {
		return *p
	}
	return s.group
}

// Adopt takes a changed policy. A primary goes over to it while writes go on:
//
//	to sync    the target catches up; every write waits for it from before the register may name it (registrar)
//	from sync  the register lets go of it first; until a majority has that, every write still waits for it
//	to none    the same, then nothing more is sent; the copy stays as it is at that site
//	new        a sender begins, with a copy of everything where nothing is there
//	transport  the next message goes by it
//	strict     from cached: the next write is answered when it is durable
//	cached     from strict: once another site serves, as a guest that runs does not learn that its disk has a write cache
//	volumes    are added and removed by changes in the group's order (volumeLoop); the other copies follow that
//
// Nothing of it is kept here: a copy that was killed anywhere in between begins with what desired state says then, and the
// register, which only names who is waited for, holds all along. An older version than the one in force is passed over.
func (g *Group) Adopt(ctx context.Context, d api.GroupDesired) error {
	end, err := g.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	g.mu.Lock()
	have := g.adopted
	g.mu.Unlock()
	if d.Epoch < have.Epoch || d.Epoch == have.Epoch && d.Version <= have.Version {
		return nil
	}
	err = g.adopt(ctx, d.Group)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.policyError = err; err != nil {
		return fmt.Errorf("adopt policy %s of group %s: %w", version(d), g.id, err)
	}
	g.adopted = api.PolicyVersion{Epoch: d.Epoch, Version: d.Version}
	return nil
}

func version(d api.GroupDesired) string { return fmt.Sprintf("%s.%d", d.Epoch, d.Version) }

func (g *Group) adopt(ctx context.Context, def domain.Group) error {
	if def.ID != g.id || def.Home != g.store.group.Home {
		return fmt.Errorf("its home is not changed while it is open here; start the replicator again to open it as it is defined now: %w", domain.ErrInvalid)
	}
	if err := g.store.mayHave(def.Volumes); err != nil {
		return err
	}
	for _, site := range def.SitesOf() {
		if site == g.cfg.Site {
			continue
		}
		if _, err := g.cfg.Mesh.Conn(site); err != nil {
			return fmt.Errorf("site %s is not in the configuration here: %w", site, err)
		}
	}
	before := g.store.policy()
	g.store.wants.Store(&def)
	g.store.keepPast(def.Checkpoints)
	if err := g.cfg.failpoint("policy taken"); err != nil {
		return err
	}
	s := g.current()
	if s == nil {
		return nil
	}
	poke(s.volumeWake)
	changed, err := s.adopt(def)
	text := strings.Join(changed, ", ")
	if text != "" {
		s.log.Info("policy adopted", "change", text)
	}
	if err == nil && (text != "" || before.OnTargetLoss != def.OnTargetLoss || before.RPO != def.RPO || before.Checkpoints != def.Checkpoints || before.Congestion != def.Congestion) {
		g.publish(ctx, "policy_adopted", s.epoch, g.store.last(), "", text)
	}
	return err
}

// adopt brings the session's targets to a policy, and says what changes.
func (s *session) adopt(def domain.Group) (changed []string, err error) {
	s.changing.Lock()
	defer s.changing.Unlock()
	if s.ctx.Err() != nil {
		return nil, nil // the next session begins with it
	}
	sites := def.SitesOf()
	for site := range s.senders.all() {
		sites = append(sites, site)
	}
	slices.Sort(sites)
	if text := s.goBy(def.Durability); text != "" {
		changed = append(changed, text)
	}
	for _, site := range slices.Compact(sites) {
		was, mode := domain.ModeNone, def.ModeTo(s.g.cfg.Site, site)
		t := s.senders.get(site)
		if t != nil {
			was = t.mode()
			if t.sendBy(def.TransportTo(s.g.cfg.Site, site)) {
				changed = append(changed, fmt.Sprintf("%s is sent to otherwise", site))
			}
		}
		if was == mode {
			continue
		}
		changed = append(changed, fmt.Sprintf("%s from %s to %s", site, was, mode))
		if t == nil {
			if t, err = s.newSender(site, mode); err != nil {
				return changed, err
			}
			s.register.admit(site, mode == domain.ModeSync)
			s.senders.put(t)
			s.launch(t)
			continue
		}
		s.change(t, mode)
	}
	return changed, nil
}

// change makes a target one of another mode. Under changing.
func (s *session) change(t *sender, mode domain.Mode) {
	t.mu.Lock()
	t.how, t.caught, t.joining = mode, false, false
	t.mu.Unlock()
	s.register.admit(t.site, mode == domain.ModeSync)
	if mode == domain.ModeNone {
		s.wg.Go(func() { s.retire(t) })
	}
	poke(t.wake)
}

// retire ends a target: when the register is known not to name it, no write waits for it and nothing more is sent. It gives
// up when the policy wants the target again.
func (s *session) retire(t *sender) {
	for s.register.may(t.site) || s.waitsFor(t.site) {
		if t.mode() != domain.ModeNone || !sleep(s.ctx, 5*time.Millisecond) {
			return
		}
	}
	if s.g.cfg.failpoint("target let go") != nil || !s.dismiss(t) {
		return
	}
	acked, _ := t.progress()
	detail := fmt.Sprintf("nothing more is sent; the copy at site %s stays as it is, a whole prefix of the group's writes up to LSN %d", t.site, acked)
	s.log.Info("target ended", "target", string(t.site), "lsn", uint64(acked))
	s.g.publish(s.ctx, "target_ended", s.epoch, acked, t.site, detail)
	s.part(t)
}

func (s *session) waitsFor(site domain.SiteID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.required[site]
}

// dismiss takes a target that no write waits for out of the set; false when it stays.
func (s *session) dismiss(t *sender) bool {
	s.changing.Lock()
	defer s.changing.Unlock()
	if s.ctx.Err() != nil || t.mode() != domain.ModeNone || s.senders.get(t.site) != t || s.register.may(t.site) || s.waitsFor(t.site) {
		return false
	}
	s.senders.remove(t.site)
	t.cancel()
	<-t.ended // nothing it does waits for changing
	if err := s.st.dropBitmap(t.site); err != nil {
		s.fail(fmt.Errorf("forget what target %s lacks: %w", t.site, err))
	}
	return true
}

// part tells a target that was let go that nothing more comes. One that is not reached keeps waiting for its pipe, in vain
// and harmlessly, until it is started again.
func (s *session) part(t *sender) {
	if s.senders.get(t.site) != nil {
		return // wanted again meanwhile
	}
	ctx, cancel := context.WithTimeout(s.ctx, rejoinTimeout)
	defer cancel()
	req := api.UnfollowRequest{Group: s.st.group.ID, Epoch: s.epoch, Site: s.g.cfg.Site}
	if _, err := bus.Call[api.Empty](ctx, t.conn, api.ServiceReplicator, api.VerbUnfollow, req); err != nil && s.ctx.Err() == nil {
		s.log.Info("target not told that nothing more comes", "target", string(t.site), "error", err)
	}
}

// Unfollow ends following a primary that sends no more: see api.UnfollowRequest.
func (g *Group) Unfollow(ctx context.Context, req api.UnfollowRequest) error {
	end, err := g.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	if fence := g.store.fence(); req.Epoch != fence || g.current() != nil {
		return fmt.Errorf("end following site %s in group %s under epoch %s: fenced to %s: %w", req.Site, g.id, req.Epoch, fence, domain.ErrStaleEpoch)
	}
	g.stopReceiver()
	g.dropStage()
	err = g.cfg.Mesh.Local().PurgePipe(ctx, g.id, req.Epoch)
	if errors.Is(err, domain.ErrNotFound) {
		err = nil
	}
	return err
}

// admit lets the registrar bring a target into the in-sync set, or has it take the target out: from then on nothing brings it
// in, and writes wait for it until the register is known not to name it.
func (r *registrar) admit(site domain.SiteID, yes bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if yes {
		delete(r.barred, site)
		return
	}
	r.barred[site] = true
	delete(r.want, site)
	delete(r.hold, site)
	r.drop[site] = ""
	poke(r.wake)
}

func (r *registrar) isBarred(site domain.SiteID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.barred[site]
}
