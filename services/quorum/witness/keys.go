package witness

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/identity"
)

// The files that Make writes.
const (
	CertificateFile = "witness.pem" // public: each cluster is given a copy
	KeyFile         = "witness.key"
)

const validity = 10 * 365 * 24 * time.Hour

// Make writes a witness' key and certificate into a folder, for the names and IPs by which clusters reach it, and gives the certificate's
// file. Clusters trust that certificate alone, so nobody has to sign it. It refuses a folder that has a key, with domain.ErrConflict.
func Make(dir string, addresses []string) (string, error) {
	path := filepath.Join(dir, KeyFile)
	if _, err := os.Stat(path); err == nil {
		return "", fmt.Errorf("make witness: %s is there: %w: clusters trust its certificate; take another folder", path, domain.ErrConflict)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", fmt.Errorf("make witness: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return "", fmt.Errorf("make witness: %w", err)
	}
	from := time.Now() //nolint:forbidigo // of a certificate, which has dates
	c := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: "Holdfast witness"}, NotBefore: from.Add(-10 * time.Minute), NotAfter: from.Add(validity),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true, IsCA: false}
	for _, a := range addresses {
		if ip := net.ParseIP(a); ip != nil {
			c.IPAddresses = append(c.IPAddresses, ip)
		} else {
			c.DNSNames = append(c.DNSNames, a)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		return "", fmt.Errorf("make witness: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", fmt.Errorf("make witness: %w", err)
	}
	if err := identity.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600); err != nil {
		return "", err
	}
	out := filepath.Join(dir, CertificateFile)
	return out, identity.WriteFile(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
}
