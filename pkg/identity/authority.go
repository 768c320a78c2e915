package identity

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/holdfast-dr/holdfast/pkg/access"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

const (
	caValidity = 10 * 365 * 24 * time.Hour
	stateFile  = "authority.json"
	caKeyFile  = "ca.key"
	oldPrefix  = "old-" // of the CA's files while it is being replaced
)

// authorityCA is one certificate authority with its key.
type authorityCA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// state is what the authority remembers, in ca/authority.json.
type state struct {
	Format  string                    `json:"format"`
	Cluster string                    `json:"cluster"`
	Serial  uint64                    `json:"serial"`
	Sites   []Site                    `json:"sites"`
	Revoked map[access.Account]denied `json:"revoked,omitempty"`
	// Replaced are users whose keys were reissued and that go on until RevokeReplaced.
	Replaced map[access.Account]denied `json:"replaced,omitempty"`
}

// denied maps a public user NKEY to the time (Unix seconds) up to which its JWTs are void.
type denied map[string]int64

// Authority is who may sign for an installation: the keys in the founding site's ca folder.
type Authority struct {
	dir   string
	cas   []authorityCA // the first signs certificates
	keys  map[string]nkeys.KeyPair
	state state
	opt   Options
}

// Found makes a new installation in dir: the authority's keys in dir/ca, and the first site's keys and certificates in
// dir/secrets, complete for that site alone. The card carries the CA that other sites pin.
func Found(dir string, s Spec, opt Options) (Card, error) {
	if err := s.check(); err != nil {
		return Card{}, err
	}
	caDir := filepath.Join(dir, "ca")
	if _, err := os.Stat(filepath.Join(caDir, stateFile)); err == nil {
		return Card{}, fmt.Errorf("make installation %s in %s: %w: it holds one already; take another folder", s.Cluster, dir, domain.ErrConflict)
	}
	if err := newCA(caDir, s.Cluster, opt); err != nil {
		return Card{}, err
	}
	for name, make := range keyMakers() {
		if err := writeSeed(filepath.Join(caDir, name+".nk"), make); err != nil {
			return Card{}, err
		}
	}
	st := state{Format: Format, Cluster: s.Cluster}
	if err := writeJSON(filepath.Join(caDir, stateFile), st, 0o600); err != nil {
		return Card{}, err
	}
	a, err := OpenAuthority(dir, opt)
	if err != nil {
		return Card{}, err
	}
	card, err := NewSite(dir, s, nil)
	if err != nil {
		return Card{}, err
	}
	card.CA = a.bundle()
	if err := WriteFile(filepath.Join(SecretsDir(dir), trustDir, caFile), []byte(card.CA), 0o644); err != nil {
		return Card{}, err
	}
	if err := writeJSON(filepath.Join(SecretsDir(dir), trustDir, requestFile), card, 0o644); err != nil {
		return Card{}, err
	}
	inst, err := a.Admit(card)
	if err != nil {
		return Card{}, err
	}
	return card, Install(dir, inst)
}

// The authority's NATS keys by file name: the operator, and of each account its identity and the key that signs its users.
func keyMakers() map[string]func() (nkeys.KeyPair, error) {
	out := map[string]func() (nkeys.KeyPair, error){operatorKey: nkeys.CreateOperator}
	for _, acc := range accounts() {
		out[accountKey(acc)], out[signingKey(acc)] = nkeys.CreateAccount, nkeys.CreateAccount
	}
	return out
}

func writeSeed(path string, make func() (nkeys.KeyPair, error)) error {
	k, err := make()
	if err != nil {
		return fmt.Errorf("make key: %w", err)
	}
	seed, err := k.Seed()
	if err != nil {
		return fmt.Errorf("make key: %w", err)
	}
	return WriteFile(path, append(seed, '\n'), 0o600)
}

