package health

import (
	"context"
	"errors"
	"fmt"

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
}

func newPeer(conn *bus.Conn, obs *observer, timing Timing) *peer {
	return &peer{conn: conn, obs: obs, timing: timing, breaker: newBreaker[api.View]("health/"+string(conn.Site()), timing, answered)}
}

// answered reports whether an error proves that the site's server lives.
func answered(err error) bool { return bus.Unanswered(err) || errors.Is(err, domain.ErrRefused) }

// run asks twice a beat, until ctx ends.
func (p *peer) run(ctx context.Context) { every(ctx, p.timing.Beat/2, func() { p.ask(ctx) }) }

func (p *peer) ask(ctx context.Context) {
	site := p.conn.Site()
	sent := now().at
	view, err := p.breaker.Execute(func() (api.View, error) {
		cctx, cancel := context.WithTimeout(ctx, 2*p.timing.Beat)
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
	case bus.Unanswered(err): // the server lives, its health service does not answer
		p.obs.good(now(), siteKey(site, assess.PathAPI))
		p.obs.failed(healthKey(site), err)
	case errors.Is(err, domain.ErrRefused): // another version, or no right to ask: somebody there answers
		p.obs.good(now(), siteKey(site, assess.PathAPI))
		p.obs.failed(healthKey(site), err)
	case !errors.Is(err, gobreaker.ErrOpenState):
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
		case !errors.Is(err, gobreaker.ErrOpenState):
			a.obs.failed(service, err)
			a.obs.failed(host, err)
		}
	})
}
