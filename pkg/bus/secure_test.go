package bus_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/holdfast-dr/holdfast/pkg/access"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
	"github.com/holdfast-dr/holdfast/pkg/identity"
	"github.com/holdfast-dr/holdfast/pkg/natsd"
)

// links is a secured installation of sites a and b (data) and w, with a server each in this process.
type links struct {
	t    *testing.T
	dirs map[domain.SiteID]string
	urls map[domain.SiteID]string
	inst identity.Installation
}

func (l *links) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// secured makes the installation and starts the servers of the sites named.
func secured(t *testing.T, start ...domain.SiteID) *links {
	t.Helper()
	l := &links{t: t, dirs: map[domain.SiteID]string{}, urls: map[domain.SiteID]string{}}
	spec := func(id domain.SiteID, index int, role domain.SiteRole) identity.Spec {
		s := identity.Spec{Cluster: "test", Site: id, Role: role, Index: index, Addresses: []string{"127.0.0.1"}}
		if role == domain.SiteData {
			s.Hosts = []domain.HostID{domain.HostID(id + "-h1")}
		}
		return s
	}
	for _, id := range []domain.SiteID{"a", "b", "w"} {
		l.dirs[id] = t.TempDir()
	}
	cardA, err := identity.Found(l.dirs["a"], spec("a", 1, domain.SiteData), identity.Options{})
	l.must(err)
	cardB, err := identity.NewSite(l.dirs["b"], spec("b", 2, domain.SiteData), &cardA)
	l.must(err)
	cardW, err := identity.NewSite(l.dirs["w"], spec("w", 3, domain.SiteWitness), &cardA)
	l.must(err)
	auth, err := identity.OpenAuthority(l.dirs["a"], identity.Options{})
	l.must(err)
	l.inst, err = auth.Admit(cardB, cardW)
	l.must(err)
	for id := range l.dirs {
		l.install(id, l.inst)
	}
	for _, id := range start {
		l.serve(id)
	}
	return l
}

// install installs an installation and renders the server's configuration.
func (l *links) install(id domain.SiteID, inst identity.Installation) {
	l.t.Helper()
	l.must(identity.Install(l.dirs[id], inst))
	sec := identity.SecretsDir(l.dirs[id])
	text, err := natsd.Conf(inst, id, natsd.ConfFiles{Listen: "127.0.0.1:0", StoreDir: filepath.Join(l.dirs[id], "nats"),
		Cert: filepath.Join(sec, "nats", "server.pem"), Key: filepath.Join(sec, "nats", "server.key"), CA: filepath.Join(sec, "trust", "ca.pem")})
	l.must(err)
	l.must(os.WriteFile(filepath.Join(l.dirs[id], "nats.conf"), []byte(text), 0o600))
}

func (l *links) serve(id domain.SiteID) {
	l.t.Helper()
	s, err := natsd.Start(natsd.Config{Site: id, Listen: "127.0.0.1:0", Conf: filepath.Join(l.dirs[id], "nats.conf"), Logger: slog.New(slog.DiscardHandler)})
	l.must(err)
	l.t.Cleanup(s.Stop)
	l.urls[id] = s.URL()
}

func (l *links) creds(p access.Principal) *identity.Credentials {
	l.t.Helper()
	c, err := identity.Open(identity.SecretsDir(l.dirs[p.Site]), p.Service)
	l.must(err)
	return c
}

func (l *links) mesh(p access.Principal, log *slog.Logger, now func() time.Time) *bus.Mesh {
	l.t.Helper()
	m, err := bus.Dial(bus.Config{Site: p.Site, Service: p.Service, URLs: l.urls, Credentials: l.creds(p), Logger: log, Now: now})
	l.must(err)
	l.t.Cleanup(m.Close)
	for _, s := range m.Sites() {
		c, _ := m.Conn(s)
		l.must(c.AwaitConnected(l.t.Context()))
	}
	return m
}

func (l *links) principals() []access.Principal {
	var out []access.Principal
	for _, s := range l.inst.Sites {
		for _, name := range access.Services(s.Role, s.Hosts) {
			out = append(out, access.Principal{Site: s.Site, Service: name})
		}
	}
	return out
}

