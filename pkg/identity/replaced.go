package identity

import (
	"maps"

	"github.com/holdfast-dr/holdfast/pkg/access"
)

// replace remembers the users of a site's keys that Reissue has replaced and not revoked, for RevokeReplaced.
func (st *state) replace(s Site) {
	all := map[access.Account]denied{}
	for acc, users := range st.Replaced {
		all[acc] = maps.Clone(users)
	}
	for name, is := range s.Issued {
		if is.User == "" {
			continue
		}
		acc := access.Principal{Site: s.Site, Service: name}.Account()
		if all[acc] == nil {
			all[acc] = denied{}
		}
		all[acc][is.User] = 0
	}
	st.Replaced = all
}

// RevokeReplaced ends the users whose keys were reissued without revoking them: they are refused wherever the new
// installation is installed. It returns how many there were; with none it changes nothing. Every site should have
// installed, and be using, what was reissued before: a service that still shows its old credentials is refused.
func (a *Authority) RevokeReplaced() (Installation, int, error) {
	n := 0
	for _, users := range a.state.Replaced {
		n += len(users)
	}
	if n == 0 {
		inst, err := a.Installation()
		return inst, 0, err
	}
	inst, err := a.change(func(st *state) error {
		revoked := map[access.Account]denied{}
		for _, from := range []map[access.Account]denied{st.Revoked, st.Replaced} {
			for acc, users := range from {
				if revoked[acc] == nil {
					revoked[acc] = denied{}
				}
				for user, until := range users {
					if until == 0 {
						until = revokedUntil()
					}
					revoked[acc][user] = until
				}
			}
		}
		st.Revoked, st.Replaced = revoked, nil
		return nil
	})
	return inst, n, err
}
