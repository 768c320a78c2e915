package health

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/health/assess"
)

// peer is another site's health service, asked for its view over the connection to that site.
type peer struct {
	conn    *bus.Conn
	obs     *observer
	timing  Timing
	breaker *gobreaker.CircuitBreaker[api.View]
	server  *gobreaker.CircuitBreaker[struct{}]
	learn   func([]api.Maintenance)
}

func newPeer(conn *bus.Conn, obs *observer, timing Timing, learn func([]api.Maintenance)) *peer {
	return &peer{conn: conn, obs: obs, timing: timing, learn: learn, breaker: newBreaker[api.View]("health/"+string(conn.Site()), timing, answered),
		server: newBreaker[struct{}]("nats/"+string(conn.Site()), timing, nil)}
}

// answered reports whether an error proves that the site's server lives.
func answered(err error) bool { return bus.Unanswered(err) || errors.Is(err, domain.ErrRefused) }

// maxAsked bounds the requests to a peer that are under way at once.
const maxAsked = 12

// run asks twice a beat, until ctx ends, and returns when no request is under way. It does not wait for an answer before it asks
// again: on a link that has become slow, answers come late and as often as ever.
func (p *peer) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { every(ctx, p.timing.Beat, func() { p.ping(ctx) }) })
	asked := make(chan struct{}, maxAsked)
	every(ctx, p.timing.Beat/2, func() {
		select {
		case asked <- struct{}{}:
			wg.Go(func() {
				defer func() { <-asked }()
				p.ask(ctx)
			})
		default:
		}
	})
}

// ping is one round trip to the site's server: a health service that hangs is not its server's end.
func (p *peer) ping(ctx context.Context) {
	_, err := p.server.Execute(func() (struct{}, error) {
		cctx, cancel := context.WithTimeout(ctx, 2*p.timing.Beat)
		defer cancel()
		return struct{}{}, p.conn.RoundTrip(cctx)
	})
	if k := siteKey(p.conn.Site(), assess.PathAPI); ctx.Err() == nil && err == nil {
		p.obs.good(now(), k)
	}
}

// patience is how long an answer is waited for: as long as a loss takes to show, since one that comes late is as good a sign of
// life; briefly when the one request that a breaker lets through decides about the next.
func (p *peer) patience() time.Duration {
	if p.breaker.State() != gobreaker.StateClosed {
		return 2 * p.timing.Beat
	}
	return time.Duration(p.timing.Dead) * p.timing.Beat
}

func (p *peer) ask(ctx context.Context) {
	site := p.conn.Site()
	sent := now().at
	view, err := p.breaker.Execute(func() (api.View, error) {
		cctx, cancel := context.WithTimeout(ctx, p.patience())
		defer cancel()
		v, err := bus.Call[api.View](cctx, p.conn, api.ServiceHealth, api.VerbView, api.Empty{})
		if err == nil && v.Observer != site {
			err = fmt.Errorf("view of site %s: %w: it says site %q", site, domain.ErrInvalid, v.Observer)
		}
		return v, err
	})
	switch {
	case ctx.Err() != nil:
	case err == nil:
		p.obs.hear(now(), sent, view)
		p.learn(view.Maintenance)
	case bus.Unanswered(err): // the server lives, its health service does not answer
		p.obs.good(now(), siteKey(site, assess.PathAPI))
		p.obs.failed(healthKey(site), err)
	case errors.Is(err, domain.ErrRefused): // another version, or no right to ask: somebody there answers
		p.obs.good(now(), siteKey(site, assess.PathAPI))
		p.obs.failed(healthKey(site), err)
	case !broken(err):
		p.obs.failed(siteKey(site, assess.PathAPI), err)
		p.obs.failed(healthKey(site), err)
	}
}

// agent is a VM host of this site, asked for what runs on it.
type agent struct {
	host    domain.HostID
	conn    *bus.Conn
	obs     *observer
	vms     *inventory
	timing  Timing
	breaker *gobreaker.CircuitBreaker[api.HostStatus]
}

func newAgent(host domain.HostID, conn *bus.Conn, obs *observer, vms *inventory, timing Timing) *agent {
	return &agent{host: host, conn: conn, obs: obs, vms: vms, timing: timing,
		breaker: newBreaker[api.HostStatus]("host/"+string(host), timing, nil)}
}

func (a *agent) run(ctx context.Context) {
	service := key{kind: assess.KindService, id: api.HostService(a.host), site: a.conn.Site(), path: assess.PathAPI}
	host := hostKey(string(a.host), a.conn.Site(), assess.PathAPI)
	for _, k := range []key{service, host} {
		a.obs.expect(now(), k, "")
	}
	every(ctx, a.timing.Beat, func() {
		status, err := a.breaker.Execute(func() (api.HostStatus, error) {
			cctx, cancel := context.WithTimeout(ctx, 2*a.timing.Beat)
			defer cancel()
			return bus.Call[api.HostStatus](cctx, a.conn, api.HostService(a.host), api.VerbStatus, api.Empty{})
		})
		switch {
		case ctx.Err() != nil:
		case err == nil:
			status.Host = a.host
			a.obs.good(now(), service)
			a.obs.good(now(), host)
			a.vms.report(now(), status)
		case !broken(err):
			a.obs.failed(service, err)
			a.obs.failed(host, err)
		}
	})
}
