package failover

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/failover/run"
)

// copies holds the newest record of each subject of the runs led here, to be pushed to the other sites.
type copies struct {
	mu     sync.Mutex
	latest map[string]run.Stored
	order  []string
	woken  chan struct{} // closed and replaced when there is something new
}

const keptCopies = 20000

func newCopies() *copies {
	return &copies{latest: map[string]run.Stored{}, woken: make(chan struct{})}
}

func (c *copies) add(r run.Stored) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if have, ok := c.latest[r.Subject]; ok && have.Seq >= r.Seq {
		return
	} else if !ok {
		c.order = append(c.order, r.Subject)
		if len(c.order) > keptCopies {
			delete(c.latest, c.order[0])
			c.order = c.order[1:]
		}
	}
	c.latest[r.Subject] = r
	close(c.woken)
	c.woken = make(chan struct{})
}

// wake makes the pump look now, also for desired state.
func (c *copies) wake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.woken)
	c.woken = make(chan struct{})
}

func (c *copies) wait() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.woken
}

func (c *copies) missing(pushed map[string]uint64) []run.Stored {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []run.Stored
	for _, subject := range c.order {
		if r := c.latest[subject]; pushed[subject] != r.Seq {
			out = append(out, r)
		}
	}
	return out
}

// copyRuns pushes the records of runs led here to a peer, best effort: the newest of each subject, once.
func (s *service) copyRuns(ctx context.Context, p *peer) {
	pushed := map[string]uint64{}
	for p.conn.AwaitConnected(ctx) == nil {
		woken := s.copies.wait()
		for _, r := range s.copies.missing(pushed) {
			if pushed[r.Subject] == 0 { // perhaps an earlier life of this service pushed it
				if last, err := p.conn.Last(ctx, api.StreamRuns, r.Subject); err == nil && bytes.Equal(last.Data, r.Data) {
					pushed[r.Subject] = r.Seq
					continue
				}
			}
			if _, err := p.conn.Append(ctx, r.Subject, r.Data, r.ID, nil); err != nil {
				s.log.Debug("run record not copied", "peer", string(p.conn.Site()), "error", err)
				break
			}
			pushed[r.Subject] = r.Seq
		}
		if s.await(ctx, woken, s.cfg.Timings.Copy) != nil {
			return
		}
	}
}

// await returns when woken is closed or d is over.
func (s *service) await(ctx context.Context, woken <-chan struct{}, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-woken:
	case <-t.C:
	case <-ctx.Done():
	}
	return ctx.Err()
}

// copyDesired keeps desired state here and at a peer the same: when it connects, after each change here, and every second.
func (s *service) copyDesired(ctx context.Context, p *peer) {
	first := true
	for p.conn.AwaitConnected(ctx) == nil {
		woken := s.copies.wait()
		cctx, cancel := context.WithTimeout(ctx, 2*s.cfg.Timings.Call)
		changed, err := s.store.Sync(cctx, p.conn)
		cancel()
		switch {
		case err != nil && !errors.Is(err, context.Canceled):
			s.log.Debug("desired state not exchanged", "peer", string(p.conn.Site()), "error", err)
		case err == nil && first:
			first = false
			close(p.synced)
		}
		if changed {
			s.wake()
			continue
		}
		wait := s.cfg.Timings.Copy
		if err != nil {
			wait = s.cfg.Timings.Retry
		}
		if s.await(ctx, woken, wait) != nil {
			return
		}
	}
}

// awaitPeers waits until desired state was exchanged with every peer that can be reached, with one at least, for a bounded
// time: a site that comes back must not begin with what it wanted before it was lost.
func (s *service) awaitPeers(ctx context.Context) {
	end := clock.Now().Add(s.cfg.Timings.BootWait)
	for clock.Now().Before(end) && ctx.Err() == nil {
		done, open := 0, 0
		for _, p := range s.peers {
			select {
			case <-p.synced:
				done++
			default:
				if p.conn.Connected() {
					open++
				}
			}
		}
		if len(s.peers) == 0 || done > 0 && open == 0 {
			return
		}
		_ = s.await(ctx, nil, 20*time.Millisecond)
	}
}

// exchanged refuses while desired state was not exchanged with a peer that can be reached: what is here may be old.
func (s *service) exchanged() error {
	for site, p := range s.peers {
		select {
		case <-p.synced:
		default:
			if p.conn.Connected() {
				return fmt.Errorf("%w: desired state was not exchanged with site %s yet: ask again", domain.ErrUnavailable, site)
			}
		}
	}
	return nil
}

// isPeerUp reports whether another site's server can be reached.
func (s *service) isPeerUp(site domain.SiteID) bool {
	p, ok := s.peers[site]
	return ok && p.conn.Connected()
}
