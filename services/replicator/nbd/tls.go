package nbd

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// TLSFiles names PEM files: the server's certificate with its chain, its key, which nobody but the owner may use, and, when
// clients have to prove themselves, the authority that signs theirs.
type TLSFiles struct{ Cert, Key, CA string }

// LoadTLS reads the files, and again at each handshake, so that a renewed certificate needs no restart. Errors name the file
// and wrap domain.ErrInvalid.
func LoadTLS(files TLSFiles) (*tls.Config, error) {
	if _, err := files.read(); err != nil {
		return nil, err
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return files.read() }}, nil
}

func (f TLSFiles) read() (*tls.Config, error) {
	info, err := os.Stat(f.Key)
	if err != nil {
		return nil, fmt.Errorf("TLS key: %w: %w", err, domain.ErrInvalid)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("TLS key %s: others than its owner may use it (mode %04o): run chmod 600 %s: %w", f.Key, info.Mode().Perm(), f.Key, domain.ErrInvalid)
	}
	pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		return nil, fmt.Errorf("TLS certificate %s with key %s: %w: give PEM files that belong together: %w", f.Cert, f.Key, err, domain.ErrInvalid)
	}
	out := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}}
	if f.CA == "" {
		return out, nil
	}
	pem, err := os.ReadFile(f.CA)
	if err != nil {
		return nil, fmt.Errorf("TLS authority: %w: %w", err, domain.ErrInvalid)
	}
	out.ClientCAs = x509.NewCertPool()
	if !out.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("TLS authority %s: no certificate in it: give the PEM file of the clients' authority: %w", f.CA, domain.ErrInvalid)
	}
	out.ClientAuth = tls.RequireAndVerifyClientCert
	return out, nil
}
