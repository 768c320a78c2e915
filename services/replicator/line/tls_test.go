package line

import (
	"context"
	"crypto/tls"
	"errors"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/identity"
)

func none(context.Context, []byte) (Ack, error) { return Ack{}, nil }

func TestEachEndHoldsTheOtherToItsCertificate(t *testing.T) {
	in, stranger := secured(t), secured(t)
	target := in.creds(t, site, api.ServiceReplicator)
	for name, c := range map[string]struct {
		to     domain.SiteID
		server *identity.Credentials
		sender *identity.Credentials
		says   string
	}{
		"another site's server":         {other, target, in.creds(t, other, api.ServiceReplicator), "somebody poses"},
		"another service's server":      {site, in.creds(t, site, api.ServiceHealth), in.creds(t, other, api.ServiceReplicator), "not of a replicator"},
		"another installation's server": {site, stranger.creds(t, site, api.ServiceReplicator), in.creds(t, other, api.ServiceReplicator), "unknown authority"},
		"another service's sender":      {site, target, in.creds(t, other, api.ServiceHealth), "does not accept this certificate"},
		"a server without TLS":          {site, nil, in.creds(t, other, api.ServiceReplicator), ""},
		"a sender without TLS":          {site, target, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := server(t, c.server)
			o, closing := s.Open(none)
			defer closing()
			_, err := Dial(t.Context(), c.to, o, c.sender, nil)
			if err == nil || c.says != "" && (!errors.Is(err, domain.ErrRefused) || !strings.Contains(err.Error(), c.says)) {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestTheServerRefusesASenderOfAnotherInstallation, though it trusts this one, and says so once.
func TestTheServerRefusesASenderOfAnotherInstallation(t *testing.T) {
	in, stranger := secured(t), secured(t)
	s, said := server(t, in.creds(t, site, api.ServiceReplicator))
	o, closing := s.Open(none)
	defer closing()
	cert, err := stranger.creds(t, other, api.ServiceReplicator).Certificate()
	if err != nil {
		t.Fatal(err)
	}
	for _, certs := range [][]tls.Certificate{{cert}, nil} {
		for _, most := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			nc, err := tls.Dial("tcp", o.Address, &tls.Config{InsecureSkipVerify: true, Certificates: certs, MaxVersion: most})
			if err == nil {
				nc.Write(putHello(o.Token))
				if err = read(t, nc, make([]byte, 1)); err == nil {
					t.Error("welcome")
				}
				nc.Close()
			}
			if err = orRefused(err); !errors.Is(err, domain.ErrRefused) {
				t.Error(err)
			}
		}
	}
	if n := said.count("no TLS with the sender"); n != 1 {
		t.Errorf("told %d times", n)
	}
}

func TestTheNewestTLSIsUsed(t *testing.T) {
	in := secured(t)
	s, _ := server(t, in.creds(t, site, api.ServiceReplicator))
	o, closing := s.Open(none)
	defer closing()
	c := dialed(t, o, in.creds(t, other, api.ServiceReplicator), nil)
	if v := c.nc.(*tls.Conn).ConnectionState().Version; v != tls.VersionTLS13 {
		t.Errorf("%#x", v)
	}
	if nc, err := tls.Dial("tcp", o.Address, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}); err == nil {
		nc.Close()
		t.Error("TLS 1.1 is taken")
	}
}
