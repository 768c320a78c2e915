package group

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/durable"
	"github.com/holdfast-dr/holdfast/pkg/event"
	"github.com/holdfast-dr/holdfast/services/replicator/extent"
	"github.com/holdfast-dr/holdfast/services/replicator/hashmap"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

// verify compares a target's copy with the primary's while writes go on, in two steps.
//
// First both hash their volumes, each as it is at that moment. What is equal then is equal. What is not may be a write under
// way, and is only suspected.
//
// Suspected blocks are read here at one exact LSN, p. Then the target, once its volumes show p, reads them at one exact LSN of
// its own, q >= p. The journal here has the changes in (p, q]; applied in memory to what was read, they give what the blocks
// must be at q. A block that is anything else at the target differs, whatever is written meanwhile; one that is that, does
// not. So there is no false alarm, and no block is written too often to be judged.
type verify struct {
	s    *session
	t    *sender
	id   uint64
	zero func(int64) *hashmap.Tree

	ended chan struct{}
	done  bool // when ended: the next scrub is due as long after it as configured
	began time.Time

	file  sync.Mutex // of what is kept
	at    verifyKept // how far it is
	noted time.Time
	void  bool // nothing is kept

	mu       sync.Mutex
	st       api.VerifyStatus
	retryIn  time.Duration // until the schedule tries again what was not good; 0: no schedule waits for this
	recorded bool          // that it heals
}

const (
	verifyExtents = 1000 // kept in the status
	verifyEvents  = 64   // told one by one
	verifyTries   = 8
	healBytes     = 64 << 10

	verifyPatience = 30 * time.Second // with a target that does not answer
)

// Verify begins a comparison, or gives the one under way. See api.VerifyRequest.
func (g *Group) Verify(_ context.Context, r api.VerifyRequest) (api.VerifyStatus, error) {
	s := g.current()
	if s == nil || !s.gate.open() {
		return api.VerifyStatus{}, fmt.Errorf("verify group %s: this site is not its primary: ask the one that is: %w", g.id, domain.ErrRefused)
	}
	t := s.senders.get(r.Target)
	switch {
	case t == nil:
		return api.VerifyStatus{}, fmt.Errorf("verify group %s: site %q is none of its targets: %w", g.id, r.Target, domain.ErrNotFound)
	case r.Heal && r.Why == "":
		return api.VerifyStatus{}, fmt.Errorf("verify group %s: say why it is to be healed: it is kept in the audit: %w", g.id, domain.ErrInvalid)
	case !t.isLive():
		return api.VerifyStatus{}, fmt.Errorf("verify group %s: target %s does not follow now: wait until holdfast status shows it streaming: %w", g.id, r.Target, domain.ErrUnavailable)
	}
	v, ok := s.startVerify(t, r.Heal, 0)
	if !ok {
		return api.VerifyStatus{}, fmt.Errorf("verify group %s: serving ends: %w", g.id, domain.ErrUnavailable)
	}
	return v.status(), nil
}

// startVerify runs a comparison with a target, unless one runs; false when the session ends. again is for the schedule: how long
// it waits when this one is not good.
func (s *session) startVerify(t *sender, heal bool, again time.Duration) (*verify, bool) {
	g := s.g
	g.mu.Lock()
	defer g.mu.Unlock()
	kept, goesOn := s.st.keptVerify(t.site, g.cfg.Site) // nothing writes it while none runs
	var failed time.Time
	if v := g.verifies[t.site]; v != nil {
		st := v.status()
		if st.Running {
			v.mu.Lock()
			v.retryIn = max(v.retryIn, again)
			v.mu.Unlock()
			return v, true
		}
		failed = st.FailedSince
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, false
	}
	v := &verify{s: s, t: t, id: uint64(g.cfg.Now()), zero: zeroTrees(), ended: make(chan struct{}), retryIn: again, began: time.Now(), noted: time.Now(),
		st: api.VerifyStatus{Target: t.site, Running: true, Scheduled: again > 0, Heal: heal, Epoch: s.epoch, Started: time.Now(), LastGood: s.st.scrubbed(t.site), FailedSince: failed}}
	all, _ := s.st.served()
	v.st.Total = uint64(all.Bytes())
	if goesOn && kept.Status.Heal == heal {
		v.resume(kept)
	}
	if g.verifies == nil {
		g.verifies = map[domain.SiteID]*verify{}
	}
	g.verifies[t.site] = v
	s.verifying.Go(func() { v.run(s.ctx) })
	return v, true
}

