package group

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
	"github.com/holdfast-dr/holdfast/services/replicator/journal"
	"github.com/holdfast-dr/holdfast/services/replicator/rates"
	"github.com/holdfast-dr/holdfast/services/replicator/survey"
)

// Group is one group's copy at this site. Its verbs may be called from any goroutine and repeated.
type Group struct {
	id    domain.GroupID
	cfg   Config
	store *store
	log   *slog.Logger
	ctx   context.Context //nolint:containedctx // the copy's own life; sessions and receivers are its children

	writes *rates.Recorder // what is written here as a primary

	holding chan struct{} // guests are held for one checkpoint at a time

	goingBack atomic.Uint64 // the checkpoint that a promotion under way brings the copy back to

	ctl chan struct{} // one change of part at a time: promote, demote, fence, rejoin, a resync's begin and commit

	mu          sync.Mutex
	session     *session
	reply       api.PromoteReply // of session
	receiver    *receiver
	stage       *stage
	staging     bool              // a committed stage is being applied
	installs    int64             // bytes on the disk that takes, at most
	fencing     trace.SpanContext // of when a session here last stopped by itself
	raised      domain.Epoch
	failure     error
	adopted     api.PolicyVersion // the policy in force, as desired state counts
	policyError error             // why a newer one is not
	volumeError error             // why its volumes are not those of the policy in force
	heads       []api.Position    // what was heard of the primary's head, oldest first
	heardAt     clock.Time        // the last of them, by this site's clock
	relation    relation
	commit      domain.LSN                     // acknowledged by the primary, as heard or seen in frames
	lastTime    time.Time                      // of the last frame taken as a target
	peersAt     map[domain.SiteID]api.Position // what was heard last of the other targets
	served      map[string]bool
	overlays    map[domain.LSN]*overlay // open checkpoints
	readers     map[domain.LSN]*reader  // checkpoints that are being read piece by piece

	holds    holds
	shortage *time.Timer // ends a hold for room that no primary asks for any more; nil: there is none
	damage   damage
	verifies map[domain.SiteID]*verify // the last one with each target
	verified verified
}

// Open opens this site's copy of a group, or makes it. It begins as a target: only Promote makes a primary. It ends, at
// once and without goodbye, with ctx; then Close gives its files back.
func Open(ctx context.Context, cfg Config, def domain.Group) (*Group, error) {
	cfg = cfg.withDefaults()
	g := &Group{id: def.ID, ctx: ctx, log: cfg.Logger.With("group", string(def.ID)), ctl: make(chan struct{}, 1), holding: make(chan struct{}, 1), served: map[string]bool{}, peersAt: map[domain.SiteID]api.Position{},
		overlays: map[domain.LSN]*overlay{}, readers: map[domain.LSN]*reader{}}
	cfg.historyLost = g.historyLost
	g.cfg = cfg
	st, err := openStore(ctx, cfg, def)
	if err != nil {
		return nil, err
	}
	g.store = st
	st.untracked = g.untracked
	g.writes = rates.Open(filepath.Join(cfg.Dir, "rates"))
	g.commit = st.applied()
	if g.lastTime, err = st.lastTime(); err != nil {
		g.writes.Close()
		st.close()
		return nil, err
	}
	subject := api.PositionSubject(def.ID, cfg.Site)
	if err := cfg.Mesh.Local().Subscribe(ctx, subject, g.heard); err != nil {
		g.writes.Close()
		st.close()
		return nil, err
	}
	return g, nil
}

// Close waits for everything of the group to end and gives its files back. Its context must have ended.
func (g *Group) Close() {
	g.mu.Lock()
	s, r := g.session, g.receiver
	g.mu.Unlock()
	if s != nil {
		<-s.ended
	}
	if r != nil {
		<-r.ended
	}
	g.ctl <- struct{}{} // whatever changes the part has ended; nothing follows
	g.closeOverlays(g.ctx)
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, r := range g.readers {
		r.idle.Stop()
	}
	g.stage.drop()
	g.writes.Close()
	g.store.close()
}

// begin takes the right to change the group's part; call what it gives to end.
func (g *Group) begin(ctx context.Context) (func(), error) {
	select {
	case g.ctl <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("group %s is busy: %w: %w", g.id, domain.ErrUnavailable, ctx.Err())
	case <-g.ctx.Done():
		return nil, fmt.Errorf("group %s stops: %w", g.id, domain.ErrUnavailable)
	}
	if g.ctx.Err() != nil {
		<-g.ctl
		return nil, fmt.Errorf("group %s stops: %w", g.id, domain.ErrUnavailable)
	}
	return func() { <-g.ctl }, nil
}

