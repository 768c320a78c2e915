package line

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"

	"github.com/holdfast-dr/holdfast/pkg/access"
	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/identity"
)

// proof is one handshake's configuration, of the credentials as they are now, for either end. fits says which peers are right.
func proof(creds *identity.Credentials, fits func(access.Principal) error) (*tls.Config, error) {
	cert, err := creds.Certificate()
	if err != nil {
		return nil, err
	}
	roots, err := creds.Roots()
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{cert},
		ClientAuth:   tls.RequireAnyClientCert,
		// A replicator's certificate is for clients and for no address: VerifyConnection is the verification, at both ends.
		InsecureSkipVerify: true,
		VerifyConnection:   func(cs tls.ConnectionState) error { return verify(cs, roots, fits) },
		// Each connection is verified by what holds then.
		SessionTicketsDisabled: true,
		// A message of 8 KiB is one record, and one write, from the first on.
		DynamicRecordSizingDisabled: true,
	}, nil
}

// verify holds a peer to a chain that ends in roots, and to a principal that fits.
func verify(cs tls.ConnectionState, roots *x509.CertPool, fits func(access.Principal) error) error {
	if len(cs.PeerCertificates) == 0 {
		return fmt.Errorf("the peer shows no certificate: %w", domain.ErrRefused)
	}
	leaf, rest := cs.PeerCertificates[0], x509.NewCertPool()
	for _, c := range cs.PeerCertificates[1:] {
		rest.AddCert(c)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: rest, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return fmt.Errorf("the certificate of %q: %w: %w: install the same installation.json at both sites (holdfast site join), renew certificates that expired (holdfast site rotate)",
			leaf.Subject.CommonName, domain.ErrRefused, err)
	}
	p, ok := access.ParsePrincipal(leaf.Subject.CommonName)
	if !ok || p.Service != api.ServiceReplicator {
		return fmt.Errorf("the certificate is of %q: %w: not of a replicator", leaf.Subject.CommonName, domain.ErrRefused)
	}
	return fits(p)
}

// anyReplicator fits every site's.
func anyReplicator(access.Principal) error { return nil }

// replicatorOf fits that of one site.
func replicatorOf(site domain.SiteID) func(access.Principal) error {
	return func(p access.Principal) error {
		if p.Site != site {
			return fmt.Errorf("the certificate is of %q: %w: not of the replicator of site %s; check the address that site offers for its lines; if it is right, somebody poses as that site",
				p.String(), domain.ErrRefused, site)
		}
		return nil
	}
}

// orRefused marks what the peer said no to, with the mend.
func orRefused(err error) error {
	var op *net.OpError
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &record):
		return fmt.Errorf("%w: %w: set security.secrets at both sites", domain.ErrRefused, err)
	case errors.As(err, &op) && op.Op == "remote error":
		return fmt.Errorf("%w: %w: it does not accept this certificate; install the same installation.json at both sites (holdfast site join), and see its log", domain.ErrRefused, err)
	}
	return err
}