// raw is a plain NATS connection with a principal's certificate and token, which collects what the server refuses.
type raw struct {
	nc *nats.Conn
	mu sync.Mutex
	no map[string]bool
}

func (l *links) raw(p access.Principal, at domain.SiteID) *raw {
	l.t.Helper()
	c, r := l.creds(p), &raw{no: map[string]bool{}}
	var err error
	r.nc, err = nats.Connect(l.urls[at], nats.ClientTLSConfig(c.Certificate, c.Roots),
		nats.UserJWT(func() (string, error) { return c.UserJWT(at) }, c.SignNonce),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			text := err.Error()
			if i, j := strings.IndexByte(text, '"'), strings.LastIndexByte(text, '"'); i >= 0 && j > i {
				act := "publish "
				if strings.Contains(text, "Subscription") {
					act = "subscribe "
				}
				r.no[act+text[i+1:j]] = true
			}
		}))
	l.must(err)
	l.t.Cleanup(r.nc.Close)
	return r
}

// refused tries every subject and gives those that the server refused.
func (r *raw) refused(t *testing.T, publish, subscribe []string) map[string]bool {
	t.Helper()
	for _, s := range publish {
		if err := r.nc.Publish(s, nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range subscribe {
		if _, err := r.nc.Subscribe(s, func(*nats.Msg) {}); err != nil {
			t.Fatal(err)
		}
	}
	// What nobody may do comes last: once that is refused, so is all before it.
	const last = "never.may.anybody"
	if err := r.nc.Publish(last, nil); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		r.mu.Lock()
		no := maps.Clone(r.no)
		r.mu.Unlock()
		if no["publish "+last] {
			return no
		}
		time.Sleep(5 * time.Millisecond) // until the server has answered
	}
	t.Fatal("the server refused nothing")
	return nil
}

// covers reports whether a pattern of the table allows a subject.
func covers(pattern, subject string) bool {
	p, s := strings.Split(pattern, "."), strings.Split(subject, ".")
	for i, x := range p {
		switch {
		case x == ">":
			return len(s) > i
		case i >= len(s), x != "*" && x != s[i]:
			return false
		}
	}
	return len(p) == len(s)
}

func anyCovers(patterns []string, subject string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return covers(p, subject) })
}

func concrete(pattern string) string {
	return strings.NewReplacer("*", "zz", ">", "zz").Replace(pattern)
}

// TestEachPrincipalCanUseItsOwnSubjectsAndNoOthers tries every principal's credentials on every subject that any principal
// has, at its own server and at another site's.
func TestEachPrincipalCanUseItsOwnSubjectsAndNoOthers(t *testing.T) {
	l := secured(t, "a", "b")
	pub, sub := map[string]bool{}, map[string]bool{}
	for _, p := range l.principals() {
		for _, s := range access.Home(p).Publish {
			pub[concrete(s)] = true
		}
		for _, s := range access.Home(p).Subscribe {
			sub[concrete(s)] = true
		}
	}
	publish, subscribe := slices.Sorted(maps.Keys(pub)), slices.Sorted(maps.Keys(sub))
	tried := 0
	for _, p := range l.principals() {
		for _, at := range []domain.SiteID{"a", "b"} {
			perm := access.Away(p)
			if p.Site == at {
				perm = access.Home(p)
			}
			if p.Service == access.Monitor && p.Site != at {
				continue // its token is not taken there at all
			}
			no := l.raw(p, at).refused(t, publish, subscribe)
			for _, s := range publish {
				tried++
				if may := anyCovers(perm.Publish, s) && !anyCovers(perm.Deny, s); may == no["publish "+s] {
					t.Errorf("%s at the server of %s: publish %s: refused %v, the table allows %v", p, at, s, no["publish "+s], may)
				}
			}
			for _, s := range subscribe {
				tried++
				if may := anyCovers(perm.Subscribe, s); may == no["subscribe "+s] {
					t.Errorf("%s at the server of %s: subscribe %s: refused %v, the table allows %v", p, at, s, no["subscribe "+s], may)
				}
			}
		}
	}
	t.Logf("%d principals, %d tries", len(l.principals()), tried)
}

