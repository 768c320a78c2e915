package bus_test

import (
	"context"
	"errors"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/holdfast-dr/holdfast/pkg/access"
	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/identity"
)

// serveRunStart answers run_start at a as failover, and tells who called.
func (l *links) serveRunStart() chan string {
	l.t.Helper()
	m := l.mesh(access.Principal{Site: "a", Service: "failover"}, nil, nil)
	callers := make(chan string, 100)
	l.must(m.Local().Serve(l.t.Context(), "failover", map[string]bus.Endpoint{
		api.VerbRunStart: bus.Answer(func(ctx context.Context, _ api.RunStartRequest) (api.Run, error) {
			who, _ := bus.CallerOf(ctx)
			callers <- who.String()
			return api.Run{}, nil
		}),
		api.VerbEvacuate: bus.Answer(func(context.Context, api.EvacuateRequest) (api.Empty, error) { return api.Empty{}, nil }),
	}))
	return callers
}

func TestClocksTenMinutesApartAreToldWithTheMend(t *testing.T) {
	l := secured(t, "a")
	callers := l.serveRunStart()
	op := access.Principal{Site: "a", Service: access.Operator}
	good := l.mesh(op, nil, nil)
	if _, err := bus.Call[api.Run](t.Context(), good.Local(), "failover", api.VerbRunStart, api.RunStartRequest{}); err != nil {
		t.Fatal(err)
	}
	if who := <-callers; who != "a.operator" {
		t.Fatalf("caller %s", who)
	}
	late := l.mesh(op, nil, func() time.Time { return time.Now().Add(-10 * time.Minute) })
	_, err := bus.Call[api.Run](t.Context(), late.Local(), "failover", api.VerbRunStart, api.RunStartRequest{})
	if !errors.Is(err, domain.ErrRefused) || !strings.Contains(err.Error(), "NTP") || !strings.Contains(err.Error(), "10m0s apart") {
		t.Fatalf("got %v", err)
	}
}

// TestForgedAndReplayedRequestsAreRefused: an intruder who has the operator's connection but not its key, who sends a
// request again, or who is another principal.
func TestForgedAndReplayedRequestsAreRefused(t *testing.T) {
	l := secured(t, "a")
	callers := l.serveRunStart()
	op := access.Principal{Site: "a", Service: access.Operator}
	spy := make(chan *nats.Msg, 10)
	subject := api.QuerySubject("a", "failover", api.VerbRunStart)
	f := l.raw(access.Principal{Site: "a", Service: "failover"}, "a") // hears what the failover service hears
	_, err := f.nc.ChanSubscribe(subject, spy)
	l.must(err)
	l.must(f.nc.Flush())
	if _, err := bus.Call[api.Run](t.Context(), l.mesh(op, nil, nil).Local(), "failover", api.VerbRunStart, api.RunStartRequest{Plan: "main"}); err != nil {
		t.Fatal(err)
	}
	<-callers
	heard := <-spy
	send := func(change func(*nats.Msg)) string {
		t.Helper()
		c, m := l.creds(op), nats.NewMsg(subject)
		nc, err := nats.Connect(l.urls["a"], nats.ClientTLSConfig(c.Certificate, c.Roots), nats.CustomInboxPrefix(op.InboxPrefix()),
			nats.UserJWT(func() (string, error) { return c.UserJWT("a") }, c.SignNonce))
		l.must(err)
		defer nc.Close()
		m.Data = heard.Data
		m.Header = maps.Clone(heard.Header)
		change(m)
		reply, err := nc.RequestMsg(m, 5*time.Second)
		l.must(err)
		return reply.Header.Get("Nats-Service-Error-Code") + " " + reply.Header.Get("Nats-Service-Error")
	}
	for _, c := range []struct {
		name, want string
		change     func(*nats.Msg)
	}{
		{"replayed", "replayed", func(*nats.Msg) {}},
		{"changed", "forged or changed", func(m *nats.Msg) { m.Data = []byte(`{"plan":"other"}`) }},
		{"unsigned", "not signed", func(m *nats.Msg) { m.Header = nats.Header{} }},
		{"another's name", "another key", func(m *nats.Msg) {
			s, err := l.creds(access.Principal{Site: "a", Service: "dns"}).Sign(nil)
			l.must(err)
			m.Header["Hf-Pass"] = []string{s.Pass}
		}},
	} {
		if got := send(c.change); !strings.HasPrefix(got, "refused ") || !strings.Contains(got, c.want) {
			t.Errorf("%s: answered %q", c.name, got)
		}
	}
	select {
	case who := <-callers:
		t.Errorf("a refused request was carried out as %s", who)
	default:
	}
}