func (v *verify) status() api.VerifyStatus {
	v.mu.Lock()
	defer v.mu.Unlock()
	out := v.st
	out.Extents = slices.Clone(out.Extents)
	end := out.Ended
	if out.Running {
		end = time.Now()
	}
	out.RateBytes, out.LeftSeconds = pace(out.Bytes-out.Resumed, out.Total-min(out.Resumed, out.Total), end.Sub(v.began))
	return out
}

// verifyStatus lists the comparisons with each target, the last one each.
func (g *Group) verifyStatus() []api.VerifyStatus {
	g.mu.Lock()
	all := make([]*verify, 0, len(g.verifies))
	for _, v := range g.verifies {
		all = append(all, v)
	}
	g.mu.Unlock()
	var out []api.VerifyStatus
	for _, v := range all {
		out = append(out, v.status())
	}
	slices.SortFunc(out, func(a, b api.VerifyStatus) int { return strings.Compare(string(a.Target), string(b.Target)) })
	return out
}

func (v *verify) run(ctx context.Context) {
	detail := ""
	if from := v.status().Resumed; from > 0 {
		detail = fmt.Sprintf("goes on from %d bytes", from)
	}
	v.tell(ctx, "verify_started", api.VerifyExtent{}, detail)
	stop := v.s.tellOften(func() {
		st := v.status()
		v.tell(ctx, "verify_progressed", api.VerifyExtent{}, rateText(st.Bytes, st.Total, st.RateBytes, st.LeftSeconds))
	})
	err := v.everything(ctx)
	if err == nil {
		err = v.s.st.checkJournal()
	}
	stop()
	v.end(ctx, err)
}

// end keeps how the comparison ended. Good is one that came to its end with every block decided.
func (v *verify) end(ctx context.Context, err error) {
	defer close(v.ended)
	fact, detail := "verify_completed", ""
	undecided := v.status().Undecided
	switch {
	case err != nil:
		fact, detail = "verify_failed", err.Error()
	case undecided > 0:
		detail = fmt.Sprintf("%d bytes could not be compared at an equal LSN", undecided)
	}
	good := detail == ""
	v.done = good && v.keep()
	now := time.Now()
	v.mu.Lock()
	st := &v.st
	switch {
	case good:
		st.LastGood, st.FailedSince = now, time.Time{}
	case ctx.Err() == nil: // serving goes on
		if st.FailedSince.IsZero() {
			st.FailedSince = now
		}
		if v.retryIn > 0 {
			st.Again = now.Add(v.retryIn)
			detail += fmt.Sprintf("; the schedule tries again in %s", v.retryIn)
		}
	}
	v.mu.Unlock()
	if err != nil {
		v.note(ctx.Err() != nil)
	} else if ferr := v.forget(); ferr != nil {
		v.s.log.Warn("a comparison that ended is still kept", "target", string(v.t.site), "error", ferr)
	}
	v.mu.Lock()
	st.Running, st.Ended = false, now
	if err != nil {
		st.Error = err.Error()
	}
	v.mu.Unlock()
	v.s.log.Info("verification ended", "target", string(v.t.site), "good", good, "error", err)
	v.tell(ctx, fact, api.VerifyExtent{}, detail)
}

// keep notes when this comparison, a good one, ended: the next scrub is due as long after it as configured. False when it could
// not, and where the schedule is to heal and this one left something.
func (v *verify) keep() bool {
	if st := v.status(); v.s.g.cfg.ScrubHeal && st.Healed < st.Differ {
		return false
	}
	if err := durable.WriteFile(v.s.st.scrubPath(v.t.site), nil, 0o600); err != nil {
		v.s.log.Warn("time of the comparison not kept", "target", string(v.t.site), "error", err)
		return false
	}
	return true
}

func (v *verify) everything(ctx context.Context) error {
	all, sizes := v.s.st.served()
	for at := range stretches(sizes, all) {
		if v.compared(at) {
			continue
		}
		if err := v.s.g.cfg.ScrubPace.Take(ctx, int(at.length)); err != nil {
			return context.Cause(ctx)
		}
		if err := v.again(ctx, func() error { return v.stretch(ctx, at) }); err != nil {
			return fmt.Errorf("verify %d bytes at %d of volume %s: %w", at.length, at.off, v.volume(at.volume), err)
		}
		v.mu.Lock()
		v.st.Bytes += uint64(at.length)
		v.mu.Unlock()
		v.passed(at, sizes)
	}
	return v.sameCopy()
}

