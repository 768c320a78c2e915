//go:build e2e_compose

package compose

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
	"github.com/holdfast-dr/holdfast/pkg/identity"
)

// TestLinksOfSitesInContainers holds the links of three sites in containers to docs/security.md: what an outsider may see,
// that renewing every key and certificate costs no write, and that whoever is not of the installation is refused and told.
func TestLinksOfSitesInContainers(t *testing.T) {
	f := raise(t.Context(), t)
	old := map[domain.SiteID]string{} // copies of every site's secrets before they are renewed
	for _, s := range []struct {
		name string
		run  func(context.Context, *testing.T)
	}{
		{"the reader sees every event and does nothing else", f.outsider},
		{"every key and certificate is renewed under load", func(ctx context.Context, t *testing.T) { f.rotated(ctx, t, old) }},
		{"intruders are refused, and that is told", func(ctx context.Context, t *testing.T) { f.intruders(ctx, t, old) }},
		{"the CA is replaced under load", f.newAuthority},
		{"every container is healthy at the end", f.healthy},
	} {
		ok := t.Run(s.name, func(t *testing.T) {
			begun := time.Now()
			s.run(t.Context(), t)
			t.Logf("%.1f s", time.Since(begun).Seconds())
		})
		if !ok {
			t.Fatal("what follows would be judged by what is left of this")
		}
	}
}

// papers are what somebody shows to a server: a certificate and a user, either from a site's folder of secrets.
type papers struct {
	cert  []tls.Certificate
	roots *x509.CertPool
	user  nats.Option // nil: none
}

// papersOf are a principal's, read from a folder of secrets as any tool of somebody else would.
func papersOf(secrets, name string) (papers, error) {
	dir := filepath.Join(secrets, name)
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "client.pem"), filepath.Join(dir, "client.key"))
	if err != nil {
		return papers{}, err
	}
	ca, err := os.ReadFile(filepath.Join(secrets, "trust", "ca.pem"))
	if err != nil {
		return papers{}, err
	}
	p := papers{cert: []tls.Certificate{pair}, roots: x509.NewCertPool(), user: nats.UserCredentials(filepath.Join(dir, "user.creds"))}
	if !p.roots.AppendCertsFromPEM(ca) {
		return papers{}, fmt.Errorf("no certificate in %s/trust/ca.pem", secrets)
	}
	return p, nil
}

// dial connects to a site's server from this machine with somebody's papers. From is the address it comes from; empty: any.
func (f *fleet) dial(at *place, p papers, from string, more ...nats.Option) (*nats.Conn, error) {
	d := &net.Dialer{Timeout: 5 * time.Second}
	if from != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	// Whatever certificate is given is shown: a client of good manners shows none that the server does not ask for.
	show := func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		if len(p.cert) == 0 {
			return &tls.Certificate{}, nil
		}
		return &p.cert[0], nil
	}
	opts := []nats.Option{nats.SetCustomDialer(d), nats.Timeout(5 * time.Second), nats.NoReconnect(),
		nats.Secure(&tls.Config{MinVersion: tls.VersionTLS12, RootCAs: p.roots, ServerName: "nats-" + string(at.id), GetClientCertificate: show})}
	if p.user != nil {
		opts = append(opts, p.user)
	}
	return nats.Connect("tls://"+at.at(10)+":4222", append(opts, more...)...)
}

// as connects to a site's server as one of that site's principals.
func (f *fleet) as(t *testing.T, at *place, name string, more ...nats.Option) *nats.Conn {
	t.Helper()
	p, err := papersOf(at.files("secrets"), name)
	if err != nil {
		t.Fatal(err)
	}
	nc, err := f.dial(at, p, "", append([]nats.Option{nats.CustomInboxPrefix("_INBOX_" + string(at.id) + "_" + name)}, more...)...)
	if err != nil {
		t.Fatalf("connect to site %s as its %s: %v", at.id, name, err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// served is the certificate that a site's server shows.
func (f *fleet) served(at *place) (string, error) {
	c, err := net.DialTimeout("tcp", at.at(10)+":4222", 5*time.Second)
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	// The server speaks first, in the clear; what it says fits one line, and nothing follows before the handshake.
	if _, err := bufio.NewReader(c).ReadString('\n'); err != nil {
		return "", err
	}
	shown := ""
	tc := tls.Client(c, &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, //nolint:gosec // what it shows is the question
		VerifyPeerCertificate: func(raw [][]byte, _ [][]*x509.Certificate) error {
			shown = fingerprint(raw[0])
			return nil
		}})
	if err := tc.Handshake(); shown == "" {
		return "", err
	}
	return shown, nil
}

func fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// fingerprintOf is that of the first certificate in a PEM text.
func fingerprintOf(text string) string {
	b, _ := pem.Decode([]byte(text))
	if b == nil {
		return ""
	}
	return fingerprint(b.Bytes)
}

// installed is the installation that a site's folder has.
func (f *fleet) installed(t *testing.T, at *place) identity.Installation {
	t.Helper()
	inst, err := identity.ReadInstallation(at.files("secrets", "trust", "installation.json"))
	if err != nil {
		t.Fatal(err)
	}
	return inst
}

// connection is one that a server has, as it says.
type connection struct {
	CID   uint64 `json:"cid"`
	Name  string `json:"name"`
	User  string `json:"authorized_user"`
	Certs []struct {
		Sum     string `json:"cert_sha256"`
		Subject string `json:"subject"`
	} `json:"tls_peer_certs"`
}

// connections are the open ones of a site's server, asked for as its monitor.
func (f *fleet) connections(monitor *nats.Conn) ([]connection, error) {
	ask, _ := json.Marshal(map[string]any{"auth": true, "limit": 1000})
	m, err := monitor.Request("$SYS.REQ.SERVER.PING.CONNZ", ask, 5*time.Second)
	if err != nil {
		return nil, err
	}
	var reply struct {
		Data struct {
			Connections []connection `json:"connections"`
		} `json:"data"`
	}
	err = json.Unmarshal(m.Data, &reply)
	return reply.Data.Connections, err
}

// stored are the events in a site's stream with their places in it.
func (f *fleet) stored(ctx context.Context, at *place, operator *nats.Conn) (map[string]uint64, []event.Event, error) {
	js, err := jetstream.NewWithDomain(operator, string(at.id))
	if err != nil {
		return nil, nil, err
	}
	s, err := js.Stream(ctx, "HF_EVENTS")
	if err != nil {
		return nil, nil, err
	}
	c, err := s.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{})
	if err != nil {
		return nil, nil, err
	}
	seqs, all := map[string]uint64{}, []event.Event(nil)
	it, err := c.Messages()
	if err != nil {
		return nil, nil, err
	}
	defer it.Stop()
	for want := s.CachedInfo().State.Msgs; uint64(len(all)) < want; {
		m, err := it.Next(jetstream.NextMaxWait(5 * time.Second))
		if err != nil {
			return nil, nil, fmt.Errorf("read the events of site %s after %d of %d: %w", at.id, len(all), want, err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return nil, nil, err
		}
		e, _, err := event.Decode(m.Data())
		if err != nil {
			return nil, nil, err
		}
		seqs[e.ID] = meta.Sequence.Stream
		all = append(all, e)
	}
	return seqs, all, nil
}

// refused reports whether the error is a server's refusal, and not merely no answer.
func refused(err error) bool {
	if err == nil {
		return false
	}
	text := err.Error()
	return errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrAuthExpired) || strings.Contains(text, "tls") || strings.Contains(text, "Authorization Violation")
}
