package group

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/extent"
	"github.com/holdfast-dr/holdfast/services/replicator/hashmap"
)

// pass is what a resync does now, and how far it is. Under the sender's mu.
type pass struct {
	phase       string
	since       time.Time
	done, total uint64 // of the phase

	compared, toCompare, hashes, resumed uint64
}

func (p *pass) enter(phase string, total uint64) {
	p.phase, p.since, p.done, p.total = phase, time.Now(), 0, total
}

// resyncProgress tells of the last resync, nil when there was none. Under mu.
func (t *sender) resyncProgress() *api.ResyncProgress {
	p := t.pass
	if p.phase == "" {
		return nil
	}
	out := &api.ResyncProgress{Phase: p.phase, ComparedBytes: p.compared, CompareTotal: p.toCompare, HashBytes: p.hashes, ResumedBytes: p.resumed}
	out.RateBytes, out.LeftSeconds = pace(p.done, p.total, time.Since(p.since))
	return out
}

// pace is the rate of what was done in a time, in bytes a second, and how many seconds the rest takes at it.
func pace(done, total uint64, took time.Duration) (rate, left float64) {
	if done == 0 || took <= 0 {
		return 0, 0
	}
	rate = float64(done) / took.Seconds()
	return rate, float64(total-min(done, total)) / rate
}

// tellOften calls f every now and then until what it gives is called.
func (s *session) tellOften(f func()) (stop func()) {
	ctx, cancel := context.WithCancel(s.ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for sleep(ctx, s.g.cfg.Timing.Progress) {
			f()
		}
	}()
	return func() { cancel(); <-ended }
}

func (t *sender) progressText() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.resyncProgress()
	if p == nil {
		return ""
	}
	return p.Phase + ": " + rateText(t.pass.done, t.pass.total, p.RateBytes, p.LeftSeconds)
}

func rateText(done, total uint64, rate, left float64) string {
	return fmt.Sprintf("%d of %d bytes, %.1f MiB/s, %s left", done, total, rate/(1<<20), time.Duration(left*float64(time.Second)).Round(time.Second))
}

func (t *sender) resyncSummary() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.pass
	if p.toCompare == 0 {
		return ""
	}
	return fmt.Sprintf("%d bytes compared by %d bytes of hashes, %d bytes had been staged before", p.compared, p.hashes, p.resumed)
}