// TestWhatMattersIsRefused says by hand, apart from the table, who alone may do what matters most.
func TestWhatMattersIsRefused(t *testing.T) {
	l := secured(t, "a")
	only := func(services ...string) func(access.Principal) bool {
		return func(p access.Principal) bool {
			return slices.Contains(services, p.String()) || slices.Contains(services, p.Service)
		}
	}
	nobody := only()
	publish := map[string]func(access.Principal) bool{
		"hf.v1.vote.a.prepare":               only("quorum"),
		"hf.v1.pipe.erp.257":                 only("replicator"),
		"hf.v1.api.a.replicator.promote":     only("a.failover"),
		"hf.v1.api.a.host-a-h1.start":        only("a.failover"),
		"hf.v1.api.a.quorum.campaign":        only("a.failover"),
		"hf.v1.api.a.failover.run_start":     only("operator"),
		"hf.v1.evt.a.group.erp.promoted":     only("a.replicator"),
		"hf.v1.evt.a.disaster.b.confirmed":   only("a.health"),
		"hf.v1.evt.b.group.erp.promoted":     only("b.replicator-at-home-only"),
		"hf.v1.hb.a.health":                  only("a.health"),
		"hf.v1.run.main.r1.head":             only("failover"),
		"$KV.HF_DESIRED.group.erp":           only("failover"),
		"$JS.API.STREAM.DELETE.HF_AUDIT":     nobody,
		"$JS.API.STREAM.PURGE.HF_EVENTS":     nobody,
		"$JS.API.STREAM.DELETE.HF_PIPE_x_e1": only("a.replicator"),
		"$SYS.REQ.SERVER.PING.CONNZ":         only("a.monitor"),
		"hf.v1.cmd.a.plan.main.run":          nobody,
	}
	subscribe := map[string]func(access.Principal) bool{
		"hf.v1.api.a.failover.run_start": only("a.failover"),
		"hf.v1.vote.a.prepare":           only("a.quorum"),
		"_INBOX_a_failover.x":            only("a.failover"),
		"hf.v1.evt.>":                    only("reader"),
		">":                              nobody,
	}
	for _, p := range l.principals() {
		if p.Service == access.Monitor && p.Site != "a" {
			continue
		}
		no := l.raw(p, "a").refused(t, slices.Sorted(maps.Keys(publish)), slices.Sorted(maps.Keys(subscribe)))
		for s, may := range publish {
			if may(p) == no["publish "+s] {
				t.Errorf("%s: publish %s: refused %v", p, s, no["publish "+s])
			}
		}
		for s, may := range subscribe {
			if may(p) == no["subscribe "+s] {
				t.Errorf("%s: subscribe %s: refused %v", p, s, no["subscribe "+s])
			}
		}
	}
}

func TestHomeTokenIsRefusedAtAnotherSitesServer(t *testing.T) {
	l := secured(t, "a", "b")
	c := l.creds(access.Principal{Site: "a", Service: "replicator"})
	_, err := nats.Connect(l.urls["b"], nats.ClientTLSConfig(c.Certificate, c.Roots),
		nats.UserJWT(func() (string, error) { return c.UserJWT("a") }, c.SignNonce))
	if !errors.Is(err, nats.ErrAuthorization) {
		t.Fatalf("got %v", err)
	}
}

func TestReaderSeesEventsAndCanPublishNothing(t *testing.T) {
	l := secured(t, "a")
	q := l.mesh(access.Principal{Site: "a", Service: "quorum"}, nil, nil)
	l.must(q.Local().EnsureAssets(t.Context()))
	r := l.raw(access.Principal{Site: "a", Service: access.Reader}, "a")
	got := make(chan *nats.Msg, 1)
	_, err := r.nc.ChanSubscribe("hf.v1.evt.>", got)
	l.must(err)
	l.must(r.nc.Flush())
	bus.NewEvents(t.Context(), q.Local(), "quorum", slog.New(slog.DiscardHandler)).Publish(t.Context(), "x", event.LeaseChanged{Fact: "epoch_granted", Group: "erp", Site: "a", Epoch: 257})
	select {
	case m := <-got:
		if m.Subject != "hf.v1.evt.a.group.erp.epoch_granted" {
			t.Fatal(m.Subject)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the reader saw no event")
	}
	tries := []string{"hf.v1.evt.a.group.erp.promoted", "anything", "_INBOX_a_quorum.x"}
	no := r.refused(t, tries, nil)
	for _, s := range tries {
		if !no["publish "+s] {
			t.Errorf("the reader published %s", s)
		}
	}
}

// logged keeps log lines.
type logged struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (k *logged) Write(p []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.buf.Write(p)
}

func (k *logged) await(t *testing.T, parts ...string) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		k.mu.Lock()
		text := k.buf.String()
		k.mu.Unlock()
		if !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(text, p) }) {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("want %q in the log:\n%s", parts, text)
		}
	}
}

