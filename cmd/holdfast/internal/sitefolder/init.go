package sitefolder

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/identity"
)

// Made is what Init made.
type Made struct {
	Folder      Folder
	Site        domain.SiteID
	Cluster     string
	Founded     bool // the installation, with this site
	Card        string
	Fingerprint string // the card's
	Role        domain.SiteRole
	Index       int
	Founder     domain.SiteID // whose CA is pinned
	Pinned      string        // the fingerprint of the founder's card
	Aside       string        // where a folder of before was moved to
	Embedded    bool
}

// Init makes a site's folder: keys, requests and configuration, and where no peer is given the installation with its CA.
// What fails leaves nothing behind.
func Init(o Options) (Made, error) {
	if err := o.check(); err != nil {
		return Made{}, err
	}
	peers, err := readPeers(o)
	if err != nil {
		return Made{}, err
	}
	if err := o.take(peers); err != nil {
		return Made{}, err
	}
	aside, err := moveAside(o.Dir)
	if err != nil {
		return Made{}, err
	}
	made, err := build(o, peers)
	if err != nil {
		_ = os.RemoveAll(o.Dir) // it was empty or not there before
		if aside != "" {
			err = errors.Join(err, os.Rename(aside, o.Dir))
		}
		return Made{}, err
	}
	made.Aside = aside
	return made, nil
}

// readPeers reads the cards of sites that are there already.
func readPeers(o Options) ([]identity.Card, error) {
	var out []identity.Card
	for _, path := range o.Peers {
		c, err := readCard(path)
		if err != nil {
			return nil, invalid("--peer: %v", err)
		}
		for _, p := range out {
			if p.Site == c.Site || p.Index == c.Index {
				return nil, invalid("--peer %s: site %s (index %d) is given twice, or shares its name or index with site %s (index %d)", path, c.Site, c.Index, p.Site, p.Index)
			}
		}
		out = append(out, c)
	}
	if len(out) > 0 && founder(out) == nil {
		return nil, invalid("--peer: none of the cards is of the site that founded the installation: give that site's card, which carries the CA")
	}
	return out, nil
}

// readCard reads a card and says so when it is something else.
func readCard(path string) (identity.Card, error) {
	c, err := identity.ReadCard(path)
	if err == nil && (c.Site == "" || len(c.Requests) == 0) {
		err = fmt.Errorf("read card %s: %w: it is not a site's card: give the NAME.card.json that holdfast site init wrote", path, domain.ErrInvalid)
	}
	return c, err
}

// founder is the card that carries the installation's CA.
func founder(cards []identity.Card) *identity.Card {
	for i := range cards {
		if cards[i].CA != "" {
			return &cards[i]
		}
	}
	return nil
}

// take completes the options with what the peers say.
func (o *Options) take(peers []identity.Card) error {
	f := founder(peers)
	switch {
	case f == nil && o.Cluster == "":
		o.Cluster = defaultCluster
	case f != nil && o.Cluster != "" && o.Cluster != f.Cluster:
		return invalid("--cluster %s: the card of site %s is of installation %s: leave --cluster out", o.Cluster, f.Site, f.Cluster)
	case f != nil:
		o.Cluster = f.Cluster
	}
	if o.Zone == "" && o.Role == domain.SiteData {
		o.Zone = o.Cluster + ".internal"
	}
	next := 1
	if o.Role == domain.SiteWitness && f != nil {
		next = firstWitness // so that a data site and a witness made at the same time do not take the same
	}
	for _, p := range peers {
		if (p.Index < firstWitness) == (next < firstWitness) {
			next = max(next, p.Index+1)
		}
		if p.Site == o.Name {
			return invalid("--name %s: site %s has that name: give this one another", o.Name, p.Site)
		}
		if p.Index == o.Index {
			return invalid("--index %d: site %s has that index: leave --index out, or give one that no site has or had", o.Index, p.Site)
		}
	}
	if o.Index == 0 {
		o.Index = next
	}
	if o.Index > maxIndex {
		return invalid("no index is left after the peers': give one with --index")
	}
	return nil
}

// moveAside keeps what stands where the folder is to be (only after --force).
func moveAside(dir string) (string, error) {
	if entries, err := os.ReadDir(dir); err != nil || len(entries) == 0 {
		return "", nil
	}
	for i := 1; ; i++ {
		aside := fmt.Sprintf("%s.before-%d", dir, i)
		if _, err := os.Lstat(aside); os.IsNotExist(err) {
			if err := os.Rename(dir, aside); err != nil {
				return "", fmt.Errorf("move the folder of before aside: %w", err)
			}
			return aside, nil
		}
	}
}