// TestCallerWithoutTheRightIsRefusedWhereTheRequestLands, also when it got past the server: an operator has no right to
// promote even if a permission let its message through.
func TestCallerWithoutTheRightIsRefusedWhereTheRequestLands(t *testing.T) {
	for _, c := range []struct {
		caller, at, service, verb string
		may                       bool
	}{
		{"a.operator", "b", "failover", api.VerbRunStart, true},
		{"a.operator", "a", "replicator", api.VerbPromote, false},
		{"a.failover", "a", "replicator", api.VerbPromote, true},
		{"a.failover", "b", "replicator", api.VerbPromote, false},
		{"b.failover", "a", "replicator", api.VerbDemote, true},
		{"a.dns", "a", "quorum", api.VerbCampaign, false},
		{"a.host-a-h1", "a", "quorum", api.VerbLease, true},
		{"b.host-b-h1", "a", "quorum", api.VerbLease, false},
		{"a.failover", "a", "host-a-h1", api.VerbStart, true},
		{"b.failover", "a", "host-a-h1", api.VerbStart, false},
		{"a.reader", "a", "failover", api.VerbStatus, false},
	} {
		p, ok := access.ParsePrincipal(c.caller)
		if !ok || access.MayCall(p, domain.SiteID(c.at), c.service, c.verb) != c.may {
			t.Errorf("%s calls %s.%s at %s: want %v", c.caller, c.service, c.verb, c.at, c.may)
		}
	}
}

// TestRotationUnderLoadLosesNoRequestForGood: keys and certificates of both sites are renewed, the old ones revoked, while a
// caller asks without pause; each request is answered, at the latest when it is repeated.
func TestRotationUnderLoadLosesNoRequestForGood(t *testing.T) {
	l := secured(t, "a", "b")
	l.serveRunStart()
	m := l.mesh(access.Principal{Site: "b", Service: "failover"}, nil, nil)
	conn, err := m.Conn("a")
	l.must(err)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var mu sync.Mutex
	asked, repeated := 0, 0
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				failing := time.Now()
				for {
					_, err := bus.Call[api.Empty](t.Context(), conn, "failover", api.VerbEvacuate, api.EvacuateRequest{Group: "erp"})
					if err == nil {
						break
					}
					mu.Lock()
					repeated++
					mu.Unlock()
					if time.Since(failing) > 20*time.Second {
						t.Errorf("a request failed for good: %v", err)
						return
					}
				}
				mu.Lock()
				asked++
				mu.Unlock()
			}
		})
	}
	auth, err := identity.OpenAuthority(l.dirs["a"], identity.Options{})
	l.must(err)
	cardA, err := identity.Renew(l.dirs["a"], nil)
	l.must(err)
	cardB, err := identity.Renew(l.dirs["b"], nil)
	l.must(err)
	inst, err := auth.Reissue(true, cardA, cardB)
	l.must(err)
	l.install("b", inst)
	l.install("a", inst)
	for deadline := time.Now().Add(20 * time.Second); ; {
		c := l.creds(access.Principal{Site: "b", Service: "failover"})
		nc, err := nats.Connect(l.urls["a"], nats.ClientTLSConfig(c.Certificate, c.Roots), nats.UserJWT(func() (string, error) { return c.UserJWT("a") }, c.SignNonce))
		if err == nil {
			nc.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the new credentials are not taken: %v", err)
		}
	}
	mu.Lock()
	at := asked
	mu.Unlock()
	for deadline := time.Now().Add(20 * time.Second); ; {
		mu.Lock()
		done := asked > at+500
		mu.Unlock()
		if done {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("requests do not go on after the rotation")
		}
		time.Sleep(10 * time.Millisecond) // requests go on meanwhile
	}
	cancel()
	wg.Wait()
	t.Logf("%d requests, %d repeated", asked, repeated)
}