func newCA(caDir, cluster string, opt Options) error {
	if opt.CA != nil {
		from, _ := opt.span()
		return opt.CA.use(caDir, from)
	}
	key, keyPEM, err := newKey()
	if err != nil {
		return err
	}
	from, _ := opt.span()
	serial, err := serialNumber()
	if err != nil {
		return err
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "Holdfast " + cluster + " CA " + serial.Text(16)[:8]},
		NotBefore: from.Add(-clockSlack), NotAfter: from.Add(caValidity),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return fmt.Errorf("make CA: %w", err)
	}
	if err := WriteFile(filepath.Join(caDir, caKeyFile), keyPEM, 0o600); err != nil {
		return err
	}
	return WriteFile(filepath.Join(caDir, caFile), []byte(certPEM(der)), 0o644)
}

// clockSlack dates certificates back, for sites whose clocks are behind.
const clockSlack = 10 * time.Minute

func serialNumber() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("make certificate serial: %w", err)
	}
	return n.SetBit(n, 120, 1), nil
}

// OpenAuthority reads the authority in dir/ca.
func OpenAuthority(dir string, opt Options) (*Authority, error) {
	caDir := filepath.Join(dir, "ca")
	a := &Authority{dir: caDir, keys: map[string]nkeys.KeyPair{}, opt: opt}
	raw, err := readPrivate(filepath.Join(caDir, stateFile))
	if err != nil {
		return nil, fmt.Errorf("open authority: %w: only the site where the installation was made can sign", err)
	}
	if err := json.Unmarshal(raw, &a.state); err != nil {
		return nil, fmt.Errorf("open authority: %s: %w: %w", filepath.Join(caDir, stateFile), domain.ErrInvalid, err)
	}
	if err := checkFormat(a.state.Format); err != nil {
		return nil, fmt.Errorf("open authority: %w", err)
	}
	for _, prefix := range []string{"", oldPrefix} {
		ca, err := readCA(caDir, prefix)
		if prefix != "" && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("open authority: %w", err)
		}
		a.cas = append(a.cas, ca)
	}
	names := slices.Collect(maps.Keys(keyMakers()))
	for _, site := range a.state.Sites {
		for _, acc := range homed() {
			names = append(names, homeKey(acc, site.Site))
		}
	}
	for _, name := range names {
		path := filepath.Join(caDir, name+".nk")
		seed, err := readPrivate(path)
		if err != nil {
			return nil, fmt.Errorf("open authority: %w", err)
		}
		if a.keys[name], err = seedOf(path, seed); err != nil {
			return nil, fmt.Errorf("open authority: %w", err)
		}
	}
	return a, nil
}

func readCA(dir, prefix string) (authorityCA, error) {
	raw, err := os.ReadFile(filepath.Join(dir, prefix+caFile))
	if err != nil {
		return authorityCA{}, err
	}
	certs, err := parseCertificates(raw)
	if err != nil {
		return authorityCA{}, err
	}
	key, err := readKey(filepath.Join(dir, prefix+caKeyFile))
	return authorityCA{certs[0], key}, err
}

// bundle is every CA a site must trust, PEM.
func (a *Authority) bundle() string {
	var out string
	for _, ca := range a.cas {
		out += certPEM(ca.cert.Raw)
	}
	return out
}

// Cluster is the installation's name.
func (a *Authority) Cluster() string { return a.state.Cluster }

// Installation is the last one signed, signed again: the same serial, the same content.
func (a *Authority) Installation() (Installation, error) { return a.compose() }

// Admit signs what the cards ask for and returns the new installation. A card admitted before changes nothing. It refuses
// (domain.ErrRefused, domain.ErrConflict) a card of another cluster, a name or an index that another site has.
func (a *Authority) Admit(cards ...Card) (Installation, error) {
	return a.change(func(st *state) error {
		for _, c := range cards {
			i := slices.IndexFunc(st.Sites, func(s Site) bool { return s.Site == c.Site })
			if i >= 0 && sameKeys(st.Sites[i], c) {
				continue
			}
			if err := a.admissible(*st, c, -1); err != nil {
				return err
			}
			site, err := a.issue(c)
			if err != nil {
				return err
			}
			st.Sites = append(st.Sites, site)
		}
		slices.SortFunc(st.Sites, func(x, y Site) int { return x.Index - y.Index })
		return nil
	})
}

