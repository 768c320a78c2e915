package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/telemetry"
	"github.com/holdfast-dr/holdfast/services/dns/zone"
)

const (
	pushTimeout  = 2 * time.Second
	firstBackoff = 100 * time.Millisecond
	lastBackoff  = 2 * time.Second
)

// pull asks every peer for its records, at most for wait in all, and hands over each answer as it comes. A peer whose
// server is reached but whose dns service does not answer is not waited for.
func pull(ctx context.Context, conns []*bus.Conn, wait time.Duration, log *slog.Logger, merge func(peer domain.SiteID, records []zone.Record) error) error {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	type answer struct {
		peer    domain.SiteID
		records []zone.Record
		err     error
	}
	answers := make(chan answer, len(conns))
	for _, c := range conns {
		go func() {
			records, err := fetch(ctx, c)
			answers <- answer{c.Site(), records, err}
		}()
	}
	var errs []error
	for range conns {
		a := <-answers
		if a.err != nil {
			log.Warn("peer's names not known at start", "peer", string(a.peer), "error", a.err)
			continue
		}
		if err := merge(a.peer, a.records); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func fetch(ctx context.Context, c *bus.Conn) ([]zone.Record, error) {
	if err := c.AwaitConnected(ctx); err != nil {
		return nil, err
	}
	r, err := bus.Call[api.DNSRecords](ctx, c, api.ServiceDNS, api.VerbRecords, api.Empty{})
	if err != nil {
		return nil, err
	}
	return allFromAPI(r), nil
}

type recordKey struct {
	name string
	typ  zone.Type
}

// pusher carries records to one peer until it has them. It holds the newest version of each record and nothing else, so
// a peer that is away for long costs no more than one zone.
type pusher struct {
	conn *bus.Conn
	log  *slog.Logger
	wake chan struct{} // holds one token

	mu      sync.Mutex
	pending map[recordKey]zone.Record
	parent  string // trace context of the latest change
}

func newPusher(conn *bus.Conn, log *slog.Logger) *pusher {
	return &pusher{conn: conn, log: log.With("peer", string(conn.Site())), wake: make(chan struct{}, 1), pending: map[recordKey]zone.Record{}}
}

// add makes records due. It never blocks.
func (p *pusher) add(ctx context.Context, records []zone.Record) {
	p.mu.Lock()
	for _, r := range records {
		p.pending[recordKey{r.Name, r.Type}] = r
	}
	p.parent = telemetry.Parent(ctx)
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// run pushes what is due until ctx ends; after a failure it waits for the connection and up to 2 s between tries.
func (p *pusher) run(ctx context.Context) {
	for {
		select {
		case <-p.wake:
		case <-ctx.Done():
			return
		}
		for backoff := firstBackoff; ; backoff = min(2*backoff, lastBackoff) {
			err := p.push(ctx)
			if ctx.Err() != nil {
				return
			}
			if err == nil {
				break
			}
			p.log.Debug("names not pushed yet", "error", err)
			select {
			case <-time.After(backoff):
			case <-ctx.Done():
				return
			}
		}
	}
}

// push sends everything that is due and forgets what has not changed meanwhile.
func (p *pusher) push(ctx context.Context) error {
	if err := p.conn.AwaitConnected(ctx); err != nil {
		return err
	}
	p.mu.Lock()
	due := make([]zone.Record, 0, len(p.pending))
	for _, r := range p.pending {
		due = append(due, r)
	}
	ctx = telemetry.WithParent(ctx, p.parent)
	p.mu.Unlock()
	if len(due) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, pushTimeout)
	defer cancel()
	if _, err := bus.Call[api.Empty](ctx, p.conn, api.ServiceDNS, api.VerbMerge, allToAPI(due)); err != nil {
		return fmt.Errorf("push %d names: %w", len(due), err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range due {
		if k := (recordKey{r.Name, r.Type}); p.pending[k] == r {
			delete(p.pending, k)
		}
	}
	p.log.Debug("names pushed", "records", len(due))
	return nil
}
