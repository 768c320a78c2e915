package identity

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/nats-io/nkeys"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// admissible refuses a card that must not become site number self of st (-1: a new one).
func (a *Authority) admissible(st state, c Card, self int) error {
	refuse := func(kind error, format string, args ...any) error {
		return fmt.Errorf("admit site %s (card %s): %w: %s", c.Site, c.Fingerprint(), kind, fmt.Sprintf(format, args...))
	}
	if err := checkFormat(c.Format); err != nil {
		return fmt.Errorf("admit site %s: its card: %w", c.Site, err)
	}
	if err := specOf(c.Cluster, c.Facts).check(); err != nil {
		return fmt.Errorf("admit: %w", err)
	}
	if c.Cluster != st.Cluster {
		return refuse(domain.ErrRefused, "it is of installation %q, this is %q; make it again with --cluster %s", c.Cluster, st.Cluster, st.Cluster)
	}
	for i, s := range st.Sites {
		switch {
		case i == self:
			continue
		case s.Site == c.Site:
			return refuse(domain.ErrConflict, "another site of that name is admitted with other keys; give this one another name, or if it is the same site renew its keys with holdfast site rotate")
		case s.Index == c.Index:
			return refuse(domain.ErrConflict, "index %d belongs to site %s; make it again with a free --index", c.Index, s.Site)
		}
	}
	if self >= 0 && (st.Sites[self].Role != c.Role || st.Sites[self].Index != c.Index) {
		return refuse(domain.ErrRefused, "a renewal keeps role %s and index %d", st.Sites[self].Role, st.Sites[self].Index)
	}
	want := slices.Sorted(slices.Values(c.names()))
	if got := slices.Sorted(maps.Keys(c.Requests)); !slices.Equal(got, want) {
		return refuse(domain.ErrInvalid, "it asks for %v, a %s site needs %v; make the card again with this version of holdfast", got, c.Role, want)
	}
	return a.freshUsers(st, c, self, refuse)
}

// freshUsers refuses a user key that is malformed, is on the card twice, or belongs to another site already.
func (a *Authority) freshUsers(st state, c Card, self int, refuse func(error, string, ...any) error) error {
	taken := map[string]string{}
	for i, s := range st.Sites {
		if i == self {
			continue
		}
		for name, is := range s.Issued {
			if is.User != "" {
				taken[is.User] = string(s.Site) + "." + name
			}
		}
	}
	for name, r := range c.Requests {
		if name == ServerName {
			continue
		}
		if !nkeys.IsValidPublicUserKey(r.User) {
			return refuse(domain.ErrInvalid, "the user key of %s is not a public user NKEY", name)
		}
		if who, ok := taken[r.User]; ok {
			return refuse(domain.ErrConflict, "the user key of %s belongs to %s already; every principal needs a key of its own", name, who)
		}
		taken[r.User] = string(c.Site) + "." + name
	}
	return nil
}

func sameKeys(s Site, c Card) bool {
	if len(s.Issued) != len(c.Requests) {
		return false
	}
	for name, r := range c.Requests {
		is, ok := s.Issued[name]
		if !ok || is.User != r.User {
			return false
		}
	}
	return true
}

// issue signs every request of a card. User JWTs are made when the installation is composed.
func (a *Authority) issue(c Card) (Site, error) {
	s := Site{Facts: c.Facts, Issued: map[string]Issued{}}
	for _, acc := range homed() {
		if err := a.ensureKey(homeKey(acc, c.Site)); err != nil {
			return Site{}, err
		}
	}
	for name, r := range c.Requests {
		cert, err := a.issueCertificate(c, name, r.CSR)
		if err != nil {
			return Site{}, err
		}
		s.Issued[name] = Issued{Certificate: cert, User: r.User}
	}
	return s, nil
}

// ensureKey makes a site's signing key of an account when it is admitted first; a renewal keeps it.
func (a *Authority) ensureKey(name string) error {
	if _, ok := a.keys[name]; ok {
		return nil
	}
	path := filepath.Join(a.dir, name+".nk")
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if err := writeSeed(path, nkeys.CreateAccount); err != nil {
			return err
		}
	}
	raw, err := readPrivate(path)
	if err != nil {
		return err
	}
	a.keys[name], err = seedOf(path, raw)
	return err
}
