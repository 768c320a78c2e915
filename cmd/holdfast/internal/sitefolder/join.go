package sitefolder

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/holdfast-dr/holdfast/pkg/config"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/identity"
)

// Joined is what Join did.
type Joined struct {
	Folder       Folder
	Site         domain.SiteID
	Signed       []SignedCard // at the founder
	Installation identity.Installation
	Outgoing     string // the file to carry to the other sites; at the founder
	First        bool   // the site had no certificates before
	Embedded     bool
	Server       bool // nats.conf has changed
	Sites        bool // the list of sites in site.yaml has changed
}

// SignedCard is a card that the founder signed now, or had signed before.
type SignedCard struct {
	Site        domain.SiteID
	Fingerprint string
	Before      bool // signed already: nothing to do
	Renewed     bool // new keys of a site that was there
}

// Join is at the founder given cards, signs what they ask for and writes the installation file; at another site it is given
// that file, checks it against the CA pinned at init and completes the folder. It may be repeated: it then finds nothing to
// do, or finishes what was interrupted.
func Join(dir string, files []string) (Joined, error) {
	f, err := open(dir)
	if err != nil {
		return Joined{}, err
	}
	cfg, err := f.load()
	if err != nil {
		return Joined{}, err
	}
	in, err := classify(files)
	if err != nil {
		return Joined{}, err
	}
	j := Joined{Folder: f, Site: cfg.Site, Embedded: cfg.NATS.Listen != ""}
	if len(in.cards) > 0 {
		j.Installation, j.Signed, err = f.sign(cfg, in.cards)
	} else {
		j.Installation = *in.installation
	}
	if err != nil {
		return Joined{}, err
	}
	if err := f.apply(&j); err != nil {
		return Joined{}, err
	}
	if f.founded() {
		j.Outgoing = f.Outgoing()
		err = j.Installation.Write(j.Outgoing)
	}
	return j, err
}

// load reads the site's configuration. Groups may speak of sites that only this join brings: those mistakes wait.
func (f Folder) load() (config.Config, error) {
	raw, err := os.ReadFile(f.Config())
	if err != nil {
		return config.Config{}, fmt.Errorf("read the site's configuration: %w", err)
	}
	return siteFacts(f.Config(), raw)
}

// input is what the files on the command line are.
type input struct {
	cards        []identity.Card
	installation *identity.Installation
}

func classify(files []string) (input, error) {
	var in input
	for _, path := range files {
		raw, err := os.ReadFile(path)
		if err != nil {
			return in, fmt.Errorf("join: %w: %w: give cards (at the founder) or the installation file (elsewhere)", domain.ErrInvalid, err)
		}
		var keys map[string]json.RawMessage
		if err := json.Unmarshal(raw, &keys); err != nil {
			return in, fmt.Errorf("join: %s: %w: it is neither a card nor an installation: %w: copy the file again from its site", path, domain.ErrInvalid, err)
		}
		if _, ok := keys["signatures"]; ok {
			inst, err := identity.ReadInstallation(path)
			if err != nil {
				return in, fmt.Errorf("join: %w", err)
			}
			in.installation = &inst
			continue
		}
		c, err := readCard(path)
		if err != nil {
			return in, fmt.Errorf("join: %w", err)
		}
		in.cards = append(in.cards, c)
	}
	switch {
	case len(files) == 0:
		return in, fmt.Errorf("join: %w: no file: give the cards of the sites to admit (at the founder), or the installation file (elsewhere)", domain.ErrInvalid)
	case in.installation != nil && len(files) > 1:
		return in, fmt.Errorf("join: %w: give either cards, or one installation file", domain.ErrInvalid)
	}
	return in, nil
}

// founded reports whether the installation was made in this folder.
func (f Folder) founded() bool {
	own, err := identity.ReadCard(f.ownCard())
	return err == nil && own.CA != "" || exists(f.path("ca", "authority.json"))
}

func (f Folder) ownCard() string { return f.path("secrets", "trust", "card.json") }

