package identity

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/holdfast-dr/holdfast/pkg/access"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Validity is how long a certificate and the user credentials beside it are good when nothing else is said.
const Validity = 397 * 24 * time.Hour

// Options are for what is signed. The zero value is what a person wants.
type Options struct {
	Validity  time.Duration // of certificates and user credentials; 0: Validity
	NotBefore time.Time     // zero: now
	CA        *OwnCA        // for Found alone; nil: a new one
}

func (o Options) span() (from, to time.Time) {
	from = o.NotBefore
	if from.IsZero() {
		from = time.Now()
	}
	v := o.Validity
	if v == 0 {
		v = Validity
	}
	return from, from.Add(v)
}

// NewSite makes a site's keys below dir and the card that asks for its certificates. With the card of the founding site it
// pins that card's CA, so that only an installation of that CA is ever installed here. It refuses a folder that has keys.
func NewSite(dir string, s Spec, founder *Card) (Card, error) {
	if err := s.check(); err != nil {
		return Card{}, err
	}
	secrets := SecretsDir(dir)
	if _, err := os.Stat(filepath.Join(secrets, trustDir, requestFile)); err == nil {
		return Card{}, fmt.Errorf("make site %s in %s: %w: it has keys already; take another folder, or renew them with holdfast site rotate", s.Site, dir, domain.ErrConflict)
	}
	if founder != nil {
		if err := joinable(s, *founder); err != nil {
			return Card{}, err
		}
		if err := WriteFile(filepath.Join(secrets, trustDir, caFile), []byte(founder.CA), 0o644); err != nil {
			return Card{}, err
		}
	}
	return makeKeys(secrets, Card{Format: Format, Cluster: s.Cluster, Facts: s.facts()})
}

func joinable(s Spec, founder Card) error {
	if _, err := parseCertificates([]byte(founder.CA)); err != nil {
		return fmt.Errorf("join the installation of site %s: its card carries no CA: %w: take the card of the site where the installation was made", founder.Site, err)
	}
	if founder.Cluster != s.Cluster {
		return fmt.Errorf("join the installation of site %s: %w: it is called %q, this site is of %q; give the same cluster name", founder.Site, domain.ErrRefused, founder.Cluster, s.Cluster)
	}
	if founder.Site == s.Site || founder.Index == s.Index {
		return fmt.Errorf("join the installation of site %s: %w: name %s and index %d must not be those of %s (index %d)",
			founder.Site, domain.ErrConflict, s.Site, s.Index, founder.Site, founder.Index)
	}
	return nil
}

// names lists the folders of secrets of a site.
func (f Facts) names() []string {
	return append([]string{ServerName}, access.Services(f.Role, f.Hosts)...)
}

// makeKeys makes new keys for every principal, beside those in use, and the requests on the card.
func makeKeys(secrets string, c Card) (Card, error) {
	c.Requests = map[string]Request{}
	for _, name := range c.names() {
		req, err := newRequest(filepath.Join(secrets, name), c, name)
		if err != nil {
			return Card{}, fmt.Errorf("make keys of %s.%s: %w", c.Site, name, err)
		}
		c.Requests[name] = req
	}
	return c, writeJSON(filepath.Join(secrets, trustDir, requestFile), c, 0o644)
}

func newRequest(dir string, c Card, name string) (Request, error) {
	key, keyPEM, err := newKey()
	if err != nil {
		return Request{}, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: string(c.Site) + "." + name, Organization: []string{"Holdfast " + c.Cluster}},
	}, key)
	if err != nil {
		return Request{}, err
	}
	req := Request{CSR: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))}
	if err := WriteFile(filepath.Join(dir, nextKey), keyPEM, 0o600); err != nil || name == ServerName {
		return req, err
	}
	user, err := nkeys.CreateUser()
	if err != nil {
		return Request{}, err
	}
	seed, err := user.Seed()
	if err != nil {
		return Request{}, err
	}
	if req.User, err = user.PublicKey(); err != nil {
		return Request{}, err
	}
	return req, WriteFile(filepath.Join(dir, nextSeed), append(seed, '\n'), 0o600)
}

// Renew makes new keys for an installed site beside those in use, and a card that asks for their certificates, proven by
// the server key in use. Change, when not nil, may change the facts (addresses, hosts) on the way.
func Renew(dir string, change func(*Facts)) (Card, error) {
	secrets := SecretsDir(dir)
	old, err := ownCard(secrets)
	if err != nil {
		return Card{}, err
	}
	inst, err := ReadInstallation(filepath.Join(secrets, trustDir, installationFile))
	if err != nil {
		return Card{}, err
	}
	site, ok := inst.Site(old.Site)
	if !ok {
		return Card{}, fmt.Errorf("renew site %s: %w: it was never admitted; see holdfast site join", old.Site, domain.ErrNotFound)
	}
	key, err := readKey(filepath.Join(secrets, ServerName, serverKey))
	if err != nil {
		return Card{}, err
	}
	facts := site.Facts
	if change != nil {
		change(&facts)
	}
	if err := specOf(inst.Cluster, facts).check(); err != nil {
		return Card{}, err
	}
	c, err := makeKeys(secrets, Card{Format: Format, Cluster: inst.Cluster, Facts: facts})
	if err != nil {
		return Card{}, err
	}
	sum, err := c.provable()
	if err != nil {
		return Card{}, err
	}
	sig, err := ecdsa.SignASN1(rand.Reader, key, sum)
	if err != nil {
		return Card{}, fmt.Errorf("renew site %s: sign card: %w", old.Site, err)
	}
	c.Proof = base64.StdEncoding.EncodeToString(sig)
	return c, nil
}

