package sitefolder

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/chap"
	"github.com/holdfast-dr/holdfast/pkg/config"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/identity"
)

// SoonToEnd is how long before its end a certificate is warned of.
const SoonToEnd = 30 * 24 * time.Hour

// View is what a site's folder says of its installation.
type View struct {
	Site        domain.SiteID `json:"site"`
	Role        string        `json:"role"`
	Cluster     string        `json:"cluster"`
	Card        string        `json:"card_fingerprint"`
	Founder     bool          `json:"founder"`
	Serial      uint64        `json:"serial"` // of the installation file; 0: not joined yet
	Sites       []SiteView    `json:"sites"`
	Authorities []CertView    `json:"authorities"`
	Secrets     []CertView    `json:"secrets"` // of this site, as they are on disk
	Problems    []string      `json:"problems"`
	Warnings    []string      `json:"warnings"`
}

// SiteView is one site of the installation.
type SiteView struct {
	Site  domain.SiteID   `json:"site"`
	Role  domain.SiteRole `json:"role"`
	Index int             `json:"index"`
	NATS  string          `json:"nats"`
	Via   domain.SiteID   `json:"via,omitempty"` // by whose relay this site reaches it
	Ends  time.Time       `json:"ends"`          // the first of its certificates to end
}

// CertView is one certificate.
type CertView struct {
	Name string    `json:"name"`
	Ends time.Time `json:"ends"`
}

// Show reads a site's folder: who is in the installation, when certificates end, and whether every secret is whole, fits
// its certificate and can be read by its owner alone.
func Show(dir string, now time.Time) (View, error) {
	f, err := open(dir)
	if err != nil {
		return View{}, err
	}
	card, err := readCard(f.ownCard())
	if err != nil {
		return View{}, err
	}
	v := View{Site: card.Site, Role: string(card.Role), Cluster: card.Cluster, Card: card.Fingerprint(), Founder: f.founded(),
		Sites: []SiteView{}, Secrets: []CertView{}, Problems: []string{}, Warnings: []string{}}
	if v.Authorities, err = authorities(f.path("secrets", "trust", "ca.pem")); err != nil {
		return v, err
	}
	inst, err := identity.ReadInstallation(f.Installation())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		v.Warnings = append(v.Warnings, fmt.Sprintf("not joined yet: give %s to holdfast site join at the founder, and here join the installation.json it writes", f.Card(v.Site)))
		return v, nil
	case err != nil:
		return v, err
	}
	v.Serial = inst.Serial
	for _, s := range inst.Sites {
		v.Sites = append(v.Sites, SiteView{Site: s.Site, Role: s.Role, Index: s.Index, NATS: s.NATS, Ends: firstEnd(s)})
	}
	own, _ := inst.Site(v.Site)
	for _, name := range slices.Sorted(maps.Keys(own.Issued)) {
		v.secret(f, name)
	}
	if cfg, err := f.load(); err != nil {
		v.Problems = append(v.Problems, err.Error())
	} else {
		v.ways(cfg)
		v.chap(f, cfg)
	}
	if f.pending() {
		v.Warnings = append(v.Warnings, fmt.Sprintf("new keys wait for their certificates: give %s to holdfast site join at the founder", f.renewed(v.Site)))
	}
	v.warn(now)
	return v, nil
}

func authorities(path string) ([]CertView, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the trusted CAs: %w", err)
	}
	var out []CertView
	for {
		var b *pem.Block
		if b, raw = pem.Decode(raw); b == nil {
			break
		}
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return nil, fmt.Errorf("read the trusted CAs in %s: %w: %w", path, domain.ErrInvalid, err)
		}
		out = append(out, CertView{c.Subject.CommonName, c.NotAfter})
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("read the trusted CAs in %s: %w: it holds no certificate: join the installation file again", path, domain.ErrInvalid)
	}
	return out, nil
}

func firstEnd(s identity.Site) time.Time {
	var first time.Time
	for _, is := range s.Issued {
		if b, _ := pem.Decode([]byte(is.Certificate)); b != nil {
			if c, err := x509.ParseCertificate(b.Bytes); err == nil && (first.IsZero() || c.NotAfter.Before(first)) {
				first = c.NotAfter
			}
		}
	}
	return first
}

// secret looks at what one principal has on disk.
func (v *View) secret(f Folder, name string) {
	dir := filepath.Join(f.Secrets(), name)
	if name == identity.ServerName {
		pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "server.pem"), filepath.Join(dir, "server.key"))
		if err == nil {
			err = private(filepath.Join(dir, "server.key"))
		}
		if err != nil {
			v.Problems = append(v.Problems, fmt.Sprintf("%s: %v: restore it, or renew it with holdfast site rotate", dir, err))
			return
		}
		v.Secrets = append(v.Secrets, CertView{name, pair.Leaf.NotAfter})
		return
	}
	creds, err := identity.Open(f.Secrets(), name)
	if err != nil {
		v.Problems = append(v.Problems, err.Error())
		return
	}
	v.Secrets = append(v.Secrets, CertView{name, creds.Expires()})
}

// ways tells which sites are reached by another's relay.
func (v *View) ways(cfg config.Config) {
	for _, s := range cfg.Sites {
		for i := range v.Sites {
			if v.Sites[i].Site == s.ID {
				v.Sites[i].Via = s.Via
			}
		}
	}
}

// chap looks at the secrets of the site's iSCSI logins.
func (v *View) chap(f Folder, cfg config.Config) {
	settings := chap.Settings(cfg.ISCSI.CHAP)
	for _, path := range []*string{&settings.SecretFile, &settings.MutualSecretFile} {
		if *path != "" && !filepath.IsAbs(*path) {
			*path = filepath.Join(filepath.Dir(f.Config()), *path)
		}
	}
	c, err := chap.Read(settings)
	if err != nil {
		v.Problems = append(v.Problems, err.Error())
		return
	}
	if len(c.Secrets) > 1 {
		v.Warnings = append(v.Warnings, fmt.Sprintf("the CHAP secret is being changed: remove the second line of %s when every VM host has the first", settings.SecretFile))
	}
}

func private(path string) error {
	st, err := os.Stat(path)
	if err == nil && st.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%s has mode %04o and others may read it: chmod 600 %s", path, st.Mode().Perm(), path)
	}
	return err
}

// warn tells what ends soon.
func (v *View) warn(now time.Time) {
	soon := func(what string, end time.Time, mend string) {
		if left := end.Sub(now); left < SoonToEnd {
			v.Warnings = append(v.Warnings, fmt.Sprintf("%s ends %s, in %d days: %s", what, end.Format(time.DateOnly), int(left.Hours()/24), mend))
		}
	}
	for _, s := range v.Sites {
		soon("the first certificate of site "+string(s.Site), s.Ends, "run holdfast site rotate at that site")
	}
	for _, c := range v.Secrets {
		soon("the certificate of "+string(v.Site)+"."+c.Name, c.Ends, "run holdfast site rotate here")
	}
	for _, a := range v.Authorities {
		soon("the CA "+a.Name, a.Ends, "run holdfast site rotate --ca at the founder, and then holdfast site rotate at each site")
	}
}
