package sitefolder

import (
	"errors"
	"fmt"
	"net"

	"github.com/holdfast-dr/holdfast/pkg/config"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/identity"
)

// Rotation says what Rotate is to renew.
type Rotation struct {
	Dir     string
	Address string // HOST[:PORT] that the others reach this site at from now on; empty: as before
	Again   bool   // make new keys although those of a rotation before were not signed yet
	CA      bool   // at the founder: a new CA beside the old one
	Retire  bool   // at the founder: refuse replaced credentials, and drop a replaced CA
}

// Rotated is what Rotate did.
type Rotated struct {
	Site        domain.SiteID
	Card        string // elsewhere: the card to carry to the founder
	Fingerprint string
	Joined      *Joined // at the founder: what it has installed already
	Retired     int     // credentials that are refused from now on
	OldCA       bool    // the replaced CA is dropped
}

// Rotate makes new keys for a site. The founder signs its own at once; another site gets a card, which the founder signs
// and the installation file brings back. What is in use stays good until it is retired.
func Rotate(r Rotation) (Rotated, error) {
	f, err := open(r.Dir)
	if err != nil {
		return Rotated{}, err
	}
	cfg, err := f.load()
	if err != nil {
		return Rotated{}, err
	}
	switch {
	case r.Retire:
		return f.retire(cfg)
	case r.CA:
		return f.changeCA(cfg)
	}
	return f.renew(cfg, r)
}

func (f Folder) renew(cfg config.Config, r Rotation) (Rotated, error) {
	out := Rotated{Site: cfg.Site}
	founded := f.founded()
	var auth *identity.Authority
	var err error
	if founded {
		if auth, err = f.authority(cfg.Site); err != nil {
			return out, err
		}
	} else if f.pending() && !r.Again {
		return out, fmt.Errorf("renew the keys of site %s: %w: keys made before wait for their certificates: give %s to holdfast site join at the founder, or make others with --again",
			cfg.Site, domain.ErrConflict, f.renewed(cfg.Site))
	}
	change, err := changes(cfg, r)
	if err != nil {
		return out, err
	}
	card, err := identity.Renew(string(f), change)
	if err != nil {
		return out, err
	}
	out.Fingerprint = card.Fingerprint()
	if !founded {
		out.Card = f.renewed(cfg.Site)
		if err := identity.MakeDir(f.path("rotate")); err != nil {
			return out, fmt.Errorf("write the renewed card: %w", err)
		}
		return out, card.Write(out.Card)
	}
	inst, err := auth.Reissue(false, card)
	if err != nil {
		return out, err
	}
	out.Joined, err = f.install(cfg, inst)
	return out, err
}

// renewed is the card of a rotation, until its certificates come.
func (f Folder) renewed(site domain.SiteID) string {
	return f.path("rotate", string(site)+".card.json")
}

// changes are what a site may change of its facts on the way: its address, and its VM hosts as its configuration has them.
func changes(cfg config.Config, r Rotation) (func(*identity.Facts), error) {
	o := Options{Address: r.Address}
	if r.Address != "" {
		if err := o.checkAddress(); err != nil {
			return nil, err
		}
	}
	return func(f *identity.Facts) {
		f.Hosts = nil
		for _, h := range cfg.Hosts {
			f.Hosts = append(f.Hosts, h.ID)
		}
		if r.Address == "" {
			return
		}
		host, _, _ := net.SplitHostPort(o.Address) // checked
		if f.Addresses[0] != host {
			f.Addresses = append([]string{host}, f.Addresses...) // the old one stays good until the next rotation
		}
		f.NATS = "tls://" + o.Address
		if _, port, err := net.SplitHostPort(f.DNS); err == nil {
			f.DNS = net.JoinHostPort(host, port)
		}
	}, nil
}

// install puts a newly signed installation to use at the founder.
func (f Folder) install(cfg config.Config, inst identity.Installation) (*Joined, error) {
	j := &Joined{Folder: f, Site: cfg.Site, Installation: inst, Embedded: cfg.NATS.Listen != "", Outgoing: f.Outgoing()}
	if err := f.apply(j); err != nil {
		return nil, err
	}
	return j, inst.Write(j.Outgoing)
}

func (f Folder) changeCA(cfg config.Config) (Rotated, error) {
	auth, err := f.authority(cfg.Site)
	if err != nil {
		return Rotated{}, err
	}
	inst, err := auth.RollOver()
	if err != nil {
		return Rotated{}, err
	}
	j, err := f.install(cfg, inst)
	return Rotated{Site: cfg.Site, Joined: j}, err
}

// retire refuses what rotations have replaced, everywhere that the new installation file is joined.
func (f Folder) retire(cfg config.Config) (Rotated, error) {
	out := Rotated{Site: cfg.Site}
	auth, err := f.authority(cfg.Site)
	if err != nil {
		return out, err
	}
	inst, n, err := auth.RevokeReplaced()
	if err != nil {
		return out, err
	}
	out.Retired = n
	next, err := auth.Retire()
	switch {
	case err == nil:
		inst, out.OldCA = next, true
	case !errors.Is(err, domain.ErrNotFound):
		return out, err
	case n == 0:
		return out, fmt.Errorf("retire what was replaced: %w: no credentials and no CA have been replaced since the last time", domain.ErrNotFound)
	}
	out.Joined, err = f.install(cfg, inst)
	return out, err
}
