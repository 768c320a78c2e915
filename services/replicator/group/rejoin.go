package group

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"go.opentelemetry.io/otel/attribute"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
	"github.com/holdfast-dr/holdfast/pkg/telemetry"
	"github.com/holdfast-dr/holdfast/services/replicator/lineage"
	"github.com/holdfast-dr/holdfast/services/replicator/slots"
)

// maxDiverged bounds the set of diverged blocks in a reply; a larger one is sent as "everything".
const maxDiverged = 4 << 20

// Rejoin makes this copy follow a primary: see api.RejoinRequest.
func (g *Group) Rejoin(ctx context.Context, req api.RejoinRequest) (reply api.RejoinReply, err error) {
	phase := "reprotect"
	if req.Epoch > g.store.fence() {
		phase = "fence" // from here on nothing of an older epoch is taken at this copy
	}
	ctx, span := g.span(ctx, "follow", phase, req.Epoch, attribute.String("primary", string(req.Site)))
	g.joins(span, req.Cause)
	defer func() { telemetry.End(span, err) }()
	bctx, cancel := context.WithTimeout(ctx, rejoinTimeout/2)
	defer cancel()
	end, err := g.begin(bctx)
	if err != nil {
		return reply, err // busy, for example with what a resync has sent
	}
	defer end()
	defer func() { g.failIfDamaged(err) }()
	if err := g.mayFollow(req); err != nil {
		return reply, err
	}
	g.stopReceiver()
	g.dropStage()
	if err := g.follow(ctx, req); err != nil {
		return reply, fmt.Errorf("rejoin group %s: %w", g.id, err)
	}
	common, known := lineage.Common(lineage.Copy{Lineage: g.store.lineage(), Last: g.store.last()},
		lineage.Copy{Lineage: req.Lineage, Last: lineage.Unbounded})
	shared, err := g.sameVolumes(req, common)
	if err != nil {
		return reply, fmt.Errorf("rejoin group %s: %w", g.id, err)
	}
	reply = api.RejoinReply{LSN: common, Full: !known, Compression: []domain.Compression{domain.CompressionS2}, Bundles: true, Direct: true, VolumesChange: true}
	if g.store.seeded() { // nothing here is the primary's until it was compared
		reply.Resync, reply.Full = true, true
	} else if !known || common < g.store.last() {
		if err := g.diverged(ctx, &reply, known, shared); err != nil {
			return reply, fmt.Errorf("rejoin group %s: %w", g.id, err)
		}
	}
	if g.store.lacks(common) { // what was emptied here is in the group on the primary's line
		reply.Resync, reply.Full, reply.Diverged = true, true, nil
	}
	// Frames of an epoch below the journal's own would be refused: then blocks must do.
	if lineage.EpochOf(req.Lineage, common+1) < g.store.j.Next().Epoch || common+1 < req.First {
		reply.Resync = true
	}
	g.related(relation{epoch: req.Epoch, common: common, apart: reply.Resync || reply.Full})
	span.SetAttributes(attribute.Int64("lsn", int64(common)), attribute.Bool("resync", reply.Resync))
	if reply.Resync || reply.Full {
		return reply, nil
	}
	if err := g.store.discardStage(); err != nil { // frames do: nobody will go on with it
		return reply, fmt.Errorf("rejoin group %s: %w", g.id, err)
	}
	if err := g.store.cutTable(g.store.last()); err != nil { // a kill may have come after a cut of the journal, and before the table's
		return reply, fmt.Errorf("rejoin group %s: %w", g.id, err)
	}
	if err := g.receive(ctx, req.Epoch, req.Lineage); err != nil {
		return reply, err
	}
	reply.Line = g.lineOffered()
	return reply, nil
}

// sameVolumes refuses a primary whose volumes are others than here as of the last common change, as far as both show it, and says
// how many they are. A copy without any change begins with those its primary began with.
func (g *Group) sameVolumes(req api.RejoinRequest, common domain.LSN) (int, error) {
	common = min(common, g.store.applied())
	theirs := slots.Of(req.Volumes) // all that an older primary tells
	if len(req.Table) > 0 {
		theirs, common = req.Table, min(common, req.TableLSN)
	}
	if err := theirs.Check(); err != nil {
		return 0, err
	}
	ours := g.store.slots().At(common)
	theirs = theirs.At(common)
	if len(ours) == len(theirs) && ours.Shared(theirs) == len(ours) {
		return len(ours), nil
	}
	if g.store.last() == 0 && !g.store.seeded() {
		return len(theirs), g.store.change(theirs)
	}
	return 0, fmt.Errorf("site %s has volumes %v, here are %v as of change %d: %w", req.Site, theirs, ours, common, domain.ErrInvalid)
}

