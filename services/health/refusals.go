package health

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
)

const (
	refusalsEvery = 2 * time.Second
	refusalsAgain = time.Minute // between two events about one address and reason
	maxRefusals   = 1000        // addresses and reasons remembered
)

// refusalSource tells the connections that the site's server refused since it was last asked.
type refusalSource interface {
	Refusals(ctx context.Context) ([]bus.Refusal, error)
}

// refusals publishes refused connections: the first from an address for a reason at once, repeats once a minute together.
type refusals struct {
	site domain.SiteID
	boot string
	log  *slog.Logger
	tell func(ctx context.Context, id string, f event.Fact)
	seq  uint64
	seen map[refusalKey]*refusalCount
}

type refusalKey struct{ address, reason string }

type refusalCount struct {
	told time.Time
	last bus.Refusal
	n    int // not told yet
}

// run asks until ctx ends.
func (r *refusals) run(ctx context.Context, from refusalSource) {
	every(ctx, refusalsEvery, func() {
		all, err := from.Refusals(ctx)
		if err != nil {
			r.log.Debug("refused connections not known", "error", err)
		}
		r.take(ctx, time.Now(), all)
	})
}

// take counts what is new and tells what is due.
func (r *refusals) take(ctx context.Context, now time.Time, all []bus.Refusal) {
	for _, x := range all {
		k := refusalKey{x.Address, x.Reason}
		c := r.seen[k]
		if c == nil {
			if len(r.seen) >= maxRefusals {
				clear(r.seen)
			}
			c = &refusalCount{}
			r.seen[k] = c
		}
		c.n, c.last = c.n+1, x
	}
	for k, c := range r.seen {
		if now.Sub(c.told) < refusalsAgain {
			continue
		}
		if c.n == 0 {
			delete(r.seen, k)
			continue
		}
		r.seq++
		r.log.Warn("connection refused", "address", k.address, "reason", k.reason, "user", c.last.User, "count", c.n,
			"mend", "if it is a site of this installation, install the newest installation.json there; its log says more")
		r.tell(ctx, fmt.Sprintf("%s-%s-refused-%d", r.site, r.boot, r.seq), event.LinkRefused{Fact: "refused", Site: r.site, Address: k.address,
			Reason: k.reason, User: c.last.User, At: c.last.At, Count: c.n})
		c.told, c.n = now, 0
	}
}
