package bus

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/identity"
	"github.com/holdfast-dr/holdfast/pkg/relay"
)

// Config says who connects where.
type Config struct {
	Site    domain.SiteID
	Service string                   // name of the connections, for the server's lists
	URLs    map[domain.SiteID]string // of every site's server, this one's included
	// Relays are the relays, host:port, by which the servers of some sites are reached; see package relay.
	Relays map[domain.SiteID]string
	Logger *slog.Logger
	// Credentials prove the service to every server and sign its requests; requests that come to it must be signed too. Nil:
	// plain, for loopback only.
	Credentials *identity.Credentials
	// Now is the wall clock that requests are dated by; nil: the machine's.
	Now func() time.Time
	// Version is the protocol spoken; the zero value is this program's own.
	Version api.Version
}

// Mesh is one service's connections to every site.
type Mesh struct {
	site  domain.SiteID
	conns map[domain.SiteID]*Conn
	stop  context.CancelFunc
}

const (
	dialTimeout    = 2 * time.Second
	reconnectWait  = 100 * time.Millisecond
	pingInterval   = time.Second
	pingsOut       = 2
	requestTimeout = 2 * time.Second
	stallWait      = 30 * time.Second
	pipeInFlight   = 256
)

// Dial opens the mesh. It does not wait for any site, its own included: see Conn.Connected and Conn.AwaitConnected.
func Dial(cfg Config) (*Mesh, error) {
	if cfg.URLs[cfg.Site] == "" {
		return nil, fmt.Errorf("dial bus of site %s: %w: it has no NATS address of its own", cfg.Site, domain.ErrInvalid)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	var g *guard
	if cfg.Credentials != nil {
		if p := cfg.Credentials.Principal(); p.Site != cfg.Site {
			return nil, fmt.Errorf("dial bus of site %s: %w: the credentials are of %s; set security.secrets to this site's own folder", cfg.Site, domain.ErrInvalid, p)
		}
		g = &guard{creds: cfg.Credentials, now: cfg.Now, seen: newNonces()}
	}
	m := &Mesh{site: cfg.Site, conns: make(map[domain.SiteID]*Conn, len(cfg.URLs)), stop: func() {}}
	for site, url := range cfg.URLs {
		c, err := dialOne(cfg, site, url, g)
		if err != nil {
			m.Close()
			return nil, err
		}
		m.conns[site] = c
	}
	if cfg.Credentials != nil {
		var ctx context.Context
		ctx, m.stop = context.WithCancel(context.Background()) //nolint:forbidigo // the mesh ends with Close
		go m.rotate(ctx, cfg.Credentials, cfg.Logger)
	}
	return m, nil
}

func dialOne(cfg Config, site domain.SiteID, url string, g *guard) (*Conn, error) {
	log := cfg.Logger.With("peer", string(site))
	c := &Conn{site: site, from: cfg.Site, log: log, up: make(chan struct{}), down: make(chan struct{}), version: versionOr(cfg.Version), creds: cfg.Credentials, guard: g, now: cfg.Now, trouble: newTrouble(log)}
	opts := append(secure(cfg.Credentials, site),
		nats.Name("holdfast/"+string(cfg.Site)+"/"+cfg.Service),
		nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1),
		nats.ReconnectWait(reconnectWait), nats.ReconnectJitter(reconnectWait, reconnectWait),
		nats.Timeout(dialTimeout), nats.PingInterval(pingInterval), nats.MaxPingsOutstanding(pingsOut),
		nats.ReconnectBufSize(-1), nats.IgnoreDiscoveredServers(), nats.FlusherTimeout(dialTimeout),
		nats.ConnectHandler(func(*nats.Conn) { c.setUp(true) }),
		nats.ReconnectHandler(func(*nats.Conn) { c.setUp(true) }),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { c.trouble.connecting(url, err) }),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			c.setUp(false)
			log.Debug("bus connection lost", "error", err)
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { c.trouble.async(url, err) }),
	)
	if by := cfg.Relays[site]; by != "" { // who alone knows a way there, and how its name is looked up
		opts = append(opts, nats.SkipHostLookup(), nats.SetCustomDialer(relay.Dialer{To: site, Relay: by, Timeout: dialTimeout}))
	}
	nc, err := nats.Connect(url, opts...)
	if err != nil {
		return nil, fmt.Errorf("dial bus of site %s at %s: %w", site, url, err)
	}
	c.nc = nc
	if c.js, err = c.newJetStream(jetstream.WithPublishAsyncMaxPending(pipeInFlight),
		jetstream.WithPublishAsyncTimeout(requestTimeout),
		jetstream.WithDefaultTimeout(requestTimeout)); err != nil {
		nc.Close()
		return nil, fmt.Errorf("open JetStream of site %s: %w", site, err)
	}
	if nc.IsConnected() {
		c.setUp(true)
	}
	return c, nil
}

// Site is the site whose mesh this is.
func (m *Mesh) Site() domain.SiteID { return m.site }

// Sites lists every site of the mesh, sorted.
func (m *Mesh) Sites() []domain.SiteID { return slices.Sorted(maps.Keys(m.conns)) }

// Peers lists every site but this one, sorted.
func (m *Mesh) Peers() []domain.SiteID {
	return slices.DeleteFunc(m.Sites(), func(s domain.SiteID) bool { return s == m.site })
}

// Local is the connection to this site's own server.
func (m *Mesh) Local() *Conn { return m.conns[m.site] }

// Conn is the connection to a site's server. The error wraps domain.ErrNotFound for a site that is not of the mesh.
func (m *Mesh) Conn(site domain.SiteID) (*Conn, error) {
	c, ok := m.conns[site]
	if !ok {
		return nil, fmt.Errorf("bus of site %s: site %s: %w", m.site, site, domain.ErrNotFound)
	}
	return c, nil
}

// Close ends every connection at once.
func (m *Mesh) Close() {
	m.stop()
	var wg sync.WaitGroup
	for _, c := range m.conns {
		wg.Go(c.nc.Close)
	}
	wg.Wait()
}
