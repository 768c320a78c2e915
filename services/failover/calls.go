package failover

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// peer is another site, behind a breaker: while it does not answer, calls to it fail at once.
type peer struct {
	conn    *bus.Conn
	breaker *gobreaker.CircuitBreaker[any]
	synced  chan struct{} // closed after the first exchange of desired state
}

func newPeer(conn *bus.Conn) *peer {
	return &peer{conn: conn, synced: make(chan struct{}), breaker: gobreaker.NewCircuitBreaker[any](gobreaker.Settings{
		Name: string(conn.Site()), Timeout: time.Second,
		ReadyToTrip:  func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= 5 },
		IsSuccessful: func(err error) bool { return !errors.Is(err, domain.ErrUnavailable) },
	})}
}

// call asks a service of the own site, within the ordinary time unless ctx has less.
func call[Resp, Req any](ctx context.Context, s *service, within time.Duration, service, verb string, req Req) (Resp, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	return bus.Call[Resp](ctx, s.mesh.Local(), service, verb, req)
}

// callPeer asks a service of another site (or the own one), through its breaker.
func callPeer[Resp, Req any](ctx context.Context, s *service, site domain.SiteID, within time.Duration, service, verb string, req Req) (Resp, error) {
	var none Resp
	if site == s.cfg.Site {
		return call[Resp](ctx, s, within, service, verb, req)
	}
	p, ok := s.peers[site]
	if !ok {
		return none, fmt.Errorf("ask site %s: %w", site, domain.ErrNotFound)
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	out, err := p.breaker.Execute(func() (any, error) { return bus.Call[Resp](ctx, p.conn, service, verb, req) })
	if errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests) {
		return none, fmt.Errorf("ask site %s: %w: it does not answer", site, domain.ErrUnavailable)
	}
	if err != nil {
		return none, err
	}
	return out.(Resp), nil //nolint:forcetypeassert // what Call just returned
}

func (s *service) lease(ctx context.Context, g domain.GroupID, e domain.Epoch) (api.Lease, error) {
	return call[api.Lease](ctx, s, s.cfg.Timings.Call, api.ServiceQuorum, api.VerbLease, api.LeaseRequest{Group: g, Epoch: e})
}