// mayFollow refuses what must not be followed, and ends what the epoch overtakes.
func (g *Group) mayFollow(req api.RejoinRequest) error {
	if fence := g.store.fence(); req.Epoch < fence {
		return fmt.Errorf("rejoin group %s under epoch %s: fenced to %s: %w", g.id, req.Epoch, fence, domain.ErrStaleEpoch)
	}
	if err := g.broken(); err != nil {
		return err
	}
	if req.Site == g.cfg.Site || !slices.Contains(g.store.policy().SitesOf(), req.Site) {
		return fmt.Errorf("rejoin group %s: primary %q: %w", g.id, req.Site, domain.ErrInvalid)
	}
	s := g.current()
	if s == nil {
		return nil
	}
	if s.epoch == req.Epoch {
		err := fmt.Errorf("two primaries under epoch %s: site %s and this one", s.epoch, req.Site)
		g.fail(err)
		return fmt.Errorf("%w: %w", domain.ErrRefused, err)
	}
	s.stop(fmt.Errorf("site %s serves epoch %s: %w", req.Site, req.Epoch, errOvertaken))
	return g.broken()
}

// follow fences the copy to the primary's epoch and takes away every older pipe.
func (g *Group) follow(ctx context.Context, req api.RejoinRequest) error {
	before := g.store.fence()
	if err := g.store.raiseFence(req.Epoch); err != nil {
		return err
	}
	if before < req.Epoch {
		g.publish(ctx, "fenced", req.Epoch, g.store.last(), "", "follows site "+string(req.Site))
	}
	local := g.cfg.Mesh.Local()
	pipes, err := local.Pipes(ctx, g.id)
	if err != nil {
		return err
	}
	for _, e := range pipes {
		if e < req.Epoch {
			if err := local.SealPipe(ctx, g.id, e); err != nil {
				return err
			}
		}
	}
	return nil
}

// diverged keeps the changes after the common point aside, and then takes them back if they never reached the volumes; if
// they may have, the blocks they touched must come from the primary.
func (g *Group) diverged(ctx context.Context, reply *api.RejoinReply, known bool, shared int) error {
	var maps []*dirtyMap
	sites, err := g.store.bitmapSites()
	if err != nil {
		return err
	}
	for _, site := range sites {
		d, err := g.store.usableBitmap(site)
		if err != nil {
			return err
		}
		if d != nil {
			maps = append(maps, d)
		}
	}
	if !g.store.anyReaches(maps, reply.LSN) { // a past may be of everything since a promotion long ago
		past, err := g.store.pastMap(reply.LSN)
		if err != nil {
			return err
		}
		if past != nil {
			maps = append(maps, past)
		}
	}
	item, err := g.store.quarantineTail(g.cfg.Site, reply.LSN, maps)
	if err != nil {
		return err
	}
	if item != nil {
		g.log.Warn("diverged writes kept aside", "epoch", item.Epoch.String(), "writes", item.Writes, "path", item.Path)
		g.cfg.Events.Publish(ctx, fmt.Sprintf("%s-%s-quarantined-%d-%d-%d", g.id, g.cfg.Site, item.Epoch, item.FirstLSN, item.LastLSN), event.WritesQuarantined{Item: brief(*item, eventExtents)})
		short := brief(*item, 0)
		reply.Quarantined = &short
	}
	// A disk that was full may have taken a part of the change after applied: then blocks must make it good.
	if known && g.store.applied() <= reply.LSN && !g.store.torn() && g.store.j.State().ReleasedLSN <= reply.LSN {
		if err := g.store.j.Truncate(reply.LSN); err != nil {
			return err
		}
		return g.store.cutTable(reply.LSN)
	}
	reply.Resync = true
	set, told, err := g.store.writtenSince(reply.LSN, maps)
	if err != nil {
		return err
	}
	if !known || !told {
		reply.Full = true
		return nil
	}
	set = set.First(shared) // later volumes are not the primary's
	if reply.Diverged = set.Encode(); len(reply.Diverged) > maxDiverged {
		reply.Full, reply.Diverged = true, nil
	}
	return nil
}

// receive opens the epoch's pipe here and takes what comes.
func (g *Group) receive(ctx context.Context, epoch domain.Epoch, source []api.LineageEntry) error {
	local := g.cfg.Mesh.Local()
	if err := local.CreatePipe(ctx, g.id, epoch, g.cfg.PipeBytes); err != nil {
		return err
	}
	// What an earlier writer left is sent again from where the journal stands; it would only take up room.
	if err := local.PurgePipe(ctx, g.id, epoch); err != nil {
		return err
	}
	// What an older epoch left uncommitted was adopted by the primary if it is in its line, and is gone here if not.
	g.mu.Lock()
	g.commit = min(g.commit, g.store.last())
	for _, e := range source {
		if e.Epoch == epoch {
			g.commit = max(g.commit, e.FirstLSN-1)
		}
	}
	g.mu.Unlock()
	return g.startReceiver(epoch, source)
}

func (g *Group) dropStage() {
	g.noMoreShort()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stage.drop()
	g.stage = nil
}