func specOf(cluster string, f Facts) Spec {
	return Spec{Cluster: cluster, Site: f.Site, Role: f.Role, Index: f.Index, Addresses: f.Addresses, NATS: f.NATS, DNS: f.DNS, Hosts: f.Hosts}
}

// provable is the digest that Proof signs: all of the card but Proof.
func (c Card) provable() ([]byte, error) {
	c.Proof = ""
	raw, err := json.Marshal(c)
	sum := sha256.Sum256(raw)
	return sum[:], err
}

func ownCard(secrets string) (Card, error) {
	c, err := ReadCard(filepath.Join(secrets, trustDir, requestFile))
	if errors.Is(err, fs.ErrNotExist) {
		return c, fmt.Errorf("%s has no keys of a site: %w: make them with holdfast site init", secrets, domain.ErrNotFound)
	}
	return c, err
}

// Install checks an installation against the pinned CA and completes the site's secrets from it: certificates and user
// credentials for the keys the site has, the trust bundle, and the installation itself. It may be repeated. It refuses an
// older serial than the installed one, and one that has no certificates for this site's keys.
func Install(dir string, inst Installation) error {
	secrets := SecretsDir(dir)
	own, err := ownCard(secrets)
	if err != nil {
		return err
	}
	trust := filepath.Join(secrets, trustDir)
	pinned, err := os.ReadFile(filepath.Join(trust, caFile))
	if err != nil {
		return fmt.Errorf("install: pinned CA: %w: run holdfast site init with the card of the founding site", err)
	}
	if err := inst.Verify(pinned); err != nil {
		return err
	}
	if inst.Cluster != own.Cluster {
		return fmt.Errorf("install: %w: the installation is %q, site %s is of %q", domain.ErrRefused, inst.Cluster, own.Site, own.Cluster)
	}
	if now, err := ReadInstallation(filepath.Join(trust, installationFile)); err == nil && now.Serial > inst.Serial {
		return fmt.Errorf("install: %w: serial %d is older than the installed %d; get the newest from the site that made the installation", domain.ErrConflict, inst.Serial, now.Serial)
	}
	site, ok := inst.Site(own.Site)
	if !ok {
		return fmt.Errorf("install: %w: site %s is not in the installation (serial %d); give its card to holdfast site join at the founding site", domain.ErrNotFound, own.Site, inst.Serial)
	}
	// Trust first: a peer may show a certificate of the new CA from now on.
	if err := WriteFile(filepath.Join(trust, caFile), []byte(inst.CA), 0o644); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(site.Issued)) {
		if err := installOne(filepath.Join(secrets, name), name, site.Issued[name]); err != nil {
			return fmt.Errorf("install %s.%s: %w", own.Site, name, err)
		}
	}
	return writeJSON(filepath.Join(trust, installationFile), inst, 0o644)
}

// installOne writes what was issued beside the key it was issued for: the pending one, or the one in use. Key and
// certificate are two files: a reader that catches them between the two keeps what it had (see Credentials).
func installOne(dir, name string, is Issued) error {
	certName, keyName := clientCert, clientKey
	if name == ServerName {
		certName, keyName = serverCert, serverKey
	}
	if err := pick(filepath.Join(dir, nextKey), filepath.Join(dir, keyName), func(raw []byte, path string) error {
		return matchKey(path, raw, is.Certificate)
	}); err != nil {
		return err
	}
	if err := WriteFile(filepath.Join(dir, certName), []byte(is.Certificate), 0o644); err != nil || name == ServerName {
		return err
	}
	return installUser(dir, is)
}

// pick renames next over current when next matches; otherwise current must match.
func pick(next, current string, match func(raw []byte, path string) error) error {
	if raw, err := readPrivate(next); err == nil && match(raw, next) == nil {
		return os.Rename(next, current)
	}
	raw, err := readPrivate(current)
	if err != nil {
		return err
	}
	return match(raw, current)
}

func matchKey(path string, raw []byte, cert string) error {
	key, err := parseKey(path, raw)
	if err != nil {
		return err
	}
	certs, err := parseCertificates([]byte(cert))
	if err != nil {
		return err
	}
	if !key.PublicKey.Equal(certs[0].PublicKey) {
		return fmt.Errorf("%s does not match the certificate issued to %s: %w: the installation was signed for other keys; admit this site's present card, or renew with holdfast site rotate",
			path, certs[0].Subject.CommonName, domain.ErrRefused)
	}
	return nil
}

func installUser(dir string, is Issued) error {
	next, current := filepath.Join(dir, nextSeed), filepath.Join(dir, userCreds)
	for _, path := range []string{next, current} {
		raw, err := readPrivate(path)
		if err != nil {
			continue
		}
		seed, err := seedOf(path, raw)
		if err != nil {
			return err
		}
		if pub, err := seed.PublicKey(); err != nil || pub != is.User {
			continue
		}
		text, err := credsFile(is.JWT, seed)
		if err != nil {
			return err
		}
		if err := WriteFile(current, text, 0o600); err != nil {
			return err
		}
		if path == next {
			return os.Remove(next)
		}
		return nil
	}
	return fmt.Errorf("%s: %w: no key for the issued user %s; admit this site's present card, or renew with holdfast site rotate", current, domain.ErrRefused, is.User)
}

// addresses splits names from IPs for a certificate.
func addresses(all []string) (names []string, ips []net.IP) {
	names = []string{"nats-local", "nats", "localhost"}
	ips = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	for _, a := range all {
		if ip := net.ParseIP(a); ip != nil {
			ips = append(ips, ip)
		} else if !slices.Contains(names, a) {
			names = append(names, a)
		}
	}
	return names, ips
}
