package identity

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Format is the version of cards and installations that this program writes: major.minor. A reader refuses another major
// and ignores, but keeps, what a newer minor added.
const Format = "1.0"

// Spec is what a site says of itself when its keys are made.
type Spec struct {
	Cluster   string
	Site      domain.SiteID
	Role      domain.SiteRole
	Index     int             // 1 to 255
	Addresses []string        // host names or IPs by which others reach its NATS server: they go into its certificate
	NATS      string          // its URL as others reach it: tls://host:port
	DNS       string          // host:port of its authority, empty for none
	Hosts     []domain.HostID // VM hosts
}

// Facts are the public facts of a site.
type Facts struct {
	Site      domain.SiteID   `json:"site"`
	Role      domain.SiteRole `json:"role"`
	Index     int             `json:"index"`
	Addresses []string        `json:"addresses"`
	NATS      string          `json:"nats"`
	DNS       string          `json:"dns,omitempty"`
	Hosts     []domain.HostID `json:"hosts,omitempty"`
}

// Request asks for a certificate, and for a user of the NATS accounts, for one principal.
type Request struct {
	CSR  string `json:"csr"`            // PEM
	User string `json:"user,omitempty"` // public NKEY; empty for the NATS server itself
}

// Card is what a site shows to be admitted: public facts and requests. It holds no secret.
type Card struct {
	Format  string `json:"format"`
	Cluster string `json:"cluster"`
	Facts
	Requests map[string]Request `json:"requests"`        // by principal's name; "nats" is the server
	CA       string             `json:"ca,omitempty"`    // PEM, on the card of the founding site
	Proof    string             `json:"proof,omitempty"` // on a renewed card: signature by the site's server key of before
}

// ServerName is the name of the NATS server among a site's requests and secrets folders.
const ServerName = "nats"

// Fingerprint is a short text that two people can compare by telephone: it covers everything on the card.
func (c Card) Fingerprint() string {
	raw, err := json.Marshal(c)
	if err != nil {
		return "" // strings and numbers alone always encode
	}
	return fingerprint(raw)
}

func fingerprint(raw []byte) string {
	sum := sha256.Sum256(raw)
	s := base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:20])
	var parts []string
	for i := 0; i < len(s); i += 4 {
		parts = append(parts, s[i:i+4])
	}
	return strings.Join(parts, "-")
}

// Write writes the card for others to read.
func (c Card) Write(path string) error { return writeJSON(path, c, 0o644) }

// ReadCard reads a card and refuses one of another major format.
func ReadCard(path string) (Card, error) {
	var c Card
	raw, err := os.ReadFile(path)
	if err != nil {
		return c, fmt.Errorf("read card: %w: give the .card.json file that holdfast site init wrote", err)
	}
	if err := json.Unmarshal(raw, &c); err != nil {
		return c, fmt.Errorf("read card %s: %w: %w: it is not a whole card; copy it again from its site", path, domain.ErrInvalid, err)
	}
	if err := checkFormat(c.Format); err != nil {
		return c, fmt.Errorf("read card %s: %w", path, err)
	}
	return c, nil
}

// checkFormat refuses what another major version of this program wrote.
func checkFormat(got string) error {
	major, _, ok := strings.Cut(got, ".")
	mine, _, _ := strings.Cut(Format, ".")
	if !ok {
		return fmt.Errorf("format version %q: %w: want major.minor; it was not written by holdfast", got, domain.ErrInvalid)
	}
	a, errA := strconv.Atoi(major)
	b, _ := strconv.Atoi(mine)
	switch {
	case errA != nil:
		return fmt.Errorf("format version %q: %w: want major.minor; it was not written by holdfast", got, domain.ErrInvalid)
	case a > b:
		return fmt.Errorf("format version %s is newer than this program's %s: %w: upgrade holdfast at this site", got, Format, domain.ErrRefused)
	case a < b:
		return fmt.Errorf("format version %s is older than this program's %s: %w: upgrade holdfast at the site that wrote it and let it write again", got, Format, domain.ErrRefused)
	}
	return nil
}

// check refuses facts that could not become a site.
func (s Spec) check() error {
	wrong := func(format string, a ...any) error {
		return fmt.Errorf("site %q: %w: %s", s.Site, domain.ErrInvalid, fmt.Sprintf(format, a...))
	}
	switch {
	case s.Cluster == "":
		return wrong("name the installation (cluster), the same at every site")
	case !domain.ValidToken(string(s.Site)):
		return wrong("the name must be 1 to 32 of a-z, 0-9 and '-'")
	case s.Role != domain.SiteData && s.Role != domain.SiteWitness:
		return wrong("role %q is not data or witness", s.Role)
	case s.Index < 1 || s.Index > 255:
		return wrong("index %d is not 1 to 255", s.Index)
	case len(s.Addresses) == 0:
		return wrong("give an address by which the other sites reach it")
	}
	for _, a := range s.Addresses {
		if net.ParseIP(a) == nil && (a == "" || strings.ContainsAny(a, ": /")) {
			return wrong("address %q is neither a host name nor an IP (without a port)", a)
		}
	}
	for _, h := range s.Hosts {
		if !domain.ValidToken(string(h)) {
			return wrong("host %q must be 1 to 32 of a-z, 0-9 and '-'", h)
		}
	}
	return nil
}

func (s Spec) facts() Facts {
	return Facts{Site: s.Site, Role: s.Role, Index: s.Index, Addresses: s.Addresses, NATS: s.NATS, DNS: s.DNS, Hosts: s.Hosts}
}
