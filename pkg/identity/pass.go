package identity

import (
	"fmt"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/holdfast-dr/holdfast/pkg/access"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// A pass is a short token, signed by the services' account, that says which principal a user key belongs to. It goes with
// every signed request, so that a site checks a caller whose keys were renewed after its own copy of the installation was
// written.

// passType marks a pass among the tokens that the account's key signs.
const passType = "holdfast-pass"

// maxPasses bounds the memory of passes that were checked.
const maxPasses = 4096

type checkedPass struct {
	principal access.Principal
	user      string
	issued    int64
	expires   int64
}

// passOf makes the pass of a principal that makes requests: good for as long as its certificate.
func (a *Authority) passOf(p access.Principal, is Issued) (string, error) {
	if p.Account() != access.AccountServices {
		return "", nil
	}
	certs, err := parseCertificates([]byte(is.Certificate))
	if err != nil {
		return "", err
	}
	c := jwt.NewGenericClaims(is.User)
	c.Name, c.Expires = p.String(), certs[0].NotAfter.Unix()
	c.Data["kind"] = passType
	text, err := c.Encode(a.keys[signingKey(access.AccountServices)])
	if err != nil {
		return "", fmt.Errorf("sign pass of %s: %w", p, err)
	}
	return text, nil
}

// Signed is what proves who made a request: the signer's user key, its pass, and the signature.
type Signed struct {
	User, Pass string
	Signature  []byte
}

// Sign signs data as this principal.
func (c *Credentials) Sign(data []byte) (Signed, error) {
	m := c.current()
	sig, err := m.user.Sign(data)
	if err != nil {
		return Signed{}, fmt.Errorf("sign as %s: %w", m.principal, err)
	}
	return Signed{m.public, m.pass, sig}, nil
}

// Verify checks a signature over data, and that the signer is a principal of this installation whose pass is good at the
// time now and not revoked. Its errors wrap domain.ErrRefused and name the mend.
func (c *Credentials) Verify(s Signed, data []byte, now time.Time) (access.Principal, error) {
	none := access.Principal{}
	p, err := c.pass(s.Pass)
	if err != nil {
		return none, err
	}
	if p.user != s.User {
		return none, fmt.Errorf("%w: the caller shows the pass of %s with another key", domain.ErrRefused, p.principal)
	}
	if p.expires > 0 && now.Unix() > p.expires {
		return none, fmt.Errorf("%w: the credentials of %s expired on %s; renew them with holdfast site rotate at site %s", domain.ErrRefused,
			p.principal, time.Unix(p.expires, 0).UTC().Format(time.RFC3339), p.principal.Site)
	}
	m := c.current()
	if until, ok := m.inst.Revoked[s.User]; ok && p.issued <= until {
		return none, fmt.Errorf("%w: the credentials of %s were revoked; install its new ones at site %s", domain.ErrRefused, p.principal, p.principal.Site)
	}
	key, err := nkeys.FromPublicKey(s.User)
	if err != nil {
		return none, fmt.Errorf("%w: the caller's key is not an NKEY", domain.ErrRefused)
	}
	if key.Verify(data, s.Signature) != nil {
		return none, fmt.Errorf("%w: the signature is not that of %s over this request: it was forged or changed on the way", domain.ErrRefused, p.principal)
	}
	return p.principal, nil
}

// pass reads a pass, from memory when it was checked before.
func (c *Credentials) pass(text string) (checkedPass, error) {
	m := c.current()
	c.mu.Lock()
	p, ok := c.passes[text]
	c.mu.Unlock()
	if ok {
		return p, nil
	}
	claims, err := jwt.DecodeGeneric(text) // checks the signature against the issuer it names
	if err != nil {
		return p, fmt.Errorf("%w: the caller's pass is not readable; install the installation at its site again", domain.ErrRefused)
	}
	who, ok := access.ParsePrincipal(claims.Name)
	if kind, _ := claims.Data["kind"].(string); !ok || kind != passType {
		return p, fmt.Errorf("%w: the caller's token is not a pass", domain.ErrRefused)
	}
	if claims.Issuer != m.inst.PassKey {
		return p, fmt.Errorf("%w: the caller's pass (%s) is not signed by this installation", domain.ErrRefused, who)
	}
	p = checkedPass{principal: who, user: claims.Subject, issued: claims.IssuedAt, expires: claims.Expires}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.passes == nil || len(c.passes) >= maxPasses {
		c.passes = map[string]checkedPass{}
	}
	c.passes[text] = p
	return p, nil
}
