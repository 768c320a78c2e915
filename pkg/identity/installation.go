package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/access"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Installation is everything public about an installation: who its sites are, and what its authority signed for them. It
// is signed by the authority's key and holds no secret.
type Installation struct {
	Format   string    `json:"format"`
	Cluster  string    `json:"cluster"`
	Serial   uint64    `json:"serial"` // grows with each change
	Made     time.Time `json:"made"`
	CA       string    `json:"ca"`       // PEM of every trusted CA
	Operator string    `json:"operator"` // JWT
	PassKey  string    `json:"pass_key"` // public NKEY that signs passes
	Revoked  denied    `json:"revoked,omitempty"`
	Sites    []Site    `json:"sites"` // by index

	signed     []byte // what was signed, exactly: fields unknown here are kept
	signatures []signature
}

// Account is one NATS account.
type Account struct {
	Name access.Account `json:"name"`
	Key  string         `json:"key"` // public NKEY
	JWT  string         `json:"jwt"`
}

// Site is an admitted site.
type Site struct {
	Facts
	Accounts []Account         `json:"accounts"` // as this site's server has them
	Issued   map[string]Issued `json:"issued"`   // by principal's name; "nats" is the server
}

// Issued is what the authority signed for one principal.
type Issued struct {
	Certificate string `json:"certificate"`    // PEM
	User        string `json:"user,omitempty"` // public NKEY
	JWT         string `json:"jwt,omitempty"`  // of the user at its own site's server
	Away        string `json:"away,omitempty"` // of the user at every other site's
	Pass        string `json:"pass,omitempty"` // says which principal User is, to whom a signed request comes
}

type signature struct {
	CA    string `json:"ca"` // fingerprint of the CA certificate
	Value string `json:"value"`
}

type envelope struct {
	Format       string          `json:"format"`
	Installation json.RawMessage `json:"installation"`
	Signatures   []signature     `json:"signatures"`
}

// MarshalJSON gives the signed form; an Installation that nobody signed cannot be written.
func (i Installation) MarshalJSON() ([]byte, error) {
	if len(i.signed) == 0 || len(i.signatures) == 0 {
		return nil, fmt.Errorf("write installation: %w: it is not signed", domain.ErrInvalid)
	}
	return json.Marshal(envelope{i.Format, i.signed, i.signatures})
}

type plain Installation

// UnmarshalJSON reads what MarshalJSON wrote. It checks the format and not the signature: see Verify.
func (i *Installation) UnmarshalJSON(raw []byte) error {
	var e envelope
	if err := json.Unmarshal(raw, &e); err != nil {
		return err
	}
	if err := checkFormat(e.Format); err != nil {
		return err
	}
	var p plain
	if err := json.Unmarshal(e.Installation, &p); err != nil {
		return err
	}
	if p.Format != e.Format {
		return fmt.Errorf("%w: format %q outside, %q inside the signature", domain.ErrInvalid, e.Format, p.Format)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, e.Installation); err != nil {
		return err
	}
	p.signed, p.signatures = compact.Bytes(), e.Signatures
	*i = Installation(p)
	return nil
}

// sign makes i say what its fields say, signed by each of the keys.
func (i *Installation) sign(cas []authorityCA) error {
	raw, err := json.Marshal((*plain)(i))
	if err != nil {
		return fmt.Errorf("sign installation: %w", err)
	}
	i.signed, i.signatures = raw, nil
	sum := sha256.Sum256(raw)
	for _, ca := range cas {
		sig, err := ecdsa.SignASN1(nil, ca.key, sum[:])
		if err != nil {
			return fmt.Errorf("sign installation: %w", err)
		}
		i.signatures = append(i.signatures, signature{fingerprint(ca.cert.Raw), base64.StdEncoding.EncodeToString(sig)})
	}
	return nil
}

// Verify checks the installation's signature against CAs that were pinned before (PEM). domain.ErrRefused when none of
// them signed it.
func (i Installation) Verify(pinned []byte) error {
	certs, err := parseCertificates(pinned)
	if err != nil {
		return fmt.Errorf("verify installation: pinned CA: %w", err)
	}
	sum := sha256.Sum256(i.signed)
	for _, c := range certs {
		for _, s := range i.signatures {
			if s.CA == fingerprint(c.Raw) && verifies(c, sum[:], s.Value) {
				return nil
			}
		}
	}
	return fmt.Errorf("verify installation %q serial %d: %w: it is not signed by the CA this site trusts (%s): it was changed, "+
		"or belongs to another installation; get it again from the site that made this installation", i.Cluster, i.Serial, domain.ErrRefused, fingerprint(certs[0].Raw))
}

func verifies(c *x509.Certificate, digest []byte, value string) bool {
	pub, ok := c.PublicKey.(*ecdsa.PublicKey)
	sig, err := base64.StdEncoding.DecodeString(value)
	return ok && err == nil && ecdsa.VerifyASN1(pub, digest, sig)
}

// Site finds an admitted site.
func (i Installation) Site(id domain.SiteID) (Site, bool) {
	for _, s := range i.Sites {
		if s.Site == id {
			return s, true
		}
	}
	return Site{}, false
}

// Account finds an account as the site's server has it.
func (s Site) Account(name access.Account) (Account, bool) {
	for _, a := range s.Accounts {
		if a.Name == name {
			return a, true
		}
	}
	return Account{}, false
}

// Write writes the installation for every site to read.
func (i Installation) Write(path string) error { return writeJSON(path, i, 0o644) }

// ReadInstallation reads an installation and refuses one of another major format. It checks no signature: Install does.
func ReadInstallation(path string) (Installation, error) {
	var i Installation
	raw, err := os.ReadFile(path)
	if err != nil {
		return i, fmt.Errorf("read installation: %w: give the installation.json that holdfast site join wrote", err)
	}
	if err := json.Unmarshal(raw, &i); err != nil {
		return i, fmt.Errorf("read installation %s: %w", path, err)
	}
	return i, nil
}
