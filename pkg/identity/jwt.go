package identity

import (
	"bytes"
	"crypto/ecdsa"
	"encoding/base64"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/holdfast-dr/holdfast/pkg/access"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

const operatorKey = "operator"

func accounts() []access.Account {
	return []access.Account{access.AccountServices, access.AccountReaders, access.AccountSystem}
}

func accountKey(a access.Account) string { return "account-" + strings.ToLower(string(a)) }
func signingKey(a access.Account) string { return accountKey(a) + "-signing" }

// homeKey signs the users that only their own site's server takes.
func homeKey(a access.Account, site domain.SiteID) string {
	return accountKey(a) + "-home-" + string(site)
}

// homed are the accounts whose users have other permissions at home than away.
func homed() []access.Account {
	return []access.Account{access.AccountServices, access.AccountSystem}
}

func (a *Authority) public(name string) (string, error) {
	k, ok := a.keys[name]
	if !ok {
		return "", fmt.Errorf("read key %s: %w", name, domain.ErrNotFound)
	}
	return k.PublicKey()
}

// operatorJWT says who the operator is and which account is the server's own.
func (a *Authority) operatorJWT() (string, error) {
	key, err := a.public(operatorKey)
	if err != nil {
		return "", err
	}
	path := filepath.Join(a.dir, operatorKey+".jwt")
	if kept, err := os.ReadFile(path); err == nil {
		text := strings.TrimSpace(string(kept))
		if op, err := jwt.DecodeOperatorClaims(text); err != nil || op.Subject != key {
			return "", fmt.Errorf("read %s: %w: it is not of this authority's operator key: restore it from the backup of the CA", path, domain.ErrInvalid)
		}
		return text, nil
	}
	op := jwt.NewOperatorClaims(key)
	op.Name = "holdfast-" + a.state.Cluster
	if op.SystemAccount, err = a.public(accountKey(access.AccountSystem)); err != nil {
		return "", err
	}
	text, err := op.Encode(a.keys[operatorKey])
	if err != nil {
		return "", fmt.Errorf("sign operator: %w", err)
	}
	return text, WriteFile(path, []byte(text+"\n"), 0o644)
}

// accountJWTs makes the accounts as one site's server has them: it takes users signed for every server, and those signed
// for its own site.
func (a *Authority) accountJWTs(site domain.SiteID) ([]Account, error) {
	services, err := a.public(accountKey(access.AccountServices))
	if err != nil {
		return nil, err
	}
	var out []Account
	for _, acc := range accounts() {
		key, err := a.public(accountKey(acc))
		if err != nil {
			return nil, err
		}
		c := jwt.NewAccountClaims(key)
		c.Name = string(acc)
		signers := []string{signingKey(acc)}
		if slices.Contains(homed(), acc) {
			signers = append(signers, homeKey(acc, site))
		}
		for _, s := range signers {
			pub, err := a.public(s)
			if err != nil {
				return nil, err
			}
			c.SigningKeys.Add(pub)
		}
		confine(c, acc, services)
		for user, until := range a.state.Revoked[acc] {
			c.RevokeAt(user, time.Unix(until, 0))
		}
		text, err := c.Encode(a.keys[operatorKey])
		if err != nil {
			return nil, fmt.Errorf("sign account %s: %w", acc, err)
		}
		out = append(out, Account{Name: acc, Key: c.Subject, JWT: text})
	}
	return out, nil
}

const events = "hf.v1.evt.>"

// confine gives an account what it is for: the services JetStream and the export of events, the readers their import.
func confine(c *jwt.AccountClaims, acc access.Account, services string) {
	switch acc {
	case access.AccountServices:
		c.Limits.JetStreamLimits = jwt.JetStreamLimits{MemoryStorage: -1, DiskStorage: -1, Streams: -1, Consumer: -1}
		c.Exports.Add(&jwt.Export{Name: "events", Subject: events, Type: jwt.Stream})
	case access.AccountReaders:
		c.Imports.Add(&jwt.Import{Name: "events", Subject: events, Account: services, Type: jwt.Stream})
	}
}

// permit fills in every site's user JWTs, with the permissions of pkg/access.
func (a *Authority) permit(inst *Installation) error {
	sites := make([]Site, len(inst.Sites))
	for i, s := range inst.Sites {
		s.Issued = maps.Clone(s.Issued)
		for name, is := range s.Issued {
			if name == ServerName {
				continue
			}
			var err error
			p := access.Principal{Site: s.Site, Service: name}
			home := signingKey(p.Account())
			if slices.Contains(homed(), p.Account()) {
				home = homeKey(p.Account(), s.Site)
			}
			if is.JWT, err = a.userJWT(p, is, access.Home(p), home); err != nil {
				return err
			}
			if is.Away, err = a.userJWT(p, is, access.Away(p), signingKey(p.Account())); err != nil {
				return err
			}
			if is.Pass, err = a.passOf(p, is); err != nil {
				return err
			}
			s.Issued[name] = is
		}
		var err error
		if s.Accounts, err = a.accountJWTs(s.Site); err != nil {
			return err
		}
		sites[i] = s
	}
	inst.Sites = sites
	return nil
}

// userJWT lets a principal in for as long as its certificate is good.
func (a *Authority) userJWT(p access.Principal, is Issued, perm access.Permissions, signer string) (string, error) {
	certs, err := parseCertificates([]byte(is.Certificate))
	if err != nil {
		return "", err
	}
	acc := p.Account()
	issuer, err := a.keys[accountKey(acc)].PublicKey()
	if err != nil {
		return "", fmt.Errorf("sign user %s: %w", p, err)
	}
	c := jwt.NewUserClaims(is.User)
	c.Name, c.IssuerAccount, c.Expires = p.String(), issuer, certs[0].NotAfter.Unix()
	c.AllowedConnectionTypes = jwt.StringList{jwt.ConnectionTypeStandard}
	c.Pub.Allow, c.Pub.Deny, c.Sub.Allow = perm.Publish, perm.Deny, perm.Subscribe
	if len(perm.Publish) == 0 {
		c.Pub.Deny = jwt.StringList{">"} // an empty list would allow everything
	}
	if len(perm.Subscribe) == 0 {
		c.Sub.Deny = jwt.StringList{">"}
	}
	if perm.Answer {
		c.Resp = &jwt.ResponsePermission{MaxMsgs: 1, Expires: access.AnswerTime}
	}
	text, err := c.Encode(a.keys[signer])
	if err != nil {
		return "", fmt.Errorf("sign user %s: %w", p, err)
	}
	return text, nil
}

// proven checks that a renewed card was signed by the server key that site s has now.
func proven(s Site, c Card) error {
	sum, err := c.provable()
	if err != nil {
		return err
	}
	certs, err := parseCertificates([]byte(s.Issued[ServerName].Certificate))
	if err != nil {
		return err
	}
	sig, err := base64.StdEncoding.DecodeString(c.Proof)
	pub, ok := certs[0].PublicKey.(*ecdsa.PublicKey)
	if err != nil || !ok || !ecdsa.VerifyASN1(pub, sum, sig) {
		return fmt.Errorf("reissue site %s: %w: the card is not signed by the key the site has now; make it with holdfast site rotate at the site, "+
			"or if its keys are lost expel the site and admit it anew", c.Site, domain.ErrRefused)
	}
	return nil
}

// seedOf reads a user, account or operator seed from a seed file or a creds file.
func seedOf(path string, raw []byte) (nkeys.KeyPair, error) {
	if bytes.Contains(raw, []byte("-----BEGIN")) {
		k, err := jwt.ParseDecoratedNKey(raw)
		if err != nil {
			return nil, fmt.Errorf("%s: %w: %w: it holds no NKEY seed; restore it or renew it with holdfast site rotate", path, domain.ErrInvalid, err)
		}
		return k, nil
	}
	k, err := nkeys.FromSeed(bytes.TrimSpace(raw))
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w: it is not an NKEY seed; restore it or renew it with holdfast site rotate", path, domain.ErrInvalid, err)
	}
	return k, nil
}

func credsFile(token string, k nkeys.KeyPair) ([]byte, error) {
	seed, err := k.Seed()
	if err != nil {
		return nil, fmt.Errorf("write user credentials: %w", err)
	}
	return jwt.FormatUserConfig(token, seed)
}