// ResyncBegin opens a stage for a primary that this copy has rejoined, and says what is in it. The volumes show all of the
// journal from here on, as they do after a start: so the image that resync_hash tells of stays what it is.
func (g *Group) ResyncBegin(ctx context.Context, req api.ResyncBegin) (api.ResyncBegun, error) {
	var begun api.ResyncBegun
	end, err := g.begin(ctx)
	if err != nil {
		return begun, err
	}
	defer end()
	if fence := g.store.fence(); req.Epoch != fence || g.current() != nil {
		return begun, fmt.Errorf("resync group %s under epoch %s: fenced to %s: %w", g.id, req.Epoch, fence, domain.ErrStaleEpoch)
	}
	if err := g.broken(); err != nil {
		return begun, err
	}
	if req.Need > 0 {
		return g.roomFor(req)
	}
	g.stopReceiver()
	g.dropStage()
	if err := g.applyAll(); err != nil {
		return begun, fmt.Errorf("resync group %s: %w", g.id, g.failUnlessFull(err))
	}
	t := slots.Table(req.Table)
	if len(t) == 0 { // of an older primary
		t = g.store.slots()
	}
	if err := t.Check(); err != nil {
		return begun, fmt.Errorf("resync group %s: %w", g.id, err)
	}
	st, err := g.store.beginStage(req.Epoch, req.Session, t)
	if err != nil {
		return begun, fmt.Errorf("resync group %s: %w", g.id, err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stage = st
	begun.TellsRoom = true
	if set := st.resumed.set; set.Bytes() > 0 {
		begun.Staged = set.Encode()
	}
	return begun, nil
}

// applyAll brings all of the journal to the volumes. Nothing else may change the store.
func (g *Group) applyAll() error {
	err := g.store.reloadTail()
	if err == nil {
		err = g.store.applyUpTo(g.store.last())
	}
	return err
}

// ResyncData stages one piece. b is the request as it came.
func (g *Group) ResyncData(b []byte) error {
	_, epoch, session, raw, err := parseResync(b)
	if err != nil {
		return err
	}
	g.mu.Lock()
	st := g.stage
	g.mu.Unlock()
	if st == nil || st.epoch != epoch || st.session != session {
		return fmt.Errorf("resync group %s: no such stage: %w", g.id, domain.ErrConflict)
	}
	var rec record
	if raw, err = unpackRecord(raw); err == nil {
		rec, err = parseRecord(raw, st.sizes)
	}
	if err != nil {
		g.damageFound(err)
		return err
	}
	if err := g.cfg.failpoint("stage data"); err != nil {
		return err
	}
	return st.add(raw, rec)
}

// ResyncCommit makes the stage the copy, in the background: until it is done every other change of part waits, and a
// rejoin afterwards finds the copy at the end of what was sent.
func (g *Group) ResyncCommit(ctx context.Context, req api.ResyncCommit) error {
	if err := slots.Table(req.Table).Check(); err != nil {
		return fmt.Errorf("resync group %s: %w", g.id, err)
	}
	end, err := g.begin(ctx)
	if err != nil {
		return err
	}
	g.mu.Lock()
	st := g.stage
	g.mu.Unlock()
	if st == nil || st.epoch != req.Epoch || st.session != req.Session || req.Epoch != g.store.fence() {
		end()
		return fmt.Errorf("resync group %s: no such stage: %w", g.id, domain.ErrConflict)
	}
	go func() { // Close waits for it, as it waits for every change of part
		defer end()
		g.install(st, req)
	}()
	return nil
}

// install seals the stage and brings it to the volumes. A kill before the marker leaves the old copy, one after it is
// made good at the next start.
func (g *Group) install(st *stage, req api.ResyncCommit) {
	// What was sent goes on from the end of this journal, not from where the volumes are.
	if err := g.roomy(g.ctx, g.applyAll); err != nil {
		if g.ctx.Err() == nil {
			g.fail(err)
		}
		return
	}
	if err := g.store.sealStage(st, req); err != nil {
		g.dropStage()
		if left := g.store.discardStage(); left != nil { // its marker may be there after all
			g.fail(errors.Join(err, left))
			return
		}
		g.log.Error("resync not taken over", "error", err) // the primary will rejoin and send again
		return
	}
	takes := g.Owed()
	g.dropStage()
	g.setStaging(true, takes)
	if err := g.roomy(g.ctx, func() error { return g.store.applyStage(req, g.cfg.failpoint) }); err != nil {
		if g.ctx.Err() == nil {
			g.fail(err)
		}
		return
	}
	g.setStaging(false, 0)
	g.mu.Lock()
	g.commit = req.LSN
	g.relation = relation{epoch: req.Epoch, common: req.LSN}
	g.mu.Unlock()
}

func (g *Group) setStaging(on bool, takes int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.staging, g.installs = on, takes
}

// ResyncGroup tells which group a piece of resync data is for.
func ResyncGroup(b []byte) (domain.GroupID, error) {
	id, _, _, _, err := parseResync(b)
	return id, err
}
