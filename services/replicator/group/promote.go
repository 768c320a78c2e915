package group

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/telemetry"
)

// Promote makes this site primary under an epoch whose lease this site's quorum holds. See api.PromoteRequest.
//
// An epoch that this journal served before and no longer serves is stale: see the package documentation.
func (g *Group) Promote(ctx context.Context, req api.PromoteRequest) (reply api.PromoteReply, err error) {
	cause := trace.SpanContextFromContext(ctx)
	ctx, span := g.span(ctx, "promote", "promote", req.Epoch, attribute.String("run", string(req.RunID)))
	defer func() { telemetry.End(span, err) }()
	end, err := g.begin(ctx)
	if err != nil {
		return reply, err
	}
	defer end()
	defer func() { g.failIfDamaged(err) }()
	req.Decision = cmp.Or(req.Decision, string(req.RunID)) // who knows of no decisions yet
	if err := g.broken(); err != nil {
		return reply, fmt.Errorf("promote: %w", err)
	}
	serving := g.current()
	if s := serving; s != nil && s.epoch >= req.Epoch {
		switch {
		case s.epoch != req.Epoch || !s.gate.open():
			return reply, fmt.Errorf("promote group %s to epoch %s: serving epoch %s: %w", g.id, req.Epoch, s.epoch, domain.ErrStaleEpoch)
		case g.store.goesBack(req):
			return reply, fmt.Errorf("promote group %s at checkpoint %d: its newest state is served under epoch %s, take a new one: %w", g.id, req.Checkpoint, s.epoch, domain.ErrStaleEpoch)
		}
		return g.serveConfirmed(ctx, s)
	}
	if err := g.mayPromote(req.Epoch); err != nil {
		return reply, err
	}
	letGo, err := g.mayRollBack(req)
	if err != nil {
		return reply, fmt.Errorf("promote: %w", err)
	}
	defer letGo()
	lease, deadline, err := g.pullLease(ctx, req.Epoch)
	if err != nil {
		return reply, fmt.Errorf("promote: %w", err)
	}
	estimate, err := g.estimateOf(req)
	if err != nil {
		return reply, fmt.Errorf("promote: %w", err)
	}
	if serving != nil {
		serving.stop(errReplaced)
		if err := g.broken(); err != nil {
			return reply, fmt.Errorf("promote: %w", err)
		}
	}
	// An attempt before this one may have asked for another set; and the lease's may name more than was committed.
	unsure := g.tried(req.Epoch) || !slices.Equal(sorted(lease.InSync), sorted(req.InSync))
	if err := g.fence(ctx, req); err != nil {
		return reply, fmt.Errorf("promote group %s to epoch %s: %w", g.id, req.Epoch, err)
	}
	s := newSession(g.ctx, g, req.Epoch, deadline)
	s.cause = cause
	if err := g.prepare(ctx, s, lease.InSync, unsure); err != nil {
		s.cancel(err)
		return reply, fmt.Errorf("promote group %s to epoch %s: %w", g.id, req.Epoch, err)
	}
	if _, deadline, err = g.pullLease(ctx, req.Epoch); err != nil { // replay and the register may have taken longer than it lasts
		s.cancel(err)
		return reply, fmt.Errorf("promote: %w", err)
	}
	s.gate = newGate(g.cfg.Now, deadline)
	reply = api.PromoteReply{Group: g.id, Epoch: req.Epoch, FirstLSN: s.next, Lineage: g.store.lineage(), Estimate: estimate}
	g.mu.Lock()
	g.session, g.reply, g.raised, g.heads = s, reply, 0, nil
	g.mu.Unlock()
	s.start()
	return g.serveConfirmed(ctx, s)
}

// confirmTimeout bounds one promote's wait for its targets, or for the register to go on without them; a repeat goes on.
const confirmTimeout = 10 * time.Second