// TestRefusedConnectionsAreToldAtBothEnds: without a certificate, of another authority, expired, and with another's key; the
// client's log names the mend, the server's monitor tells the refusal.
func TestRefusedConnectionsAreToldAtBothEnds(t *testing.T) {
	l := secured(t, "a")
	other := secured(t)
	m, err := bus.DialMonitor("a", l.urls["a"], l.creds(access.Principal{Site: "a", Service: access.Monitor}), slog.New(slog.DiscardHandler))
	l.must(err)
	t.Cleanup(m.Close)
	told := func(reason string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		for ctx.Err() == nil {
			all, _ := m.Refusals(ctx)
			if slices.ContainsFunc(all, func(r bus.Refusal) bool { return r.Reason == reason && r.Address == "127.0.0.1" }) {
				return
			}
			time.Sleep(20 * time.Millisecond) // the server is asked again
		}
		t.Fatalf("the server told no %q", reason)
	}
	dns := access.Principal{Site: "a", Service: "dns"}
	c := l.creds(dns)
	if _, err := nats.Connect(l.urls["a"], nats.ClientTLSConfig(nil, c.Roots)); err == nil {
		t.Fatal("a client without a certificate got in")
	}
	told("TLS Handshake Failure")
	text := &logged{}
	stranger, err := bus.Dial(bus.Config{Site: "a", Service: "dns", URLs: l.urls, Credentials: other.creds(dns), Logger: slog.New(slog.NewTextHandler(text, nil))})
	l.must(err)
	defer stranger.Close()
	text.await(t, "unknown authority", "mend=", "holdfast site join", l.urls["a"], "peer=a")
	told("TLS Handshake Failure")
	key := other.creds(dns)
	_, err = nats.Connect(l.urls["a"], nats.ClientTLSConfig(c.Certificate, c.Roots), nats.UserJWT(func() (string, error) { return c.UserJWT("a") }, key.SignNonce))
	if !errors.Is(err, nats.ErrAuthorization) {
		t.Fatalf("another's key: %v", err)
	}
	told("Authentication Failure")
	expired(t, l)
	told("TLS Handshake Failure")
}

// expired founds an installation whose certificates are over, with the same CA as l.
func expired(t *testing.T, l *links) {
	t.Helper()
	auth, err := identity.OpenAuthority(l.dirs["a"], identity.Options{NotBefore: time.Now().Add(-48 * time.Hour), Validity: time.Hour})
	l.must(err)
	card, err := identity.Renew(l.dirs["b"], nil)
	l.must(err)
	inst, err := auth.Reissue(false, card)
	l.must(err)
	l.must(identity.Install(l.dirs["b"], inst))
	dir := filepath.Join(identity.SecretsDir(l.dirs["b"]), "dns")
	if _, err := identity.Open(identity.SecretsDir(l.dirs["b"]), "dns"); err == nil || !strings.Contains(err.Error(), "expired") || !strings.Contains(err.Error(), "holdfast site rotate") {
		t.Fatalf("open expired: %v", err)
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "client.pem"), filepath.Join(dir, "client.key"))
	l.must(err)
	roots := l.creds(access.Principal{Site: "a", Service: "dns"}).Roots
	_, err = nats.Connect(l.urls["a"], nats.ClientTLSConfig(func() (tls.Certificate, error) { return pair, nil }, roots))
	if err == nil {
		t.Fatal("an expired certificate got in")
	}
}