// openStage opens the target's stage, and gives what has to be sent into it. Where the journals and maps tell which blocks
// may differ, that is they. Where they do not, or where an earlier resync has left something in the stage, hashes decide:
// what the target has already, in its old image or staged, is not sent again.
func (t *sender) openStage(ctx context.Context, session uint64, set *extent.Set, cut domain.LSN) (*extent.Set, error) {
	t.mu.Lock()
	t.state, t.resynced, t.total, t.caught, t.pass = api.TargetResync, 0, 0, false, pass{}
	t.mu.Unlock()
	cctx, cancel := context.WithTimeout(ctx, resyncTimeout)
	defer cancel()
	begun, err := bus.Call[api.ResyncBegun](cctx, t.conn, api.ServiceReplicator, api.VerbResyncBegin, api.ResyncBegin{Group: t.s.st.group.ID, Epoch: t.s.epoch, Session: session, Table: t.s.st.slots()})
	if err != nil {
		return nil, err
	}
	whole := t.everything(set)
	detail, resumed := "", int64(0)
	if len(begun.Staged) > 0 {
		staged, err := extent.Decode(begun.Staged, t.s.st.sizes())
		if err != nil {
			return nil, err
		}
		set.Union(t.s.st.sendable(staged)) // what is staged and not the primary's any more has to be sent over
		resumed = staged.Bytes()
		detail = fmt.Sprintf("goes on with an earlier one: %d bytes are staged already", resumed)
	}
	t.s.log.Info("resync begins", "target", string(t.site), "bytes", set.Bytes(), "compare", whole || resumed > 0, "staged_bytes", resumed)
	t.publishResync(ctx, "resync_started", cut, detail)
	if whole || resumed > 0 {
		differ, err := t.compare(ctx, session, set, uint64(resumed))
		switch {
		case err == nil:
			set = differ
			t.s.log.Info("resync has compared", "target", string(t.site), "differ_bytes", set.Bytes())
		case cannotCompare(err):
			t.s.log.Warn("target cannot be compared with: everything is sent", "target", string(t.site), "bytes", set.Bytes(), "error", err)
			t.publishResync(ctx, "resync_progressed", cut, fmt.Sprintf("the target tells no sums, so all %d bytes are sent: update its site, or renew its and this site's credentials (holdfast site rotate): %v", set.Bytes(), err))
		default:
			return nil, fmt.Errorf("compare: %w", err)
		}
	}
	if begun.TellsRoom {
		if err := t.awaitRoom(ctx, session, set); err != nil {
			return nil, err
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.total = uint64(set.Bytes())
	t.pass.enter(api.ResyncSending, t.total)
	return set, nil
}

// cannotCompare reports whether a target that lives does not answer for sums: its version is of before them, or a credential of
// before them does not allow the question.
func cannotCompare(err error) bool { return bus.Unanswered(err) || errors.Is(err, domain.ErrRefused) }

// everything reports whether a set is all blocks of all volumes.
func (t *sender) everything(set *extent.Set) bool {
	all := extent.New(t.s.st.sizes())
	all.MarkAll()
	return set.Bytes() == t.s.st.sendable(all).Bytes()
}

// compare gives the blocks of a set whose content here, at some moment after the cut, is not what the target's image has.
//
// The target's image does not change meanwhile, and a block's content here goes through states that it has between the cut
// and the end of the frames sent after it. So a block that was found equal is as good as one that was sent then.
func (t *sender) compare(ctx context.Context, session uint64, set *extent.Set, resumed uint64) (*extent.Set, error) {
	t.mu.Lock()
	t.pass.resumed, t.pass.toCompare = resumed, uint64(set.Bytes())
	t.pass.enter(api.ResyncComparing, t.pass.toCompare)
	t.mu.Unlock()
	out := extent.New(t.s.st.sizes())
	var mu sync.Mutex
	zero := zeroTrees()
	err := inFlight(ctx, stretches(t.s.st.sizes(), set), func(ctx context.Context, at stretch) error {
		blocks, err := t.compareStretch(ctx, session, at, zero)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		for _, b := range blocks {
			if off := at.off + int64(b)*hashmap.Block; set.Has(at.volume, off) {
				out.Mark(at.volume, off, 1)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// compareStretch walks down one stretch's tree.
func (t *sender) compareStretch(ctx context.Context, session uint64, at stretch, zero func(int64) *hashmap.Tree) ([]uint32, error) {
	tree, err := hashStretch(t.s.st.vols()[at.volume], at)
	if err != nil {
		return nil, err
	}
	if t.s.st.slots()[at.volume].Emptied {
		return nil, nil // meanwhile: what other sites keep of it stays
	}
	w := hashmap.Compare(tree, zero(at.length))
	for {
		q, more := w.Next()
		if !more {
			break
		}
		answer, err := t.ask(ctx, session, at, q)
		if err == nil {
			err = w.Take(answer)
		}
		if err != nil {
			return nil, err
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pass.compared += at.wanted
	t.pass.done += at.wanted
	return w.Differing(), nil
}

// ask asks the target for sums.
func (t *sender) ask(ctx context.Context, session uint64, at stretch, q hashmap.Question) ([]byte, error) {
	b := t.resyncHeader(session, 64)
	b = binary.LittleEndian.AppendUint16(b, uint16(at.volume))
	b = binary.LittleEndian.AppendUint64(b, uint64(at.off))
	b = append(b, q.Encode()...)
	if err := t.s.g.cfg.ResyncPace.Take(ctx, len(b)+len(q.Nodes)*hashmap.SumSize); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, resyncTimeout)
	defer cancel()
	answer, err := t.conn.Request(ctx, api.QuerySubject(t.site, api.ServiceReplicator, api.VerbResyncHash), b)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pass.hashes += uint64(len(b) + len(answer))
	return answer, err
}
