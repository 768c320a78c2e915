package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/holdfast-dr/holdfast/pkg/access"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Credentials are one principal's certificate, user and trust, as its files have them now. Its methods look whether the
// files have changed and, when the new ones are whole and fit together, use them; while they are not, what was read before
// stays in use. Safe for concurrent use.
type Credentials struct {
	secrets, name string

	mu     sync.Mutex
	stamps [4]stamp
	now    *material
	failed error // of the last attempt to read changed files
	passes map[string]checkedPass
}

type stamp struct {
	size int64
	mod  time.Time
	id   uint64
}

// material is what one reading of the files gave.
type material struct {
	cert      tls.Certificate
	roots     *x509.CertPool
	jwt, away string // of the user at home and at other sites
	pass      string
	user      nkeys.KeyPair
	public    string
	principal access.Principal
	inst      Installation
}

// Open reads the credentials of a principal (secretsDir/<name> and secretsDir/trust). Errors name the file that is
// missing, readable by others, expired, or does not fit the others, and the mend.
func Open(secretsDir, name string) (*Credentials, error) {
	c := &Credentials{secrets: secretsDir, name: name}
	stamps := c.stat()
	m, err := c.read()
	if err != nil {
		return nil, fmt.Errorf("open credentials of %s: %w", name, err)
	}
	if err := checkTimes(m.cert.Leaf, c.path(clientCert), time.Now()); err != nil {
		return nil, fmt.Errorf("open credentials of %s: %w", name, err)
	}
	c.now, c.stamps = m, stamps
	return c, nil
}

func checkTimes(leaf *x509.Certificate, path string, now time.Time) error {
	if now.After(leaf.NotAfter) {
		return fmt.Errorf("%s expired on %s (it is %s here): %w: renew it with holdfast site rotate, or mend this clock", path,
			leaf.NotAfter.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339), domain.ErrRefused)
	}
	if now.Before(leaf.NotBefore) {
		return fmt.Errorf("%s is valid from %s only (it is %s here): %w: mend this clock (NTP)", path,
			leaf.NotBefore.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339), domain.ErrRefused)
	}
	return nil
}

func (c *Credentials) path(file string) string { return filepath.Join(c.secrets, c.name, file) }

func (c *Credentials) files() [4]string {
	return [4]string{c.path(clientCert), c.path(clientKey), c.path(userCreds), filepath.Join(c.secrets, trustDir, installationFile)}
}

func (c *Credentials) stat() [4]stamp {
	var out [4]stamp
	for i, f := range c.files() {
		if st, err := os.Stat(f); err == nil {
			out[i] = stamp{st.Size(), st.ModTime(), inode(st)}
		}
	}
	return out
}

// read reads every file and checks that they fit together.
func (c *Credentials) read() (*material, error) {
	m := &material{}
	if err := c.readPair(m); err != nil {
		return nil, err
	}
	if err := c.readUser(m); err != nil {
		return nil, err
	}
	ca := filepath.Join(c.secrets, trustDir, caFile)
	pinned, err := os.ReadFile(ca)
	if err != nil {
		return nil, missing(ca, err)
	}
	roots, err := parseCertificates(pinned)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: copy it again from the founding site", ca, err)
	}
	m.roots = x509.NewCertPool()
	for _, r := range roots {
		m.roots.AddCert(r)
	}
	if !slices.ContainsFunc(roots, func(r *x509.Certificate) bool { return m.cert.Leaf.CheckSignatureFrom(r) == nil }) {
		return nil, fmt.Errorf("%s: %w: it is not signed by a CA in %s: install this installation's certificate with holdfast site join", c.path(clientCert), domain.ErrRefused, ca)
	}
	path := filepath.Join(c.secrets, trustDir, installationFile)
	if m.inst, err = ReadInstallation(path); err != nil {
		return nil, missing(path, err)
	}
	if err := m.inst.Verify(pinned); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return m, m.fromInstallation(path)
}

// fromInstallation takes what the installation says of this principal.
func (m *material) fromInstallation(path string) error {
	site, ok := m.inst.Site(m.principal.Site)
	if !ok {
		return fmt.Errorf("%s: %w: site %s is not in it (serial %d); it was expelled, or never admitted", path, domain.ErrRefused, m.principal.Site, m.inst.Serial)
	}
	is := site.Issued[m.principal.Service]
	if is.User != m.public {
		return fmt.Errorf("%s does not match: %w: it has user %s for %s, user.creds is of %s; install it again with holdfast site join", path, domain.ErrRefused, is.User, m.principal, m.public)
	}
	m.away, m.pass = is.Away, is.Pass
	return nil
}

func missing(path string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is missing: %w: complete the site's folder with holdfast site init and holdfast site join", path, domain.ErrNotFound)
	}
	return err
}

