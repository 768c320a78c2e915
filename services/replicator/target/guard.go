package target

import "github.com/holdfast-dr/holdfast/pkg/chap"

// Guard is asked at each login who may log in: one or more entries, of which any will do. What it says holds for that login;
// sessions there are already stay. No entries let nobody in.
type Guard func() []CHAP

// GuardOf lets in whoever knows a secret of the files, as they are at the login; nil, without files, lets everyone in.
func GuardOf(s *chap.Source) Guard {
	if s == nil {
		return nil
	}
	return func() []CHAP {
		now := s.Current()
		var out []CHAP
		for _, secret := range now.Secrets {
			c := CHAP{User: now.User, Secret: []byte(secret), MutualUser: now.MutualUser}
			if len(now.MutualSecrets) > 0 {
				c.MutualSecret = []byte(now.MutualSecrets[0])
			}
			out = append(out, c)
		}
		return out
	}
}
