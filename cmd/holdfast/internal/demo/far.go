package demo

import (
	"context"
	"fmt"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
)

const (
	farLimit    = 10 * time.Second // for the far site to follow the next primary, from when that serves
	farFraction = 1.10             // of the new writes, that may be sent to the far site
	farWrites   = 512 << 10        // frame bytes that are written before they are compared with what was sent
)

// threeSites has a group synchronous to b and asynchronous to c, loses a, and takes the work home again: c follows whoever
// serves, without a copy of everything.
func (w *world) threeSites(ctx context.Context) error {
	err := w.thereAndBack(ctx, func(serving domain.SiteID, since time.Time) error {
		took, err := w.farFollows(ctx, serving, since)
		if err != nil {
			return err
		}
		w.report.check(fmt.Sprintf("site c follows site %s within %v", serving, farLimit), took < farLimit, "%.2f s", took.Seconds())
		return w.checkFarBytes(ctx, serving)
	})
	if err != nil {
		return err
	}
	for _, s := range []domain.SiteID{siteB, siteC} {
		for _, wl := range workloads() {
			if err := w.checkCopy(ctx, siteA, s, wl.group); err != nil {
				return err
			}
		}
	}
	return nil
}

// farFollows waits until c has everything of both groups, and tells how long that took from when the primary was promoted. Both
// are looked for after a moment.
func (w *world) farFollows(ctx context.Context, primary domain.SiteID, since time.Time) (took time.Duration, err error) {
	for _, wl := range workloads() {
		told := func(fact string, target domain.SiteID) (time.Time, error) {
			s, err := w.con.await(ctx, fmt.Sprintf("group %s at site %s: %s %s", wl.group, primary, fact, target), func(s seen) bool {
				f, ok := s.fact.(*event.ReplicaChanged)
				return ok && f.Fact == fact && f.Group == wl.group && f.Site == primary && f.Target == target && s.ev.Time.After(since)
			})
			return s.ev.Time, err
		}
		serves, err := told("promoted", "")
		if err != nil {
			return 0, err
		}
		follows, err := told("target_streaming", siteC)
		if err != nil {
			return 0, err
		}
		took = max(took, follows.Sub(serves))
	}
	return took, nil
}

// checkFarBytes holds what was sent to c against what was written since the site serves.
func (w *world) checkFarBytes(ctx context.Context, primary domain.SiteID) error {
	for {
		st, err := w.con.replica(ctx, primary, groupSync)
		if err != nil {
			return err
		}
		if st.WrittenFrameBytes >= farWrites {
			for _, t := range st.Targets {
				if t.Site == siteC {
					sent := t.SentBytes + t.ResyncBytes
					w.report.check(fmt.Sprintf("%s: site c was sent less than 1.1 times the new writes by site %s", groupSync, primary),
						float64(sent) < farFraction*float64(st.WrittenFrameBytes), "%d bytes for %d", sent, st.WrittenFrameBytes)
				}
			}
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("wait for new writes of group %s at site %s: %w", groupSync, primary, context.Cause(ctx))
		}
		wait(ctx, pollEvery)
	}
}

// checkCopy has the primary compare a target's whole copy with its own.
func (w *world) checkCopy(ctx context.Context, primary, target domain.SiteID, g domain.GroupID) error {
	conn, err := w.con.mesh.Conn(primary)
	if err != nil {
		return err
	}
	st, err := bus.Call[api.VerifyStatus](ctx, conn, api.ServiceReplicator, api.VerbVerify, api.VerifyRequest{Group: g, Target: target, By: "demo"})
	for err == nil && st.Running {
		wait(ctx, pollEvery)
		var all api.GroupStatus
		if all, err = w.con.replica(ctx, primary, g); err != nil {
			break
		}
		for _, v := range all.Verify {
			if v.Target == target {
				st = v
			}
		}
	}
	if err != nil {
		return fmt.Errorf("compare group %s at site %s: %w", g, target, err)
	}
	w.report.check(fmt.Sprintf("%s: the copy at site %s is what site %s has", g, target, primary), st.Error == "" && st.Differ == 0 && st.Bytes == st.Total && st.Total > 0,
		"%d of %d bytes compared, %d differ %s", st.Bytes, st.Total, st.Differ, st.Error)
	return nil
}