// pending reports whether keys of a rotation wait for their certificates.
func (f Folder) pending() bool { return exists(f.path("secrets", identity.ServerName, "next.key")) }

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// sign admits new sites and renews the keys of those that are there.
func (f Folder) sign(cfg config.Config, cards []identity.Card) (identity.Installation, []SignedCard, error) {
	auth, err := f.authority(cfg.Site)
	if err != nil {
		return identity.Installation{}, nil, err
	}
	inst, err := auth.Installation()
	if err != nil {
		return inst, nil, err
	}
	// What is installed already is the same, but for the moment of signing: nothing to do must change nothing.
	if now, err := identity.ReadInstallation(f.Installation()); err == nil && now.Serial == inst.Serial {
		inst = now
	}
	var signed []SignedCard
	var admit, renew []identity.Card
	for _, c := range cards {
		s := SignedCard{Site: c.Site, Fingerprint: c.Fingerprint()}
		site, known := inst.Site(c.Site)
		switch {
		case c.Site == cfg.Site && !holds(site, c):
			return inst, nil, fmt.Errorf("join: %w: the card is of site %s, which is this site: give the cards of the others; to renew this site's keys use holdfast site rotate", domain.ErrInvalid, c.Site)
		case known && holds(site, c):
			s.Before = true
		case known && c.Proof != "":
			s.Renewed = true
			renew = append(renew, c)
		default:
			admit = append(admit, c)
		}
		signed = append(signed, s)
	}
	if len(renew) > 0 {
		if inst, err = auth.Reissue(false, renew...); err != nil {
			return inst, nil, fmt.Errorf("join: %w", err)
		}
	}
	if len(admit) > 0 {
		if inst, err = auth.Admit(admit...); err != nil {
			return inst, nil, fmt.Errorf("join: %w", err)
		}
	}
	return inst, signed, nil
}

// authority opens what signs, or says where it should be.
func (f Folder) authority(site domain.SiteID) (*identity.Authority, error) {
	if !exists(f.CA()) {
		if !f.founded() {
			return nil, fmt.Errorf("join: %w: site %s did not found the installation and cannot sign cards: run this where it was founded, and here with the installation file that it writes",
				domain.ErrRefused, site)
		}
		return nil, fmt.Errorf("join: %w: the CA is not here: bring its folder back to %s (authority.json, ca.key, ca.pem and the .nk files) and run the command again",
			domain.ErrRefused, f.CA())
	}
	auth, err := identity.OpenAuthority(string(f), identity.Options{})
	if err != nil {
		return nil, fmt.Errorf("join: the CA's folder should be %s: %w", f.CA(), err)
	}
	return auth, nil
}

// holds reports whether the site has certificates for just the keys of the card.
func holds(s identity.Site, c identity.Card) bool {
	if len(s.Issued) == 0 || len(s.Issued) != len(c.Requests) {
		return false
	}
	for name, r := range c.Requests {
		if is, ok := s.Issued[name]; !ok || is.User != r.User {
			return false
		}
	}
	return true
}

// apply makes the folder what the installation says. Nothing is written before all that can be refused has been checked;
// secrets come first and the server's configuration last, so that an interrupted run is finished by the next.
func (f Folder) apply(j *Joined) error {
	was, err := identity.ReadInstallation(f.Installation())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	j.First = err != nil
	old, err := os.ReadFile(f.Config())
	if err != nil {
		return fmt.Errorf("read the site's configuration: %w", err)
	}
	site, err := editSites(f.Config(), old, factsOf(j.Installation), factsOf(was))
	if err != nil {
		return err
	}
	cfg, err := siteFacts(f.Config(), site)
	if err != nil {
		return err
	}
	server, err := f.renderServer(cfg, j.Installation)
	if err != nil {
		return err
	}
	if err := identity.Install(string(f), j.Installation); err != nil {
		return fmt.Errorf("join: %w", err)
	}
	if !f.pending() { // the keys of a rotation have their certificates
		if err := os.RemoveAll(f.path("rotate")); err != nil {
			return fmt.Errorf("remove the renewed card: %w", err)
		}
	}
	if j.Sites = !bytes.Equal(site, old); j.Sites {
		if err := identity.WriteFile(f.Config(), site, 0o644); err != nil {
			return err
		}
	}
	if had, err := os.ReadFile(f.NATSConf()); err != nil || !bytes.Equal(had, server) {
		j.Server = true
		return identity.WriteFile(f.NATSConf(), server, 0o644)
	}
	return nil
}

func factsOf(inst identity.Installation) []identity.Facts {
	var out []identity.Facts
	for _, s := range inst.Sites {
		out = append(out, s.Facts)
	}
	return out
}