func build(o Options, peers []identity.Card) (Made, error) {
	f := Folder(o.Dir)
	spec := o.spec()
	var err error
	if o.Groups != "" {
		if spec.Hosts, err = hostsOf(o); err != nil {
			return Made{}, err
		}
		o.Hosts = texts(spec.Hosts)
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return Made{}, invalid("%v", err)
	}
	if err := handOver(o); err != nil {
		return Made{}, err
	}
	made := Made{Folder: f, Site: o.Name, Cluster: o.Cluster, Founded: len(peers) == 0, Role: o.Role, Index: o.Index, Card: f.Card(o.Name), Embedded: o.Embedded}
	var card identity.Card
	if made.Founded {
		card, err = found(o, spec)
	} else {
		made.Founder, made.Pinned = founder(peers).Site, founder(peers).Fingerprint()
		card, err = identity.NewSite(o.Dir, spec, founder(peers))
	}
	if err != nil {
		return Made{}, err
	}
	made.Fingerprint = card.Fingerprint()
	all := []identity.Facts{card.Facts}
	for _, p := range peers {
		all = append(all, p.Facts)
	}
	slices.SortFunc(all, func(a, b identity.Facts) int { return a.Index - b.Index })
	if err := write(o, all); err != nil {
		return Made{}, err
	}
	if err := writeCHAP(o); err != nil {
		return Made{}, err
	}
	if made.Founded {
		if err := f.foundServer(); err != nil {
			return Made{}, err
		}
	}
	return made, card.Write(made.Card)
}

// found makes an installation, with an authority of its own or with its owner's.
func found(o Options, spec identity.Spec) (identity.Card, error) {
	if o.CACert == "" {
		return identity.Found(o.Dir, spec, identity.Options{})
	}
	cert, err := os.ReadFile(o.CACert)
	if err != nil {
		return identity.Card{}, invalid("--ca-cert: %v", err)
	}
	key, err := os.ReadFile(o.CAKey)
	if err != nil {
		return identity.Card{}, invalid("--ca-key: %v", err)
	}
	return identity.Found(o.Dir, spec, identity.Options{CA: &identity.OwnCA{Cert: cert, Key: key}})
}

// foundServer writes the server's configuration of an installation of one site.
func (f Folder) foundServer() error {
	inst, err := identity.ReadInstallation(f.Installation())
	if err != nil {
		return err
	}
	return f.apply(&Joined{Installation: inst})
}

// write writes the parts of the folder that hold no secret.
func write(o Options, sites []identity.Facts) error {
	f := Folder(o.Dir)
	site, err := renderSite(o, o.Cluster, sites)
	if err != nil {
		return err
	}
	if err := identity.WriteFile(f.Config(), site, 0o644); err != nil {
		return err
	}
	for _, d := range stateDirs(o) {
		if err := identity.MakeDir(f.path("data", d)); err != nil {
			return fmt.Errorf("make the site's folder: %w", err)
		}
	}
	if o.Embedded {
		return nil
	}
	return writeCompose(o)
}

// chapSecretLen is that of a new CHAP secret, in characters of 5 bits each: 120 bits, where RFC 7143 wants 96.
const chapSecretLen = 24

// writeCHAP makes the secret with which VM hosts log in to a data site's volumes.
func writeCHAP(o Options) error {
	if o.Role != domain.SiteData {
		return nil
	}
	return identity.WriteFile(Folder(o.Dir).CHAP(), []byte(rand.Text()[:chapSecretLen]+"\n"), 0o600)
}

// stateDirs are made by the owner of the folder: a container engine that finds them missing makes them as root.
func stateDirs(o Options) []string {
	if o.Role == domain.SiteWitness {
		return []string{"nats", "quorum", "health"}
	}
	return []string{"nats", "quorum", "health", "replicator", "failover", "dns", "hosts"}
}

func (o Options) spec() identity.Spec {
	host, _, _ := net.SplitHostPort(o.Address) // checked
	s := identity.Spec{Cluster: o.Cluster, Site: o.Name, Role: o.Role, Index: o.Index, Addresses: []string{host}, NATS: "tls://" + o.Address}
	if ip := net.ParseIP(o.Listen); o.Listen != host && (ip == nil || !ip.IsUnspecified()) {
		s.Addresses = append(s.Addresses, o.Listen)
	}
	if o.Role == domain.SiteData {
		port := dnsPort
		if o.Embedded {
			port = dnsPortInside
		}
		s.DNS = net.JoinHostPort(host, port)
	}
	for _, h := range o.Hosts {
		s.Hosts = append(s.Hosts, domain.HostID(h))
	}
	return s
}

func texts[T ~string](in []T) []string {
	var out []string
	for _, v := range in {
		out = append(out, string(v))
	}
	return out
}

// hostsOf are the VM hosts that the file of --groups lists, or else those of the options.
func hostsOf(o Options) ([]domain.HostID, error) {
	_, hosts, err := readSections(o.Groups)
	if err != nil || hosts == nil {
		return o.spec().Hosts, err
	}
	return hosts, nil
}
