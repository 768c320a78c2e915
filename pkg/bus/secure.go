package bus

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-dr/holdfast/pkg/access"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/identity"
	"github.com/holdfast-dr/holdfast/pkg/relay"
)

const (
	watchCredentials = time.Second
	drainWait        = 2 * time.Second // for requests in flight, before a connection is made anew
	rotateWait       = 5 * time.Second // for the new connection, before the next one's turn
	sayAgain         = time.Minute     // the same trouble is logged once in this time
)

// secure adds what proves this service to a server, and the server to it.
func secure(creds *identity.Credentials, at domain.SiteID) []nats.Option {
	if creds == nil {
		return nil
	}
	return []nats.Option{
		nats.Secure(&tls.Config{MinVersion: tls.VersionTLS12, VerifyConnection: func(cs tls.ConnectionState) error { return isServerOf(at, cs) }}),
		nats.ClientTLSConfig(creds.Certificate, creds.Roots),
		nats.UserJWT(func() (string, error) { return creds.UserJWT(at) }, creds.SignNonce),
		nats.CustomInboxPrefix(creds.Principal().InboxPrefix()),
		// A refusal may end: a clock is mended, credentials are renewed.
		nats.IgnoreAuthErrorAbort(),
	}
}

// wrongServer is a server that proved to be another site's.
type wrongServer struct {
	want domain.SiteID
	got  string
}

func (e *wrongServer) Error() string {
	return fmt.Sprintf("the certificate is of %q, not of the NATS server of site %s", e.got, e.want)
}

// isServerOf holds a server to its site. Its address alone says too little: a site names the addresses in its certificate itself,
// and every site's has localhost.
func isServerOf(at domain.SiteID, cs tls.ConnectionState) error {
	want := access.Principal{Site: at, Service: identity.ServerName}.String()
	if got := cs.PeerCertificates[0].Subject.CommonName; got != want {
		return &wrongServer{at, got}
	}
	return nil
}

// newJetStream is JetStream through the server's own domain: a server of another one does not answer.
func (c *Conn) newJetStream(opts ...jetstream.JetStreamOpt) (jetstream.JetStream, error) {
	if c.creds == nil {
		return jetstream.New(c.nc, opts...)
	}
	return jetstream.NewWithDomain(c.nc, string(c.site), opts...)
}

// rotate makes every connection anew, one after the other, when other credentials are in use, until ctx ends.
func (m *Mesh) rotate(ctx context.Context, creds *identity.Credentials, log *slog.Logger) {
	for range creds.Watch(ctx, watchCredentials) {
		log.Info("credentials changed: connections are made anew", "principal", creds.Principal().String(), "expires", creds.Expires())
		for _, site := range m.Sites() {
			m.conns[site].renew(ctx)
		}
	}
}

// renew makes the connection anew once what is in flight has ended, and waits for it a while.
func (c *Conn) renew(ctx context.Context) {
	if !c.nc.IsConnected() {
		return // the next attempt uses the new credentials
	}
	c.gate.close(ctx, drainWait)
	defer c.gate.open()
	c.setUp(false)
	c.trouble.forget()
	if err := c.nc.ForceReconnect(); err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, rotateWait)
	defer cancel()
	_ = c.AwaitConnected(ctx)
}

// trouble logs what keeps a connection from being made, or what it may not do: each kind of trouble once in a while.
type trouble struct {
	log *slog.Logger

	mu     sync.Mutex
	said   map[string]time.Time
	denied map[string]time.Time // when the server last refused to publish to a subject
	last   string               // the last refusal of a connection, with its mend
}

const maxTroubles = 1000

func newTrouble(log *slog.Logger) *trouble {
	return &trouble{log: log, said: map[string]time.Time{}, denied: map[string]time.Time{}}
}

// fresh reports whether a text is to be said now.
func (t *trouble) fresh(text string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if at, ok := t.said[text]; ok && now.Sub(at) < sayAgain {
		return false
	}
	if len(t.said) >= maxTroubles {
		clear(t.said)
	}
	t.said[text] = now
	return true
}

// connecting tells why a connection could not be made, when it was refused and not merely not answered.
func (t *trouble) connecting(url string, err error) {
	what, mend := diagnose(err)
	if what == "" {
		t.log.Debug("bus not connected", "error", err)
		return
	}
	t.mu.Lock()
	t.last = what + ": " + mend
	t.mu.Unlock()
	if t.fresh(what) {
		t.log.Warn("connection refused: "+what, "server", url, "mend", mend, "error", err)
	}
}