// serveConfirmed serves the session's volumes once its first change is confirmed. A repeat answers the same.
func (g *Group) serveConfirmed(ctx context.Context, s *session) (api.PromoteReply, error) {
	ctx, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	select {
	case <-s.confirmed:
	case <-s.ctx.Done():
		return api.PromoteReply{}, fmt.Errorf("promote group %s to epoch %s: %w", g.id, s.epoch, context.Cause(s.ctx))
	case <-ctx.Done():
		return api.PromoteReply{}, fmt.Errorf("promote group %s to epoch %s: its in-sync targets do not answer, and the set has not been changed: %w", g.id, s.epoch, domain.ErrUnavailable)
	}
	g.mu.Lock()
	reply := g.reply
	g.mu.Unlock()
	if s.served.Load() {
		return reply, nil
	}
	disks, err := g.serve(s)
	if err != nil {
		s.stop(err)
		return api.PromoteReply{}, fmt.Errorf("promote group %s to epoch %s: %w", g.id, s.epoch, err)
	}
	if s.ctx.Err() != nil { // it ended meanwhile, and took away what was there then
		g.unserve(s.epoch)
		return api.PromoteReply{}, fmt.Errorf("promote group %s to epoch %s: %w", g.id, s.epoch, context.Cause(s.ctx))
	}
	reply.Disks = disks
	g.mu.Lock()
	g.reply = reply
	g.mu.Unlock()
	s.served.Store(true)
	close(s.serving)
	s.log.Info("promoted", "first_lsn", uint64(reply.FirstLSN), "loss", reply.Estimate.Text)
	g.publish(ctx, "promoted", s.epoch, reply.FirstLSN, "", reply.Estimate.Text)
	return reply, nil
}

func (g *Group) mayPromote(epoch domain.Epoch) error {
	st := g.store.j.State()
	g.mu.Lock()
	raised := g.raised
	g.mu.Unlock()
	switch {
	case epoch <= 0:
		return fmt.Errorf("promote group %s: epoch %d: %w", g.id, epoch, domain.ErrInvalid)
	case epoch < g.store.fence():
		return fmt.Errorf("promote group %s to epoch %s: fenced to %s: %w", g.id, epoch, g.store.fence(), domain.ErrStaleEpoch)
	case epoch < st.Epoch || epoch == st.Epoch && raised != epoch:
		return fmt.Errorf("promote group %s to epoch %s: the journal has lived through epoch %s, take a new one: %w", g.id, epoch, st.Epoch, domain.ErrStaleEpoch)
	case g.store.seeded():
		return fmt.Errorf("promote group %s: the copy is a seed, or a first copy, that no primary has made whole yet: promote another site's, or move the folder aside: %w", g.id, domain.ErrRefused)
	case st.Broken != nil:
		return fmt.Errorf("promote group %s: journal: %w: %w", g.id, domain.ErrRefused, st.Broken)
	}
	return nil
}

// tried reports whether the epoch was begun here already, without coming to serve.
func (g *Group) tried(epoch domain.Epoch) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.raised == epoch
}

// takeOver makes the copy ready to go on under the epoch: no other may write to it any more, and the volumes show all of
// the journal, up to the checkpoint when one is named.
func (g *Group) takeOver(ctx context.Context, req api.PromoteRequest) error {
	epoch := req.Epoch
	g.stopReceiver()
	g.dropStage()
	if err := g.store.discardStage(); err != nil {
		return err
	}
	if err := g.store.raiseFence(epoch); err != nil {
		return err
	}
	if err := g.leavePast(ctx, req); err != nil {
		return err
	}
	if err := g.store.reloadTail(); err != nil {
		return err
	}
	if err := g.store.applyUpTo(g.store.last()); err != nil {
		return g.failUnlessFull(err)
	}
	if err := g.store.chooseClass(g.cfg.Site); err != nil {
		return err
	}
	if err := g.store.raiseEpoch(api.LineageEntry{Epoch: epoch, Site: g.cfg.Site, FirstLSN: g.store.last() + 1}, g.letGo); err != nil {
		return err
	}
	g.mu.Lock()
	g.raised = epoch
	g.mu.Unlock()
	local := g.cfg.Mesh.Local()
	pipes, err := local.Pipes(ctx, g.id)
	if err != nil {
		return err
	}
	for _, e := range pipes {
		if e < epoch {
			if err := local.SealPipe(ctx, g.id, e); err != nil {
				return err
			}
		}
	}
	return nil
}

