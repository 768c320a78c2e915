package identity

import (
	"crypto/x509"
	"fmt"
	"path/filepath"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// OwnCA is an authority that its owner has already, for Found: it signs in place of one made for the installation. Its key
// is copied into the founding site's ca folder, which may be kept elsewhere.
type OwnCA struct {
	Cert []byte // PEM: the authority's own certificate first
	Key  []byte // PEM, ECDSA
}

// use puts the authority where a new one would be, after checking that it can sign.
func (o OwnCA) use(caDir string, now time.Time) error {
	wrong := func(format string, a ...any) error {
		return fmt.Errorf("found under your own CA: %w: %s", domain.ErrInvalid, fmt.Sprintf(format, a...))
	}
	certs, err := parseCertificates(o.Cert)
	if err != nil {
		return wrong("its certificate: %v: give a PEM file", err)
	}
	key, err := parseKey("its key", o.Key)
	if err != nil {
		return wrong("%v: give the authority's ECDSA key, PEM (PKCS #8)", err)
	}
	c := certs[0]
	switch {
	case !c.IsCA || c.KeyUsage&x509.KeyUsageCertSign == 0:
		return wrong("the certificate of %s is not one of an authority: it may not sign others", c.Subject.CommonName)
	case !key.PublicKey.Equal(c.PublicKey):
		return wrong("the key is not that of the certificate of %s: give the two that belong together", c.Subject.CommonName)
	case now.After(c.NotAfter) || now.Before(c.NotBefore):
		return wrong("the certificate of %s is good from %s to %s only", c.Subject.CommonName, c.NotBefore.Format(time.DateOnly), c.NotAfter.Format(time.DateOnly))
	}
	_, pemKey, err := encodeKey(key)
	if err != nil {
		return err
	}
	if err := WriteFile(filepath.Join(caDir, caKeyFile), pemKey, 0o600); err != nil {
		return err
	}
	return WriteFile(filepath.Join(caDir, caFile), []byte(certPEM(c.Raw)), 0o644)
}