func (c *Credentials) readPair(m *material) error {
	certPath, keyPath := c.path(clientCert), c.path(clientKey)
	certRaw, err := os.ReadFile(certPath)
	if err != nil {
		return missing(certPath, err)
	}
	keyRaw, err := readPrivate(keyPath)
	if err != nil {
		return err
	}
	certs, err := parseCertificates(certRaw)
	if err != nil {
		return fmt.Errorf("%s: %w: restore it or renew it with holdfast site rotate", certPath, err)
	}
	key, err := parseKey(keyPath, keyRaw)
	if err != nil {
		return err
	}
	if !key.PublicKey.Equal(certs[0].PublicKey) {
		return fmt.Errorf("%s does not match %s: %w: restore both from one backup, or renew them with holdfast site rotate", keyPath, certPath, domain.ErrRefused)
	}
	p, ok := access.ParsePrincipal(certs[0].Subject.CommonName)
	if !ok || p.Service != c.name {
		return fmt.Errorf("%s is of %q: %w: the folder %s needs the certificate of its own principal; restore it", certPath, certs[0].Subject.CommonName, domain.ErrRefused, c.name)
	}
	m.principal = p
	m.cert = tls.Certificate{PrivateKey: key, Leaf: certs[0]}
	for _, x := range certs {
		m.cert.Certificate = append(m.cert.Certificate, x.Raw)
	}
	return nil
}

func (c *Credentials) readUser(m *material) error {
	path := c.path(userCreds)
	raw, err := readPrivate(path)
	if err != nil {
		return err
	}
	if m.jwt, err = jwt.ParseDecoratedJWT(raw); err != nil {
		return fmt.Errorf("%s: %w: %w: restore it or renew it with holdfast site rotate", path, domain.ErrInvalid, err)
	}
	claims, err := jwt.DecodeUserClaims(m.jwt)
	if err != nil {
		return fmt.Errorf("%s: %w: %w: restore it or renew it with holdfast site rotate", path, domain.ErrInvalid, err)
	}
	if m.user, err = seedOf(path, raw); err != nil {
		return err
	}
	if m.public, err = m.user.PublicKey(); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if claims.Subject != m.public || claims.Name != m.principal.String() {
		return fmt.Errorf("%s does not match: %w: its token is for user %s of %s, its key is %s, the certificate is of %s; restore it, or renew with holdfast site rotate",
			path, domain.ErrRefused, claims.Subject, claims.Name, m.public, m.principal)
	}
	return nil
}

// current is the newest whole reading.
func (c *Credentials) current() *material {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refresh()
	return c.now
}

// refresh reads changed files, and reports whether what is in use has changed. While they do not fit together (a rotation
// replaces them one after the other) it keeps what it has and tries again at the next call.
func (c *Credentials) refresh() bool {
	stamps := c.stat()
	if stamps == c.stamps {
		return false
	}
	m, err := c.read()
	if c.failed = err; err != nil {
		return false
	}
	c.now, c.stamps, c.passes = m, stamps, nil
	return true
}

// Changed is why changed files are not used yet: nil when what is in use is what the files say.
func (c *Credentials) Changed() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refresh()
	return c.failed
}

// Principal is whose credentials these are.
func (c *Credentials) Principal() access.Principal { return c.current().principal }

// Installation is what these credentials belong to.
func (c *Credentials) Installation() Installation { return c.current().inst }

// Certificate is the client certificate with its key, for a TLS handshake now.
func (c *Credentials) Certificate() (tls.Certificate, error) { return c.current().cert, nil }

// Roots are the trusted CAs, for a TLS handshake now.
func (c *Credentials) Roots() (*x509.CertPool, error) { return c.current().roots, nil }

// Expires is when the certificate, and the user credentials with it, end.
func (c *Credentials) Expires() time.Time { return c.current().cert.Leaf.NotAfter }

// UserJWT is the NATS user's token at a site's server now.
func (c *Credentials) UserJWT(at domain.SiteID) (string, error) {
	m := c.current()
	if at == m.principal.Site {
		return m.jwt, nil
	}
	return m.away, nil
}

// SignNonce answers the NATS server's challenge.
func (c *Credentials) SignNonce(nonce []byte) ([]byte, error) { return c.current().user.Sign(nonce) }

// Watch tells, at most once per interval, that other credentials are in use now: connections that were made with those
// before should be made anew. An installation that changes nothing of this principal (another site's keys were renewed, what
// was replaced is refused) is no reason to. The channel is closed when ctx ends.
func (c *Credentials) Watch(ctx context.Context, interval time.Duration) <-chan struct{} {
	out := make(chan struct{}, 1)
	go func() {
		defer close(out)
		seen := c.current()
		t := time.NewTicker(interval)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
			}
			if now := c.current(); now != seen {
				same := now.shows(seen)
				if seen = now; same {
					continue
				}
				select {
				case out <- struct{}{}:
				default:
				}
			}
		}
	}()
	return out
}

// shows reports whether servers are shown the same as with other material: the certificate, the key, and tokens that allow
// the same, whenever they were signed.
func (m *material) shows(other *material) bool {
	return slices.EqualFunc(m.cert.Certificate, other.cert.Certificate, slices.Equal) && m.public == other.public &&
		sameToken(m.jwt, other.jwt) && sameToken(m.away, other.away)
}

func sameToken(a, b string) bool {
	if a == b {
		return true
	}
	x, errX := jwt.DecodeUserClaims(a)
	y, errY := jwt.DecodeUserClaims(b)
	if errX != nil || errY != nil {
		return false
	}
	y.ID, y.IssuedAt = x.ID, x.IssuedAt
	return reflect.DeepEqual(x, y)
}