// broken is what stopped the group for good, nil while it works.
func (g *Group) broken() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.failure == nil {
		return nil
	}
	return fmt.Errorf("group %s has stopped: %w: %w", g.id, domain.ErrRefused, g.failure)
}

// fail stops the group for good: a broken invariant or a failed disk is never worked around.
func (g *Group) fail(err error) {
	g.mu.Lock()
	first := g.failure == nil
	if first {
		g.failure = err
	}
	s, r := g.session, g.receiver
	g.mu.Unlock()
	if first {
		g.tellFailed(err)
	}
	if s != nil {
		s.fail(err)
	}
	if r != nil {
		r.cancel()
	}
}

func (g *Group) tellFailed(err error) {
	g.log.Error("group stopped", "error", err)
	g.publish(g.ctx, "copy_failed", g.store.fence(), g.store.last(), "", err.Error())
}

// failIfDamaged stops the group for good when its own ring is damaged where it has to be read: what stood there is nowhere else here.
func (g *Group) failIfDamaged(err error) {
	if errors.Is(err, journal.ErrCorrupt) && g.broken() == nil {
		g.damageFound(err)
		g.fail(err)
	}
}

// sessionEnded is the end of a session's life, told by itself.
func (g *Group) sessionEnded(s *session, began time.Time, cause error) {
	if g.ctx.Err() != nil {
		return // killed
	}
	s.log.Warn("serving stopped", "reason", cause)
	for _, reason := range api.HeldReasons() {
		g.letOn(reason)
	}
	lsn := s.st.last()
	g.mu.Lock()
	g.session, g.volumeError = nil, nil
	g.commit = s.st.applied()
	lease := errors.Is(cause, domain.ErrNoLease) || errors.Is(cause, domain.ErrStaleEpoch) || errors.Is(cause, errOvertaken) || errors.Is(cause, errDemoted)
	failed := !lease && !errors.Is(cause, errReplaced) && g.failure == nil
	if failed {
		g.failure = cause
	}
	g.mu.Unlock()
	if failed {
		g.tellFailed(cause)
	}
	if lease && !errors.Is(cause, errDemoted) {
		g.stoppedByItself(s, began, cause)
	}
	g.emit(g.ctx, event.ReplicaChanged{Fact: "serving_stopped", Group: g.id, Site: g.cfg.Site, Epoch: s.epoch, LSN: lsn, Detail: fmt.Sprint(cause)})
}

// Why a session ends without anything being wrong.
var (
	errDemoted  = errors.New("demoted")
	errReplaced = errors.New("a higher epoch begins here")
)

func (g *Group) publish(ctx context.Context, fact string, epoch domain.Epoch, lsn domain.LSN, target domain.SiteID, detail string) {
	g.emit(ctx, event.ReplicaChanged{Fact: fact, Group: g.id, Site: g.cfg.Site, Epoch: epoch, LSN: lsn, Target: target, Detail: detail})
}

func (g *Group) emit(ctx context.Context, f event.ReplicaChanged) {
	id := fmt.Sprintf("%s-%d-%s-%s-%s-%d", g.id, f.Epoch, g.cfg.Site, f.Fact, f.Target, f.LSN)
	if !slices.Contains([]string{"promoted", "demoted", "fenced", "serving_stopped", "rolled_back"}, f.Fact) {
		id += fmt.Sprintf("-%d", g.cfg.Now()) // these happen again
	}
	g.cfg.Events.Publish(ctx, id, f)
}

// current is the session under way, nil at a target.
func (g *Group) current() *session {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.session
}

// Fence refuses every lower epoch from now on, durably, and stops serving under one.
func (g *Group) Fence(ctx context.Context, epoch domain.Epoch) error {
	if epoch <= 0 {
		return fmt.Errorf("fence group %s: epoch %d: %w", g.id, epoch, domain.ErrInvalid)
	}
	end, err := g.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	if s := g.current(); s != nil && s.epoch < epoch {
		s.stop(fmt.Errorf("fenced to epoch %s: %w", epoch, errOvertaken))
	}
	g.mu.Lock()
	r := g.receiver
	g.mu.Unlock()
	if r != nil && r.epoch < epoch {
		g.stopReceiver()
	}
	before := g.store.fence()
	if err := g.store.raiseFence(epoch); err != nil {
		return err
	}
	if before < epoch {
		g.publish(ctx, "fenced", epoch, g.store.last(), "", "")
	}
	return nil
}