// Reissue signs new keys for admitted sites. With revokeOld the users of the keys before are refused from then on, at every
// site where the new installation is installed; without it they go on until they expire. Each card must be proven by the
// key it replaces (see Renew).
func (a *Authority) Reissue(revokeOld bool, cards ...Card) (Installation, error) {
	return a.change(func(st *state) error {
		for _, c := range cards {
			i := slices.IndexFunc(st.Sites, func(s Site) bool { return s.Site == c.Site })
			if i < 0 {
				return fmt.Errorf("reissue site %s: %w: it was never admitted; admit its card with holdfast site join", c.Site, domain.ErrNotFound)
			}
			if sameKeys(st.Sites[i], c) {
				continue
			}
			if err := a.admissible(*st, c, i); err != nil {
				return err
			}
			if err := proven(st.Sites[i], c); err != nil {
				return err
			}
			if revokeOld {
				st.revoke(st.Sites[i])
			} else {
				st.replace(st.Sites[i])
			}
			site, err := a.issue(c)
			if err != nil {
				return err
			}
			st.Sites[i] = site
		}
		return nil
	})
}

// Expel removes a site: its users are refused wherever the new installation is installed.
func (a *Authority) Expel(id domain.SiteID) (Installation, error) {
	return a.change(func(st *state) error {
		i := slices.IndexFunc(st.Sites, func(s Site) bool { return s.Site == id })
		if i < 0 {
			return fmt.Errorf("expel site %s: %w: it is not of installation %s", id, domain.ErrNotFound, st.Cluster)
		}
		st.revoke(st.Sites[i])
		st.Sites = slices.Delete(st.Sites, i, i+1)
		return nil
	})
}

func (st *state) revoke(s Site) {
	if st.Revoked == nil {
		st.Revoked = map[access.Account]denied{}
	}
	for name, is := range s.Issued {
		if is.User == "" {
			continue
		}
		acc := access.Principal{Site: s.Site, Service: name}.Account()
		if st.Revoked[acc] == nil {
			st.Revoked[acc] = denied{}
		}
		st.Revoked[acc][is.User] = revokedUntil()
	}
}

// revokedUntil voids every JWT that was made until now.
func revokedUntil() int64 { return time.Now().Unix() + 1 }

// change makes the state's next version, keeps it durably and signs it.
func (a *Authority) change(f func(*state) error) (Installation, error) {
	before := a.state
	next := before
	next.Sites = slices.Clone(before.Sites)
	if err := f(&next); err != nil {
		return Installation{}, err
	}
	next.Serial++
	a.state = next
	inst, err := a.compose()
	if err == nil {
		err = writeJSON(filepath.Join(a.dir, stateFile), next, 0o600)
	}
	if err != nil {
		a.state = before
		return Installation{}, err
	}
	return inst, nil
}

func (a *Authority) compose() (Installation, error) {
	op, err := a.operatorJWT()
	if err != nil {
		return Installation{}, err
	}
	services, err := a.public(signingKey(access.AccountServices))
	if err != nil {
		return Installation{}, err
	}
	inst := Installation{Format: Format, Cluster: a.state.Cluster, Serial: a.state.Serial, Made: time.Now().UTC().Truncate(time.Second),
		CA: a.bundle(), Operator: op, PassKey: services, Revoked: a.state.Revoked[access.AccountServices], Sites: a.state.Sites}
	if err := a.permit(&inst); err != nil {
		return Installation{}, err
	}
	return inst, inst.sign(a.cas)
}

