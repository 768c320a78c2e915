package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/durable"
)

const (
	trustDir         = "trust"
	caFile           = "ca.pem"
	installationFile = "installation.json"
	clientCert       = "client.pem"
	clientKey        = "client.key"
	serverCert       = "server.pem"
	serverKey        = "server.key"
	userCreds        = "user.creds"
	nextKey          = "next.key"
	nextSeed         = "next.nk"
	requestFile      = "card.json" // in trust/: what this site asked for
)

// SecretsDir is the folder of secrets below a site's folder.
func SecretsDir(dir string) string { return filepath.Join(dir, "secrets") }

// MakeDir makes a folder that only its owner enters, with those above it that are missing. What root makes belongs to the owner
// of the folder it is made in.
func MakeDir(dir string) error {
	if st, err := os.Stat(dir); err == nil && st.IsDir() {
		return nil
	}
	if parent := filepath.Dir(dir); parent != dir {
		if err := MakeDir(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make folder: %w", err)
	}
	if err := adopt(dir); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	return nil
}

// WriteFile replaces a file whole or not at all: written beside it, flushed, renamed; never seen half written, nor readable by
// others while private. What root writes belongs to the owner of the folder it is in.
func WriteFile(path string, data []byte, mode fs.FileMode) error {
	if err := MakeDir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer os.Remove(tmp.Name()) //nolint:errcheck // gone already when all went well
	_, err = tmp.Write(data)
	err = errors.Join(err, tmp.Chmod(mode), adopt(tmp.Name()), tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err == nil {
		err = durable.SyncDir(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func writeJSON(path string, v any, mode fs.FileMode) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	var out bytes.Buffer
	if err := json.Indent(&out, raw, "", "  "); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	out.WriteByte('\n')
	return WriteFile(path, out.Bytes(), mode)
}

// readPrivate reads a file that nobody else may read.
func readPrivate(path string) ([]byte, error) {
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is missing: %w: complete the site's folder with holdfast site init and holdfast site join", path, domain.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if m := st.Mode().Perm(); m&0o077 != 0 {
		return nil, fmt.Errorf("%s has mode %04o: %w: others may read it; chmod 600 %s", path, m, domain.ErrRefused, path)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w: it must belong to the user the service runs as", path, err)
	}
	return raw, nil
}

func newKey() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make key: %w", err)
	}
	return encodeKey(key)
}

func encodeKey(key *ecdsa.PrivateKey) (*ecdsa.PrivateKey, []byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("make key: %w", err)
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func parseKey(path string, raw []byte) (*ecdsa.PrivateKey, error) {
	b, _ := pem.Decode(raw)
	if b == nil {
		return nil, fmt.Errorf("%s: %w: it is not a PEM key; restore it or renew it with holdfast site rotate", path, domain.ErrInvalid)
	}
	k, err := x509.ParsePKCS8PrivateKey(b.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w: restore it or renew it with holdfast site rotate", path, domain.ErrInvalid, err)
	}
	ec, ok := k.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s: %w: want an ECDSA key, found %T", path, domain.ErrInvalid, k)
	}
	return ec, nil
}

func readKey(path string) (*ecdsa.PrivateKey, error) {
	raw, err := readPrivate(path)
	if err != nil {
		return nil, err
	}
	return parseKey(path, raw)
}

func parseCertificates(raw []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for {
		var b *pem.Block
		if b, raw = pem.Decode(raw); b == nil {
			break
		}
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return nil, fmt.Errorf("parse certificate: %w: %w", domain.ErrInvalid, err)
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("parse certificate: %w: no PEM certificate found", domain.ErrInvalid)
	}
	return out, nil
}

func certPEM(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}