// Protect makes the senders try again now. A primary connects its targets by itself too.
func (g *Group) Protect(_ context.Context, epoch domain.Epoch) error {
	s := g.current()
	if s == nil || s.epoch != epoch {
		return fmt.Errorf("protect group %s: not primary under epoch %s here: %w", g.id, epoch, domain.ErrStaleEpoch)
	}
	for _, t := range s.senders.all() {
		poke(t.wake)
	}
	return nil
}

// Writes tells how much was written here as a primary.
func (g *Group) Writes() api.GroupWrites {
	now := time.Now()
	return api.GroupWrites{Group: g.id, Hour: rates.Profile(g.writes.Hour(now), time.Second), Week: rates.Profile(g.writes.Week(now), time.Minute)}
}

// Need is what a survey of the link to a site has to know of the group, as far as it was served here.
func (g *Group) Need(to domain.SiteID) survey.Need {
	now := time.Now()
	hour, week := g.writes.Hour(now), g.writes.Week(now)
	p, w := rates.Profile(hour, time.Second), rates.Profile(week, time.Minute)
	policy := g.store.policy()
	n := survey.Need{Group: g.id, Mode: policy.ModeTo(g.cfg.Site, to), RPO: policy.RPO, Transport: policy.TransportTo(g.cfg.Site, to), Second: steps(hour), Minute: steps(week),
		Writes: p.Writes.P95, P95: p.Frames.P95, Peak: max(p.PeakSecond, w.PeakSecond), Journal: g.store.j.State().SizeBytes, UsedUpTo: pressureShare}
	if w.Writes.Mean > 0 {
		n.PerWrite = w.Frames.Mean / w.Writes.Mean
	}
	return n
}

func steps(slots []rates.Slot) []survey.Step {
	out := make([]survey.Step, len(slots))
	for i, s := range slots {
		out[i] = survey.Step{At: float64(s.At), Seconds: float64(s.Seconds), Bytes: float64(s.Frames), Peak: float64(s.Peak)}
	}
	return out
}

// Status tells what the copy is.
func (g *Group) Status() api.GroupStatus {
	st := g.store.j.State()
	g.mu.Lock()
	s, failure, staging := g.session, g.failure, g.staging
	reply, adopted, policyError := g.reply, g.adopted, errors.Join(g.policyError, g.volumeError)
	g.mu.Unlock()
	out := api.GroupStatus{GoingBackTo: domain.LSN(g.goingBack.Load()),
		Group: g.id, Role: domain.RoleTarget, Epoch: g.store.fence(), Consistent: failure == nil && !staging && !g.store.seeded() && st.Broken == nil,
		HeadLSN: st.LastLSN, AppliedLSN: g.store.applied(), JournalUsed: st.UsedBytes, JournalSize: st.SizeBytes, Lineage: lineageToAPI(st.Lineage),
	}
	out.Policy, out.Volumes = adopted, g.store.slots()
	if policyError != nil {
		out.PolicyError = policyError.Error()
	}
	if failure != nil {
		out.Error = failure.Error()
	}
	if q, err := g.store.quarantined(); err == nil {
		for i := range q {
			q[i].Extents = nil // the quarantine verb has them
		}
		out.Quarantined = q
	} else if out.Error == "" {
		out.Error = err.Error()
	}
	out.Verify, out.Held = g.verifyStatus(), g.held()
	out.DamageFound, out.DamageLast = g.damaged()
	if s != nil && s.gate.open() {
		out.Role, out.Serving, out.Epoch, out.Disks = domain.RolePrimary, s.served.Load(), s.epoch, reply.Disks
		out.RPOTarget, out.Durability = g.store.policy().RPO.Seconds(), s.class()
		out.WrittenFrameBytes = s.window.written()
		head, _ := s.head()
		out.AppliedLSN = max(out.AppliedLSN, head) // reads see what was answered
		for site, t := range s.senders.all() {
			ts := t.status(head)
			if ts.InSync = s.register.has(site); !ts.InSync {
				ts.RPOSeconds = ts.LagSeconds
			}
			ts.Loss = t.loss(head, ts.InSync, ts.LagSeconds)
			out.Targets = append(out.Targets, ts)
		}
		slices.SortFunc(out.Targets, func(a, b api.TargetStatus) int { return strings.Compare(string(a.Site), string(b.Site)) })
	}
	return out
}
