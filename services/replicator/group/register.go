package group

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// registrar keeps the quorum's in-sync register and the session's required targets in step, one request at a time, so
// that their counters give them an order. A target is required from before the register may name it until after the
// register is known not to.
type registrar struct {
	s    *session
	wake chan struct{}
	one  sync.Mutex // one request at a time

	mu        sync.Mutex
	counter   uint64                   // begins at the clock, so that it grows over sessions of one epoch
	committed []domain.SiteID          // sorted
	unsure    bool                     // a request was sent whose outcome is not known
	want      map[domain.SiteID]bool   // this site and the targets that are to be in the set
	drop      map[domain.SiteID]string // targets to be let go once the register does not name them, and why
	hold      map[domain.SiteID]bool   // targets out of the set that a group that suspends waits for all the same
	barred    map[domain.SiteID]bool   // targets that the policy took out of the set: nothing brings them in
}

func newRegistrar(s *session, inSync []domain.SiteID) *registrar {
	r := &registrar{s: s, counter: uint64(s.g.cfg.Now()), wake: make(chan struct{}, 1), committed: sorted(inSync), want: map[domain.SiteID]bool{}, drop: map[domain.SiteID]string{},
		hold: map[domain.SiteID]bool{}, barred: map[domain.SiteID]bool{}}
	for _, site := range inSync {
		r.want[site] = true
	}
	return r
}

func sorted(sites []domain.SiteID) []domain.SiteID {
	out := slices.Clone(sites)
	slices.Sort(out)
	return slices.Compact(out)
}

// doubt makes the registrar ask for the set even if it seems committed.
func (r *registrar) doubt() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unsure = true
	poke(r.wake)
}

// require makes every write wait for a target from now on; false when the policy wants none to.
func (r *registrar) require(site domain.SiteID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.barred[site] {
		return false
	}
	delete(r.drop, site)
	r.s.mu.Lock()
	r.s.required[site] = true
	r.s.mu.Unlock()
	return true
}

// add proposes a target that no write waits for: only while nothing is acknowledged.
func (r *registrar) add(site domain.SiteID) {
	r.mu.Lock()
	r.want[site] = true
	delete(r.drop, site)
	r.mu.Unlock()
	poke(r.wake)
}

// join proposes a target that holds everything acknowledged, if every write still waits for it; false when it was let go.
func (r *registrar) join(site domain.SiteID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.s.mu.Lock()
	required := r.s.required[site] && !r.barred[site]
	r.s.mu.Unlock()
	if required {
		r.want[site] = true
		delete(r.drop, site)
		delete(r.hold, site)
		poke(r.wake)
	}
	return required
}

// remove takes a target out of the set and then lets it go.
func (r *registrar) remove(site domain.SiteID, why string) {
	r.mu.Lock()
	delete(r.want, site)
	r.drop[site] = why
	r.mu.Unlock()
	poke(r.wake)
}

// lose lets a target go that a write waited too long for. A group that suspends waits for its in-sync targets; one that was
// only joining is let go.
func (r *registrar) lose(site domain.SiteID, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if (r.want[site] || r.hold[site]) && r.s.st.policy().OnTargetLoss != domain.TargetLossDegrade {
		return
	}
	delete(r.want, site)
	r.drop[site] = why
	poke(r.wake)
}

// expel takes a target out of the set whose copy no longer holds what it stood for, and returns when the register is known
// not to name it. Under degrade it is let go with that; under suspend every write waits until it joins again.
func (r *registrar) expel(ctx context.Context, site domain.SiteID, why string) error {
	r.mu.Lock()
	if r.want[site] {
		delete(r.want, site)
		if r.s.st.policy().OnTargetLoss == domain.TargetLossDegrade {
			r.drop[site] = why
		} else {
			r.hold[site] = true
		}
	}
	r.mu.Unlock()
	poke(r.wake)
	for r.may(site) {
		if !sleep(ctx, 5*time.Millisecond) {
			return fmt.Errorf("take target %s out of the in-sync set: %w", site, ctx.Err())
		}
	}
	return nil
}

// has reports whether the committed set names a site.
func (r *registrar) has(site domain.SiteID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Contains(r.committed, site)
}

// wants reports whether the set is to name a site.
func (r *registrar) wants(site domain.SiteID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.want[site]
}

// run carries out what is wanted until the session ends.
func (r *registrar) run() {
	for {
		select {
		case <-r.wake:
		case <-r.s.ctx.Done():
			return
		}
		for r.step() {
			if !sleep(r.s.ctx, min(r.s.g.cfg.Timing.Retry, 100*time.Millisecond)) {
				return
			}
		}
	}
}

// step makes one request if one is needed. It reports whether there is more to do.
func (r *registrar) step() bool {
	r.mu.Lock()
	set := slices.Sorted(maps.Keys(r.want))
	needed := r.unsure || !slices.Equal(set, r.committed)
	r.mu.Unlock()
	if needed {
		if err := r.propose(r.s.ctx, set); err != nil {
			if r.s.ctx.Err() == nil {
				r.s.log.Warn("in-sync set not committed", "set", set, "error", err)
			}
			return r.s.ctx.Err() == nil
		}
	}
	r.release(set)
	r.mu.Lock()
	defer r.mu.Unlock()
	return !slices.Equal(slices.Sorted(maps.Keys(r.want)), r.committed)
}

// propose asks the quorum to commit a set. Losing the lease ends the session.
func (r *registrar) propose(ctx context.Context, set []domain.SiteID) error {
	r.one.Lock()
	defer r.one.Unlock()
	r.mu.Lock()
	r.counter++
	r.unsure = true
	req := api.InSyncRequest{Group: r.s.st.group.ID, Epoch: r.s.epoch, Counter: r.counter, InSync: set}
	r.mu.Unlock()
	_, err := bus.Call[api.Register](ctx, r.s.g.cfg.Mesh.Local(), api.ServiceQuorum, api.VerbInSync, req)
	if errors.Is(err, domain.ErrNoLease) || errors.Is(err, domain.ErrStaleEpoch) || errors.Is(err, domain.ErrConflict) {
		err = fmt.Errorf("commit in-sync set %v: %w", set, err)
		r.s.fail(err)
		return err
	}
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.committed, r.unsure = sorted(set), false
	return nil
}

// release lets go of the targets that the committed set no longer names.
func (r *registrar) release(set []domain.SiteID) {
	r.mu.Lock()
	gone := map[domain.SiteID]string{}
	r.s.mu.Lock()
	for site, why := range r.drop {
		if !slices.Contains(set, site) {
			delete(r.s.required, site)
			delete(r.drop, site)
			gone[site] = why
		}
	}
	r.s.mu.Unlock()
	r.mu.Unlock()
	r.s.acknowledge()
	for site, why := range gone {
		if why == "" {
			continue // it was never waited for
		}
		lsn, _ := r.s.head()
		r.s.log.Warn("target lost, going on without it", "target", string(site), "reason", why)
		r.s.g.publish(r.s.ctx, "target_lost", r.s.epoch, lsn, site, why)
	}
}