// why is the last refusal of a connection, as an error to wrap; nil when there was none.
func (t *trouble) why() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.last == "" {
		return nil
	}
	return errors.New(t.last)
}

var violation = regexp.MustCompile(`(?i)permissions violation for (publish|subscription) to "([^"]+)"`)

// async tells what the server complains about on a connection that is up.
func (t *trouble) async(url string, err error) {
	if m := violation.FindStringSubmatch(err.Error()); m != nil {
		t.violated(url, strings.ToLower(m[1]), m[2])
		return
	}
	if what, mend := diagnose(err); what != "" {
		if t.fresh(what) {
			t.log.Warn("connection refused: "+what, "server", url, "mend", mend, "error", err)
		}
		return
	}
	t.log.Warn("bus error", "error", err)
}

func (t *trouble) violated(url, act, subject string) {
	// The right to answer ends with the connection that brought the question; whoever asked asks again.
	if act == "publish" && strings.HasPrefix(subject, "_INBOX_") {
		t.log.Debug("answer not sent: the connection that brought the request is gone", "subject", subject)
		return
	}
	t.mu.Lock()
	if act == "publish" && len(t.denied) < maxTroubles {
		t.denied[subject] = time.Now()
	}
	t.mu.Unlock()
	if t.fresh(act + " " + subject) {
		t.log.Warn("permissions violation", "server", url, "act", act, "subject", subject,
			"mend", "this principal has no such right; after an upgrade sign the installation again (holdfast site join without cards at the founding site) and install it")
	}
}

// forget makes the next credentials begin without what the former ones were refused.
func (t *trouble) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.denied)
	clear(t.said)
}

// isDenied reports whether the server refused a publish to the subject since a moment. An older refusal says nothing of what was
// sent since: the server may be gone, or may have been told better.
func (t *trouble) isDenied(subject string, since time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	at, ok := t.denied[subject]
	return ok && !at.Before(since)
}

// diagnose names a refusal and its mend, both empty when err is none.
func diagnose(err error) (what, mend string) {
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var host x509.HostnameError
	var wrong *wrongServer
	var no *relay.Refusal
	text := strings.ToLower(err.Error())
	has := func(parts ...string) bool {
		for _, p := range parts {
			if strings.Contains(text, p) {
				return true
			}
		}
		return false
	}
	switch {
	case errors.As(err, &no) && errors.Is(no, domain.ErrUnavailable):
		return no.Text, "see that it runs, and the link from there"
	case errors.As(err, &no):
		return "the relay does not take it there", no.Text
	case errors.Is(err, relay.ErrNoRelay):
		return "no relay answers where one is said to be", "give the address of relay.listen of the site in between (sites: relay)"
	case errors.As(err, &unknown):
		return "the server's certificate is of an unknown authority", "check the address; install the same installation.json at both sites (holdfast site join)"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired && time.Now().Before(invalid.Cert.NotBefore):
		return "the server's certificate is not valid yet by this clock", "mend this clock (NTP), or that of the site that signed the certificate"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "the server's certificate has expired", "renew that site's certificates with holdfast site rotate, or mend this clock (NTP)"
	case errors.As(err, &wrong):
		return "the server is of another site", "check this site's address in site.yaml (sites: nats); if it is right, somebody poses as that site"
	case errors.As(err, &host):
		return "the server's certificate is for other addresses", "make that site's certificate again with its address (holdfast site rotate --address)"
	case has("tls: unknown certificate authority", "tls: bad certificate", "tls: certificate required"):
		return "the server does not accept this certificate: unknown authority, or none given", "install the same installation.json at both sites (holdfast site join)"
	case has("tls: expired certificate"): // the alert of both
		return "this certificate has expired, or is not valid yet, by the server's clock", "mend the clocks (NTP), or renew this site's certificates with holdfast site rotate"
	case has("authorization violation", "authentication revoked", "user authentication revoked"):
		return "the server does not know this user", "install the newest installation.json at both sites; a revoked key is renewed with holdfast site rotate"
	case has("authentication expired"):
		return "the user's credentials have expired", "renew this site's keys with holdfast site rotate"
	case errors.Is(err, nats.ErrSecureConnRequired), errors.Is(err, nats.ErrSecureConnWanted), has("secure connection"):
		return "one side wants TLS and the other does not", "set security.secrets at every site, and tls:// in its addresses"
	case errors.Is(err, nats.ErrTLS), has("tls:"):
		return "no TLS with the server", "look at the server's log for the reason"
	}
	return "", ""
}
