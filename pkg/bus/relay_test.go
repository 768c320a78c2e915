package bus_test

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/access"
	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/natsd"
	"github.com/holdfast-dr/holdfast/pkg/relay"
)

// relayTo runs the relay of site w, to where it is told.
func relayTo(t *testing.T, to map[domain.SiteID]string) *relay.Server {
	t.Helper()
	cfg := relay.Config{Site: "w", Listen: "127.0.0.1:0", To: map[domain.SiteID]string{}, PerPeer: 8, Timing: relay.DefaultTiming()}
	for site, address := range to {
		u, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		cfg.To[site] = u.Host
	}
	s, err := relay.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

// TestTheServerBehindARelayMustProveItself: TLS is with the destination, and a relay that leads elsewhere is found out.
func TestTheServerBehindARelayMustProveItself(t *testing.T) {
	l := secured(t, "a", "b", "w")
	dial := func(by *relay.Server) *bus.Conn {
		// An address in the server's certificate that leads nowhere from here.
		urls := map[domain.SiteID]string{"a": l.urls["a"], "b": "tls://localhost:1"}
		m, err := bus.Dial(bus.Config{Site: "a", Service: api.ServiceQuorum, URLs: urls, Relays: map[domain.SiteID]string{"b": by.Addr()},
			Credentials: l.creds(access.Principal{Site: "a", Service: api.ServiceQuorum})})
		l.must(err)
		t.Cleanup(m.Close)
		c, err := m.Conn("b")
		l.must(err)
		return c
	}
	l.must(dial(relayTo(t, map[domain.SiteID]string{"b": l.urls["b"]})).AwaitConnected(t.Context()))
	posing := dial(relayTo(t, map[domain.SiteID]string{"b": l.urls["w"]}))
	err := refusal(t, posing)
	if !strings.Contains(err.Error(), "the server is of another site") {
		t.Fatalf("the server of w behind the relay to b: %v", err)
	}
}

// refusal waits until a connection tells why it does not stand.
func refusal(t *testing.T, c *bus.Conn) error {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		err := c.AwaitConnected(ctx)
		cancel()
		switch {
		case err == nil:
			t.Fatal("connected")
		case strings.Contains(err.Error(), "refused: ") || time.Now().After(end):
			return err
		}
	}
}

func TestARelaysNoIsToldWithItsMend(t *testing.T) {
	srv, err := natsd.Start(natsd.Config{Site: "a", Listen: "127.0.0.1:0", StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Stop)
	for name, c := range map[string]struct{ by, want string }{
		"not listed": {relayTo(t, map[domain.SiteID]string{"x": srv.URL()}).Addr(), "site w does not relay to site c: list it under relay.to in site w's configuration"},
		"down":       {relayTo(t, map[domain.SiteID]string{"c": "nats://127.0.0.1:1"}).Addr(), "site w does not reach the NATS server of site c either"},
		"no relay":   {strings.TrimPrefix(srv.URL(), "nats://"), "no relay answers where one is said to be"},
	} {
		m, err := bus.Dial(bus.Config{Site: "a", Service: "test", URLs: map[domain.SiteID]string{"a": srv.URL(), "c": "nats://no-such-host.invalid:4222"}, Relays: map[domain.SiteID]string{"c": c.by}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(m.Close)
		conn, err := m.Conn("c")
		if err != nil {
			t.Fatal(err)
		}
		if err := refusal(t, conn); !errors.Is(err, domain.ErrUnavailable) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