// RollOver makes a new CA beside the old one. From then on certificates are signed by the new one and installations carry
// and are signed by both: install at every site, then Reissue every site and install again, then Retire.
func (a *Authority) RollOver() (Installation, error) {
	if len(a.cas) > 1 {
		return Installation{}, fmt.Errorf("roll the CA over: %w: a roll-over is under way; finish it first (reissue every site, then retire the old CA)", domain.ErrConflict)
	}
	for _, f := range []string{caKeyFile, caFile} {
		if err := os.Rename(filepath.Join(a.dir, f), filepath.Join(a.dir, oldPrefix+f)); err != nil {
			return Installation{}, fmt.Errorf("roll the CA over: %w", err)
		}
	}
	if err := newCA(a.dir, a.state.Cluster, Options{}); err != nil {
		return Installation{}, err
	}
	return a.reload()
}

func (a *Authority) reload() (Installation, error) {
	b, err := OpenAuthority(filepath.Dir(a.dir), a.opt)
	if err != nil {
		return Installation{}, err
	}
	*a = *b
	return a.change(func(*state) error { return nil })
}

// Retire drops the CA that RollOver replaced. domain.ErrRefused while a site still shows a certificate signed by it.
func (a *Authority) Retire() (Installation, error) {
	if len(a.cas) < 2 {
		return Installation{}, fmt.Errorf("retire the old CA: %w: there is only one", domain.ErrNotFound)
	}
	for _, s := range a.state.Sites {
		for name, is := range s.Issued {
			certs, err := parseCertificates([]byte(is.Certificate))
			if err != nil {
				return Installation{}, err
			}
			if certs[0].CheckSignatureFrom(a.cas[1].cert) == nil {
				return Installation{}, fmt.Errorf("retire the old CA: %w: %s.%s still has its certificate from it; renew site %s first", domain.ErrRefused, s.Site, name, s.Site)
			}
		}
	}
	for _, f := range []string{caKeyFile, caFile} {
		if err := os.Remove(filepath.Join(a.dir, oldPrefix+f)); err != nil {
			return Installation{}, fmt.Errorf("retire the old CA: %w", err)
		}
	}
	return a.reload()
}

// issueCertificate signs one request. The names in it are ours, not the request's: a request proves a key and nothing else.
func (a *Authority) issueCertificate(c Card, name, csrPEM string) (string, error) {
	b, _ := pem.Decode([]byte(csrPEM))
	if b == nil {
		return "", fmt.Errorf("sign %s.%s: %w: the card's request is not PEM", c.Site, name, domain.ErrInvalid)
	}
	csr, err := x509.ParseCertificateRequest(b.Bytes)
	if err == nil {
		err = csr.CheckSignature()
	}
	if err != nil {
		return "", fmt.Errorf("sign %s.%s: %w: the card's request: %w", c.Site, name, domain.ErrInvalid, err)
	}
	if made := csr.Subject.CommonName; made != string(c.Site)+"."+name {
		return "", fmt.Errorf("sign %s.%s: %w: the card's request was made for %q: the card was changed on its way; copy it again from its site", c.Site, name, domain.ErrInvalid, made)
	}
	serial, err := serialNumber()
	if err != nil {
		return "", err
	}
	from, to := a.opt.span()
	if end := a.cas[0].cert.NotAfter; to.After(end) {
		to = end // an authority of the owner's may end sooner
	}
	t := &x509.Certificate{SerialNumber: serial, NotBefore: from.Add(-clockSlack), NotAfter: to,
		Subject:  pkix.Name{CommonName: string(c.Site) + "." + name, Organization: []string{"Holdfast " + c.Cluster}},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true}
	if name == ServerName {
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		t.DNSNames, t.IPAddresses = addresses(c.Addresses)
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cas[0].cert, csr.PublicKey, a.cas[0].key)
	if err != nil {
		return "", fmt.Errorf("sign %s.%s: %w", c.Site, name, err)
	}
	return certPEM(der), nil
}