// letGo empties the ring of what was applied, while nothing else uses it. What the other sites may lack goes into their bitmaps.
func (g *Group) letGo() error {
	var all []owed
	policy := g.store.policy()
	for _, site := range policy.SitesOf() {
		if site == g.cfg.Site || policy.ModeTo(g.cfg.Site, site) == domain.ModeNone {
			continue
		}
		tr, err := g.store.loadTrack(site)
		if err != nil {
			return err
		}
		all = append(all, owed{site: site, track: tr})
	}
	return g.store.letGo(all)
}

// prepare sets up the session's targets, and has the in-sync set committed that the session begins with: itself and the
// synchronous targets of everyone the register may name, as the lease tells now. All of them are waited for from the first
// write. When that may be more than was committed, unsure, the set is asked for once in any case.
func (g *Group) prepare(ctx context.Context, s *session, inSync []domain.SiteID, unsure bool) error {
	set := []domain.SiteID{g.cfg.Site}
	policy := g.store.policy()
	for _, site := range policy.SitesOf() {
		mode := policy.ModeTo(g.cfg.Site, site)
		if site == g.cfg.Site || mode == domain.ModeNone {
			continue
		}
		t, err := s.newSender(site, mode)
		if err != nil {
			return err
		}
		s.senders.put(t)
		if mode == domain.ModeSync && slices.Contains(inSync, site) {
			set = append(set, site)
			s.required[site] = true
		}
	}
	s.register = newRegistrar(s, inSync)
	switch {
	case !slices.Equal(sorted(set), sorted(inSync)):
		if err := s.register.propose(ctx, sorted(set)); err != nil {
			return err
		}
	case unsure:
		s.register.doubt() // asked for when the session runs
	}
	clear(s.register.want)
	for _, site := range set {
		s.register.want[site] = true
	}
	return nil
}

// serve offers every volume over iSCSI under names that carry the epoch.
func (g *Group) serve(s *session) ([]api.Disk, error) {
	var disks []api.Disk
	for i, v := range g.store.slots() {
		if v.Gone != 0 {
			continue
		}
		d, err := g.serveVolume(s, i)
		if err != nil {
			return nil, err
		}
		disks = append(disks, d)
	}
	return disks, nil
}

func (g *Group) serveVolume(s *session, i int) (api.Disk, error) {
	u := &unit{s: s, volume: i}
	v := g.store.slots()[i].ID
	iqn := g.iqn(v, s.epoch)
	if err := g.cfg.Portal.Add(iqn, u); err != nil {
		return api.Disk{}, fmt.Errorf("serve volume %s: %w", v, err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.served[iqn] = true
	return api.Disk{Volume: v, URL: g.cfg.Portal.URL(iqn), Serial: u.Info().Serial}, nil
}

// unserve takes every volume of an epoch away; when it returns no answer can leave.
func (g *Group) unserve(epoch domain.Epoch) {
	for _, v := range g.store.slots() {
		g.unserveVolume(v.ID, epoch)
	}
}

func (g *Group) unserveVolume(v domain.VolumeID, epoch domain.Epoch) {
	iqn := g.iqn(v, epoch)
	g.mu.Lock()
	is := g.served[iqn]
	delete(g.served, iqn)
	g.mu.Unlock()
	if is {
		if err := g.cfg.Portal.Remove(iqn); err != nil {
			g.log.Warn("volume not taken away", "volume", string(v), "error", err)
		}
	}
}

func (g *Group) iqn(v domain.VolumeID, epoch domain.Epoch) string {
	return "iqn.2026-11.dev.holdfast:" + string(g.cfg.Site) + "." + string(g.id) + "." + string(v) + ".e" + strconv.FormatInt(int64(epoch), 10)
}
