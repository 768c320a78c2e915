package bus_test

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/holdfast-dr/holdfast/pkg/access"
	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/identity"
)

// TestClocksTenMinutesApartTakeNoVoteAway: what decides who serves does not look at any wall clock.
func TestClocksTenMinutesApartTakeNoVoteAway(t *testing.T) {
	l := secured(t, "a", "b")
	voter := l.mesh(access.Principal{Site: "a", Service: "quorum"}, nil, nil)
	subject := api.VoteSubject("a", "prepare")
	counted := make(chan string, 10)
	l.must(voter.Local().Handle(t.Context(), subject, func(ctx context.Context, _ []byte) ([]byte, error) {
		who, _ := bus.CallerOf(ctx)
		counted <- who.String()
		return []byte("{}"), nil
	}))
	for _, apart := range []time.Duration{-10 * time.Minute, 10 * time.Minute} {
		q := l.mesh(access.Principal{Site: "b", Service: "quorum"}, nil, func() time.Time { return time.Now().Add(apart) })
		conn, err := q.Conn("a")
		l.must(err)
		_, err = conn.Request(t.Context(), subject, nil)
		l.must(err)
		if who := <-counted; who != "b.quorum" {
			t.Fatalf("counted %s", who)
		}
	}
}

// TestACertificateOfTheFutureIsToldAsAClock: site b's were signed by a clock an hour ahead. TLS itself calls them expired.
func TestACertificateOfTheFutureIsToldAsAClock(t *testing.T) {
	l := secured(t, "a")
	auth, err := identity.OpenAuthority(l.dirs["a"], identity.Options{NotBefore: time.Now().Add(time.Hour), Validity: 24 * time.Hour})
	l.must(err)
	card, err := identity.Renew(l.dirs["b"], nil)
	l.must(err)
	inst, err := auth.Reissue(false, card)
	l.must(err)
	l.install("b", inst)
	l.serve("b")
	secrets := identity.SecretsDir(l.dirs["b"])
	if _, err := identity.Open(secrets, "dns"); err == nil || !strings.Contains(err.Error(), "valid from") || !strings.Contains(err.Error(), "NTP") {
		t.Errorf("its own service says %v", err)
	}
	text := &logged{}
	m, err := bus.Dial(bus.Config{Site: "a", Service: "health", URLs: l.urls, Credentials: l.creds(access.Principal{Site: "a", Service: "health"}), Logger: slog.New(slog.NewTextHandler(text, nil))})
	l.must(err)
	t.Cleanup(m.Close)
	text.await(t, "certificate is not valid yet by this clock", "mend=", "NTP", "peer=b")
	pair, err := tls.LoadX509KeyPair(filepath.Join(secrets, "dns", "client.pem"), filepath.Join(secrets, "dns", "client.key"))
	l.must(err)
	roots := l.creds(access.Principal{Site: "a", Service: "dns"}).Roots
	if _, err := nats.Connect(l.urls["a"], nats.ClientTLSConfig(func() (tls.Certificate, error) { return pair, nil }, roots)); err == nil {
		t.Fatal("the server takes a certificate of the future")
	}
	// The server's alert, when the end of the connection does not overtake it.
	if what, mend := bus.Diagnose(errors.New("remote error: tls: expired certificate")); !strings.Contains(what, "not valid yet") || !strings.Contains(mend, "NTP") {
		t.Errorf("the alert is told as %q: %q", what, mend)
	}
}