// served is every block of the volumes that were not removed; sizes are those of all.
func (s *store) served() (set *extent.Set, sizes []int64) {
	t := s.table()
	set = extent.New(t.sizes)
	for i, v := range t.slots {
		if v.Gone == 0 {
			set.Mark(i, 0, v.SizeBytes)
		}
	}
	return set, t.sizes
}

// again repeats what could not be decided some times, and for a while what the target did not answer: it may be joining again.
func (v *verify) again(ctx context.Context, f func() error) error {
	began := time.Now()
	for try := 1; ; try++ {
		err := f()
		undecided := errors.Is(err, errUndecided)
		if !undecided && !errors.Is(err, domain.ErrUnavailable) || undecided && try >= verifyTries || time.Since(began) > verifyPatience {
			return err
		}
		if !sleep(ctx, v.s.g.cfg.Timing.Retry) {
			return context.Cause(ctx)
		}
	}
}

func (v *verify) volume(index int) domain.VolumeID { return v.s.st.slots()[index].ID }

// stretch compares one stretch.
func (v *verify) stretch(ctx context.Context, at stretch) error {
	suspects, err := v.suspects(ctx, at)
	if err != nil {
		return err
	}
	for part := range slices.Chunk(suspects, exactBlocks) {
		var differ []int64
		var lsn domain.LSN
		err := v.again(ctx, func() (err error) { differ, lsn, err = v.exact(ctx, at.volume, part); return err })
		if errors.Is(err, errUndecided) {
			v.mu.Lock()
			v.st.Undecided += uint64(len(part)) * hashmap.Block
			v.mu.Unlock()
			continue
		}
		if err == nil && len(differ) > 0 {
			err = v.found(ctx, at.volume, differ, lsn)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// suspects gives the blocks of a stretch whose sums differ, each side read at its own moment.
func (v *verify) suspects(ctx context.Context, at stretch) ([]int64, error) {
	tree, err := hashMedium(v.s.st.vols()[at.volume], at)
	if err != nil {
		return nil, err
	}
	w := hashmap.Compare(tree, v.zero(at.length))
	for q, more := w.Next(); more; q, more = w.Next() {
		r, err := verifyCall(ctx, v.t, api.VerbVerifyHash, api.VerifyHash{Group: v.s.st.group.ID, Epoch: v.s.epoch, Session: v.id,
			Volume: at.volume, Offset: at.off, Question: q.Encode()})
		if err == nil {
			err = w.Take(r.Sums)
		}
		if err != nil {
			return nil, err
		}
	}
	var out []int64
	for _, b := range w.Differing() {
		out = append(out, at.off/hashmap.Block+int64(b))
	}
	slices.Sort(out)
	return out, nil
}

func verifyCall[Req any](ctx context.Context, t *sender, verb string, req Req) (api.VerifySums, error) {
	ctx, cancel := context.WithTimeout(ctx, resyncTimeout)
	defer cancel()
	return bus.Call[api.VerifySums](ctx, t.conn, api.ServiceReplicator, verb, req)
}

// exact decides which of the blocks differ, at the LSN it gives.
func (v *verify) exact(ctx context.Context, volume int, blocks []int64) (differ []int64, at domain.LSN, err error) {
	content, from, err := v.s.st.readExact(volume, blocks)
	if err != nil {
		return nil, 0, err
	}
	r, err := verifyCall(ctx, v.t, api.VerbVerifyExact, api.VerifyExact{Group: v.s.st.group.ID, Epoch: v.s.epoch, LSN: from, Volume: volume, Blocks: blocks})
	if err != nil {
		return nil, 0, err
	}
	if len(r.Sums) != len(blocks)*hashmap.SumSize {
		return nil, 0, fmt.Errorf("%d bytes of sums for %d blocks: %w", len(r.Sums), len(blocks), domain.ErrInvalid)
	}
	if err := v.s.st.advance(volume, blocks, content, from, r.LSN); err != nil {
		return nil, 0, err
	}
	for i, b := range blocks {
		if hashmap.Of(content[i]) != hashmap.Sum(r.Sums[i*hashmap.SumSize:]) {
			differ = append(differ, b)
		}
	}
	return differ, r.LSN, nil
}

// found tells what differs, and heals it if that was asked for.
func (v *verify) found(ctx context.Context, volume int, blocks []int64, lsn domain.LSN) error {
	for _, x := range v.extents(volume, blocks, lsn) {
		v.mu.Lock()
		v.st.Differ += uint64(x.Length)
		tell := len(v.st.Extents) < verifyEvents
		if len(v.st.Extents) < verifyExtents {
			v.st.Extents = append(v.st.Extents, x)
		}
		heal := v.st.Heal
		v.mu.Unlock()
		v.s.log.Error("a target's copy differs", "target", string(v.t.site), "volume", string(x.Volume), "offset", x.Offset, "bytes", x.Length, "lsn", uint64(x.LSN))
		if tell {
			v.tell(ctx, "verify_mismatch", x, "")
		}
		if !heal {
			continue
		}
		v.healing(ctx)
		if err := v.heal(ctx, volume, x); err != nil {
			return fmt.Errorf("heal %d bytes at %d: %w", x.Length, x.Offset, err)
		}
		x.Healed = true
		v.mu.Lock()
		v.st.Healed += uint64(x.Length)
		for i, y := range v.st.Extents {
			if y.Volume == x.Volume && y.Offset == x.Offset {
				v.st.Extents[i].Healed = true
			}
		}
		v.mu.Unlock()
		if tell {
			v.tell(ctx, "verify_healed", x, "")
		}
	}
	return nil
}

// healing has it recorded that the schedule heals, once for a comparison. That a person does is recorded when they ask for it.
func (v *verify) healing(ctx context.Context) {
	v.mu.Lock()
	first := v.st.Scheduled && !v.recorded
	v.recorded = true
	v.mu.Unlock()
	if first && v.s.g.cfg.Healing != nil {
		v.s.g.cfg.Healing(ctx, v.t.site)
	}
}

// extents joins blocks that touch, none longer than one healing write.
func (v *verify) extents(volume int, blocks []int64, lsn domain.LSN) []api.VerifyExtent {
	set := extent.New(v.s.st.sizes())
	for _, b := range blocks {
		set.Mark(volume, b*hashmap.Block, 1)
	}
	var out []api.VerifyExtent
	for run := range set.Runs(healBytes) {
		out = append(out, api.VerifyExtent{Volume: v.volume(volume), Offset: run.Off, Length: run.Len, LSN: lsn})
	}
	return out
}

// heal writes the primary's content of an extent once more: a compare-and-write in the group's order, so that it never
// undoes what an initiator writes meanwhile, and reaches every target as any change does. Then it looks whether that helped.
func (v *verify) heal(ctx context.Context, volume int, x api.VerifyExtent) error {
	for try := 0; ; try++ {
		have := make([]byte, x.Length)
		if _, err := v.s.st.vols()[volume].ReadAt(have, x.Offset); err != nil {
			return err
		}
		done := make(chan error, 1)
		v.s.submit(&op{volume: volume, late: true, cmd: &target.Command{Op: target.OpCompareAndWrite, Off: x.Offset, Len: x.Length, Compare: have, Data: slices.Clone(have)},
			done: func(err error) { done <- err }})
		err := <-done // the session answers every command, at its end at the latest
		var changed *target.MiscompareError
		if err == nil {
			break
		}
		if !errors.As(err, &changed) || try == 100 {
			return err
		}
	}
	var blocks []int64
	for off := x.Offset; off < x.Offset+x.Length; off += hashmap.Block {
		blocks = append(blocks, off/hashmap.Block)
	}
	var differ []int64
	err := v.again(ctx, func() (err error) { differ, _, err = v.exact(ctx, volume, blocks); return err })
	if err == nil && len(differ) > 0 {
		err = fmt.Errorf("it was written again, and the target still has something else: look at its disk: %w", domain.ErrRefused)
	}
	return err
}

func (v *verify) tell(ctx context.Context, fact string, x api.VerifyExtent, detail string) {
	st := v.status()
	f := event.CopyVerified{Fact: fact, Group: v.s.st.group.ID, Site: v.s.g.cfg.Site, Target: st.Target, Epoch: st.Epoch, Volume: x.Volume, Offset: x.Offset, Length: x.Length,
		LSN: x.LSN, Bytes: st.Bytes, Total: st.Total, Differ: st.Differ, Healed: st.Healed, Undecided: st.Undecided, Scheduled: st.Scheduled, Detail: detail}
	v.s.g.cfg.Events.Publish(ctx, fmt.Sprintf("%s-%s-%s-%d-%s-%s-%d-%d", f.Group, f.Site, f.Target, v.id, fact, x.Volume, x.Offset, f.Bytes), f)
}
